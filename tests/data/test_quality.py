"""The appearance of patches: each measure changes with its property, and the reference can be stored."""

import json
from dataclasses import asdict

import cv2
import numpy as np
import pytest

from histocli.data.quality import SAMPLE_SIZE, Reference, measure_appearance


@pytest.fixture(scope="module")
def patches():
    """Return 200 patches of coarse and fine texture in two stain colours."""
    rng = np.random.default_rng(6)
    coarse = [cv2.GaussianBlur(rng.normal(size=(96, 96)), (0, 0), 3) for _ in range(200)]
    fine = rng.normal(size=(200, 96, 96))
    density = 0.4 + 1.5 * np.array(coarse) + 0.05 * fine + rng.normal(0, 0.05, (200, 1, 1))
    colours = density[..., None] * [0.5, 1.0, 0.6]
    return np.clip(256 * 10**-colours - 1, 0, 255).astype(np.uint8)


def test_blur_changes_the_focus_and_low_contrast_does_not(patches):
    sharp = measure_appearance(patches[:20]).focus
    blurred = np.stack([cv2.GaussianBlur(patch, (0, 0), 2) for patch in patches[:20]])
    assert (measure_appearance(blurred).focus < sharp - 0.5).all()
    halved = (127 + (patches[:20].astype(float) - 127) / 2).astype(np.uint8)
    assert measure_appearance(halved).focus == pytest.approx(sharp, abs=0.15)
    assert measure_appearance(halved).contrast == pytest.approx(measure_appearance(patches[:20]).contrast / 2, rel=0.05)


def test_rotating_a_patch_does_not_change_its_appearance(patches):
    for first, second in zip(
        measure_appearance(patches[:5]), measure_appearance(np.rot90(patches[:5], axes=(1, 2))), strict=True
    ):
        assert first == pytest.approx(second, rel=1e-4, abs=1e-4)


def test_few_training_patches_and_all_unusual_ones_are_outside_the_limits(patches):
    reference = Reference.measure(patches, np.arange(200))
    own = reference.measure_distance(measure_appearance(patches))
    for marked in (own.is_blank, own.is_unfocused, own.has_unusual_stain):
        assert marked.sum() <= 1
    assert own.focus.mean() == pytest.approx(0, abs=1e-6)
    strangers = np.stack(
        [np.full_like(patches[0], 240), patches[0][..., [1, 2, 0]], cv2.GaussianBlur(patches[0], (0, 0), 3)]
    )
    seen = reference.measure_distance(measure_appearance(strangers))
    assert seen.is_blank[:2].tolist() == [True, False]
    assert seen.has_unusual_stain[1]
    assert seen.is_unfocused[2]


def test_the_reference_has_plain_values_and_depends_only_on_the_seed(patches):
    reference = Reference.measure(patches, np.arange(50, 150), seed=3)
    assert Reference(**json.loads(json.dumps(asdict(reference)))) == reference
    assert Reference.measure(patches, np.arange(149, 49, -1), seed=3).colour_mean == pytest.approx(
        reference.colour_mean
    )
    assert reference.patches == 100 < SAMPLE_SIZE


@pytest.mark.parametrize("few", [2, 3])
def test_a_reference_can_be_made_from_few_or_grey_patches(patches, few):
    grey = np.repeat(patches[:few, ..., :1], 3, axis=3)
    for some in (patches[:few], grey, np.zeros_like(grey)):
        seen = Reference.measure(some, np.arange(few)).measure_distance(measure_appearance(some))
        assert all(np.isfinite(values).all() for values in seen)
