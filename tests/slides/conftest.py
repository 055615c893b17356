"""Slides for the tests."""

import pytest

from tests.slides.files import tissue_image, write_slide


@pytest.fixture
def slides(tmp_path):
    """A folder of two slides with tissue, at 0.486 micrometres per pixel."""
    folder = tmp_path / "slides"
    write_slide(folder / "first.tif", tissue_image(1600, 1400), 0.486)
    write_slide(folder / "second.tif", tissue_image(1100, 1300, seed=1), 0.486)
    return folder
