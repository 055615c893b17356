"""Annotated slides as a data set."""

import json
import re

import cv2
import numpy as np
import pytest
import tifffile

import histocli.slides.source
from histocli.errors import HistoError
from histocli.slides.annotations import read_tumour
from histocli.slides.asap import read_asap
from histocli.slides.lesions import find_lesions
from histocli.slides.polygons import fill_polygons
from histocli.slides.synthetic import draw_slide, plan_synthetic_slide, write_annotation
from histocli.sources import SourceContext, find_source_type
from tests.cli import read_rows
from tests.slides.files import download, make_ring, tissue_image, write_features, write_slide


def manifest(histo, name):
    return read_rows(histo.root / "manifests" / f"{name}.csv")


@pytest.fixture(name="annotated", scope="module")
def annotated_fixture(tmp_path_factory):
    """Two synthetic slides, the second without tumour, and their annotations."""
    folder = tmp_path_factory.mktemp("annotated")
    for number, has_tumour in enumerate((True, False)):
        plan = plan_synthetic_slide(3, number, 3200, has_tumour)
        draw_slide(plan, folder / "slides" / f"{plan.name}.tif")
        write_annotation(plan, folder / "annotations" / f"{plan.name}.xml")
    return folder


def download_annotated(histo, folder, *args, **options):
    return download(histo, folder / "slides", folder / "annotations", "--n", 120, *args, **options)


def test_labels_and_pixels_are_those_at_the_position_in_the_id(empty, annotated):
    import openslide

    download_annotated(empty, annotated, "--name", "mine")
    rows = manifest(empty, "mine")
    pixels = np.load(empty.root / "data" / "mine" / "patches.npy")
    assert len(rows) == len(pixels) == 120
    assert {row["slide"] for row in rows} == {"tumor_001", "normal_002"}
    assert {row["hospital"] for row in rows} == {"RUMC"}
    areas = read_tumour(annotated / "annotations" / "tumor_001.xml")
    truth = fill_polygons(areas.tumour, (800, 800), (4, 4))
    labels = []
    for number, row in enumerate(rows):
        slide, x, y = re.fullmatch(r"(\w+)_x(\d+)_y(\d+)", row["id"]).groups()
        assert (slide, x, y) == (row["slide"], row["x"], row["y"])
        assert row["mpp_x"] == row["mpp_y"] == "0.243"
        if number % 40 == 0:
            with openslide.OpenSlide(annotated / "slides" / f"{slide}.tif") as file:
                region = file.read_region((int(x), int(y)), 1, (32, 32)).convert("RGB")
            np.testing.assert_array_equal(pixels[number][32:64, 32:64], np.asarray(region))
        x, y = int(x) // 4, int(y) // 4
        expected = slide == "tumor_001" and truth[y : y + 32, x : x + 32].any()
        labels.append(int(row["label"]))
        assert labels[-1] == expected
    assert 20 <= sum(labels) <= 60


def test_the_data_set_goes_through_balance_by_slide(empty, tmp_path):
    empty("download", "--source", "synthetic-slides", "--slide-count", 4, "--slide-side", 2000, "--n", 200)
    empty("balance", "--n", "max", "--val-fraction", 0.4)
    rows = manifest(empty, "balanced")
    slides = {part: {row["slide"] for row in rows if row["split"] == part} for part in ("train", "val")}
    assert slides["train"]
    assert slides["val"]
    assert not slides["train"] & slides["val"]
    again = empty("download", "--source", "synthetic-slides", "--slide-count", 4, "--slide-side", 2000, "--n", 200)
    assert "packed already" in again.stderr
    annotations = list(empty.root.glob("downloads/synthetic-slides/*/annotations/*"))
    assert len(annotations) == 4  # `histo eval --maps` prints a note if a slide has several


def test_a_slide_without_annotation_is_refused_unless_it_is_named_normal(empty, annotated, tmp_path):
    (tmp_path / "annotations").mkdir()
    error, hint = download(empty.fails, annotated / "slides", tmp_path / "annotations")
    assert "tumor_001.tif: there is no annotation tumor_001.xml, .geojson, .tif or .png" in error
    assert 'the file tumor_001.geojson with this content: {"type": "FeatureCollection", "features": []}' in " ".join(
        hint.split()
    )
    (tmp_path / "annotations" / "tumor_001.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    download(empty, annotated / "slides", tmp_path / "annotations")
    assert {row["label"] for row in manifest(empty, "slides")} == {"0"}


@pytest.mark.parametrize("name", ["normal_001", "Normal-2", "normal001", "normal"])
def test_slides_that_count_as_normal_because_of_their_names_are_counted(empty, tmp_path, name):
    write_slide(tmp_path / "slides" / f"{name}.tif", tissue_image(1300, 1300), 0.486)
    (tmp_path / "json").mkdir()
    said = " ".join(download(empty, tmp_path / "slides", tmp_path / "json").stderr.split())
    assert said.count('1 slide without a file counts as normal, because its name begins with "normal"') == 1


@pytest.mark.parametrize("name", ["normalized_case7", "normale1", "normal\u00e9"])
def test_a_name_in_which_a_letter_follows_normal_needs_an_annotation(empty, tmp_path, name):
    write_slide(tmp_path / "slides" / f"{name}.tif", tissue_image(1300, 1300), 0.486)
    (tmp_path / "json").mkdir()
    error, _ = download(empty.fails, tmp_path / "slides", tmp_path / "json")
    assert "there is no annotation" in error


@pytest.mark.parametrize("cause", ["annotation", "resolution", "mask"])
def test_an_error_in_the_last_slide_is_found_before_the_tissue_of_the_first(empty, tmp_path, monkeypatch, cause):
    def refuse(*args):
        raise AssertionError("the tissue is searched")

    monkeypatch.setattr(histocli.slides.source, "plan_slide", refuse)
    for slide in ("normal_1", "z"):
        is_wrong = slide == "z" and cause == "resolution"
        write_slide(tmp_path / "slides" / f"{slide}.tif", tissue_image(1300, 1300), None if is_wrong else 0.486)
    (tmp_path / "annotations").mkdir()
    if cause == "mask":
        tifffile.imwrite(tmp_path / "annotations" / "z.tif", np.ones((1200, 1300), np.uint8))
    else:
        write_features(tmp_path / "annotations" / "z.geojson")
    if cause == "annotation":
        write_features(
            tmp_path / "annotations" / "z.geojson", feature("Polygon", {"classification": {"name": "Cartilage"}})
        )
    error, _ = download(empty.fails, tmp_path / "slides", tmp_path / "annotations")
    expected = {
        "annotation": "the class 'Cartilage' is not known",
        "resolution": "its resolution is not known",
        "mask": "the mask has 1300x1200 pixels",
    }
    assert expected[cause] in " ".join(error.split())


def test_the_progress_is_that_of_the_sizes_of_the_slides(annotated, tmp_path):
    source_type = find_source_type("slides")
    calls = []
    options = source_type.options((str(annotated / "slides"),), annotated / "annotations", n=20)
    source = source_type.open(options, SourceContext(tmp_path, on_transfer=lambda *call: calls.append(call)))
    source.fetch()
    sizes = [path.stat().st_size for path in sorted((annotated / "slides").iterdir())]
    assert [done for _, done, _ in calls] == [0, sizes[0], sum(sizes)]
    assert {total for _, _, total in calls} == {sum(sizes)}


def test_the_annotation_of_a_synthetic_slide_has_its_lesions(tmp_path):
    plan = plan_synthetic_slide(0, 0, 5000, True)
    write_annotation(plan, tmp_path / "a.xml")
    for area, lesion in zip(read_asap(tmp_path / "a.xml").polygons, plan.lesions, strict=True):
        assert area.name == "Tumor"
        np.testing.assert_array_equal(area.outline, lesion.outline)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xml", "<ASAP_Annotations><Annotations>", "is not an annotation of ASAP"),
        ("a.xml", "<html></html>", "it begins with <html>"),
        ("a.geojson", "{}", "is not GeoJSON"),
        ("a.geojson", '{"type": "Point", "coordinates": [1, 2]}', "has no polygon"),
    ],
)
def test_files_that_are_not_annotations_are_refused(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(Exception, match=re.escape(message)):
        read_tumour(tmp_path / name)


def feature(kind, properties, **members):
    rings = {
        "Polygon": [make_ring(0, 0, 900)],
        "Point": [4, 4],
        "LineString": [[0, 0], [9, 9]],
    }
    geometry = {"type": kind, "coordinates": rings[kind]}
    return {"type": "Feature", "geometry": geometry, "properties": properties, **members}


@pytest.mark.parametrize(
    ("classification", "expected"),
    [
        ({"name": "Tumor", "color": [200, 0, 0]}, "tumour"),
        ("Tumor", "tumour"),
        (None, "tumour"),
        ({"name": "Tumor", "colorRGB": -3670016}, "tumour"),
        ({"names": ["Stroma"], "color": [150, 200, 150]}, "excluded"),
        ({"names": ["Stroma", "Immune cells"], "color": [150, 200, 150]}, "'Stroma: Immune cells'"),
        ({"name": "Positive", "parentClass": {"name": "Stroma"}}, "'Stroma: Positive'"),
        ({"names": [4], "color": [0, 0, 0]}, "the name of a class is not text"),
    ],
)
def test_every_way_in_which_qupath_writes_a_class_is_read(tmp_path, classification, expected):
    """Of qupath.lib.io.GsonTools.PathClassTypeAdapter, which also reads a text, and the classes of QuPath 0.3."""
    path = write_features(tmp_path / "a.geojson", feature("Polygon", {"classification": classification}))
    if expected not in ("tumour", "excluded"):
        with pytest.raises(HistoError, match=expected):
            read_tumour(path)
        return
    areas = read_tumour(path)
    assert [len(areas.tumour), len(areas.excluded)] == ([1, 0] if expected == "tumour" else [0, 1])


@pytest.mark.parametrize(
    "other",
    [
        feature("Polygon", {"objectType": "tile", "measurements": {"probability of tumour": 0.9}}),
        feature("Polygon", {"objectType": "detection", "classification": {"name": "Tumor", "color": [200, 0, 0]}}),
        feature("Polygon", {"object_type": "cell"}),
        feature("Polygon", {"objectType": "tmaCore"}),
        feature("Polygon", {}, id="PathTileObject"),
        feature("Point", {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}}),
        feature("LineString", {"objectType": "annotation"}),
    ],
    ids=["tile", "detection", "cell", "core", "tile of QuPath 0.2", "point", "line"],
)
def test_only_areas_of_annotations_are_tumour(tmp_path, other):
    drawn = feature("Polygon", {"objectType": "annotation", "classification": {"name": "Normal", "color": [0, 0, 0]}})
    areas = read_tumour(write_features(tmp_path / "a.geojson", drawn, other, other))
    assert (len(areas.tumour), len(areas.excluded)) == (0, 1)
    assert list(areas.left_out.values()) == [2]
    with pytest.raises(HistoError, match=r"no annotation with an area|has no polygon"):
        read_tumour(write_features(tmp_path / "a.geojson", other))


@pytest.mark.parametrize("key", ["childObjects", "children"])
def test_annotations_below_others_are_read(tmp_path, key):
    child = feature("Polygon", {"objectType": "annotation", "classification": {"name": "Tumor", "color": [200, 0, 0]}})
    parent = feature("Polygon", {"classification": {"name": "Normal", "color": [0, 0, 0]}, key: [child]})
    areas = read_tumour(write_features(tmp_path / "a.geojson", parent))
    assert (len(areas.tumour), len(areas.excluded)) == (1, 1)


# Written by QuPath 0.5.1 (PathIO.exportObjectsAsGeoJSON), after it read a slide.geojson.
FROM_QUPATH = """{"type":"FeatureCollection","features":[{"type":"Feature","id":"6a152719-4632-50b8-a715-e6cbd86831b6",
"geometry":{"type":"Polygon","coordinates":[[[256, 1792],[384, 1792],[384, 1536],[640, 1536],[640, 1792],[640, 2000],
[256, 2000],[256, 1792]],[[400, 1800],[400, 1900],[500, 1900],[500, 1800],[400, 1800]]]},"properties":{"objectType":
"annotation","name":"tumour 1","classification":{"name":"Tumor","color":[200, 0, 0]},"isLocked":true,"measurements":
{"maximum probability":0.9626079797744751,"mean probability":0.8539280295372009,"squares":433.0}}},{"type":"Feature",
"id":"9fb40a8e-3190-5599-80b8-ff8cfb45ae41","geometry":{"type":"Polygon","coordinates":[[[1920, 3584],[2048, 3584],
[2048, 3712],[1920, 3712],[1920, 3584]]]},"properties":{"objectType":"tile","measurements":{"probability of tumour":
0.9249500036239624}}}]}"""


def test_what_qupath_wrote_is_read(tmp_path):
    (tmp_path / "a.geojson").write_text(FROM_QUPATH)
    areas = read_tumour(tmp_path / "a.geojson")
    mask = fill_polygons(areas.tumour, (2100, 700), (1, 1))
    assert (mask[1700, 500], mask[1850, 450], mask[3000 // 2, 100]) == (True, False, False)
    assert areas.left_out == {"tiles": 1}


def test_the_geojson_of_predict_can_be_corrected_and_read_back(empty, annotated, tmp_path):
    """QuPath exports all objects, so the tiles of the map are in the file beside the corrected annotations."""
    slide = annotated / "slides" / "tumor_001.tif"
    empty("predict", "--device", "cpu", slide, "--out", tmp_path / "maps", "--threshold", 0, "--ckpt", "histonet-pcam")
    features = json.loads((tmp_path / "maps" / "tumor_001" / "slide.geojson").read_text())["features"]
    tiles = sum(feature["properties"]["objectType"] == "tile" for feature in features)
    corrected = {"type": "Polygon", "coordinates": [make_ring(1200, 1200, 600)]}
    features = [feature | {"geometry": corrected} for feature in features[:1]] + features[-tiles:]
    (tmp_path / "annotations").mkdir()
    write_features(tmp_path / "annotations" / "tumor_001.geojson", *features)
    result = download(empty, slide, tmp_path / "annotations", "--n", 60, "--name", "mine")
    assert f"tumor_001.geojson: left out {tiles} tiles: only areas of annotations count" in result.stderr
    for row in manifest(empty, "mine"):
        inside = [1200 - 128 < int(row[axis]) < 1800 for axis in "xy"]
        assert int(row["label"]) == all(inside)


def test_patches_near_tumour_can_be_preferred(empty, annotated):
    result = download_annotated(empty, annotated, "--name", "hard", "--near-tumour", "1")
    rows = manifest(empty, "hard")
    normal = [row for row in rows if row["label"] == "0"]
    assert re.search(rf"normal, near tumour +{len(normal)}\n", result.stderr)
    areas = read_tumour(annotated / "annotations" / "tumor_001.xml")
    corners = np.concatenate([polygon.outline for polygon in areas.tumour])
    for row in normal:
        assert row["slide"] == "tumor_001"
        centre = np.array([int(row["x"]), int(row["y"])]) + 64
        assert np.linalg.norm(corners - centre, axis=1).min() * 0.243 < 650
    refused = download_annotated(empty, annotated, "--name", "other", "--near-tumour", "2", code=2)
    assert "--near-tumour 2 is not possible" in refused.stderr


def write_mask(path, areas, side, *, factor=1, value=1, levels=1, dtype=np.uint8):
    """A tiled mask of polygons; a pixel spans `factor` level-0 pixels."""
    mask = fill_polygons(areas.tumour, (side // factor,) * 2, (factor, factor)).astype(dtype) * value
    if path.suffix == ".png":
        assert cv2.imwrite(str(path), mask)
        return
    with tifffile.TiffWriter(path) as file:
        for level in range(levels):
            options = {"subfiletype": 1} if level else {}
            file.write(mask[:: 2**level, :: 2**level], tile=(256, 256), compression="zlib", **options)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("tumor_001.tif", {}),
        ("tumor_001_Mask.tif", {"value": 255, "levels": 3}),
        ("tumor_001_mask.tiff", {"factor": 4}),
        ("tumor_001.png", {"factor": 8, "value": 255}),
    ],
)
def test_a_mask_gives_the_same_labels_as_polygons(empty, annotated, tmp_path, name, options):
    download_annotated(empty, annotated, "--name", "polygons")
    areas = read_tumour(annotated / "annotations" / "tumor_001.xml")
    masks = tmp_path / "masks"
    masks.mkdir()
    write_mask(masks / name, areas, 3200, **options)
    download(empty, annotated / "slides", masks, "--n", 120, "--name", "masks")
    by_mask = {row["id"]: row["label"] for row in manifest(empty, "masks")}
    by_polygon = {row["id"]: row["label"] for row in manifest(empty, "polygons")}
    common = by_mask.keys() & by_polygon.keys()
    assert len(common) >= 60
    assert sum(by_mask[key] != by_polygon[key] for key in common) <= 1  # the pixels of an outline count as inside


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"value": 2}, "the mask has pixels of the value 2, and the class of this value is not known"),
        ({"side": 3000}, "the mask has 3000x3000 pixels, and the slide 3200x3200"),
        ({"factor": 100}, "a pixel of the mask spans 24 micrometres"),
        ({"dtype": np.uint16}, "the mask has 1 channel of uint16"),
        ({"shape": (3200, 3100)}, "the mask has 3100x3200 pixels"),
        ({"suffix": ".png", "value": 128}, "the mask has pixels of the value 128"),
        ({"suffix": ".png", "dtype": np.uint16}, "the mask has 1 channel of uint16"),
        ({"suffix": ".png", "side": 3000}, "the mask has 3000x3000 pixels, and the slide 3200x3200"),
    ],
)
def test_a_mask_that_could_label_wrongly_is_refused(empty, annotated, tmp_path, change, message):
    areas = read_tumour(annotated / "annotations" / "tumor_001.xml")
    change = dict(change)
    side, shape, suffix = change.pop("side", 3200), change.pop("shape", None), change.pop("suffix", ".tif")
    if shape:
        tifffile.imwrite(tmp_path / "tumor_001.tif", np.ones(shape, np.uint8))
    else:
        write_mask(tmp_path / f"tumor_001{suffix}", areas, side, **change)
    error, _ = download(empty.fails, annotated / "slides", tmp_path, "--n", 120)
    assert message in error


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda png: png[: len(png) // 2], "the mask cannot be read"),
        (lambda png: b"no image", "the mask is not an image that can be read"),
        (lambda png: cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes(), "has 3 channels of uint8"),
        (lambda png: cv2.imencode(".png", np.zeros((8200, 8200), np.uint8))[1].tobytes(), "more than 67,108,864"),
    ],
)
def test_a_png_that_is_not_a_complete_mask_is_refused(tmp_path, change, message):
    png = cv2.imencode(".png", np.eye(400, dtype=np.uint8))[1].tobytes()
    (tmp_path / "mask.png").write_bytes(png)
    assert read_tumour(tmp_path / "mask.png").has_tumour
    (tmp_path / "mask.png").write_bytes(change(png))
    with pytest.raises(HistoError, match=message):
        read_tumour(tmp_path / "mask.png")


def test_lesions_of_a_mask_are_those_of_the_polygons(annotated, tmp_path):
    areas = read_tumour(annotated / "annotations" / "tumor_001.xml")
    write_mask(tmp_path / "mask.tif", areas, 3200)
    polygons, mask = (
        find_lesions(tumour, (3200, 3200), (0.243, 0.243)) for tumour in (areas, read_tumour(tmp_path / "mask.tif"))
    )
    assert mask.sizes == polygons.sizes
    assert (mask.labels != polygons.labels).mean() < 0.02


def test_a_mask_without_tumour_is_a_slide_without_tumour(tmp_path):
    tifffile.imwrite(tmp_path / "mask.tif", np.zeros((300, 400), np.uint8), tile=(128, 128))
    assert not read_tumour(tmp_path / "mask.tif").has_tumour
