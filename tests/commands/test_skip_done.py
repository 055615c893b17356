"""`histo predict --skip-done`: score only what the file does not have yet, and never mix rows of different kinds."""

import errno
import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from histocli.inference.parts import Parts
from histocli.locks import hold
from histocli.signals import Stopped
from tests.cli import PREDICT, table, write_images


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_skip_done_scores_only_the_new_files_of_a_folder(histo, images, tmp_path, suffix):
    whole, out = tmp_path / f"whole.{suffix}", tmp_path / f"x.{suffix}"
    line = [*PREDICT, images, "--skip-done", "--columns", "full", "--out", out]
    histo(*PREDICT, images, "--columns", "full", "--out", whole)
    late = {path: path.read_bytes() for path in sorted(images.iterdir())[8:]}
    for path in late:
        path.unlink()
    assert "done: 8 patches scored" in histo(*line).stderr
    out.chmod(0o660)
    for path, data in late.items():
        path.write_bytes(data)
    assert f"done: 4 patches scored to {out}; it had 8 before" in histo(*line).stderr
    assert "done: 0 patches scored" in histo(*line).stderr
    assert out.stat().st_mode & 0o777 == 0o660
    if suffix == "parquet":
        import pyarrow.parquet as pq

        assert pq.read_table(out).equals(pq.read_table(whole))
    else:
        assert out.read_bytes() == whole.read_bytes()


def write_deep_image(path, source, bits):
    cv2.imwrite(str(path), cv2.imread(str(source)).astype(np.uint16) << (bits - 8))


def test_skip_done_refuses_images_that_change_the_value_of_white(histo, images, tmp_path):
    """Dark images of 12 bits alone are read as 10 bits; with the next night's images they are not."""
    inbox, out = tmp_path / "inbox", tmp_path / "x.csv"
    inbox.mkdir()
    line = [*PREDICT, inbox, "--skip-done", "--out", out]
    files = sorted(images.iterdir())
    write_deep_image(inbox / "a.png", files[0], 10)
    histo(*line)
    write_deep_image(inbox / "b.png", files[1], 10)
    assert "done: 1 patch scored" in histo(*line).stderr
    before = out.read_bytes()
    write_deep_image(inbox / "c.png", files[2], 12)
    error, hint = histo.fails(*line)
    assert error == (
        f"--skip-done: the images in {out} were read as 10-bit integers, 0 to 1,023, and those of this call would "
        "be read as 12-bit integers, 0 to 4,095"
    )
    assert hint == "give another --out, or omit --skip-done and name all inputs: the file is written anew"
    assert out.read_bytes() == before
    for path in inbox.iterdir():  # an inbox that is emptied each night, and has images of 8 bits once
        path.unlink()
    shutil.copy(files[3], inbox / "d.png")
    histo(*line)
    write_deep_image(inbox / "c.png", files[2], 12)
    assert histo.fails(*line)[0] == error


def test_skip_done_refuses_rows_that_change_the_value_of_white_of_an_array(histo, tmp_path):
    patches = np.load(histo.root / "data" / "synthetic" / "patches.npy")[:4].astype(np.uint16)
    line = [*PREDICT, tmp_path / "a.npy", tmp_path / "b.npy", "--skip-done", "--out", tmp_path / "x.csv"]
    np.save(tmp_path / "a.npy", patches << 2)
    np.save(tmp_path / "b.npy", patches << 4)  # of another range than the other array
    histo(*line)
    histo(*line)
    np.save(tmp_path / "a.npy", np.concatenate([patches << 2, patches << 4]))
    assert "were read as 10-bit integers, 0 to 1,023" in histo.fails(*line)[0]


def test_skip_done_tries_unreadable_files_again(histo, images, tmp_path):
    line, last = [*PREDICT, images, "--skip-done", "--out", tmp_path / "x.csv"], images / "patch-11.png"
    data = last.read_bytes()
    last.write_bytes(b"half a fi")
    histo(*line, code=4)
    assert "error: 1 of 1 new files could not be read; all others are scored" in histo(*line, code=4).stderr
    last.write_bytes(data)
    histo(*line)
    assert (tmp_path / "x.csv").read_text() == histo(*PREDICT, images).stdout


@pytest.mark.parametrize("is_pattern", [False, True])
def test_skip_done_of_an_empty_folder_scores_nothing_and_succeeds(histo, images, tmp_path, is_pattern):
    inbox, out = tmp_path / "inbox", tmp_path / "x.csv"
    inbox.mkdir()
    given = inbox / "*.png" if is_pattern else inbox
    said = f"no path matches {given}" if is_pattern else f"there are no images in {inbox}"
    line = [*PREDICT, given, "--skip-done", "--out", out, "--failed", tmp_path / "failed.csv"]
    assert said in histo(*line).stderr
    assert out.read_text() == "id,label\n"
    assert (tmp_path / "failed.csv").read_text() == "id,path,error\n"
    shutil.copy(images / "patch-00.png", inbox)
    histo(*line)
    (inbox / "patch-00.png").rename(tmp_path / "moved.png")
    (inbox / "notes.txt").write_text("x")
    done = histo(*line)
    assert said in done.stderr
    assert is_pattern or "1 file skipped: 1 .txt" in done.stderr
    assert "0 patches scored" in done.stderr
    assert out.read_text().count("\n") == 2
    assert said in histo.fails(*PREDICT, given, "--out", out)[0]


def test_skip_done_of_a_folder_that_does_not_exist_is_an_error(histo, tmp_path):
    line = [*PREDICT, tmp_path / "inbx", "--skip-done", "--out", tmp_path / "x.csv"]
    assert "there is no file, folder or data set" in histo.fails(*line)[0]


def test_skip_done_finds_ids_with_an_apostrophe_again(histo, images, tmp_path):
    (images / "patch-00.png").rename(images / "=patch.png")
    line, out = [*PREDICT, images, "--skip-done", "--escape-formulas", "--out", tmp_path / "x.csv"], tmp_path / "x.csv"
    histo(*line)
    before = out.read_text()
    assert "'=patch," in before
    assert "done: 0 patches scored" in histo(*line).stderr
    assert out.read_text() == before


def test_skip_done_refuses_what_does_not_fit_the_file(histo, images, tmp_path):
    out = tmp_path / "x.csv"
    line = [*PREDICT, images, "--skip-done", "--out", out]
    assert "--out FILE" in histo.fails(*PREDICT, images, "--skip-done", code=2)[0]
    histo(*line)
    assert "has the columns id,label" in histo(*line, "--columns", "full", code=1).stderr
    assert "made with another --tta" in histo(*line, "--tta", code=1).stderr
    assert "made with another --escape-formulas" in histo(*line, "--escape-formulas", code=1).stderr
    before = out.read_text()
    out.write_text(before[:-5])
    assert "its last line is incomplete" in histo(*line, code=1).stderr


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"threshold": "0.50", "mpp": ".5"}, {"threshold": ".5", "mpp": "0.5"}),
        ({"threshold": "stored"}, {}),
        ({"threshold": "sensitivity=.9"}, {"threshold": "sensitivity=0.90"}),
    ],
)
def test_equal_values_of_options_may_be_written_in_another_way(histo, tmp_path, first, second):
    out, (image,) = tmp_path / "x.csv", write_images(histo, tmp_path, 1)
    line = [*PREDICT, image, "--columns", "full", "--skip-done", "--out", out]
    histo(*line, *(f"--{name}={value}" for name, value in first.items()))
    assert "0 patches scored" in histo(*line, *(f"--{name}={value}" for name, value in second.items())).stderr
    assert "made with another --threshold" in histo.fails(*line, "--threshold", "0.51")[0]


def test_skip_done_knows_what_a_file_was_made_with_that_was_written_without_it(histo, images, tmp_path):
    line = [*PREDICT, images, "--out", tmp_path / "x.csv"]
    histo(*line, "--tta")
    assert "made with another --tta" in histo(*line, "--skip-done", code=1).stderr
    histo(*line)  # replaces the rows, and so the record
    assert "made with another --tta" in histo(*line, "--skip-done", "--tta", code=1).stderr
    link = tmp_path / "link.csv"
    link.symlink_to(tmp_path / "x.csv")
    assert "made with another --tta" in histo(*PREDICT, images, "--out", link, "--skip-done", "--tta", code=1).stderr
    (tmp_path / ".x.csv.made-with.json").unlink()
    for more in ([], ["--tta"]):  # what the rows were made with stays unknown
        assert "it is not known which checkpoint and options" in histo(*line, "--skip-done", *more).stderr


@pytest.fixture
def deep(histo, tmp_path):
    """A folder with the patches a/01.png and b/02.png."""
    for name in ("a/01.png", "b/02.png"):
        add_image(histo, tmp_path / "deep" / name)
    return tmp_path / "deep"


def add_image(histo, path):
    """Write a patch to a path."""
    (image,) = write_images(histo, path.parent, 1)
    image.rename(path)


def write_other_image(histo, path):
    """Write another patch than `add_image` does."""
    *_, image = write_images(histo, path.parent / "other", 2)
    image.rename(path)
    shutil.rmtree(image.parent)


def change_record(out, values):
    """Change values in the record of a file of predictions."""
    path = out.with_name(f".{out.name}.made-with.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def list_places(out):
    """Return the kind and the path of each place in the record of a file of predictions."""
    record = json.loads(out.with_name(f".{out.name}.made-with.json").read_text())
    return [(place["kind"], place["path"]) for place in record["places"]]


def read_ids(path):
    return [row["id"] for row in table(path.read_text(encoding="utf-8"))]


def make_file(histo, out, ids, *, record="none"):
    """Write predictions with these ids, with a record, with one that has no kind of ids and no places, or with none."""
    write_images(histo, out.parent / "one", 1)
    histo(*PREDICT, out.parent / "one", "--out", out)
    out.write_text("id,label\n" + "".join(f"{key},0.5\n" for key in ids), encoding="utf-8")
    path = out.with_name(f".{out.name}.made-with.json")
    values = json.loads(path.read_text())
    if record == "none":
        path.unlink()
    elif record == "no kind":
        path.write_text(json.dumps({name: value for name, value in values.items() if name not in ("id", "places")}))


@pytest.mark.parametrize(
    ("more", "ids"),
    [
        ([], ["01", "02", "03"]),
        (["--id", "stem"], ["01", "02", "03"]),
        (["--id", "path-stem"], ["a/01", "b/02", "b/03"]),
        (["--id", "path"], ["a/01.png", "b/02.png", "b/03.png"]),
    ],
)
def test_new_rows_get_the_kind_of_id_that_the_file_has(histo, deep, tmp_path, more, ids):
    out = tmp_path / "x.csv"
    histo(*PREDICT, deep, "--out", out, *more)
    add_image(histo, deep / "b" / "03.png")
    assert "1 patch scored" in histo(*PREDICT, deep, "--skip-done", "--out", out).stderr
    assert read_ids(out) == ids
    add_image(histo, deep / "c" / "04.png")
    assert "1 patch scored" in histo(*PREDICT, deep, "--skip-done", "--out", out, *more).stderr


def test_another_kind_of_id_than_the_file_has_is_refused(histo, deep, tmp_path):
    out = tmp_path / "x.csv"
    line = [*PREDICT, deep, "--skip-done", "--out", out]
    histo(*line, "--id", "path")
    before = out.read_bytes()
    error, hint = histo.fails(*line, "--id", "stem")
    assert error == f"--skip-done: {out} was made with --id path, and not --id stem"
    assert hint == "use --id path, or give another --out"
    assert out.read_bytes() == before


def test_a_new_image_with_the_stem_of_another_needs_another_file(histo, deep, tmp_path):
    line = [*PREDICT, deep, "--skip-done", "--out"]
    histo(*line, tmp_path / "x.csv")
    add_image(histo, deep / "b" / "01.png")
    error, hint = histo.fails(*line, tmp_path / "x.csv")
    assert error == "a/01.png and b/01.png would have the same id '01', which is of the kind stem"
    assert "use --id path, and with --skip-done a new file" in hint
    histo(*line, tmp_path / "new.csv", "--id", "path")
    assert read_ids(tmp_path / "new.csv") == ["a/01.png", "b/01.png", "b/02.png"]


@pytest.mark.parametrize(
    ("key", "more", "record"),
    [
        ("01", ["--id", "path-stem"], "none"),
        ("01", ["--id", "path"], "no kind"),
        ("a/01", [], "none"),
        ("a/01", ["--id", "path"], "no kind"),
        ("a/01.png", [], "no kind"),
        ("a/01.png", ["--id", "path-stem"], "none"),
    ],
)
def test_without_a_recorded_kind_an_image_with_another_id_in_the_file_is_refused(
    histo, deep, tmp_path, key, more, record
):
    out = tmp_path / "x.csv"
    make_file(histo, out, [key], record=record)
    result = histo(*PREDICT, deep, "--skip-done", "--out", out, *more, code=1)
    assert f"error: --skip-done: {out} has the id '{key}', and the same image would now get the id" in result.stderr
    assert read_ids(out) == [key]


@pytest.mark.parametrize("record", ["none", "no kind"])
def test_without_a_recorded_kind_a_new_image_with_an_old_name_is_scored(histo, deep, tmp_path, record):
    """The images of yesterday were moved away, and those of today have the same names."""
    out = tmp_path / "x.csv"
    make_file(histo, out, ["yesterday/01.png", "yesterday/02.png"], record=record)
    histo(*PREDICT, deep, "--skip-done", "--out", out, "--id", "path")
    assert read_ids(out) == ["yesterday/01.png", "yesterday/02.png", "a/01.png", "b/02.png"]


def refuse(histo, out, *line, **options):
    """Run a command that is refused because an image has another id in the file; return this id and the new one."""
    before = out.read_bytes()
    stderr = histo(*PREDICT, *line, "--skip-done", "--out", out, code=1, **options).stderr
    assert "hint: give the same inputs as before, or choose the kind" in stderr
    assert out.read_bytes() == before
    return re.search("has the id '(.*)', and the same image would now get the id '(.*)'", stderr).groups()


@pytest.fixture
def inbox(histo, tmp_path, monkeypatch):
    """A folder with the patch 01.png, in the current folder."""
    add_image(histo, tmp_path / "inbox" / "01.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "inbox"


@pytest.mark.parametrize(("kind", "first"), [("path", "inbox/01.png"), ("path-stem", "inbox/01"), ("stem", "01")])
def test_a_pattern_gives_one_file_the_same_id_as_several(histo, inbox, tmp_path, kind, first):
    out, line = tmp_path / "x.csv", ["inbox/*.png", "--id", kind, "--skip-done"]
    histo(*PREDICT, *line, "--out", out)
    assert read_ids(out) == [first]
    add_image(histo, inbox / "02.png")
    histo(*PREDICT, *line, "--out", out)
    assert read_ids(out) == [first, first.replace("1", "2")]


@pytest.mark.parametrize("start", ["", "./", "{cwd}/"])
def test_a_list_and_then_its_folder_do_not_mix_ids(histo, inbox, tmp_path, start):
    out, listed = tmp_path / "x.csv", f"{start.format(cwd=tmp_path)}inbox/01.png"
    histo(*PREDICT, "-", "--out", out, stdin=f"{listed}\n")
    assert read_ids(out) == [listed]
    assert refuse(histo, out, "inbox") == (listed, "01.png")
    if start != "./":
        histo(*PREDICT, "inbox", "--id", "path", "--out", out)
        assert refuse(histo, out, "-", stdin=f"{listed}\n") == ("01.png", listed)


def test_another_folder_or_an_array_among_the_inputs_does_not_mix_ids(histo, inbox, tmp_path):
    out = tmp_path / "x.csv"
    add_image(histo, tmp_path / "more" / "02.png")
    np.save("x.npy", np.zeros((1, 96, 96, 3), np.uint8))
    histo(*PREDICT, "inbox", "--id", "path", "--out", out)
    assert refuse(histo, out, "inbox", "more") == ("01.png", "inbox/01.png")
    histo(*PREDICT, "inbox", "--out", out)
    assert refuse(histo, out, "inbox", "x.npy") == ("01", "inbox/01")
    histo(*PREDICT, "inbox", "x.npy", "--out", out)
    assert refuse(histo, out, "inbox") == ("inbox/01", "01")
    histo(*PREDICT, "inbox", "--out", out)
    histo(*PREDICT, "inbox", "more", "--skip-done", "--out", out)  # the ids of this kind are without the folder
    assert read_ids(out) == ["01", "02"]


def test_other_images_with_the_same_ids_in_another_folder_are_refused(histo, tmp_path):
    out, days = tmp_path / "x.csv", tmp_path / "days"
    line = [*PREDICT, "--skip-done", "--out", out]
    add_image(histo, days / "27" / "01.png")
    first, second = write_images(histo, days / "28", 2)
    first.unlink()
    second.rename(days / "28" / "01.png")
    histo(*line, days / "27")
    for given in (days / "28", days / "28" / "*.png"):
        error, hint = histo.fails(*line, given)
        assert error == (
            f"--skip-done: {days / '28' / '01.png'} would get the id '01', which {out} already has for "
            f"{days / '27' / '01.png'}"
        )
    assert "another --out, or score all images in one call with --id path and a new --out" in hint
    assert hint.endswith("omit --skip-done and name all folders: the file is written anew")
    assert read_ids(out) == ["01"]
    histo(*PREDICT, days, "--id", "path", "--out", tmp_path / "y.csv")
    assert read_ids(tmp_path / "y.csv") == ["27/01.png", "28/01.png"]
    (tmp_path / "link").symlink_to(days / "27")
    add_image(histo, days / "27" / "02.png")
    histo(*line, tmp_path / "link")  # the same folder
    assert list_places(out) == [("folder", str(days / "27"))]
    (days / "28" / "01.png").rename(tmp_path / "01.png")
    histo(*line, days)  # the same image
    shutil.make_archive(days / "27", "zip", days / "27")
    histo(*line, days / "27.zip")
    (days / "28" / "01.png").symlink_to(days / "27" / "01.png")
    histo(*line, days / "28")
    (days / "28" / "01.png").unlink()
    (days / "27" / "01.png").rename(days / "28" / "01.png")  # it was sorted into another folder
    histo(*line, days / "28")
    assert read_ids(out) == ["01", "02"]


def test_other_images_with_the_same_ids_as_those_of_any_earlier_call_are_refused(histo, tmp_path):
    out, days = tmp_path / "x.csv", tmp_path / "days"
    line = [*PREDICT, "--skip-done", "--out", out]
    images = write_images(histo, tmp_path / "images", 3)
    for image, name in zip((*images, images[1]), ("1/a.png", "2/b.png", "3/a.png", "1/a.jpg"), strict=True):
        (days / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, days / name)  # 1/a.jpg, which is not scored, is like a preview of 1/a.png
    histo(*line, days / "1" / "*.png")
    histo(*line, "-", stdin=f"{days}/2/b.png\n")
    assert list_places(out) == [("files", str(days / "1")), ("files", str(days / "2"))]
    for given in (days / "3" / "*.png", days / "3"):
        assert (
            f"/3/a.png would get the id 'a', which {out} already has for {days}/1/a.png" in histo.fails(*line, given)[0]
        )
    shutil.copy(days / "3" / "a.png", days / "2" / "c.png")
    assert "1 patch scored" in histo(*line, days / "1" / "*.png", days / "2" / "*.png").stderr
    assert read_ids(out) == ["a", "b", "c"]


# The images day/01.png and other/01.png differ. Each case has links by their path, the inputs of the first call and of
# the second one, and the folders in which the calls are made.
OTHERS = {
    "a link that is pointed to another folder": ({"today": ("day", "other")}, ["today"], ["today"], (".", ".")),
    "paths in another current folder": ({}, ["./*.png", "--id", "path"], ["./*.png"], ("day", "other")),
    "stems of paths in another current folder": ({}, ["*", "--id", "path-stem"], ["*"], ("day", "other")),
    "several folders in another current folder": ({}, [".", "in", "--id", "path"], [".", "in"], ("day", "other")),
    "folders of archives": ({}, ["zips", "more", "--id", "stem"], ["other"], (".", ".")),
    "arrays in another current folder": ({}, ["a.npy", "in"], ["a.npy", "in"], ("day", "other")),
    "a folder with a name that is not UTF-8": ({}, ["d\udcff/*"], ["other"], (".", ".")),
}


@pytest.mark.parametrize("case", OTHERS)
def test_other_images_are_refused_however_their_inputs_are_named(histo, tmp_path, monkeypatch, case):
    links, first, second, (here, there) = OTHERS[case]
    out, line = tmp_path / "x.csv", [*PREDICT, "--skip-done", "--out", tmp_path / "x.csv"]
    add_image(histo, tmp_path / "day" / "01.png")
    write_other_image(histo, tmp_path / "other" / "01.png")
    for folder in ("day", "other"):
        add_image(histo, tmp_path / folder / "in" / "03.png")
        if "a.npy" in first:
            np.save(tmp_path / folder / "a.npy", np.zeros((1, 96, 96, 3), np.uint8))
    if "zips" in first:
        shutil.make_archive(tmp_path / "zips" / "p", "zip", tmp_path / "day")
        add_image(histo, tmp_path / "more" / "02.png")
    if "d\udcff/*" in first:
        (tmp_path / "day").rename(tmp_path / "d\udcff")
    for number, (inputs, folder) in enumerate(((first, here), (second, there))):
        monkeypatch.chdir(tmp_path)
        for link, targets in links.items():
            Path(link).unlink(missing_ok=True)
            Path(link).symlink_to(targets[number])
        monkeypatch.chdir(tmp_path / folder)
        if not number:
            histo(*line, *inputs)
            before = out.read_bytes()
            histo(*line, *inputs)  # the same inputs again
            assert out.read_bytes() == before
        else:
            error, _ = histo.fails(*line, *inputs)
            assert "already has for" in error or "has the scores of the array" in error


def test_an_array_is_not_forgotten_if_a_folder_is_added(histo, inbox, tmp_path):
    line = [*PREDICT, "--skip-done", "--out", "x.csv"]
    for name in "ab":
        np.save(f"{name}.npy", np.zeros((2, 96, 96, 3), np.uint8))
    (inbox / "01.png").rename(inbox / "2.png")
    for given in ("a.npy", "inbox", "inbox", "a.npy"):  # 2 is not the number of a row
        histo(*line, given)
    error, hint = histo.fails(*line, "b.npy")
    assert f"has the scores of the array {tmp_path}/a.npy, and 2 patches of another input" in error
    assert hint.endswith(f"or another file is a newer version of it, put that file at {tmp_path}/a.npy")


def test_one_other_image_among_many_copies_is_found(histo, inbox, tmp_path):
    line = [*PREDICT, "--skip-done", "--out", "x.csv"]
    make_file(histo, tmp_path / "x.csv", ["01", *(f"0{number}" for number in range(100, 210))], record="this")
    change_record(tmp_path / "x.csv", {"places": [{"path": str(inbox), "kind": "files", "prefix": ""}]})
    for number in range(100, 210):
        shutil.copy(inbox / "01.png", inbox / f"0{number}.png")
    shutil.copytree(inbox, tmp_path / "copy")
    assert "0 patches scored" in histo(*line, "copy").stderr
    write_other_image(histo, tmp_path / "copy" / "0209.png")
    assert "0209.png would get the id '0209'" in histo.fails(*line, "copy/*.png")[0]


def test_files_that_were_not_scored_are_not_compared(histo, inbox, tmp_path):
    line = [*PREDICT, "--skip-done", "--out", "x.csv"]
    write_other_image(histo, inbox / "01.jpg")  # like a preview
    add_image(histo, inbox / "b" / "02.png")
    write_other_image(histo, inbox / "02.tif")
    for _ in range(2):
        histo(*line, "inbox/*.png", "inbox/b/*.png")
    (tmp_path / "done").mkdir()
    (inbox / "01.png").rename(tmp_path / "done" / "01.png")
    assert "0 patches scored" in histo(*line, "done/*.png").stderr


def test_the_rows_of_another_array_are_refused(histo, inbox, tmp_path):
    patches = np.load(histo.root / "data" / "synthetic" / "patches.npy")[:4]
    line = [*PREDICT, "--skip-done", "--out", "x.csv"]
    np.save("a.npy", patches[:2])
    np.save("b.npy", patches[2:])
    histo(*line, "a.npy")
    error, hint = histo.fails(*line, "b.npy")
    assert error == (
        f"--skip-done: x.csv has the scores of the array {tmp_path}/a.npy, and 2 patches of another input would get "
        "the same ids, such as '0'"
    )
    assert "give another --out, or score all inputs in one call" in hint
    np.save("a.npy", patches[:3])
    assert "1 patch scored" in histo(*line, tmp_path / "a.npy").stderr
    (inbox / "01.png").rename(inbox / "0.png")
    assert "such as '0'" in histo.fails(*line, "inbox")[0]
    histo(*PREDICT, "inbox", "--out", "x.csv")
    assert "b.npy[0] would get the id '0'" in histo.fails(*line, "b.npy")[0]


def test_a_new_image_may_end_like_one_that_was_moved_away(histo, inbox, tmp_path):
    out, line = tmp_path / "x.csv", [*PREDICT, "--id", "path", "--skip-done", "--out", tmp_path / "x.csv"]
    histo(*line, "inbox")
    (inbox / "01.png").unlink()
    histo(*line, "inbox")  # nothing to score
    add_image(histo, inbox / "a" / "01.png")
    histo(*line, inbox)
    assert read_ids(out) == ["01.png", "a/01.png"]
    inbox.rename(tmp_path / "moved")
    add_image(histo, tmp_path / "moved" / "02.png")
    histo(*line, "moved")
    assert read_ids(out) == ["01.png", "a/01.png", "02.png"]
    assert list_places(out) == [("folder", str(inbox)), ("folder", str(tmp_path / "moved"))]


def test_parts_with_ids_of_another_kind_are_not_used(histo, images, tmp_path):
    out, last = tmp_path / "x.csv", images / "patch-11.png"
    line = [*PREDICT, images, "--skip-done", "--batch-size", 2, "--errors", "fail", "--out", out]
    make_file(histo, out, ["old"], record="this")
    data = last.read_bytes()
    last.write_bytes(b"no picture")
    histo(*line, code=1)
    last.write_bytes(data)
    change_record(out, {"id": "path"})
    assert "scored before" not in histo(*line).stderr
    assert read_ids(out) == ["old", *(f"patch-{i:02}.png" for i in range(12))]


def test_a_record_that_another_process_changes_is_noticed(histo, images, tmp_path, monkeypatch):
    out = tmp_path / "x.csv"
    make_file(histo, out, ["old"], record="this")

    def change_then_hold(*args):
        change_record(out, {"id": "path"})
        return hold(*args)

    monkeypatch.setattr("histocli.commands.predict.hold", change_then_hold)
    assert "was changed by another process" in histo(*PREDICT, images, "--skip-done", "--out", out, code=1).stderr
    assert read_ids(out) == ["old"]


def refuse_output(descriptor):
    """Fail as a full disk does when a process flushes the temporary file of x.csv."""
    path = Path(f"/proc/self/fd/{descriptor}").readlink()
    if path.name.startswith(".x.csv.") and path.suffix == ".tmp":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_rows_keep_their_record_if_the_process_ends_while_it_finishes(histo, images, tmp_path, monkeypatch):
    out, record = tmp_path / "x.csv", tmp_path / ".x.csv.made-with.json"

    def fail_to_remove(*_):
        raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))  # as on a network drive

    def end(*_):
        raise Stopped(9)

    with monkeypatch.context() as patched:
        patched.setattr(Parts, "remove", fail_to_remove)
        result = histo(*PREDICT, images, "--skip-done", "--out", out)
    assert "parts: Directory not empty; the next call with --out tries again" in " ".join(result.stderr.split())
    assert record.exists()
    before = out.read_bytes(), record.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", refuse_output)
        histo(*PREDICT, images, "--tta", "--out", out, code=1)
    assert (out.read_bytes(), record.read_bytes()) == before
    with monkeypatch.context() as patched:
        patched.setattr("histocli.commands.predict.write_record", end)
        histo(*PREDICT, images, "--tta", "--out", out, code=137)
    assert not record.exists()  # it was of the rows that were replaced
    histo(*PREDICT, images, "--tta", "--out", out)
    assert record.exists()
    assert not list(tmp_path.glob(".x.csv.*.parts"))


def test_a_damaged_record_has_a_hint(histo, images, tmp_path):
    out = tmp_path / "x.csv"
    make_file(histo, out, ["old"], record="this")
    (tmp_path / ".x.csv.made-with.json").write_text("{")
    error, hint = histo.fails(*PREDICT, images, "--skip-done", "--out", out)
    assert ".x.csv.made-with.json as JSON" in error
    assert hint.startswith("give another --out, or omit --skip-done")


def test_an_empty_list_does_not_record_a_kind_of_id(histo, deep, tmp_path):
    out = tmp_path / "x.csv"
    make_file(histo, out, ["01", "02"], record="no kind")
    histo(*PREDICT, "-", "--skip-done", "--out", out, stdin="")
    assert "0 patches scored" in histo(*PREDICT, deep, "--skip-done", "--out", out).stderr


@pytest.mark.parametrize("ids", [[], ["01", "02"]])
def test_an_empty_list_from_stdin_is_named(histo, tmp_path, ids):
    out = tmp_path / "x.csv"
    make_file(histo, out, ids, record="no kind")
    line = [*PREDICT, "-", "--skip-done", "--id", "stem", "--out", out]
    assert "warning: there are no paths on stdin" in histo(*line, stdin="").stderr
    assert read_ids(out) == ids
    write_images(histo, tmp_path / "more", 1)
    for _ in range(2):  # the second time, there is a path and nothing to score
        assert "no paths on stdin" not in histo(*line, stdin=f"{tmp_path}/more/patch-00.png\n").stderr


def test_ids_without_their_leading_zeros_are_refused(histo, tmp_path):
    out, folder = tmp_path / "x.csv", tmp_path / "numbers"
    for name in ("0000", "0001", "0002", "3"):
        add_image(histo, folder / f"{name}.png")
    line = [*PREDICT, folder, "--skip-done", "--out", out]
    histo(*line)
    saved = out.read_text().replace("\n000", "\n")  # as a spreadsheet saves it
    out.write_text(saved)
    error, hint = histo.fails(*line)
    assert error == f"--skip-done: {out} has 3 ids without leading zeros: '0' is probably '0000'"
    assert "a spreadsheet removes the zeros" in hint
    assert out.read_text() == saved
    assert hint.endswith("if these are different images, rename the new ones")
    add_image(histo, folder / "0.png")  # now the row 0 is that of this image
    assert "has 2 ids without leading zeros: '1' is probably '0001'" in histo(*line, code=1).stderr


def test_a_new_image_may_have_the_number_of_an_old_one_if_the_file_has_leading_zeros(histo, tmp_path):
    out, folder = tmp_path / "x.csv", tmp_path / "numbers"
    for name in ("3", "04"):
        add_image(histo, folder / f"{name}.png")
    histo(*PREDICT, folder, "--out", out)
    (folder / "3.png").rename(folder / "03.png")
    histo(*PREDICT, folder, "--skip-done", "--out", out)
    assert read_ids(out) == ["04", "3", "03"]


def test_a_mark_of_utf_8_is_accepted_and_left_out(histo, images, tmp_path):
    out = tmp_path / "x.csv"
    line = [*PREDICT, images, "--skip-done", "--out", out]
    last = (images / "patch-11.png").rename(tmp_path / "last.png")
    histo(*line)
    out.write_text("\ufeff" + out.read_text(), encoding="utf-8")
    last.rename(images / "patch-11.png")
    assert "1 patch scored" in histo(*line).stderr
    assert out.read_text(encoding="utf-8") == histo(*PREDICT, images).stdout


def test_a_file_without_rows_that_other_options_made_is_continued(histo, images, tmp_path):
    out, record, line = tmp_path / "x.csv", tmp_path / ".x.csv.made-with.json", [*PREDICT, images, "--out"]
    histo(*line, out, "--ckpt", "histonet-pcam", "--id", "path")
    other, expected = record.read_bytes(), histo(*PREDICT, images).stdout
    for content in ("", "id,label\n", "\ufeffid,label\n", "id,path,probability,class\n"):
        out.write_text(content, encoding="utf-8")
        record.write_bytes(other)
        assert "done: 12 patches scored" in histo(*line, out, "--skip-done").stderr
        assert out.read_text() == expected
    assert "0 patches scored" in histo(*line, out, "--skip-done", "--id", "stem").stderr  # the record is a new one
    assert "other checkpoints" in histo(*line, out, "--skip-done", "--ckpt", "histonet-pcam", code=1).stderr


@pytest.mark.parametrize("content", ["my notes\n", "id;label\n", "id;label\na;0.5\n"])
def test_a_file_without_a_column_id_is_refused(histo, images, tmp_path, content):
    out = tmp_path / "x.csv"
    out.write_text(content)
    error, _ = histo.fails(*PREDICT, images, "--skip-done", "--out", out)
    assert error == f"--skip-done: {out} cannot be read as csv: its first line has no column id"
    assert out.read_text() == content


def test_parquet_files_of_other_programs_are_continued_if_their_types_can_be_converted(histo, images, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = tmp_path / "x.parquet"
    line = [*PREDICT, images, "--skip-done", "--out", out]
    last = (images / "patch-11.png").rename(tmp_path / "last.png")
    histo(*line)
    written = pq.read_table(out)
    ids, probs = written["id"].cast(pa.large_string()), written["label"].cast(pa.float32())
    pq.write_table(pa.table({"id": ids, "label": probs}), out)
    last.rename(images / "patch-11.png")
    histo(*line)
    assert pq.read_table(out).schema == written.schema
    assert pq.read_table(out)["id"].to_pylist() == [f"patch-{i:02}" for i in range(12)]
    pq.write_table(pa.table({"id": ids, "label": [[value] for value in probs.to_pylist()]}), out)
    before = out.read_bytes()
    result = histo(*line, code=1)
    assert f"error: --skip-done: {out} cannot be read as parquet: its column label cannot be converted" in result.stderr
    assert "checkpoint" not in result.stderr  # nothing was scored
    assert out.read_bytes() == before


def test_an_empty_parquet_file_is_refused(histo, images, tmp_path):
    out = tmp_path / "x.parquet"
    out.touch()
    error, _ = histo.fails(*PREDICT, images, "--skip-done", "--out", out)
    assert f"{out} cannot be read as parquet" in error
