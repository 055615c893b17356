"""What users of other tools for slides reported: the slide is read rightly, or refused with what to do.

The issues are those of WSInfer, slideflow, TRIDENT, TIAToolbox and CLAM. Other tests of them: memory (TIAToolbox
287) and exact resolutions (TRIDENT 119) in test_grid.py; shifted maps (TIAToolbox 634), slides without tissue (CLAM 7)
and broken slides (TRIDENT 151) in test_predict.py.
"""

import shutil

import numpy as np
import pytest
import tifffile

from histocli.errors import HistoError
from histocli.slides.reading import open_slide
from tests.slides.files import predict, read_table, tissue_image, write_aperio_slide, write_slide


@pytest.mark.parametrize("unit", ["INCH", "CENTIMETER"])
def test_the_resolution_is_read_from_the_tags_of_a_tiff(tmp_path, unit):
    """WSInfer 165."""
    per_unit = {"INCH": 25_400, "CENTIMETER": 10_000}[unit] / 0.5
    path = write_slide(tmp_path / "slide.tif", tissue_image(1100, 1100), unit=unit, per_unit=per_unit)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx((0.5, 0.5), rel=1e-6)


def test_a_number_is_for_the_slides_without_a_resolution(histo, slides, tmp_path):
    """WSInfer 213, slideflow 323, TIAToolbox 628: some slides of a folder have no resolution."""
    write_slide(slides / "third.tif", tissue_image(1100, 1100), None)
    result = predict(histo, slides, "--out", tmp_path / "out", code=4)
    assert "1 of 3 slides could not be scored: third" in result.stderr
    assert "--mpp 0.25, or --mpp FILE.csv" in " ".join(result.stderr.split())
    result = predict(histo, slides, "--out", tmp_path / "out", "--mpp", 0.49)  # the others have 0.486
    flags = {record["slide"]: record["flags"] for record in read_table(tmp_path / "out" / "slides.csv")}
    assert flags == {"first": "", "second": "", "third": "mpp 0.49 given"}


def test_a_table_gives_each_slide_its_resolution(histo, tmp_path):
    """TRIDENT 14: a table of resolutions, and a slide that the table does not have."""
    folder = tmp_path / "slides"
    for name in "abc":
        write_slide(folder / f"{name}.tif", tissue_image(1100, 1100), None)
    table = tmp_path / "mpp.csv"
    table.write_text("slide,mpp\na,0.5\nb.tif,0.25\n")
    result = predict(histo, folder, "--out", tmp_path / "out", "--mpp", table, code=4)
    assert "c.tif: its resolution is not known" in " ".join(result.stderr.split())
    records = read_table(tmp_path / "out" / "slides.csv")
    assert [record["mpp"] for record in records] == ["0.500000", "0.250000", ""]


def test_the_objective_is_no_resolution(histo, tmp_path):
    """TRIDENT 14 and 119: 40x is 0.25 micrometres per pixel with one scanner, and 0.2 or 0.27 with others."""
    path = write_aperio_slide(tmp_path / "slide.svs", "AppMag = 40")
    result = predict(histo, path, "--out", tmp_path / "out", code=1)
    assert "(it was scanned with a 40x objective)" in " ".join(result.stderr.split())


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
def test_a_slide_that_was_downloaded_in_part_is_named_as_such(shared_data, tmp_path, share):
    """slideflow 269: the metadata of the slide were missing with its end, and the message was of the resolution."""
    data = (shared_data / "slides" / "cmu_small_region.svs").read_bytes()
    path = tmp_path / "slide.svs"
    path.write_bytes(data[: int(share * len(data))])
    with pytest.raises(HistoError, match="the slide is not complete: the file ends after"):
        open_slide(path)


@pytest.mark.parametrize("ome", [False, True])
def test_a_synthetic_slide_without_its_end_is_not_read(tmp_path, ome):
    path = write_slide(tmp_path / "slide.ome.tif", tissue_image(1300, 1300), levels=(1,) if ome else (1, 4), ome=ome)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.truncate(size // 2)
    with (
        pytest.raises(HistoError, match=r"slide\.ome\.tif: the slide is (not complete|damaged)"),
        open_slide(path) as slide,
    ):
        slide.read(0, 0, 0, slide.width, slide.height)


def test_a_part_that_is_no_jpeg_is_named_and_the_others_are_scored(histo, shared_data, tmp_path):
    """CLAM 97 and 310: the slide opens, and one of its tiles cannot be decoded."""
    folder = tmp_path / "slides"
    folder.mkdir()
    shutil.copyfile(shared_data / "slides" / "cmu_small_region.svs", folder / "broken.svs")
    write_slide(folder / "good.tif", tissue_image(1100, 1100), 0.486)
    with tifffile.TiffFile(folder / "broken.svs") as file:
        offset = file.pages[0].dataoffsets[60]
    with (folder / "broken.svs").open("r+b") as file:
        file.seek(offset)
        file.write(b"\xff\x11" * 200)
    result = predict(histo, folder, "--out", tmp_path / "out", code=4)
    assert "broken.svs: the slide is damaged: Not a JPEG file" in " ".join(result.stderr.split())
    records = read_table(tmp_path / "out" / "slides.csv")
    assert {record["slide"]: record["status"] for record in records} == {"broken": "failed", "good": "scored"}


def test_a_slide_whose_tissue_was_all_left_out_has_the_reason(histo, tmp_path):
    """TRIDENT 219: what removes artefacts removed the whole slide, without a word."""
    image = np.random.default_rng(0).integers(238, 246, (1600, 1600, 3), np.uint8)
    image[300:1300, 300:1300] = (40, 120, 60)  # green ink
    path = write_slide(tmp_path / "slide.tif", image, 0.972)
    result = predict(histo, path, "--out", tmp_path / "out")
    assert "slide: no tissue was found (ink), so nothing was scored" in " ".join(result.stderr.split())
    [record] = read_table(tmp_path / "out" / "slides.csv")
    assert (record["status"], record["flags"]) == ("no tissue", "ink")
