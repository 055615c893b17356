"""What users of other tools for slides reported: the slide is read rightly, or refused with what to do.

The issues are those of WSInfer, slideflow, TRIDENT, TIAToolbox and CLAM. Other tests of them: memory (TIAToolbox
287) and exact resolutions (TRIDENT 119) in test_grid.py; shifted maps (TIAToolbox 634), slides without tissue (CLAM
7), broken slides (TRIDENT 151) and broken tiles (CLAM 97 and 310) in test_predict.py; folders in which some slides have
no resolution (WSInfer 213, slideflow 323, TIAToolbox 628, TRIDENT 14) in test_later_calls.py.
"""

import numpy as np
import pytest

from histocli.errors import HistoError
from histocli.slides.reading import open_slide
from tests.cli import read_rows
from tests.slides.files import predict, tissue_image, write_aperio_slide, write_slide


@pytest.mark.parametrize("unit", ["INCH", "CENTIMETER"])
def test_the_resolution_is_read_from_the_tags_of_a_tiff(tmp_path, unit):
    """WSInfer 165."""
    per_unit = {"INCH": 25_400, "CENTIMETER": 10_000}[unit] / 0.5
    path = write_slide(tmp_path / "slide.tif", tissue_image(1100, 1100), unit=unit, per_unit=per_unit)
    with open_slide(path) as slide:
        assert slide.mpp == pytest.approx((0.5, 0.5), rel=1e-6)


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


def test_a_slide_whose_tissue_was_all_left_out_has_the_reason(histo, tmp_path):
    """TRIDENT 219: what removes artefacts removed the whole slide, without a word."""
    image = np.random.default_rng(0).integers(238, 246, (1600, 1600, 3), np.uint8)
    image[300:1300, 300:1300] = (40, 120, 60)  # green ink
    path = write_slide(tmp_path / "slide.tif", image, 0.972)
    result = predict(histo, path, "--out", tmp_path / "out")
    assert "slide: no tissue was found (ink), so nothing was scored" in " ".join(result.stderr.split())
    [record] = read_rows(tmp_path / "out" / "slides.csv")
    assert (record["status"], record["flags"]) == ("no tissue", "ink")
