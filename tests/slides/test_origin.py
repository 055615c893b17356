"""Slides of which QuPath shows a part, such as MIRAX and Leica SCN: its coordinates begin at the part's corner."""

import json

import openslide
import pytest

from histocli.slides.reading import open_slide
from tests.cli import read_rows
from tests.slides.files import download, make_area, predict, tissue_image, write_asap, write_features, write_slide

LEFT, TOP = 300, 500  # the corner
SQUARE = [(0, 0), (700, 0), (700, 600), (0, 600), (0, 0)]


@pytest.fixture(autouse=True)
def bounds(monkeypatch):
    """Let OpenSlide give bounds for every slide."""
    properties = openslide.OpenSlide.properties
    values = zip(("x", "y", "width", "height"), (LEFT, TOP, 1600, 1500), strict=True)
    added = {f"openslide.bounds-{name}": str(value) for name, value in values}
    monkeypatch.setattr(openslide.OpenSlide, "properties", property(lambda slide: {**properties.fget(slide), **added}))


@pytest.fixture
def slide(tmp_path):
    """A slide of 2000x2000 pixels with tissue in the middle."""
    return write_slide(tmp_path / "slides" / "a.tif", tissue_image(2000, 2000), 0.486)


def write_geojson(folder, left, top):
    """Write an area for the slide `a`, whose upper left corner QuPath shows at (left, top); return the folder."""
    write_features(folder / "a.geojson", make_area([[left + x, top + y] for x, y in SQUARE]))
    return folder


def write_xml(folder, left, top):
    """Write an area as ASAP does, which shows the whole slide; return the folder."""
    write_asap(folder / "a.xml", ("Tumor", "Polygon", [(left + x, top + y) for x, y in SQUARE]))
    return folder


def test_the_corner_is_that_of_the_bounds_if_openslide_gives_all(slide, monkeypatch):
    with open_slide(slide) as opened:
        assert opened.origin == (LEFT, TOP)
        assert (opened.width, opened.height) == (2000, 2000)
    monkeypatch.setattr(openslide.OpenSlide, "properties", {"openslide.bounds-x": "3", "openslide.bounds-y": "4"})
    with open_slide(slide) as opened:
        assert opened.origin == (0, 0)


def test_an_annotation_of_qupath_labels_the_same_patches_as_that_of_asap(empty, slide, tmp_path):
    manifests = []
    for folder in (write_geojson(tmp_path / "json", 400, 250), write_xml(tmp_path / "xml", 700, 750)):
        download(empty, slide, folder, "--n", 200, "--name", folder.name)
        manifests.append(read_rows(empty.root / "manifests" / f"{folder.name}.csv"))
    assert manifests[0] == manifests[1]
    tumour = [row for row in manifests[0] if row["label"] == "1"]
    assert len(tumour) > 50
    for row in tumour:
        assert 700 - 64 <= int(row["x"]) <= 1400
        assert 750 - 64 <= int(row["y"]) <= 1350


def test_an_area_of_qupath_that_lies_outside_the_whole_slide_is_refused(empty, slide, tmp_path):
    folder = write_geojson(tmp_path / "json", 1750, 100)
    error, _ = download(empty.fails, slide, folder)
    assert "a.geojson: 1 of 1 area lies outside the slide" in " ".join(error.split())


def test_the_geojson_of_a_map_is_in_qupaths_coordinates_and_is_read_back(histo, slide, tmp_path):
    predict(histo, slide, "--out", tmp_path / "maps", "--threshold", 0)
    written = tmp_path / "maps" / "a" / "slide.geojson"
    annotation, *tiles = json.loads(written.read_text())["features"]
    scores = read_rows(tmp_path / "maps" / "a" / "scores.csv")
    for tile, row in zip(tiles, scores, strict=True):
        assert tile["geometry"]["coordinates"][0][0] == [int(row["x"]) - LEFT, int(row["y"]) - TOP]
    corners = annotation["geometry"]["coordinates"][0]
    assert min(x for x, _ in corners) == min(int(row["x"]) for row in scores) - LEFT
    assert min(y for _, y in corners) == min(int(row["y"]) for row in scores) - TOP
    written.rename(tmp_path / "mask.geojson")
    predict(histo, slide, "--out", tmp_path / "again", "--mask", tmp_path / "mask.geojson")
    before, after = (
        {(int(row["x"]), int(row["y"])) for row in read_rows(tmp_path / out / "a" / "scores.csv")}
        for out in ("maps", "again")
    )
    assert before <= after
    assert len(after) < 1.3 * len(before)


def test_a_tissue_mask_of_qupath_is_in_its_coordinates(histo, slide, tmp_path):
    folder = write_geojson(tmp_path / "masks", 400, 250)
    predict(histo, slide, "--out", tmp_path / "maps", "--mask", folder / "a.geojson", "--step", 32)
    scores = read_rows(tmp_path / "maps" / "a" / "scores.csv")
    assert abs(min(int(row["x"]) for row in scores) - 700) <= 64
    assert abs(min(int(row["y"]) for row in scores) - 750) <= 64


def test_the_evaluation_of_a_map_places_annotations_as_the_slide_did(histo, slide, tmp_path):
    maps = tmp_path / "maps"
    predict(histo, slide, "--out", maps)
    inputs = [write_geojson(tmp_path / "json", 400, 250), write_xml(tmp_path / "xml", 700, 750)]
    reports = [json.loads(histo("eval", "--maps", maps, "--annotations", it, "--json").stdout) for it in inputs]
    assert reports[0] | {"truth": ""} == reports[1] | {"truth": ""}
    write_geojson(tmp_path / "json", 1750, 100)
    error, _ = histo.fails("eval", "--maps", maps, "--annotations", tmp_path / "json")
    assert "lies outside the slide" in " ".join(error.split())
