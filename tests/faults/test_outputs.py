"""`--out` onto a device, a pipe, a link, an input, or a file that other commands read: nothing is lost."""

import json
import os
import shutil
import stat
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from histocli.errors import UsageError
from histocli.files.outputs import check_output
from histocli.slides.records import SlideRecord, write_finished, write_table
from histocli.workspace import Workspace
from tests.faults.processes import Process, histo
from tests.faults.trees import differences, stamps, tree
from tests.slides.files import make_finished

pytestmark = pytest.mark.attack

PREDICT = ["predict", "synthetic", "--ckpt", "first", "--device", "cpu"]
EXPORT = ["export", "--ckpt", "first", "--format", "pt2"]
LINES = {
    "csv": PREDICT,
    "jsonl": [*PREDICT, "--format", "jsonl"],
    "parquet": [*PREDICT, "--format", "parquet"],
    "pt2": EXPORT,
}
ROWS = ["csv", "jsonl", "parquet"]


def line(name):
    if name == "parquet":
        pytest.importorskip("pyarrow")
    return LINES[name]


def refuses(root, *args, code=2, **options):
    """The error of a command that changes nothing."""
    before = stamps(root)
    process = histo(root, *args, code=code, **options)
    assert process.stderr.count("error: ") == 1, process.stderr
    assert "bug" not in process.stderr
    assert differences(stamps(root), before) == []
    return process.stderr


@pytest.mark.parametrize("name", LINES)
def test_a_device_stays_a_device(root, tmp_path, name):
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.open("wb").close()
    except PermissionError:
        if os.access("/dev", os.W_OK):
            pytest.skip("no device can be made here, and that of the system may be harmed")
        device = Path("/dev/null")
    histo(root, *line(name), "--out", device)
    assert device.is_char_device()
    assert [path.name for path in device.parent.glob(".null*")] == []


@pytest.mark.parametrize("name", ROWS)
def test_a_full_device_is_one_error(root, name):
    error = refuses(root, *line(name), "--out", "/dev/full", code=1)
    assert "error: cannot write /dev/full: No space left on device" in error
    assert Path("/dev/full").is_char_device()


@pytest.mark.parametrize("name", LINES)
def test_a_pipe_gets_what_a_file_gets(root, tmp_path, name):
    histo(root, *line(name), "--out", tmp_path / "file")
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    got = []
    reader = threading.Thread(target=lambda: got.append(pipe.read_bytes()))
    reader.start()
    histo(root, *line(name), "--out", pipe)
    reader.join()
    assert pipe.is_fifo()
    if name == "parquet":
        import io

        import pandas as pd

        assert pd.read_parquet(io.BytesIO(got[0])).equals(pd.read_parquet(tmp_path / "file"))
    elif name == "pt2":
        assert abs(len(got[0]) - (tmp_path / "file").stat().st_size) < 4096
    else:
        assert got == [(tmp_path / "file").read_bytes()]


def test_dev_stdout_is_stdout_even_where_it_is_a_file(root, tmp_path):
    expected = histo(root, *PREDICT).stdout
    for out in ("/dev/stdout", "/dev/fd/1", "/proc/self/fd/1"):
        assert histo(root, *PREDICT, "--out", out).stdout == expected
    link = tmp_path / "link"
    link.symlink_to("/dev/stdout")
    assert histo(root, *PREDICT, "--out", link).stdout == expected
    assert link.is_symlink()
    assert Path("/dev/stdout").is_symlink()


def test_a_link_stays_and_what_it_points_to_is_replaced(root, tmp_path):
    target, link = tmp_path / "elsewhere" / "target", tmp_path / "link"
    target.parent.mkdir()
    for content in (b"old", None):
        target.unlink(missing_ok=True)
        if content:
            target.write_bytes(content)
        link.unlink(missing_ok=True)
        link.symlink_to(target)
        histo(root, *PREDICT, "--out", link)
        assert link.is_symlink()
        assert len(target.read_bytes()) > 100


@pytest.fixture
def images(root, tmp_path):
    """A folder, an array and a list of four patches."""
    patches = np.load(root / "data" / "synthetic" / "patches.npy")[:4]
    np.save(tmp_path / "patches.npy", patches)
    (tmp_path / "images").mkdir()
    for i, patch in enumerate(patches):
        cv2.imwrite(os.fspath(tmp_path / "images" / f"{i}.png"), patch)
    shutil.make_archive(os.fspath(tmp_path / "images"), "zip", tmp_path / "images")
    (tmp_path / "list").write_text("".join(f"{tmp_path}/images/{i}.png\n" for i in range(4)))
    return tmp_path


@pytest.mark.parametrize(
    ("given", "out"),
    [
        ("patches.npy", "patches.npy"),
        ("images.zip", "images.zip"),
        ("images/0.png", "images/0.png"),
        ("images", "images/2.png"),
        ("images", "images/../images/2.png"),
        ("patches.npy", "hard"),
        ("patches.npy", "soft"),
    ],
)
def test_an_input_is_not_written_over(root, images, given, out):
    os.link(images / "patches.npy", images / "hard")
    (images / "soft").symlink_to(images / "patches.npy")
    before = tree(images)
    options = ["--ckpt", "first", "--device", "cpu", "--format", "csv", "--out", images / out]
    error = refuses(root, "predict", images / given, *options)
    assert "would be lost" in error
    assert differences(tree(images), before) == []


def test_an_image_named_on_stdin_is_not_written_over(root, images):
    (images / "renamed").write_bytes((images / "images" / "0.png").read_bytes())
    (images / "list").write_text(f"{images}/renamed\n")
    options = ["--ckpt", "first", "--device", "cpu", "--out", images / "renamed"]
    assert "would be lost" in refuses(root, "predict", "-", *options, stdin=images / "list")


@pytest.mark.parametrize("target", ["images/2.png", "damaged.png", "renamed", "list", "out.csv", "hard", "patches.npy"])
def test_the_table_of_failed_files_replaces_nothing_that_is_needed(root, images, target):
    """It replaced any file: it was not opened like --out."""
    (images / "damaged.png").write_bytes(b"no image")
    (images / "renamed").write_bytes((images / "images" / "0.png").read_bytes())
    (images / "out.csv").write_text("id,label\n")
    os.link(images / "out.csv", images / "hard")
    before = tree(images)
    given = {"patches.npy": "patches.npy", "list": "list", "damaged.png": "damaged.png"}.get(target, "images")
    options = ["--ckpt", "first", "--device", "cpu", "--out", images / "out.csv", "--failed", images / target]
    assert f"error: --failed {images / target} is " in refuses(root, "predict", images / given, *options)
    assert differences(tree(images), before) == []


def test_the_table_of_failed_files_goes_to_a_device_and_not_in_its_place(root, images):
    (images / "images" / "bad.png").write_bytes(b"no image")
    link = images / "failed"
    link.symlink_to("/dev/stderr")
    line = ["predict", images / "images", "--ckpt", "first", "--device", "cpu", "--failed", link]
    assert f"\nbad,{images}/images/bad.png," in histo(root, *line, code=4).stderr
    assert link.is_symlink()
    for path in ("runs/first/best.pt", "manifests/balanced.csv"):
        assert "is a file that other commands" in refuses(root, *line[:-1], root / path)
    histo(root, *line[:-1], "/dev/full", code=1)


STARTS = {"program": b"\x7fELF\2", "script": b"#!/bin/sh\n", "document": b"PK\3\4", "array": b"\x93NUMPY\1"}


@pytest.mark.parametrize("start", STARTS.values(), ids=STARTS)
@pytest.mark.parametrize("is_link", [False, True])
def test_a_file_of_another_kind_is_not_written_over(tmp_path, start, is_link):
    """The link /proc/self/exe led to the interpreter of Python, which was replaced by a table."""
    path = tmp_path / "precious"
    path.write_bytes(start + bytes(99))
    if is_link:
        (tmp_path / "link").symlink_to(path)
    with pytest.raises(UsageError, match="which would be lost"):
        check_output(tmp_path / "link" if is_link else path, Workspace(tmp_path))


def test_an_image_without_a_suffix_is_not_written_over(root, images):
    (images / "images" / "renamed").write_bytes((images / "images" / "0.png").read_bytes())
    options = ["--ckpt", "first", "--device", "cpu", "--out", images / "images" / "renamed"]
    assert "is an image, which would be lost" in refuses(root, "predict", images / "images", *options)


@pytest.mark.parametrize(
    "path",
    [
        "data/synthetic/patches.npy",
        "data/synthetic/dataset.json",
        "manifests/synthetic.csv",
        "manifests/balanced.csv",
        "runs/first/best.pt",
        "runs/first/last.pt",
        "runs/first/config.json",
        "runs/first/model_card.md",
        "checkpoints/best.pt",
        "metrics/balance.json",
    ],
)
def test_what_other_commands_read_is_not_written_over(root, path):
    for command in ([*PREDICT, "--format", "csv"], EXPORT):
        assert f"--out {root / path}" in refuses(root, *command, "--out", root / path)  # export: by the suffix


def test_a_checkpoint_elsewhere_is_not_written_over(root, tmp_path):
    shutil.copy(root / "runs" / "first" / "best.pt", tmp_path / "mine")
    for command in (PREDICT, EXPORT):
        args = [str(tmp_path / "mine") if part == "first" else part for part in command]
        assert "would be lost" in refuses(root, *args, "--out", tmp_path / "mine")


def test_an_evaluation_is_not_written_over(root):
    histo(root, "eval", "--ckpt", "first", "--device", "cpu")
    scores = next((root / "metrics").glob("first-*.csv"))
    assert "other commands" in refuses(root, *PREDICT, "--out", scores)
    histo(root, *PREDICT, "--out", root / "metrics" / "mine.csv")
    histo(root, *PREDICT, "--out", root / "metrics" / "mine.csv")  # written twice: it is nobody's input


@pytest.fixture
def maps(tmp_path):
    """A folder with the map of the slide a/s."""
    folder, record = tmp_path / "maps" / "a" / "s", SlideRecord("a/s", "scored", squares=1)
    folder.mkdir(parents=True)
    (folder / "scores.csv").write_text("x,y,probability\n0,0,0.5\n")
    write_finished(folder, make_finished("s.tif", record))
    write_table(tmp_path / "maps", [record])
    return tmp_path / "maps"


@pytest.mark.parametrize("name", ["slides.csv", "a/s/scores.csv", "a/s/slide.json"])
@pytest.mark.parametrize("is_link", [False, True])
def test_the_maps_of_slides_are_not_written_over(root, tmp_path, maps, name, is_link):
    path = maps / name
    if is_link:
        path = tmp_path / "link"
        path.symlink_to(maps / name)
    before = tree(maps)
    for option in ("--out", "--failed"):
        error = refuses(root, *PREDICT, "--format", "csv", option, path)
        assert f"error: {option} {path} is part of the maps of slides, which other commands of histo read" in error
    assert differences(tree(maps), before) == []


def test_predictions_of_patches_may_lie_beside_the_maps_of_slides(root, maps):
    for _ in range(2):  # the second call replaces the file of the first one
        histo(root, *PREDICT, "--out", maps / "patches.csv", "--failed", maps / "failed.csv")
    (maps / "slide.json").write_text("{}")  # a file of the user's own
    histo(root, *PREDICT, "--out", maps / "patches.csv")


@pytest.mark.parametrize("option", ["--out", "--failed"])
@pytest.mark.parametrize("targets", [{"a.csv": "a.csv"}, {"a.csv": "b.csv", "b.csv": "a.csv"}])
def test_a_link_that_leads_back_to_itself_is_refused_before_the_patches_are_scored(root, tmp_path, option, targets):
    for name, target in targets.items():
        (tmp_path / name).symlink_to(target)
    error = refuses(root, *PREDICT, option, tmp_path / "a.csv")
    assert f"error: {option} {tmp_path / 'a.csv'} is a link that leads back to itself" in error
    assert "best.pt" not in error  # no checkpoint was loaded
    assert {path.name for path in tmp_path.iterdir()} == {*targets, root.name}


def test_a_table_of_labels_is_not_replaced_by_the_manifest_made_from_it(root, images):
    table = root / "manifests" / "mine.csv"
    table.write_text("id,label\n" + "".join(f"{i},{i % 2}\n" for i in range(4)))
    options = ["--source", "folder", "--from", images / "images", "--name", "mine"]
    assert "would be lost" in refuses(root, "download", *options, "--labels", table)
    assert "would be lost" in refuses(root, "download", *options, "--labels", table, "--force")


def test_a_full_stdout_is_an_error(root):
    for args in (PREDICT, ["eval", "--ckpt", "first", "--device", "cpu", "--json"]):
        process = Process(root, *args, stdout="/dev/full")
        assert process.wait() == 1, process.stderr
        assert "error: cannot write the result to stdout: No space left on device" in process.stderr
        assert "Traceback" not in process.stderr


def test_formulas_are_escaped_only_where_asked(root, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    patch = cv2.imencode(".png", np.load(root / "data" / "synthetic" / "patches.npy")[0])[1].tobytes()
    names = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "plain", "＝1"]
    for name in names:
        (folder / f"{name}.png").write_bytes(patch)
    args = ["predict", folder, "--ckpt", "first", "--device", "cpu", "--out", tmp_path / "out.csv"]
    histo(root, *args)
    exact = (tmp_path / "out.csv").read_text().splitlines()[1:]
    assert sorted(row.rpartition(",")[0] for row in exact) == sorted(names)
    histo(root, *args, "--escape-formulas")
    escaped = (tmp_path / "out.csv").read_text().splitlines()[1:]
    expected = sorted(name if name == "plain" else f"'{name}" for name in names)
    assert sorted(row.rpartition(",")[0] for row in escaped) == expected
    ids = [json.loads(row)["id"] for row in histo(root, *args[:-2], "--format", "jsonl").stdout.splitlines()]
    assert sorted(ids) == sorted(names)
    error = histo(root, *args, "--format", "jsonl", "--escape-formulas", code=2).stderr
    assert "--escape-formulas is for CSV" in error
