"""The tissue of a slide."""

import cv2
import numpy as np
import pytest

from histocli.errors import HistoError
from histocli.slides.tissue import compute_tissue_share, find_tissue, load_mask

MPP = 7.776


def make_glass(height=300, width=400):
    rng = np.random.default_rng(0)
    return np.clip(rng.normal(243, 1.5, (height, width, 3)), 0, 255).astype(np.uint8)


def colour_rectangle(image, rows, columns, colour):
    image[rows, columns] = np.clip(
        np.array(colour) + np.random.default_rng(1).normal(0, 8, image[rows, columns].shape), 0, 255
    )


def test_stained_tissue_is_found_and_glass_is_not():
    image = make_glass()
    colour_rectangle(image, slice(50, 200), slice(60, 300), (190, 120, 175))
    mask = find_tissue(image, MPP).mask
    assert mask[60:190, 70:290].all()
    assert not mask[:40].any()
    assert not mask[210:].any()


def test_a_slide_of_glass_has_no_tissue():
    tissue = find_tissue(make_glass(), MPP)
    assert not tissue.mask.any()
    assert tissue.flags == []


def test_a_slide_full_of_tissue_is_all_tissue():
    image = make_glass()
    colour_rectangle(image, slice(None), slice(None), (190, 120, 175))
    colour_rectangle(image, slice(None), slice(200, None), (120, 60, 130))
    assert find_tissue(image, MPP).mask.mean() > 0.99


@pytest.mark.parametrize(("colour", "flag"), [((30, 60, 190), "ink"), ((20, 140, 60), "ink"), ((15, 15, 18), "black")])
def test_ink_and_black_borders_are_excluded_and_reported(colour, flag):
    image = make_glass()
    colour_rectangle(image, slice(100, 200), slice(100, 200), (190, 120, 175))
    colour_rectangle(image, slice(0, 80), slice(0, 400), colour)
    tissue = find_tissue(image, MPP)
    assert tissue.flags == [flag]
    assert not tissue.mask[:80].any()
    assert tissue.mask[110:190, 110:190].all()


def test_specks_are_removed_and_small_holes_filled():
    image = make_glass()
    colour_rectangle(image, slice(50, 200), slice(60, 300), (190, 120, 175))
    colour_rectangle(image, slice(250, 256), slice(20, 26), (190, 120, 175))
    image[100:112, 100:112] = 243
    mask, flags = find_tissue(image, MPP)
    assert not mask[240:].any()
    assert mask[100:112, 100:112].all()
    assert flags == []
    for left in range(10, 360, 25):
        for top in (215, 245, 275):
            colour_rectangle(image, slice(top, top + 15), slice(left, left + 15), (190, 120, 175))
    mask, flags = find_tissue(image, MPP)  # 42 islands of 0.014 mm2
    assert not mask[210:].any()
    assert flags == ["small islands"]


def test_the_share_of_tissue_is_computed_for_each_square():
    mask = np.zeros((20, 30), bool)
    mask[:12, :6] = True
    shares = compute_tissue_share(mask, (2, 3), 12)
    assert shares.tolist() == [[0.5, 0, 0], [0, 0, 0]]


def test_a_truncated_mask_is_refused(tmp_path):
    path = tmp_path / "mask.png"
    path.write_bytes(cv2.imencode(".png", np.full((100, 100), 255, np.uint8))[1].tobytes()[:-20])
    with pytest.raises(HistoError, match="the mask cannot be read"):
        load_mask(path, (100, 100), (800, 800))
