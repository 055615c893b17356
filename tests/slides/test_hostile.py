"""Slides and annotations from anyone: nothing outside them is read, and they crash or hang nothing."""

import json
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import cv2
import numpy as np
import pytest
import tifffile

from histocli.errors import HistoError
from histocli.pages.maps import make_folder_maps
from histocli.slides import annotations, geojson
from histocli.slides.annotations import TumourAreas, label_squares, read_tumour
from histocli.slides.detection import find_slides
from histocli.slides.grid import Grid
from histocli.slides.lesions import find_lesions
from histocli.slides.polygons import Polygon, fill_polygons, measure_crossings
from histocli.slides.reading import open_slide
from histocli.slides.records import SlideRecord, read_failed_slides, read_finished_slides, read_map, write_finished
from tests.cli import REPOSITORY
from tests.faults.test_harms import lying_png
from tests.slides.files import make_finished, tissue_image, write_slide

pytestmark = pytest.mark.attack

OPEN = """
import sys
from pathlib import Path
from histocli.errors import HistoError
from histocli.slides.reading import open_slide
try:
    with open_slide(Path(sys.argv[1])) as slide:
        print(len(slide.levels), slide.read(0, 0, 0, slide.width, slide.height).max())
except HistoError as error:
    print("refused:", error)
"""
CHAIN = '<!DOCTYPE OME [<!ENTITY a0 "x">' + "".join(f'<!ENTITY a{i} "&a{i - 1};">' for i in range(1, 60_000)) + "]>"
OME = '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:1">{}</OME>'
PIXELS = (
    '<Image><Pixels DimensionOrder="XYCZT" Type="uint8" SizeX="300" SizeY="300" SizeC="3" SizeZ="2" SizeT="1" '
    'PhysicalSizeX="0.25"><Channel SamplesPerPixel="3"/><TiffData IFD="0" PlaneCount="1"><UUID FileName="{}">'
    "urn:uuid:2</UUID></TiffData></Pixels></Image>"
)


def open_in_child(path):
    """Open a slide in a process of its own, which a damaged file may crash or stop."""
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", OPEN, path], env=env, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def write_ome(path, description):
    with tifffile.TiffWriter(path) as file:
        pixels = np.full((300, 300, 3), 9, np.uint8)
        file.write(pixels, photometric="rgb", metadata=None, description=description, tile=(128, 128))
    return path


@pytest.mark.parametrize("name", ["pipe", "other.tif", "../other.tif", "/dev/zero"])
def test_files_in_the_metadata_of_a_slide_are_not_opened(tmp_path, name):
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "folder" / "pipe")
    for place in (tmp_path, tmp_path / "folder"):
        tifffile.imwrite(place / "other.tif", np.full((300, 300, 3), 200, np.uint8), photometric="rgb")
    path = write_ome(tmp_path / "folder" / "slide.tif", OME.format(PIXELS.format(name)))
    assert open_in_child(path) == "1 9\n"


def test_entities_in_the_metadata_of_a_slide_are_not_expanded(tmp_path):
    description = CHAIN + OME.format("&a59999;")
    said = open_in_child(write_ome(tmp_path / "slide.tif", description))
    assert "refused:" in said
    assert "document type definition" in said


def test_the_levels_of_an_ome_slide_are_its_subifds(tmp_path):
    image, path = tissue_image(1200, 900), tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        metadata = {"axes": "YXS", "PhysicalSizeX": 0.25, "PhysicalSizeY": 0.25}
        file.write(image, subifds=2, tile=(256, 256), photometric="rgb", metadata=metadata)
        for step in (2, 4):
            file.write(np.ascontiguousarray(image[::step, ::step]), subfiletype=1, tile=(256, 256), photometric="rgb")
        file.write(image[:200, :400], photometric="rgb", metadata={"axes": "YXS", "Name": "label"})
    with open_slide(path) as slide:
        assert [(level.width, level.height, level.downsample) for level in slide.levels] == [
            (900, 1200, 1),
            (450, 600, 2),
            (225, 300, 4),
        ]
        assert slide.mpp == (0.25, 0.25)
        assert np.array_equal(slide.read(2, 10, 20, 100, 90), image[::4, ::4][20:110, 10:110])


def test_a_slide_in_one_enormous_part_is_refused(tmp_path):
    path = tmp_path / "slide.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        shape = (70_000, 20_000, 3)
        file.write(
            iter([bytes(10)]), shape=shape, dtype="uint8", photometric="rgb", compression="zlib", rowsperstrip=shape[0]
        )
    with pytest.raises(HistoError, match=r"pixels in tiles or strips of 1,400,000,000"):
        open_slide(path)


# maps that someone else wrote

SIDE = 192  # of a square in level-0 pixels
RECORD = SlideRecord("slide", "scored", mpp=0.486, squares=3, maximum=0.75, checkpoint="first")
FINISHED = make_finished("/slides/slide.tif", RECORD, width=5 * SIDE, height=4 * SIDE)
ROWS = [f"0,0,{SIDE},{SIDE},0.25", f"{SIDE},0,{SIDE},{SIDE},0.5", f"{4 * SIDE},{3 * SIDE},{SIDE},{SIDE},0.75"]
HEAD = "x,y,width,height,probability"


@pytest.fixture
def maps(tmp_path):
    """A folder with the map of one slide of 4 x 5 squares, 3 of them scored."""
    folder = tmp_path / "maps" / "slide"
    folder.mkdir(parents=True)
    write_finished(folder, FINISHED)
    (folder / "scores.csv").write_text("\n".join([HEAD, *ROWS]) + "\n")
    return folder.parent


def test_a_map_is_read(maps):
    [(folder, finished)] = read_finished_slides(maps)
    scores = read_map(folder, finished)
    assert (scores[0, 0], scores[3, 4]) == (0.25, 0.75)
    assert np.isfinite(scores).sum() == 3


def replace_row(row):
    return [HEAD, row, *ROWS[1:]]


TABLES = {
    "negative": replace_row("-192,0,9,9,0.5"),  # it was counted from the other side of the slide
    "outside": replace_row("192000,0,9,9,0.5"),
    "far outside": replace_row("9" * 400 + ",0,9,9,0.5"),
    "no position": replace_row("a,0,9,9,0.5"),
    "digits of Python": replace_row("1_0,0,9,9,0.5"),
    "twice": replace_row(ROWS[1]),
    "no probability": replace_row("0,0,9,9,17"),
    "NaN": replace_row("0,0,9,9,nan"),
    "an escape": replace_row("0,0,9,9,\x1b[31m"),
    "a short row": replace_row("0,0"),
    "cut": [HEAD, *ROWS[:2]],
    "other columns": ["a,b", "1,2"],
    "two columns": [HEAD + ",probability", *(f"{row},0.5" for row in ROWS)],
    "nothing": [],
}


@pytest.mark.parametrize("lines", TABLES.values(), ids=TABLES)
def test_a_damaged_table_of_a_map_raises_an_error_that_names_it(maps, lines):
    (maps / "slide" / "scores.csv").write_text("".join(f"{line}\n" for line in lines))
    [(folder, finished)] = read_finished_slides(maps)
    with pytest.raises(HistoError, match=r"scores\.csv"):
        read_map(folder, finished)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("width", 1 << 60),
        ("width", -1),
        ("step", 0),
        ("step", 1),
        ("threshold", 1.5),
        *(("mpp", mpp) for mpp in (-1.0, 1e-300, 1e300)),
        ("squares", -1),
        ("maximum", 17),
        ("file_state", None),
        *(("slide", name) for name in ("../../other", "/etc/x", "a/../../x")),
    ],
)
def test_a_record_of_a_map_that_no_slide_has_is_refused(maps, field, value):
    path = maps / "slide" / "slide.json"
    content = json.loads(path.read_text())
    (content if field in content else content["record"])[field] = value
    if field == "step" and value:
        content |= {"width": 1 << 21, "height": 1 << 21}
    path.write_text(json.dumps(content))
    with pytest.raises(HistoError, match=r"slide\.json"):
        read_finished_slides(maps)


def test_the_same_slide_twice_is_refused(maps):
    (maps / "again").mkdir()
    write_finished(maps / "again", FINISHED)
    with pytest.raises(HistoError, match=r"2 folders in .* have the scores of the slide slide"):
        read_finished_slides(maps)


def test_a_table_of_slides_without_its_columns_is_refused(maps):
    (maps / "slides.csv").write_text("a,b\n1,2\n")
    with pytest.raises(HistoError, match=r"slides\.csv, line 1: there is no column 'slide'"):
        read_failed_slides(maps)


def test_a_heat_map_that_claims_gigabytes_is_not_decoded(maps):
    (maps / "slide" / "heatmap.png").write_bytes(lying_png(0x7FFFFFF0))
    with pytest.raises(HistoError, match=r"heatmap\.png is not a picture that can be read: the image is truncated"):
        make_folder_maps(read_finished_slides(maps), 10**6)


# annotations that take long


def make_grid(side):
    edges = np.arange(0, side + 1, 32)
    return Grid(0, 32, 0.972, (1.0, 1.0), edges, edges, 1.0, (side, side))


def make_triangles(count, side, size):
    corners = np.random.default_rng(0).uniform(0, side - size, (count, 1, 2))
    return [Polygon(corner + np.array([[0, 0], [size, 0], [0, size]]), []) for corner in corners]


def test_squares_are_labelled_alike_in_bands_of_any_height(monkeypatch):
    holed = Polygon(np.array([[50.0, 50], [900, 70], [700, 950]]), [np.array([[300.0, 200], [600, 220], [500, 500]])])
    areas = TumourAreas([*make_triangles(40, 1000, 30), holed], make_triangles(20, 1000, 90))
    expected = label_squares(areas, make_grid(1024))
    assert 0.1 < expected.mean() < 0.9
    for pixels in (1, 100_000, 300_000):
        monkeypatch.setattr(annotations, "_BAND_PIXELS", pixels)
        # OpenCV rounds an outline where it cuts it at the border of a band.
        assert (label_squares(areas, make_grid(1024)) != expected).sum() <= 1


def test_a_hole_leaves_what_another_area_has_filled():
    square = np.array([[10.0, 10], [50, 10], [50, 50], [10, 50]])
    holed = Polygon(np.array([[0.0, 0], [60, 0], [60, 60], [0, 60]]), [square])
    both = fill_polygons([Polygon(square, []), holed], (64, 64), (1.0, 1.0))
    assert both[30, 30]
    assert not fill_polygons([holed], (64, 64), (1.0, 1.0))[30, 30]


@pytest.mark.parametrize("kind", ["zigzag", "large areas"])
@pytest.mark.parametrize("suffix", [".geojson", ".xml"])
def test_areas_that_take_hours_to_fill_are_refused(tmp_path, kind, suffix):
    """OpenCV did not return, and Ctrl-C had no effect."""
    path = tmp_path / f"x{suffix}"
    corners = np.random.default_rng(0).uniform(0, 80_000, (30_000, 2)) if kind == "zigzag" else None
    large = np.array([[0, 0], [100_000, 0], [0, 100_000]])
    rings = [large] * 200 if corners is None else [corners]
    if suffix == ".geojson":
        path.write_text(json.dumps([{"type": "Polygon", "coordinates": [ring.tolist()]} for ring in rings]))
    else:
        points = ["".join(f'<Coordinate X="{x}" Y="{y}"/>' for x, y in ring.tolist()) for ring in rings]
        elements = "".join(f"<Annotation>{outline}</Annotation>" for outline in points)
        path.write_text(f"<ASAP_Annotations>{elements}</ASAP_Annotations>")
    with pytest.raises(HistoError, match=f"x{suffix} has (outlines|too many)"):
        read_tumour(path)


@pytest.mark.parametrize("suffix", [".geojson", ".xml"])
def test_areas_of_many_points_take_little_memory(tmp_path, suffix):
    """All points were in memory as lists, which took seven times the file and more."""
    path = tmp_path / f"x{suffix}"
    angles = np.linspace(0, 6.28, 1000)
    ring = (2000 + 1000 * np.stack([np.cos(angles), np.sin(angles)], 1)).tolist()
    if suffix == ".geojson":
        path.write_text(json.dumps([{"type": "Polygon", "coordinates": [ring]}] * 100))
    else:
        points = "".join(f'<Coordinate X="{x}" Y="{y}"/>' for x, y in ring)
        path.write_text(f"<ASAP_Annotations>{f'<Annotation>{points}</Annotation>' * 100}</ASAP_Annotations>")
    tracemalloc.start()
    areas = read_tumour(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert [len(area.outline) for area in areas.tumour] == [1000] * 100
    assert areas.tumour[99].outline.tolist() == ring
    assert peak < 3 * path.stat().st_size


CORNERS = [[0, 0], [4000, 0], [4000, 4000], [0, 4000]]
OUTLINES = {
    "a figure of eight": ([[0, 0], [100, 100], [100, 0], [50, 50], [0, 100]], 0, 0.0),  # both parts are filled
    "a square drawn twice": (CORNERS * 2, 1, 1.0),
    "a loop in a corner": ([*CORNERS, [0, 0], [2000, 0], [2000, 2000], [0, 2000]], 1, 1 / 4),
    "a comb": ([[x, y] for x in range(0, 800, 2) for y in ((0, 900) if x % 4 else (900, 0))] + [[800, -9]], 0, 0.0),
}


@pytest.mark.parametrize(("outline", "count", "share"), OUTLINES.values(), ids=OUTLINES)
def test_parts_that_an_outline_encloses_twice_are_measured(outline, count, share):
    areas = [Polygon(np.array(outline, np.float64), []), Polygon(np.array([[0.0, 0], [99, 0], [99, 99]]), [])]
    assert measure_crossings(areas) == (count, pytest.approx(share, abs=0.01))


def test_a_hole_outside_its_area_is_refused(tmp_path):
    """It was filled as tumour."""
    rings = [[[100, 100], [900, 100], [900, 900], [100, 900]], [[800, 200], [2000, 200], [2000, 400], [800, 400]]]
    (tmp_path / "x.json").write_text(json.dumps({"type": "Polygon", "coordinates": rings}))
    with pytest.raises(HistoError, match=r"x\.json has an area with a hole that lies outside it"):
        read_tumour(tmp_path / "x.json")


def test_a_long_outline_is_filled(tmp_path):
    angles = np.linspace(0, 2 * np.pi, 20_000)
    outline = 4000 + 3000 * np.stack([np.cos(angles), np.sin(angles)], 1) * (1 + 0.05 * np.sin(400 * angles))[:, None]
    (tmp_path / "x.json").write_text(json.dumps({"type": "Polygon", "coordinates": [outline.tolist()]}))
    labels = label_squares(read_tumour(tmp_path / "x.json"), make_grid(8192))
    assert 0.4 < labels.mean() < 0.5


def test_each_of_many_small_areas_takes_little_work(monkeypatch):
    """They were filled in each row of squares, those with holes in the whole slide, and so was each lesion measured."""
    filled, measured = [], []
    fill, find = cv2.fillPoly, np.argwhere
    monkeypatch.setattr(cv2, "fillPoly", lambda mask, *args, **kw: filled.append(mask.size) or fill(mask, *args, **kw))
    monkeypatch.setattr(np, "argwhere", lambda mask: measured.append(mask.size) or find(mask))
    assert label_squares(TumourAreas(make_triangles(5000, 16_000, 8), []), make_grid(16_384)).any()
    assert 5000 <= len(filled) < 1.1 * 5000  # some lie in two bands of squares
    filled.clear()
    holes = [Polygon(triangle.outline, [triangle.outline + 1]) for triangle in make_triangles(900, 30_000, 8)]
    sizes = find_lesions(TumourAreas(holes, []), (30_000, 30_000), (0.5, 0.5)).sizes
    assert len(sizes) == len(measured) > 300
    assert len(filled) == 900
    assert max(filled) < 1000
    assert max(measured) < 10_000  # of 3,700,000 pixels of the slide


def test_no_name_of_a_slide_leads_out_of_the_folder_of_maps(tmp_path, monkeypatch):
    for name in ("...tif", "..tif", "a/slide.tif", "b/slide.tif"):
        write_slide(tmp_path / name, tissue_image(1100, 1100), 0.5)
    (tmp_path / "c" / "d").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "c" / "d")
    for inputs in (["../../...tif"], ["../../..tif"], ["../../a/slide.tif", f"../../../{tmp_path.name}/b/slide.tif"]):
        found = find_slides([*inputs])
        assert found is not None
        for slide in found.slides:
            parts = Path(slide.name).parts
            assert parts
            assert ".." not in parts
            assert not slide.name.startswith("/")


def test_an_area_of_millions_of_points_is_refused_before_it_takes_gigabytes(tmp_path):
    """10,000,000 points, 200 MB in the file, took 2,163 MiB."""
    path = tmp_path / "x.geojson"
    path.write_text('{"type": "Polygon", "coordinates": [[' + "[0,1]," * 2_000_001 + "[0,0]]]}")
    tracemalloc.start()
    try:
        with pytest.raises(HistoError, match=r"a shape has about 2,000,00\d points, more than 2,000,000; simplify it"):
            read_tumour(path)
        assert tracemalloc.get_traced_memory()[1] < 40 * 2**20
    finally:
        tracemalloc.stop()


LINE = "[0,1]," * 1900 + "[1,0]"
RING = f'"coordinates": [[{LINE}]]'


@pytest.fixture
def small_limits(monkeypatch):
    """Let files of some kilobytes reach the limits of GeoJSON."""
    monkeypatch.setattr(geojson, "_MAX_POINTS", 2000)
    monkeypatch.setattr(geojson, "_MAX_VALUES", 20_000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"type": "Polygon", "coordinates": [[' + "[1,2],{}," * 9000 + "[3,4]]]}", "values that are no coordinates"),
        ('{"type": "Polygon", "coordinates": [[' + '[1,2],"}",' * 9000 + "[3,4]]]}", "values that are no coordinates"),
        ('{"type": "Polygon", ' + (RING + ', "a": {},') * 6 + RING + "}", "values that are no coordinates"),
        (f'[{{"type": "Polygon", {RING}, "a": 1}}' + ", {}" * 15_000 + "]", "values that are no coordinates"),
        ('{"type": "Polygon", "coordinates": [[[' + "1.5," * 9000 + "1]]]}", "a shape has about 2,250 points"),
    ],
    ids=["objects", "texts", "keys given twice", "other values", "numbers of one point"],
)
def test_geojson_of_many_values_is_refused_before_it_is_parsed(tmp_path, small_limits, text, message):
    """72 MB with `{}` between the points would take 1,500 MiB: the limit of the points did not count them."""
    path = tmp_path / "x.geojson"
    path.write_text(text)
    with pytest.raises(HistoError, match=message):
        read_tumour(path)


def test_the_points_of_all_shapes_together_have_no_limit(tmp_path, small_limits):
    shapes = [f'{{"type": "Polygon", {RING}}}', f'{{{RING}, "type": "Polygon"}}'] * 10
    lines = [f'{{"type": "LineString", "coordinates": [{LINE}]}}'] * 10
    path = tmp_path / "x.geojson"
    path.write_text(f"[{','.join(shapes + lines)}]")
    areas = read_tumour(path)
    assert [len(polygon.outline) for polygon in areas.tumour] == [1901] * 20
    assert areas.left_out == {"lines": 10}


def test_a_larger_geojson_file_than_any_annotation_is_not_read(tmp_path):
    path = tmp_path / "x.geojson"
    with path.open("wb") as file:
        file.truncate(1 << 30)
    with pytest.raises(HistoError, match="it has 1,024 MiB, more than 512"):
        read_tumour(path)
