"""Slides and annotations of unusual form: they are read rightly and reported, or refused with what to do."""

import json

import cv2
import numpy as np
import pytest
import tifffile

from histocli.errors import HistoError
from histocli.slides.annotations import read_tumour
from histocli.slides.detection import find_slides, is_slide
from histocli.slides.reading import open_slide
from tests.cli import read_rows
from tests.slides.files import (
    download,
    make_ring,
    predict,
    tissue_image,
    write_aperio_slide,
    write_asap,
    write_features,
    write_slide,
)

MPP = 0.486


def write_pages(path, *pages, **options):
    """A TIFF with the resolution `MPP`, of images with their own options; the other images are no reduced versions."""
    path.parent.mkdir(parents=True, exist_ok=True)
    value = 1e4 / MPP
    usual = {"tile": (256, 256), "photometric": "rgb", "compression": "zlib", "metadata": None}
    usual |= {"resolution": (value, value), "resolutionunit": "CENTIMETER"} | options
    with tifffile.TiffWriter(path) as file:
        for page in pages:
            image, own = page if isinstance(page, tuple) else (page, {})
            file.write(np.ascontiguousarray(image), **(usual | own))
    return path


def write_ome(path, image, axes, **options):
    metadata = {"axes": axes, "PhysicalSizeX": MPP, "PhysicalSizeY": MPP}
    tifffile.imwrite(path, image, ome=True, tile=(256, 256), compression="zlib", metadata=metadata, **options)
    return path


def corner_image(height=1600, width=1400):
    """Tissue in the upper left corner, so that a mirrored picture is another one."""
    image = np.full((height, width, 3), 242, np.uint8)
    image[100 : height // 2, 60 : width // 3] = tissue_image(2 * height, 2 * width)[height // 2 + 100 : height, 700:][
        :, : width // 3 - 60
    ]
    return image


REDUCED = {"subfiletype": 1}


@pytest.mark.parametrize(
    "change",
    [lambda level: level[:, ::-1], lambda level: level[::-1], lambda level: np.full_like(level, 255)],
    ids=["mirrored", "upside down", "empty"],
)
@pytest.mark.parametrize("factor", [2, 4])
def test_a_level_that_shows_another_picture_is_refused(histo, tmp_path, change, factor):
    image = corner_image()
    path = write_pages(tmp_path / "slide.tif", image, (change(image[::factor, ::factor]), REDUCED))
    with open_slide(path) as slide:
        assert len(slide.levels) == 2
    error = " ".join(predict(histo, path, "--out", tmp_path / "out", code=1).stderr.split())
    assert "shows another picture than smaller ones" in error
    assert "export the slide again" in error
    sound = write_pages(tmp_path / "sound.tif", image, (image[::factor, ::factor], REDUCED))
    predict(histo, sound, "--out", tmp_path / "out")


def test_a_level_of_another_shape_is_left_out_and_reported(histo, tmp_path):
    image = tissue_image(1400, 1200)
    squeezed = cv2.resize(image, (400, 200))
    path = write_pages(tmp_path / "slide.tif", image, (image[::2, ::2], REDUCED), (squeezed, REDUCED))
    with open_slide(path) as slide:
        assert [level.width for level in slide.levels] == [1200, 600]
        assert np.array_equal(slide.read(1, 10, 20, 50, 40), image[::2, ::2][20:60, 10:60])
    predict(histo, path, "--out", tmp_path / "out")
    assert read_rows(tmp_path / "out" / "slides.csv")[0]["flags"] == "level of 400x200 pixels left out"


@pytest.mark.parametrize(
    ("side", "flags"), [(300, ()), (1100, ("1 other large image of the file left out",))], ids=["small", "large"]
)
def test_a_label_before_the_slide_is_not_taken_for_it(tmp_path, side, flags):
    image = tissue_image(2400, 2000)
    path = write_pages(tmp_path / "slide.tif", np.full((side, side, 3), 200, np.uint8), image)
    assert is_slide(path)
    with open_slide(path) as slide:
        assert (slide.width, slide.height, slide.flags) == (2000, 2400, flags)
        assert np.array_equal(slide.read(0, 900, 1000, 50, 40), image[1000:1040, 900:950])


@pytest.mark.parametrize(("width", "mpp"), [(b"1300", (0.486, 0.486)), (b"1301", None)])
def test_the_resolution_of_an_ome_tiff_is_that_of_its_largest_image(tmp_path, width, mpp):
    """The first image of the file can be an overview; a size that no image has says nothing of the slide."""
    path = tmp_path / "slide.ome.tif"
    with tifffile.TiffWriter(path, ome=True) as file:
        for image, size in ((tissue_image(300, 325), 1.944), (tissue_image(1200, 1300), MPP)):
            metadata = {"axes": "YXS", "PhysicalSizeX": size, "PhysicalSizeY": size}
            file.write(image, tile=(256, 256), photometric="rgb", compression="zlib", metadata=metadata)
    path.write_bytes(path.read_bytes().replace(b'SizeX="1300"', b'SizeX="%s"' % width))
    with open_slide(path) as slide:
        assert (slide.width, slide.mpp) == (1300, mpp)


@pytest.mark.parametrize("axes", ["ZYXS", "TYXS", None], ids=["focal planes", "times", "pages"])
def test_several_images_of_one_size_are_refused(tmp_path, axes):
    image = tissue_image(1200, 1100)
    if axes:
        path = write_ome(tmp_path / "slide.ome.tif", np.stack([image, image[::-1]]), axes, photometric="rgb")
    else:
        path = write_pages(tmp_path / "slide.tif", image, image[::-1])
    with pytest.raises(HistoError, match=r"has 2 images of 1100x1200 pixels, and a slide has one"):
        open_slide(path)


GREY = tissue_image(1200, 1100)[..., 0]


@pytest.mark.parametrize(
    ("image", "options", "form"),
    [
        (GREY, {"photometric": "minisblack"}, "uint8 with 1 channel"),
        (GREY, {"photometric": "miniswhite"}, "uint8 with 1 channel"),
        (tissue_image(1200, 1100).astype(np.uint16) * 16, {}, "uint16 with 3 channels"),
        (np.zeros((1200, 1100, 4), np.uint8), {"photometric": "separated"}, "CMYK"),
        (tissue_image(1200, 1100), {"photometric": "cielab"}, "CIE Lab"),
        (np.zeros((3, 1200, 1100), np.uint8), {"planarconfig": "separate"}, "red, green and blue in separate planes"),
    ],
    ids=["grey", "inverted grey", "16 bits", "CMYK", "Lab", "planes"],
)
def test_pixels_that_are_not_8_bit_rgb_are_refused(tmp_path, image, options, form):
    """OpenSlide would convert them: 12 bits in 16 become black, and an inverted picture stays plausible."""
    with pytest.raises(HistoError, match=f"the pixels are {form}, not 8-bit RGB"):
        open_slide(write_pages(tmp_path / "slide.tif", image, **options))


def test_channels_of_fluorescence_are_refused(tmp_path):
    path = write_ome(tmp_path / "slide.ome.tif", np.stack([GREY] * 4), "CYX", photometric="minisblack")
    with pytest.raises(HistoError, match="the pixels are uint8 with 1 channel, not 8-bit RGB"):
        open_slide(path)


@pytest.mark.parametrize("options", [(), ("--no-mask",)], ids=["tissue", "everything"])
def test_a_slide_without_colour_is_flagged(histo, tmp_path, options):
    path = write_pages(tmp_path / "slide.tif", np.repeat(GREY[..., None], 3, 2))
    result = predict(histo, path, "--out", tmp_path / "out", *options)
    assert "grey" in read_rows(tmp_path / "out" / "slides.csv")[0]["flags"]
    assert "grey" in result.stderr


def test_pixels_that_are_not_square_are_reported_and_measured_rightly(histo, tmp_path):
    image = tissue_image(1600, 1400)
    wide = np.repeat(image, 2, 1)  # a pixel is half as wide
    value = 1e4 / MPP
    path = write_pages(tmp_path / "slides" / "wide.tif", (wide, {"resolution": (2 * value, value)}))
    write_pages(tmp_path / "slides" / "square.tif", image)
    out = tmp_path / "out"
    predict(histo, tmp_path / "slides", "--out", out, "--threshold", 0)
    square, wide = read_rows(out / "slides.csv")
    assert (square["flags"], wide["flags"]) == ("", "pixels of 0.243 x 0.486 um")
    assert square["squares"] == wide["squares"]
    assert float(wide["tumour_mm2"]) == pytest.approx(float(square["tumour_mm2"]), rel=0.02)
    labels = tmp_path / "labels.csv"
    labels.write_text("id,label\nsquare,1\nwide,0\nother,1\n")
    result = histo("eval", "--maps", out, "--labels", labels, "--json")
    areas = [score["area of tumour squares in mm2"] for score in json.loads(result.stdout)["scores"].values()]
    assert areas[0] == pytest.approx(areas[1])
    assert "1 id in the table of labels has no map, such as other; ids are names of slides, such as square" in " ".join(
        result.stderr.split()
    )
    assert path.is_file()


def test_a_slide_smaller_than_a_patch_is_one_square_without_a_mask(histo, tmp_path):
    path = write_pages(tmp_path / "slide.svs", tissue_image(50, 50))
    result = predict(histo, path, "--out", tmp_path / "out")
    assert "no tissue was found" in result.stderr
    predict(histo, path, "--out", tmp_path / "out", "--no-mask", "--threshold", 0)
    [row] = read_rows(tmp_path / "out" / "slide" / "scores.csv")
    assert [row[name] for name in ("x", "y", "width", "height")] == ["0", "0", "50", "50"]
    [record] = read_rows(tmp_path / "out" / "slides.csv")
    assert record["tumour_mm2"] == record["tissue_mm2"]  # the part of the square outside the slide has none


def test_a_resolution_of_0_is_not_known(histo, tmp_path):
    path = write_aperio_slide(tmp_path / "slide.svs", "AppMag = 20|MPP = 0")
    result = predict(histo, path, "--out", tmp_path / "out", code=1)
    assert "the file says 0 micrometres per pixel" in " ".join(result.stderr.split())


def test_files_that_are_half_a_slide_are_named_with_what_is_missing(histo, tmp_path):
    folder = tmp_path / "slides"
    write_slide(folder / "cut.ndpi", tissue_image(1400, 1200), MPP)
    data = (folder / "cut.ndpi").read_bytes()
    (folder / "cut.ndpi").write_bytes(data[: len(data) // 2])
    (folder / "empty.svs").touch()
    (folder / "alone.mrxs").write_bytes(cv2.imencode(".jpg", tissue_image(300, 300))[1].tobytes())
    predict(histo, folder, "--out", tmp_path / "out", code=1)
    errors = {record["slide"]: record["error"] for record in read_rows(tmp_path / "out" / "slides.csv")}
    assert "cut.ndpi: the slide is not complete: the file ends after" in errors["cut"]
    assert "empty.svs: the file is empty" in errors["empty"]
    assert "the folder alone with the data of this slide is missing" in errors["alone"]


def test_the_folder_of_a_mirax_slide_is_not_the_slide(histo, tmp_path):
    folder = tmp_path / "case"
    folder.mkdir()
    for name in ("Slidedat.ini", "Index.dat", "Data0000.dat"):
        (folder / name).write_text("[GENERAL]")
    error, hint = histo.fails("predict", folder, "--out", tmp_path / "out", code=2)
    assert error.endswith("case is the folder of data of a MIRAX slide")
    assert hint == "give the file case.mrxs"


@pytest.mark.parametrize("side", [1, 100_000])
def test_tiles_that_take_forever_or_all_memory_are_refused(tmp_path, side):
    path = write_pages(tmp_path / "slide.tif", tissue_image(1200, 1100))
    with tifffile.TiffFile(path, mode="r+") as file:
        for name in ("TileWidth", "TileLength"):
            file.pages[0].tags[name].overwrite(side)
    with pytest.raises(HistoError, match=r"slide\.tif"):
        open_slide(path)


def test_slides_of_the_same_name_do_not_share_a_file(tmp_path):
    for name in ("a/x.tif", "b/x.tif", "a/y.tif"):
        write_pages(tmp_path / name, tissue_image(1100, 1100))
    found = find_slides([str(tmp_path)]).slides
    assert [slide.keys for slide in found] == [("a/x",), ("a/y", "y"), ("b/x",)]


# Annotations


SQUARE = [(300, 300), (900, 300), (900, 900), (300, 900)]


def test_a_group_of_asap_has_the_class_of_the_group_around_it(tmp_path):
    groups = (
        '<Group Name="Tumor" PartOfGroup="None"/><Group Name="micro" PartOfGroup="Tumor"/>'
        '<Group Name="vessel" PartOfGroup="holes"/><Group Name="holes" PartOfGroup="Exclusion"/>'
    )
    path = write_asap(tmp_path / "a.xml", ("micro", "Polygon", SQUARE), ("vessel", "Polygon", SQUARE), groups=groups)
    areas = read_tumour(path)
    assert (len(areas.tumour), len(areas.excluded)) == (1, 1)
    circle = '<Group Name="a" PartOfGroup="b"/><Group Name="b" PartOfGroup="a"/>'
    with pytest.raises(HistoError, match="the class 'a' is not known"):
        read_tumour(write_asap(tmp_path / "b.xml", ("a", "Polygon", SQUARE), groups=circle))


def test_points_lines_and_areas_without_a_group_of_asap_are_counted(tmp_path):
    others = [("Tumor", "PointSet", SQUARE), ("Tumor", "Dot", SQUARE[:1]), ("Tumor", "Measurement", SQUARE[:2])]
    others.append(("None", "Polygon", SQUARE))
    areas = read_tumour(write_asap(tmp_path / "a.xml", ("Tumor", "Spline", SQUARE), *others))
    assert (len(areas.tumour), len(areas.excluded)) == (1, 0)
    assert areas.left_out == {"points": 2, "lines": 1, "ungrouped areas": 1}
    with pytest.raises(HistoError, match="and no area that belongs to a group"):
        read_tumour(write_asap(tmp_path / "b.xml", *others))


def geojson(path, *features):
    features = [
        {"type": "Feature", "geometry": geometry, "properties": {"classification": {"name": name}} if name else {}}
        for name, geometry in features
    ]
    return write_features(path, *features)


def polygon(left, top, side, hole=0):
    edge = (side - hole) // 2
    holes = [make_ring(left + edge, top + edge, hole)] if hole else []
    return [make_ring(left, top, side), *holes]


def test_holes_and_areas_of_several_parts_are_labelled_by_pixel(empty, tmp_path):
    write_pages(tmp_path / "slides" / "a.tif", tissue_image(2000, 2000))
    parts = [polygon(600, 600, 400, hole=300), polygon(1200, 1200, 100)]
    geojson(tmp_path / "json" / "a.geojson", ("Tumor", {"type": "MultiPolygon", "coordinates": parts}))
    download(empty, tmp_path / "slides", tmp_path / "json", "--n", 400, "--name", "mine")
    truth = np.zeros((2100, 2100), bool)
    truth[600:1001, 600:1001] = truth[1200:1301, 1200:1301] = True
    truth[652:949, 652:949] = False
    rows = read_rows(empty.root / "manifests" / "mine.csv")
    inner = [row for row in rows if 680 < int(row["x"]) < 840 and 680 < int(row["y"]) < 840]
    assert {row["label"] for row in inner} == {"0"}
    labels = {int(truth[int(r["y"]) + 2 : int(r["y"]) + 62, int(r["x"]) + 2 : int(r["x"]) + 62].any()) for r in inner}
    assert labels == {0}
    wrong = 0
    for row in rows:
        x, y = int(row["x"]), int(row["y"])
        wrong += int(row["label"]) != truth[y : y + 64, x : x + 64].any()
    assert wrong <= 4  # squares that touch an outline, whose pixels count as inside
    assert sum(row["label"] == "1" for row in rows) > 20


def test_an_annotation_with_an_area_outside_the_slide_is_refused(empty, tmp_path):
    write_pages(tmp_path / "slides" / "a.tif", tissue_image(1400, 1400))
    inside = ("Tumor", {"type": "Polygon", "coordinates": polygon(600, 600, 200)})
    outside = ("Tumor", {"type": "Polygon", "coordinates": polygon(1500, 600, 200)})
    geojson(tmp_path / "json" / "a.geojson", inside, outside)
    result = download(empty, tmp_path / "slides", tmp_path / "json", code=1)
    error = " ".join(result.stderr.split())
    assert "a.geojson: 1 of 2 areas lies outside the slide" in error
    assert "which has 1400x1400 pixels" in error


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("Normal_1.geojson", "whose name differs in capital letters"),
        ("normal_1.GeoJSON", None),
    ],
)
def test_capital_letters_are_allowed_in_the_suffix_of_an_annotation_only(empty, tmp_path, file, message):
    """A slide named normal needs no annotation: with one of another spelling it would be normal without a word."""
    write_pages(tmp_path / "slides" / "normal_1.tif", tissue_image(2000, 2000))
    geojson(tmp_path / "json" / file, ("Tumor", {"type": "Polygon", "coordinates": polygon(600, 600, 500)}))
    result = download(
        empty, tmp_path / "slides", tmp_path / "json", "--n", 400, "--name", "mine", code=1 if message else 0
    )
    if message:
        assert message in " ".join(result.stderr.split())
    else:
        assert {row["label"] for row in read_rows(empty.root / "manifests" / "mine.csv")} == {"0", "1"}


def test_several_annotations_and_lines_without_a_slide_are_reported(empty, tmp_path):
    write_pages(tmp_path / "slides" / "a.tif", tissue_image(1400, 1400))
    geojson(tmp_path / "json" / "a.geojson", ("Tumor", {"type": "Polygon", "coordinates": polygon(600, 600, 200)}))
    write_asap(tmp_path / "json" / "a.xml", ("Tumor", "Polygon", [(600, 600), (800, 600), (800, 800)]))
    table = tmp_path / "mpp.csv"
    table.write_text(f"slide,mpp\nA,0.5\na.tif,{MPP}\na.tif,{MPP}\nb,0.5\n")
    line = [tmp_path / "slides", tmp_path / "json", "--n", 20, "--mpp", table]
    said = " ".join(download(empty, *line).stderr.split())
    assert "1 slide with several annotations: a.xml was read, not a.geojson" in said
    assert "2 names in the --mpp table are not the name of any of these slides: A, b" in said
    table.write_text("slide,mpp\na,0.5\na,0.25\n")
    error, _ = download(empty.fails, *line, "--name", "other", code=2)
    assert "a occurs twice with different mpp" in error


def test_the_first_slides_with_several_annotations_are_named(empty, tmp_path):
    for name in "abcd":
        write_pages(tmp_path / "slides" / f"{name}.tif", tissue_image(1400, 1400))
        for suffix in ("geojson", "json"):
            area = ("Tumor", {"type": "Polygon", "coordinates": polygon(600, 600, 200)})
            geojson(tmp_path / "json" / f"{name}.{suffix}", area)
    cv2.imwrite(str(tmp_path / "json" / "b_mask.png"), np.zeros((1400, 1400), np.uint8))
    said = " ".join(download(empty, tmp_path / "slides", tmp_path / "json").stderr.split())
    assert (
        "4 slides with several annotations: a.geojson was read, not a.json; "
        "b.geojson was read, not b.json, b_mask.png; c.geojson was read, not c.json; ..."
    ) in said


def test_areas_of_a_tissue_mask_that_are_to_be_ignored_are_no_tissue(histo, tmp_path):
    path = write_pages(tmp_path / "slide.tif", tissue_image(2000, 2000))
    whole = (None, {"type": "Polygon", "coordinates": polygon(500, 500, 1000)})
    ignored = ("Ignore*", {"type": "Polygon", "coordinates": polygon(500, 500, 500)})
    far = ("Tumor", {"type": "Polygon", "coordinates": polygon(4000, 4000, 100)})
    mask = geojson(tmp_path / "mask.geojson", whole, ignored, far)
    predict(histo, path, "--out", tmp_path / "out", "--mask", mask)
    [record] = read_rows(tmp_path / "out" / "slides.csv")
    assert float(record["tissue_mm2"]) == pytest.approx(0.75 * (1000 * MPP / 1000) ** 2, rel=0.03)
    assert record["flags"] == "own mask; 1 area of the mask outside the slide"


def test_several_masks_of_a_slide_and_a_mask_without_tissue_are_refused(histo, tmp_path):
    path = write_pages(tmp_path / "slide.tif", tissue_image(1100, 1100))
    (tmp_path / "masks").mkdir()
    for name in ("slide.geojson", "slide.JSON"):
        geojson(tmp_path / "masks" / name, (None, {"type": "Polygon", "coordinates": polygon(500, 500, 400)}))
    result = predict(histo, path, "--out", tmp_path / "out", "--mask", tmp_path / "masks", code=1)
    assert "there are several masks: slide.geojson, slide.JSON" in " ".join(result.stderr.split())
    ignored = ("Ignore*", {"type": "Polygon", "coordinates": polygon(500, 500, 400)})
    mask = geojson(tmp_path / "mask.geojson", ignored)
    result = predict(histo, path, "--out", tmp_path / "out", "--mask", mask, code=1)
    assert "has areas to exclude, and none of tissue" in " ".join(result.stderr.split())
