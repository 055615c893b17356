"""Slides for the tests."""

import shutil

import cv2
import numpy as np
import pytest

from histocli.plots.slides import write_heatmap_picture
from tests.slides.files import tissue_image, write_slide

PICTURE = "histocli.commands.predict_slides.write_heatmap_picture"


@pytest.fixture(scope="module", autouse=True)
def black_pictures():
    """Write a black picture for each map: to draw it takes longer than to score a slide of this size."""
    black = cv2.imencode(".png", np.zeros((8, 8, 3), np.uint8))[1].tobytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PICTURE, lambda path, *_: path.write_bytes(black))
        yield


@pytest.fixture
def real_pictures(monkeypatch):
    """Draw the pictures of maps, for a test of them."""
    monkeypatch.setattr(PICTURE, write_heatmap_picture)


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
