"""Slides for the tests."""

import shutil

import pytest

from tests.slides.files import tissue_image, write_slide


@pytest.fixture(scope="session")
def drawn_slides(tmp_path_factory):
    """A folder of two slides with tissue, at 0.486 micrometres per pixel, which is drawn once."""
    folder = tmp_path_factory.mktemp("drawn")
    write_slide(folder / "first.tif", tissue_image(1600, 1400), 0.486)
    write_slide(folder / "second.tif", tissue_image(1100, 1300, seed=1), 0.486)
    return folder


@pytest.fixture
def slides(drawn_slides, tmp_path):
    """Return a copy of the folder of two slides, which a test may change."""
    return shutil.copytree(drawn_slides, tmp_path / "slides")
