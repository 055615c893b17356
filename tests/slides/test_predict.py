"""`histo predict` on whole slides."""

import csv
import errno
import json
import os
import shutil
import sys
from dataclasses import replace
from uuid import UUID

import cv2
import numpy as np
import openslide
import pytest
import tifffile

import histocli.commands.predict_slides
from histocli.atomic import write_atomically
from histocli.errors import HistoError
from histocli.models.checkpoint import load_checkpoint, save_checkpoint
from histocli.plots.slides import write_heatmap_picture
from histocli.slides.detection import find_slides, is_slide
from histocli.slides.grid import Grid
from histocli.slides.reading import open_slide
from tests.cli import read_rows, write_images
from tests.slides.files import make_area, make_ring, predict, tissue_image, write_features, write_slide


@pytest.mark.usefixtures("real_pictures")
def test_each_slide_gets_a_folder_and_a_line(histo, slides, tmp_path):
    out = tmp_path / "out"
    result = predict(histo, slides, "--out", out)
    told, records = " ".join(result.stderr.split()), read_rows(out / "slides.csv")
    assert f"scored 2 slides; {out / 'slides.csv'} lists 2 slides: 2 scored" in told
    assert f"of it at or above the threshold {float(records[0]['threshold']):.3g}" in told
    assert [record["slide"] for record in records] == ["first", "second"]
    for path in slides.iterdir():
        path.rename(path.with_suffix(".tif.part"))
    result = predict(histo, slides, "--out", out)  # a night without new slides
    assert f"there are no slides in {slides}; skipped 2 other files" in " ".join(result.stderr.split())
    assert "--step 50" in histo.fails("predict", slides, "--out", out, "--step", 50, code=2)[0]
    error, hint = histo.fails("predict", slides / "*.svs", "--skip-done", "--out", out, code=2)
    assert (error, hint) == (
        "--skip-done is for patches, and the inputs are whole slides",
        "leave --skip-done out: finished slides are not scored again",
    )
    (slides / "third.tif").write_bytes(b"II*")
    assert f"--out {out} is a folder" in histo.fails("predict", slides, "--out", out, code=2)[0]
    assert read_rows(out / "slides.csv") == records
    for record in records:
        folder = out / record["slide"]
        names = {"scores.csv", "slide.geojson", "heatmap.png", "heatmap.tif", "tissue.png", "slide.json"}
        assert {path.name for path in folder.iterdir()} == names
        scores = read_rows(folder / "scores.csv")
        assert record["status"] == "scored"
        assert int(record["squares"]) == len(scores) > 10
        probabilities = [float(row["probability"]) for row in scores]
        assert float(record["maximum"]) == max(probabilities)
        assert float(record["mpp"]) == pytest.approx(0.486, abs=1e-5)
    half = 800 * 700 * 0.000486**2
    assert float(records[0]["tissue_mm2"]) == pytest.approx(half, rel=0.1)


@pytest.mark.parametrize(("name", "step"), [("first", 96), ("second", 32)])
def test_the_table_has_the_scores_of_the_same_pixels_cut_out_by_hand(histo, slides, tmp_path, name, step):
    out = tmp_path / "out"
    predict(histo, slides / f"{name}.tif", "--out", out, "--step", step)
    margin = 96 - step  # level-0 pixels on each side of a square, of which two are a pixel of the patch
    image = np.pad(tifffile.imread(slides / f"{name}.tif"), [(margin, 192), (margin, 192), (0, 0)], constant_values=255)
    rows = [row for row in read_rows(out / name / "scores.csv") if int(row["width"]) == int(row["height"]) == 2 * step]
    assert len(rows) > 10
    patches = tmp_path / "patches"
    patches.mkdir()
    for number, row in enumerate(rows):
        x, y = int(row["x"]), int(row["y"])
        patch = cv2.resize(image[y : y + 192, x : x + 192], (96, 96), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(patches / f"{number:04}.png"), cv2.cvtColor(patch, cv2.COLOR_RGB2BGR))
    by_hand = list(csv.DictReader(predict(histo, patches).stdout.splitlines()))
    assert [float(row["label"]) for row in by_hand] == pytest.approx(
        [float(row["probability"]) for row in rows], abs=2e-5
    )


def test_geojson_is_as_qupath_writes_it(histo, slides, tmp_path):
    """Of qupath.lib.io.PathObjectTypeAdapters: objectType, a UUID as id, measurements as an object, closed rings."""
    out = tmp_path / "out"
    predict(histo, slides / "first.tif", "--out", out, "--threshold", 0.0)
    content = json.loads((out / "first" / "slide.geojson").read_text())
    assert content["type"] == "FeatureCollection"
    kinds = [feature["properties"]["objectType"] for feature in content["features"]]
    scores = read_rows(out / "first" / "scores.csv")
    assert kinds == ["annotation"] + ["tile"] * len(scores)
    assert len({str(UUID(feature["id"])) for feature in content["features"]}) == len(kinds)
    for feature in content["features"]:
        assert feature["geometry"]["type"] == "Polygon"
        for ring in feature["geometry"]["coordinates"]:
            assert ring[0] == ring[-1]
        assert all(isinstance(value, int | float) for value in feature["properties"]["measurements"].values())
    annotation = content["features"][0]["properties"]
    assert annotation["classification"] == {"name": "Tumor", "color": [200, 0, 0]}
    for feature, row in zip(content["features"][1:], scores, strict=True):
        x, y, width, height = (int(row[name]) for name in ("x", "y", "width", "height"))
        assert feature["geometry"]["coordinates"] == [make_ring(x, y, width, height)]
        assert feature["properties"]["measurements"] == {"probability of tumour": float(row["probability"])}


def test_the_map_lies_over_the_slide(histo, slides, tmp_path):
    out = tmp_path / "out"
    predict(histo, slides / "first.tif", "--out", out, "--step", 32)
    with openslide.OpenSlide(out / "first" / "heatmap.tif") as heatmap:
        spacing = float(heatmap.properties["openslide.mpp-x"])
        assert spacing == pytest.approx(32 * 0.972)
    values = tifffile.imread(out / "first" / "heatmap.tif")
    scores = read_rows(out / "first" / "scores.csv")
    assert (values > 0).sum() <= len(scores)
    for row in scores:
        column, line = (round(int(row[axis]) * 0.486 / spacing) for axis in "xy")
        assert values[line, column] == round(float(row["probability"]) * 255)


def test_a_broken_slide_is_named_and_the_others_are_scored(histo, slides, tmp_path):
    for name in "abc":
        (slides / f"{name}.svs").write_bytes((slides / "first.tif").read_bytes()[:900])
    out = tmp_path / "out"
    result = predict(histo, slides, "--out", out, code=4)
    assert "3 of 5 slides could not be scored: a, b, c\n" in result.stderr
    records = {record["slide"]: record for record in read_rows(out / "slides.csv")}
    statuses = dict.fromkeys("abc", "failed") | {"first": "scored", "second": "scored"}
    assert {name: record["status"] for name, record in records.items()} == statuses
    assert "a.svs" in records["a"]["error"]
    error, _ = histo.fails("predict", "--device", "cpu", slides, "--out", out, "--errors", "fail")
    assert "a.svs" in error


@pytest.mark.parametrize("size", [0, 4, 1000])
def test_a_tiff_that_was_copied_in_part_is_a_slide_that_failed(histo, slides, tmp_path, size):
    data = bytearray((slides / "first.tif").read_bytes()[:size])
    if size:
        data[4:8] = (10**6).to_bytes(4, "little")  # the first page follows the pixels, as libtiff writes it
    (slides / "part.tif").write_bytes(data[:size])
    out = tmp_path / "out"
    result = predict(histo, slides, "--out", out, code=4)
    assert "1 of 3 slides could not be scored: part" in result.stderr
    records = {record["slide"]: record for record in read_rows(out / "slides.csv")}
    assert records["part"]["status"] == "failed"
    assert "part.tif" in records["part"]["error"]
    predict(histo, slides / "part.tif", slides / "first.tif", "--out", tmp_path / "both", code=4)
    (slides / "first.tif").unlink()
    (slides / "second.tif").unlink()
    assert find_slides([str(slides)]) is None  # it may as well be a patch


@pytest.mark.parametrize("is_removed", [False, True])
def test_a_slide_that_changes_while_it_is_scored_is_not_taken_as_finished(
    histo, slides, tmp_path, monkeypatch, is_removed
):
    score = histocli.commands.predict_slides.score_squares

    def score_and_change(slide, *args):
        if slide.path.name == "first.tif":
            slide.path.unlink() if is_removed else os.utime(slide.path, (1, 1))
        return score(slide, *args)

    monkeypatch.setattr(histocli.commands.predict_slides, "score_squares", score_and_change)
    result = predict(histo, slides, "--out", tmp_path / "out", code=4)
    assert ("first.tif: No such file" if is_removed else "first.tif was changed while it was read") in result.stderr
    assert not (tmp_path / "out" / "first").exists()
    assert (tmp_path / "out" / "second" / "slide.json").exists()


def test_slides_with_names_that_are_not_utf8_are_scored_and_incomplete_copies_are_skipped(histo, slides, tmp_path):
    (slides / "second.tif").rename(slides / "m\udcfc.tif")  # the byte 0xfc
    for name in ("a.svs.filepart", "b.tif.part", "c.tif.Ab12Cd34"):
        shutil.copy(slides / "first.tif", slides / name)
    out = tmp_path / "out"
    result = predict(histo, slides, "--out", out)
    assert "skipped 3 files that are not slides: a.svs.filepart, b.tif.part, c.tif.Ab12Cd34" in result.stderr
    assert [(row["slide"], row["status"]) for row in read_rows(out / "slides.csv")] == [
        ("first", "scored"),
        ("m\\xfc", "scored"),
    ]
    assert (out / "m\\xfc" / "slide.geojson").is_file()
    assert "2 of 2 slides were finished before" in predict(histo, slides, "--out", out).stderr


def test_a_full_disk_ends_the_command_at_the_first_slide(histo, slides, tmp_path, monkeypatch):
    written = []

    def write_to_full_disk(path, *_):
        written.append(path)
        with write_atomically(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(histocli.commands.predict_slides, "write_heatmap", write_to_full_disk)
    error, hint = histo.fails("predict", "--device", "cpu", slides, "--out", tmp_path / "out")
    assert "heatmap.tif: No space left on device" in error
    assert hint.startswith("free some space")
    assert len(written) == 1


def test_a_slide_with_a_damaged_tile_is_named(histo, slides, tmp_path):
    path = slides / "first.tif"
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 3000] = bytes(3000)
    path.write_bytes(data)
    with open_slide(path) as opened:
        for _ in range(2):  # OpenSlide remembers the first error, also for other threads
            with pytest.raises(HistoError, match=r"the slide is damaged: ."):
                opened.read(0, 0, 0, opened.width, opened.height)
    result = predict(histo, slides, "--out", tmp_path / "out", code=4)
    assert "first.tif: the slide is damaged" in result.stderr
    assert (tmp_path / "out" / "second" / "scores.csv").is_file()
    assert not (tmp_path / "out" / "first").exists()


@pytest.mark.parametrize(
    "resolution",
    [{"mpp": None}, {"per_unit": 72, "unit": "INCH"}],
    ids=["none", "72 dpi"],
)
def test_the_resolution_is_never_guessed(histo, tmp_path, resolution):
    path = write_slide(tmp_path / "slide.tif", tissue_image(1300, 1300), **resolution)
    result = predict(histo, path, "--out", tmp_path / "out", code=1)
    assert "its resolution is not known" in result.stderr
    assert "--mpp" in result.stderr
    predict(histo, path, "--out", tmp_path / "out", "--mpp", 0.486)
    [record] = read_rows(tmp_path / "out" / "slides.csv")
    assert float(record["mpp"]) == 0.486
    assert record["flags"] == "mpp 0.486 given"


def test_an_mpp_that_contradicts_the_file_is_refused_unless_it_names_the_slide(histo, slides, tmp_path):
    out = tmp_path / "out"
    result = predict(histo, slides / "first.tif", "--out", out, "--mpp", 0.243, code=1)
    assert "says 0.486 micrometres per pixel, and --mpp says 0.243" in result.stderr
    table = tmp_path / "mpp.csv"
    table.write_text("slide,mpp\nfirst,0.243\n")
    predict(histo, slides / "first.tif", "--out", out, "--mpp", table)
    assert read_rows(out / "slides.csv")[0]["flags"] == "mpp 0.243 given, not 0.486 as in the file"


@pytest.mark.parametrize("text", ["fast", "250", "0"])
def test_an_impossible_mpp_is_refused(histo, slides, tmp_path, text):
    error, _ = histo.fails("predict", slides, "--out", tmp_path / "out", "--mpp", text, code=2)
    assert f"--mpp {text}" in error


def test_a_slide_without_tissue_says_so(histo, tmp_path):
    glass = np.random.default_rng(0).integers(240, 246, (1500, 1500, 3), np.uint8)
    path = write_slide(tmp_path / "glass.tif", glass, 0.486)
    result = predict(histo, path, "--out", tmp_path / "out")
    assert "glass: no tissue was found" in result.stderr
    [record] = read_rows(tmp_path / "out" / "slides.csv")
    assert (record["status"], record["squares"], record["maximum"]) == ("no tissue", "0", "")
    assert (tmp_path / "out" / "glass" / "tissue.png").is_file()
    predict(histo, path, "--out", tmp_path / "out", "--no-mask")
    assert read_rows(tmp_path / "out" / "slides.csv")[0]["squares"] == "64"


def test_a_finished_slide_is_not_scored_again(histo, slides, tmp_path):
    out = tmp_path / "out"
    predict(histo, slides / "first.tif", "--out", out)
    before = (out / "first" / "slide.json").stat().st_mtime_ns
    assert "1 of 1 slide was finished before" in predict(histo, slides / "first.tif", "--out", out).stderr
    result = predict(histo, slides, "--out", out)
    assert "1 of 2 slides was finished before" in result.stderr
    assert f"scored 1 slide; {out / 'slides.csv'} lists 2 slides: 2 scored" in " ".join(result.stderr.split())
    assert (out / "first" / "slide.json").stat().st_mtime_ns == before
    predict(histo, slides, "--out", out, "--threshold", 0.9)
    assert (out / "first" / "slide.json").stat().st_mtime_ns > before
    (out / "first" / "slide.json").unlink()  # as after a kill
    assert "1 of 2 slides was finished before" in predict(histo, slides, "--out", out, "--threshold", 0.9).stderr
    predict(histo, slides / "second.tif", "--out", out, "--threshold", 0.8)
    rows = [(record["slide"], float(record["threshold"])) for record in read_rows(out / "slides.csv")]
    assert rows == [("first", 0.9), ("second", 0.8)]


def test_the_picture_shows_tissue_of_low_scores_and_outlines_the_others(tmp_path):
    edges = np.arange(4) * 96
    grid = Grid(0, 96, 0.972, (1, 1), edges, edges, 1, (288, 288))
    scores = np.full((3, 3), 0.01)
    scores[1, 1] = 0.9
    overview = np.full((144, 144, 3), 200, np.uint8)
    write_heatmap_picture(tmp_path / "map.png", "slide", overview, 1.944, scores, grid, 0.9)
    image = cv2.imread(str(tmp_path / "map.png"), cv2.IMREAD_GRAYSCALE)
    middle = image[image.shape[0] // 2]  # a row of pixels through the square with the high score
    left, right = np.flatnonzero(middle[: image.shape[1] * 2 // 3] < 60)[[0, -1]].tolist()
    side = right - left
    assert 0.2 < side / image.shape[1] < 0.35
    assert middle[left - side // 2] > 170
    assert middle[(left + right) // 2] != middle[left - side // 2]


@pytest.mark.parametrize(("rows", "columns", "score"), [(3, 3, np.nan), (1, 1, 0.9), (1, 3, 0.9)])
def test_a_picture_is_drawn_without_scores_and_of_few_squares(tmp_path, rows, columns, score):
    xs, ys = np.arange(columns + 1) * 96, np.arange(rows + 1) * 96
    grid = Grid(0, 96, 0.972, (1, 1), xs, ys, 1, (columns * 96, rows * 96))
    overview = np.full((rows * 48, columns * 48, 3), 200, np.uint8)
    write_heatmap_picture(tmp_path / "map.png", "slide", overview, 1.944, np.full((rows, columns), score), grid, 0.5)
    assert cv2.imread(str(tmp_path / "map.png")) is not None


@pytest.mark.parametrize("name", ["heatmap.png", "scores.csv"])
@pytest.mark.usefixtures("real_pictures")
def test_a_slide_is_scored_again_if_a_file_of_its_map_was_removed(histo, slides, tmp_path, name):
    path = tmp_path / "out" / "first" / name
    predict(histo, slides / "first.tif", "--out", tmp_path / "out")
    before = path.read_bytes()
    path.unlink()
    assert "finished before" not in predict(histo, slides / "first.tif", "--out", tmp_path / "out").stderr
    assert path.read_bytes() == before


def test_maps_of_different_checkpoints_are_not_evaluated_together(histo, slides, tmp_path):
    out = tmp_path / "out"
    predict(histo, slides / "first.tif", "--out", out, "--threshold", 0.5)
    histo("predict", slides / "second.tif", "--ckpt", "histonet-pcam", "--out", out, "--threshold", 0.5)
    checkpoints = {record["slide"]: record["checkpoint"] for record in read_rows(out / "slides.csv")}
    assert checkpoints["second"] == "histonet-pcam"
    assert checkpoints["first"] not in ("", "histonet-pcam")
    (tmp_path / "labels.csv").write_text("id,label\nfirst,1\nsecond,0\n")
    error, hint = histo.fails("eval", "--maps", out, "--labels", tmp_path / "labels.csv")
    assert "were scored with 2 different sets of checkpoints and options" in error
    assert "run histo predict again with all slides" in hint


def test_the_table_keeps_the_slides_of_earlier_calls(histo, slides, tmp_path):
    out = tmp_path / "out"
    (slides / "broken.svs").write_bytes((slides / "first.tif").read_bytes()[:900])
    predict(histo, slides, "--out", out, code=4)
    before = {record["slide"]: record for record in read_rows(out / "slides.csv")}
    predict(histo, slides / "first.tif", "--out", out)
    assert {record["slide"]: record for record in read_rows(out / "slides.csv")} == before
    (out / "second" / "slide.json").write_text("{")
    result = predict(histo, slides / "first.tif", "--out", out)
    assert "second/slide.json" in result.stderr
    assert "the new slides.csv leaves out this slide" in result.stderr
    assert {record["slide"] for record in read_rows(out / "slides.csv")} == {"first", "broken"}
    (out / "slides.csv").write_text("a,b\n1,2\n")
    result = predict(histo, slides / "first.tif", "--out", out)
    assert "leaves out the slides that failed before" in result.stderr


def test_the_folder_of_another_slide_is_not_overwritten(histo, slides, tmp_path):
    predict(histo, slides / "first.tif", "--out", tmp_path / "out")
    other = tmp_path / "other" / "first.tif"
    other.parent.mkdir()
    shutil.copy(slides / "second.tif", other)
    scores = (tmp_path / "out" / "first" / "scores.csv").read_bytes()
    result = histo("predict", "--device", "cpu", other, "--out", tmp_path / "out", code=1)
    assert "has the scores of another slide" in result.stderr
    assert "error: 1 of 1 slide could not be scored: first" in result.stderr
    assert (tmp_path / "out" / "first" / "scores.csv").read_bytes() == scores


def test_slides_with_equal_names_get_folders_of_their_own(histo, slides, tmp_path):
    for name in ("a", "b"):
        (slides / name).mkdir()
        shutil.copy(slides / "second.tif", slides / name / "case.tif")
    (slides / "first.tif").unlink()
    (slides / "second.tif").unlink()
    (slides / "notes.txt").write_text("some notes")
    result = predict(histo, slides, "--out", tmp_path / "out")
    assert "skipped 1 file that is not a slide: notes.txt" in result.stderr
    assert (tmp_path / "out" / "a" / "case" / "scores.csv").read_bytes() == (
        tmp_path / "out" / "b" / "case" / "scores.csv"
    ).read_bytes()


def test_masks_of_the_user_replace_the_tissue_that_is_found(histo, slides, tmp_path):
    masks = tmp_path / "masks"
    write_features(masks / "first.geojson", make_area(make_ring(400, 300, 384)))
    drawn = np.zeros((160, 140), np.uint8)
    drawn[30:68, 40:78] = 255
    cv2.imwrite(str(tmp_path / "first.png"), drawn)
    painted = np.full((*drawn.shape, 4), 255, np.uint8)  # white, and transparent where nothing is drawn
    painted[..., 3] = drawn
    cv2.imwrite(str(tmp_path / "painted.png"), painted)
    found = []
    for mask in (masks / "first.geojson", tmp_path / "first.png", tmp_path / "painted.png", masks):
        predict(histo, slides / "first.tif", "--out", tmp_path / "out", "--mask", mask, "--step", 32)
        [record] = read_rows(tmp_path / "out" / "slides.csv")
        found.append(int(record["squares"]))
        assert record["flags"] == "own mask"
    assert found == [pytest.approx(49, abs=10)] * 4
    result = predict(histo, slides, "--out", tmp_path / "out", "--mask", masks, code=4)
    assert "there is no mask second.geojson or .png" in result.stderr
    predict(histo, slides / "second.tif", "--out", tmp_path / "out")
    result = predict(histo, slides, "--out", tmp_path / "out", "--mask", masks, code=4)  # finished with other options
    assert "there is no mask second.geojson or .png" in result.stderr


def write_areas(path, *kinds, x=400, side=384):
    """Write a GeoJSON file with a square of each of QuPath's kinds of objects, one beside the other."""
    rings = [make_ring(x + number * side, 300, side) for number in range(len(kinds))]
    return write_features(path, *(make_area(ring, objectType=kind) for ring, kind in zip(rings, kinds, strict=True)))


def test_only_annotations_are_a_mask_and_the_rest_is_counted(histo, slides, tmp_path):
    squares = []
    for number, kinds in enumerate((["annotation"], ["annotation", "tile", "detection", "tile"])):
        mask = write_areas(tmp_path / f"{number}.geojson", *kinds)
        result = predict(histo, slides / "first.tif", "--out", tmp_path / str(number), "--mask", mask)
        [record] = read_rows(tmp_path / str(number) / "slides.csv")
        squares.append(record["squares"])
    assert squares[0] == squares[1]
    assert record["flags"] == "own mask; 1 detection and 2 tiles of the mask left out"
    assert "1 detection and 2 tiles of the mask left out" in " ".join(result.stderr.split())


def test_masks_that_cannot_be_meant_are_refused(histo, slides, tmp_path):
    def fails(mask, *inputs, code=1):
        return histo.fails("predict", *inputs, "--device", "cpu", "--out", tmp_path / "out", "--mask", mask, code=code)

    first = slides / "first.tif"
    write_areas(tmp_path / "tiles.geojson", "tile", "tile")
    predict(histo, first, "--out", tmp_path / "out", "--mask", tmp_path / "tiles.geojson", code=1)
    [record] = read_rows(tmp_path / "out" / "slides.csv")
    assert "tiles.geojson has 2 tiles, and no annotation with an area" in record["error"]
    write_areas(tmp_path / "far.geojson", "annotation", x=9000)
    predict(histo, first, "--out", tmp_path / "out", "--mask", tmp_path / "far.geojson", code=1)
    [record] = read_rows(tmp_path / "out" / "slides.csv")
    assert "no area of the mask lies in the slide, which has 1,400x1,600 pixels" in record["error"]
    mask = write_areas(tmp_path / "one.geojson", "annotation")
    error, hint = fails(mask, slides, code=2)
    assert "is the mask of one slide, and the inputs are 2 slides" in " ".join(error.split())
    assert "give a folder" in hint
    error, _ = fails(mask.rename(tmp_path / "one.xml"), first, code=2)
    assert "does not end in .geojson, .json, .png" in " ".join(error.split())
    write_areas(tmp_path / "empty.geojson")
    result = predict(histo, first, "--out", tmp_path / "out", "--mask", tmp_path / "empty.geojson")
    assert "the mask covers less than a tenth of every square" in " ".join(result.stderr.split())


def test_an_ome_tiff_is_read_with_tifffile(histo, slides, tmp_path):
    image = tifffile.imread(slides / "first.tif")
    for name, tile in (("tiled", 256), ("strips", None)):
        path = write_slide(tmp_path / f"{name}.ome.tif", image, 0.486, tile=tile, ome=True)
        if tile:
            assert is_slide(path)
        else:
            path = path.rename(tmp_path / "strips.svs")
        predict(histo, path, "--out", tmp_path / name)
    predict(histo, slides / "first.tif", "--out", tmp_path / "out")
    expected = (tmp_path / "out" / "first" / "scores.csv").read_bytes()
    assert next((tmp_path / "tiled").glob("*/scores.csv")).read_bytes() == expected
    assert next((tmp_path / "strips").glob("*/scores.csv")).read_bytes() == expected


def read_map(histo, slide, out, *options):
    """Score a slide; return the probability of each square by its left upper corner."""
    predict(histo, slide, "--out", out, *options)
    return {
        (int(row["x"]), int(row["y"])): float(row["probability"]) for row in read_rows(out / slide.stem / "scores.csv")
    }


def test_the_probabilities_of_an_ensemble_are_averaged(two_runs, slides, tmp_path):
    for run, temperature in (("first", 0.1), ("second", 0.05)):  # away from 0.5, where log odds have the same mean
        path = two_runs.root / "runs" / run / "best.pt"
        save_checkpoint(replace(load_checkpoint(path), temperature=temperature), path)
    first, second, both = (
        read_map(two_runs, slides / "second.tif", tmp_path / "-".join(runs), *[f"--ckpt={run}" for run in runs])
        for runs in (["first"], ["second"], ["first", "second"])
    )
    assert all(abs(first[square] - second[square]) > 0.1 for square in first)
    assert both == pytest.approx({square: (first[square] + second[square]) / 2 for square in first}, abs=2e-6)


def test_the_views_of_a_square_are_averaged(histo, tmp_path):
    """The map of a mirrored slide is then the mirrored map."""
    image = tissue_image(1344, 1344)  # 7x7 squares of 192 pixels
    slide = write_slide(tmp_path / "slide.tif", image, 0.486)
    mirrored = write_slide(tmp_path / "mirrored.tif", image[:, ::-1], 0.486)
    straight, reversed_map = (
        read_map(histo, path, tmp_path / "out", "--tta", "--no-mask", "--uncalibrated") for path in (slide, mirrored)
    )
    assert len(straight) == 49
    assert reversed_map == pytest.approx({(1152 - x, y): value for (x, y), value in straight.items()}, abs=2e-5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--out DIR"),
        (["--out", "file.csv"], "is a file; slides need a folder"),
        (["--out", "file.map"], "is a file; slides need a folder"),
        (["--out", "new.csv"], "is a file; slides need a folder"),
        (["--out", "out", "--qc"], "--qc is for patches"),
        (["--out", "out", "--format", "jsonl"], "--format is for patches"),
        (["--out", "out", "--failed", "f.csv"], "leave --failed out: slides.csv has the error of each slide"),
        (["--out", "out", "--skip-done"], "leave --skip-done out: finished slides are not scored again"),
        (["--out", "out", "--resize", "scale"], "--resize is for patches"),
        (["--out", "out", "--step", "48"], "give 32 or 96"),
        (["--out", "out", "--mask", "nowhere.png"], "no such file"),
    ],
)
def test_options_that_are_for_patches_are_refused_for_slides(histo, slides, tmp_path, options, message):
    files = {name: tmp_path / name for name in ("file.csv", "file.map", "new.csv")}
    for name in ("file.csv", "file.map"):
        files[name].write_text("")
    error, hint = histo.fails("predict", slides, *[files.get(option, option) for option in options], code=2)
    assert message in f"{error} {hint}"


def test_options_of_slides_are_refused_for_patches(histo, tmp_path):
    write_images(histo, tmp_path / "patches")
    error, _ = histo.fails("predict", tmp_path / "patches", "--step", 32, code=2)
    assert "--step is for whole slides" in error


@pytest.mark.parametrize("package", ["openslide", "tifffile"])
def test_a_missing_package_is_named_once_with_the_command_to_install_it(histo, slides, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    error, hint = histo.fails("predict", slides, "--out", tmp_path / "out")
    assert error == f"whole slides need the package {package}"
    assert hint == "pip install 'histocli[slides]'"


def test_slides_and_patches_are_not_mixed(histo, slides, tmp_path):
    write_images(histo, tmp_path / "patches")
    error, _ = histo.fails("predict", slides, tmp_path / "patches", "--out", tmp_path / "out", code=2)
    assert "is not a slide and contains none" in error


def test_slides_are_recognised_by_their_content(tmp_path):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (1100, 1100, 3), np.uint8)
    assert is_slide(write_slide(tmp_path / "tiled.bin", noise))
    assert not is_slide(write_slide(tmp_path / "strips.tif", noise, tile=None))
    assert not is_slide(write_slide(tmp_path / "patch.tif", noise[:96, :96]))
    (tmp_path / "text.tif").write_text("no image " * 40_000)
    assert not is_slide(tmp_path / "text.tif")
    (tmp_path / "cut.svs").write_bytes(b"II*\0")
    assert is_slide(tmp_path / "cut.svs")
    (tmp_path / "patch.svs").write_bytes(cv2.imencode(".png", noise[:96, :96])[1].tobytes())
    assert not is_slide(tmp_path / "patch.svs")
    assert find_slides(["kaggle", "-", str(tmp_path / "patch.tif")]) is None


def test_a_real_slide_is_scored_and_the_others_are_named(histo, shared_data, tmp_path):
    out = tmp_path / "out"
    result = predict(histo, shared_data / "slides", "--out", out, code=4)
    assert "2 of 3 slides could not be scored" in result.stderr
    records = {record["slide"]: record for record in read_rows(out / "slides.csv")}
    assert float(records["cmu_small_region"]["mpp"]) == 0.499
    assert "micrometres per pixel" in records["no_resolution"]["error"]
    assert "broken.svs" in records["broken"]["error"]


@pytest.mark.parametrize("out", [(), ("--out", "scores.csv")])
def test_a_folder_of_a_slide_and_patches_is_refused(histo, tmp_path, monkeypatch, out):
    folder = tmp_path / "mixed"
    write_images(histo, folder, 2)
    (folder / "a.svs").write_bytes(b"a damaged slide")
    monkeypatch.chdir(tmp_path)
    result = predict(histo, folder, *out, code=2)
    assert "error: a.svs is a whole slide, and 2 other files are not" in result.stderr
    assert "--out DIR" in result.stderr
    assert not (tmp_path / "scores.csv").exists()
