"""`histo predict` on slides whose maps an earlier call wrote to the same folder."""

import json
import os
import shutil

import pytest

import histocli.commands.predict_slides
import histocli.commands.slide_job
from histocli.data.manifest import hash_file
from tests.cli import read_rows
from tests.slides.files import make_area, make_ring, predict, tissue_image, write_features, write_slide


def damage(path):
    """Write zeros over a part of the pixels of a slide."""
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(data)


def read_statuses(out):
    return {record["slide"]: record["status"] for record in read_rows(out / "slides.csv")}


def write_labels(path, *names):
    path.write_text("id,label\n" + "".join(f"{name},{number % 2}\n" for number, name in enumerate(names)))
    return path


def write_mask(path):
    return write_features(path, make_area(make_ring(400, 300, 384)))


@pytest.mark.parametrize("reason", ["damaged", "no mask"])
def test_the_map_of_a_slide_that_fails_now_is_not_valid_any_more(histo, slides, tmp_path, reason):
    out, options = tmp_path / "out", []
    predict(histo, slides, "--out", out)
    if reason == "damaged":
        damage(slides / "second.tif")
    else:
        write_mask(tmp_path / "masks" / "first.geojson")
        options = ["--mask", tmp_path / "masks"]
    predict(histo, slides, "--out", out, *options, code=4)
    assert not (out / "second" / "slide.json").exists()
    assert read_statuses(out) == {"first": "scored", "second": "failed"}
    predict(histo, slides / "first.tif", "--out", out, *options)
    assert read_statuses(out) == {"first": "scored", "second": "failed"}
    labels = write_labels(tmp_path / "labels.csv", "first", "second")
    result = histo("eval", "--maps", out, "--labels", labels, "--json")
    assert list(json.loads(result.stdout)["labels"]) == ["first"]
    told = " ".join(result.stderr.split())
    assert "1 slide is not measured, because histo predict could not score it: second" in told


def refuse_first(path, hash_file=hash_file):
    if path.stem == "first":
        raise PermissionError(13, "Permission denied", str(path))
    return hash_file(path)


def test_a_map_stays_valid_if_its_mask_cannot_be_found_or_read(histo, slides, tmp_path, monkeypatch):
    out, masks = tmp_path / "out", tmp_path / "masks"
    moved = write_mask(masks / "first.geojson")
    write_mask(masks / "second.geojson")
    predict(histo, slides, "--out", out, "--mask", masks)
    records = [(out / name / "slide.json").read_bytes() for name in ("first", "second")]
    with monkeypatch.context() as patched:
        patched.setattr(histocli.commands.slide_job, "hash_file", refuse_first)
        predict(histo, slides, "--out", out, "--mask", masks, code=4)
    assert read_statuses(out) == {"first": "failed", "second": "scored"}
    moved.rename(tmp_path / "first.geojson")
    predict(histo, slides, "--out", out, "--mask", masks, code=4)
    assert read_statuses(out) == {"first": "failed", "second": "scored"}
    (masks / "second.geojson").rename(tmp_path / "second.geojson")
    error, hint = histo.fails("predict", slides, "--out", out, "--mask", masks, code=2)
    assert error == f"--mask {masks}: the folder has no mask of any of the 2 slides"
    assert "first.geojson or .png" in hint
    assert [(out / name / "slide.json").read_bytes() for name in ("first", "second")] == records


def test_the_map_of_a_slide_whose_mask_is_damaged_is_not_valid_any_more(histo, slides, tmp_path):
    out, mask = tmp_path / "out", tmp_path / "mask.geojson"
    predict(histo, slides / "first.tif", "--out", out)
    mask.write_text("{")
    predict(histo, slides / "first.tif", "--out", out, "--mask", mask, code=1)
    assert read_statuses(out) == {"first": "failed"}
    assert not (out / "first" / "slide.json").exists()
    (out / "first" / "slide.json").mkdir()  # it cannot be removed
    error, _ = histo.fails("predict", "--device", "cpu", slides / "first.tif", "--out", out)
    assert f"cannot write {out / 'first' / 'slide.json'}" in error


def test_the_table_is_written_after_each_slide(histo, slides, tmp_path, monkeypatch):
    out = tmp_path / "out"
    predict(histo, slides / "second.tif", "--out", out)
    damage(slides / "second.tif")
    histo.fails("predict", "--device", "cpu", slides, "--out", out, "--errors", "fail")
    assert read_statuses(out) == {"first": "scored", "second": "failed"}
    score = histocli.commands.predict_slides.score_squares

    def score_or_stop(slide, *args):
        if slide.path.name == "third.tif":
            raise KeyboardInterrupt
        return score(slide, *args)

    monkeypatch.setattr(histocli.commands.predict_slides, "score_squares", score_or_stop)
    write_slide(slides / "second.tif", tissue_image(1100, 1300, seed=2), 0.486)
    write_slide(slides / "third.tif", tissue_image(1100, 1300, seed=3), 0.486)
    predict(histo, slides, "--out", out, code=130)
    assert read_statuses(out) == {"first": "scored", "second": "scored"}


@pytest.mark.parametrize("options", [["--mask", "masks"], ["--no-mask"]])
def test_maps_of_found_tissue_and_of_masks_are_not_measured_together(histo, slides, tmp_path, options, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_mask(tmp_path / "masks" / "first.geojson")
    predict(histo, slides, "--out", "out")
    predict(histo, slides / "first.tif", "--out", "out", *options)  # as after Ctrl-C
    labels = write_labels(tmp_path / "labels.csv", "first", "second")
    error, hint = histo.fails("eval", "--maps", "out", "--labels", labels)
    assert "were scored with 2 different sets of checkpoints and options" in error
    assert "see checkpoint, threshold and flags" in hint


def test_one_slide_may_have_a_mask_of_its_own(histo, slides, tmp_path):
    predict(histo, slides, "--out", tmp_path / "out")
    mask = write_mask(tmp_path / "masks" / "first.geojson")
    predict(histo, slides / "first.tif", "--out", tmp_path / "out", "--mask", mask)
    labels = write_labels(tmp_path / "labels.csv", "first", "second")
    assert json.loads(histo("eval", "--maps", tmp_path / "out", "--labels", labels, "--json").stdout)["slides"] == 2


def test_a_mask_that_changes_while_its_slide_is_scored_is_named(histo, slides, tmp_path, monkeypatch):
    mask = write_mask(tmp_path / "masks" / "first.geojson")
    score = histocli.commands.predict_slides.score_squares

    def score_and_change(*args):
        mask.write_text(mask.read_text() + " ")
        return score(*args)

    monkeypatch.setattr(histocli.commands.predict_slides, "score_squares", score_and_change)
    result = predict(histo, slides / "first.tif", "--out", tmp_path / "out", "--mask", mask, code=1)
    assert "first.tif or its mask was changed while it was read" in " ".join(result.stderr.split())


def test_a_slide_that_gets_another_name_counts_once(histo, slides, tmp_path):
    out = tmp_path / "out"
    (slides / "2024").mkdir()
    (slides / "first.tif").rename(slides / "2024" / "a.tif")
    (slides / "second.tif").rename(slides / "2024" / "b.tif")
    (slides / "2024" / "empty.svs").touch()
    predict(histo, slides, "--out", out, code=4)
    assert read_statuses(out) == {"a": "scored", "b": "scored", "empty": "failed"}
    before = (out / "a" / "slide.json").read_text()
    write_slide(slides / "2025" / "a.tif", tissue_image(1200, 1300, seed=2), 0.486)
    result = predict(histo, slides, "--out", out, code=4)
    text = " ".join(result.stderr.split())
    assert f"{out / 'a'} is an earlier map of {slides / '2024' / 'a.tif'}, which is now named 2024/a: its slide" in text
    failed = {"2024/empty": "failed"}
    assert read_statuses(out) == dict.fromkeys(("2024/a", "2024/b", "2025/a"), "scored") | failed
    labels = write_labels(tmp_path / "labels.csv", "2024/a", "2024/b", "2025/a")
    assert json.loads(histo("eval", "--maps", out, "--labels", labels, "--json").stdout)["slides"] == 3
    (out / "a" / "slide.json").write_text(before)  # as if the last call had been interrupted
    error, hint = histo.fails("eval", "--maps", out, "--labels", labels)
    assert f"{out / '2024' / 'a'} and {out / 'a'} are maps of the same slide" in error
    assert "run histo predict again with all slides" in hint
    slides.rename(tmp_path / "moved")
    assert "3 of 4 slides were finished before" in predict(histo, tmp_path / "moved", "--out", out, code=4).stderr
    assert not (out / "a" / "slide.json").exists()
    (tmp_path / "moved" / "2024" / "b.tif").rename(tmp_path / "moved" / "2024" / "c.tif")
    predict(histo, tmp_path / "moved", "--out", out, code=4)
    assert read_statuses(out) == dict.fromkeys(("2024/a", "2024/c", "2025/a"), "scored") | failed


def test_a_copied_map_and_a_folder_of_maps_inside_the_folder_stay(histo, slides, tmp_path):
    out = tmp_path / "out"
    predict(histo, slides, "--out", out / "tta", "--tta")
    predict(histo, slides, "--out", out)
    shutil.copytree(out / "first", out / "first-old")
    path = out / "first-old" / "slide.json"
    path.write_text(path.read_text().replace('"mpp": 0.486', '"mpp": 0.25'))
    predict(histo, slides / "second.tif", "--out", out)
    assert {record["slide"]: record["mpp"] for record in read_rows(out / "slides.csv")}["first"] == "0.486000"
    for folder in (out / "tta" / "first", out / "tta" / "second", out / "first", out / "first-old"):
        assert (folder / "slide.json").is_file()


def test_a_map_stays_valid_if_its_slide_cannot_be_found_for_a_while(histo, slides, tmp_path):
    out, link = tmp_path / "out", slides / "second.svs"
    (slides / "second.tif").rename(tmp_path / "second.svs")
    link.symlink_to(tmp_path / "second.svs")
    predict(histo, slides, "--out", out)
    (tmp_path / "second.svs").rename(tmp_path / "away.svs")
    predict(histo, slides, "--out", out, code=4)
    assert read_statuses(out) == {"first": "scored", "second": "failed"}
    labels = write_labels(tmp_path / "labels.csv", "first", "second")
    result = histo("eval", "--maps", out, "--labels", labels, "--json")
    assert list(json.loads(result.stdout)["labels"]) == ["first", "second"]
    assert "not measured" not in result.stderr
    (tmp_path / "away.svs").rename(tmp_path / "second.svs")
    assert "2 of 2 slides were finished before" in predict(histo, slides, "--out", out).stderr
    assert read_statuses(out) == {"first": "scored", "second": "scored"}


def test_the_resolution_of_other_slides_does_not_matter(histo, slides, tmp_path):
    out, table = tmp_path / "out", tmp_path / "mpp.csv"
    write_slide(slides / "third.tif", tissue_image(1300, 1300), None)
    result = predict(histo, slides, "--out", out, code=4)
    assert "1 of 3 slides could not be scored: third" in result.stderr
    assert "--mpp 0.25, or --mpp FILE.csv" in " ".join(result.stderr.split())
    assert "2 of 3 slides were finished before" in predict(histo, slides, "--out", out, "--mpp", 0.49).stderr
    flags = {record["slide"]: record["flags"] for record in read_rows(out / "slides.csv")}
    assert flags == {"first": "", "second": "", "third": "mpp 0.49 given"}
    table.write_text("slide,mpp\nthird,0.49\n")
    assert "3 of 3 slides were finished before" in predict(histo, slides, "--out", out, "--mpp", table).stderr
    table.write_text("slide,mpp\nthird.tif,0.5\n")
    assert "2 of 3 slides were finished before" in predict(histo, slides, "--out", out, "--mpp", table).stderr
    assert {record["slide"]: record["mpp"] for record in read_rows(out / "slides.csv")}["third"] == "0.500000"
    assert "2 of 3 slides were finished before" in predict(histo, slides, "--out", out, code=4).stderr
    assert read_statuses(out)["third"] == "failed"


def test_a_slide_that_was_moved_or_is_named_by_another_path_is_the_same(histo, slides, tmp_path, monkeypatch):
    out = tmp_path / "out"
    monkeypatch.chdir(slides)
    predict(histo, "../slides/first.tif", "--out", out)
    assert "finished before" in predict(histo, slides / "first.tif", "--out", out).stderr
    (tmp_path / "link").symlink_to(slides)
    assert "finished before" in predict(histo, tmp_path / "link" / "first.tif", "--out", out).stderr
    moved = tmp_path / "moved" / "first.tif"
    moved.parent.mkdir()
    (slides / "first.tif").rename(moved)
    assert "finished before" in predict(histo, moved, "--out", out).stderr
    assert json.loads((out / "first" / "slide.json").read_text())["path"] == str(moved)
    moved.rename(slides / "first.tif")
    assert "finished before" not in predict(histo, slides / "first.tif", "--out", out, "--threshold", 0.9).stderr
    shutil.copy2(slides / "first.tif", moved)  # both exist: these may be two slides
    before = (out / "first" / "slide.json").read_bytes()
    line = ["predict", moved, slides / "second.tif", "--device", "cpu", "--out", out]
    assert "has the scores of another slide" in histo.fails(*line, "--errors", "fail")[0]
    (slides / "first.tif").unlink()
    os.utime(moved, (1, 1))  # not the same file
    text = " ".join(histo(*line, code=4).stderr.split())
    assert "out/first has the scores of another slide" in text
    assert "1 of 2 slides could not be scored: first" in text
    assert read_statuses(out) == {"first": "scored", "second": "scored"}  # the map of the other slide is valid
    assert (out / "first" / "slide.json").read_bytes() == before


def test_another_slide_of_the_same_size_and_time_does_not_remove_an_earlier_map(histo, slides, tmp_path):
    out, facts = tmp_path / "out", (slides / "first.tif").stat()
    predict(histo, slides / "first.tif", "--out", out)
    (slides / "first.tif").unlink()
    os.truncate(slides / "second.tif", facts.st_size)  # it was smaller
    os.utime(slides / "second.tif", ns=(facts.st_mtime_ns, facts.st_mtime_ns))
    predict(histo, slides, "--out", out)
    assert read_statuses(out) == {"first": "scored", "second": "scored"}
