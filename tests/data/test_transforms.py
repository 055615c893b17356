"""Random flips, rotations, stain jitter and sharpness."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from histocli.data import transforms as module
from histocli.data.transforms import (
    apply_hed_jitter,
    apply_random_affine,
    apply_random_d4,
    apply_random_sharpness,
    augment,
    make_d4_views,
    resize_images,
)
from histocli.enums import Augment
from histocli.patch import CENTRE

LEVELS = [(level, any_angle) for level in Augment for any_angle in (False, True)]


@pytest.fixture
def in_place(monkeypatch):
    """Return patches that are only rotated and flipped, without zoom and shift."""
    monkeypatch.setattr(module, "ZOOM", 1.0)
    monkeypatch.setattr(module, "OFFSET", 0.0)


def patches(count, side=96):
    pixels = np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def find_symmetry(image, original):
    """The number of the symmetry of `original` that `image` is."""
    matches = [number for number, view in enumerate(make_d4_views(original[None])) if torch.equal(view[0], image)]
    assert len(matches) == 1
    return matches[0]


@pytest.mark.parametrize("side", [None, 96, 48])
def test_no_augmentation_divides_by_255_and_draws_no_random_numbers(side):
    images = patches(4)
    state = torch.get_rng_state()
    expected = resize_images(images, side).float() / 255
    assert torch.equal(augment(images, Augment.NONE, side=side), expected)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("level", "any_angle"), [case for case in LEVELS if case != (Augment.NONE, True)])
@pytest.mark.parametrize("side", [None, 64, 48])
@pytest.mark.parametrize("count", [1, 17])
def test_every_level_keeps_shape_and_range(level, any_angle, count, side):
    torch.manual_seed(0)
    images = patches(count)
    images[0] = 0
    images[-1, :, :, ::2] = 255
    before = images.clone()
    pixels = augment(images, level, any_angle=any_angle, side=side)
    assert pixels.shape == (count, 3, side or 96, side or 96)
    assert pixels.dtype == torch.float32
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert pixels.isfinite().all()
    assert pixels.min() >= 0
    assert pixels.max() <= 1 + 1e-6
    assert torch.equal(images, before)


@pytest.mark.parametrize(("level", "any_angle"), LEVELS)
def test_the_same_seed_gives_the_same_augmentation(level, any_angle):
    images = patches(16)
    drawn = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        drawn.append(augment(images, level, any_angle=any_angle))
    assert torch.equal(drawn[0], drawn[1])
    assert torch.equal(drawn[0], drawn[2]) == (level is Augment.NONE)


# symmetries


def test_the_eight_symmetries_are_those_of_the_square():
    numbers = torch.arange(9).view(1, 1, 3, 3)
    views = {tuple(view.flatten().tolist()) for view in make_d4_views(numbers)}
    rotations = [np.rot90(np.arange(9).reshape(3, 3), quarter) for quarter in range(4)]
    assert views == {tuple(view.ravel()) for r in rotations for view in (r, r.T)}
    assert len(views) == 8
    assert torch.equal(make_d4_views(numbers)[0], numbers)


def test_two_symmetries_in_sequence_are_one_of_the_eight():
    image = patches(1, 6)
    for view in make_d4_views(image):
        assert {find_symmetry(again[0], image[0]) for again in make_d4_views(view)} == set(range(8))


@pytest.mark.parametrize("count", [1, 3, 8, 21])
def test_random_d4_gives_each_patch_each_symmetry_equally_often(count):
    torch.manual_seed(0)
    images = patches(count, 4)
    drawn = np.zeros((count, 8))
    for _ in range(400):
        for i, image in enumerate(apply_random_d4(images)):
            drawn[i, find_symmetry(image, images[i])] += 1
    assert (np.abs(drawn - 50) < 32).all()


def test_patches_of_a_batch_are_rotated_differently():
    torch.manual_seed(0)
    images = patches(64, 4)
    turned = apply_random_d4(images)
    assert len({find_symmetry(image, original) for image, original in zip(turned, images, strict=True)}) == 8


@pytest.mark.parametrize("level", [Augment.FLIPS, Augment.FULL])
def test_the_central_32x32_stays_in_the_centre(level):
    torch.manual_seed(0)
    images = torch.full((64, 3, 96, 96), 200, dtype=torch.uint8)
    images[:, :, CENTRE, CENTRE] = 20
    pixels = augment(images.contiguous(memory_format=torch.channels_last), level)
    inside = torch.zeros(96, 96, dtype=torch.bool)
    inside[CENTRE, CENTRE] = True
    assert (pixels[..., inside].amax((1, 2)) < pixels[..., ~inside].amin((1, 2))).all()


# stains


def test_stain_jitter_of_strength_0_changes_nothing(monkeypatch):
    monkeypatch.setattr(module, "STAIN_SCALE", 0.0)
    monkeypatch.setattr(module, "STAIN_SHIFT", 0.0)
    images = patches(4)
    images[0, :, 0] = torch.arange(96)
    assert (apply_hed_jitter(images) - images.float() / 255).abs().max() <= 1 / 255 + 1e-5


def test_stain_jitter_is_different_for_each_patch_and_constant_within_it():
    torch.manual_seed(0)
    images = torch.full((32, 3, 8, 8), 0, dtype=torch.uint8)
    images[:] = torch.tensor([180, 110, 170], dtype=torch.uint8).view(3, 1, 1)
    pixels = apply_hed_jitter(images)
    assert (pixels - pixels[:, :, :1, :1]).abs().max() < 1e-5
    colours = pixels[:, :, 0, 0]
    assert len(torch.unique(colours, dim=0)) == 32
    assert (colours - images[:, :, 0, 0] / 255).abs().max() < 0.35
    assert (colours.mean(0) - images[0, :, 0, 0] / 255).abs().max() < 0.05


def test_stain_jitter_is_linear_in_optical_density(monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(module, "STAIN_SHIFT", 0.0)
    pale = torch.tensor([199, 159, 179], dtype=torch.uint8).view(1, 3, 1, 1).expand(8, 3, 2, 2)
    density = -((pale + 1.0) / 256).log()
    dark = (torch.exp(-2 * density) * 256 - 1).round().to(torch.uint8)
    jittered = []
    for images in (pale, dark):
        torch.manual_seed(3)
        jittered.append(-apply_hed_jitter(images).log())
    assert torch.allclose(jittered[1], 2 * jittered[0], atol=0.03)
    assert (jittered[0] - density).abs().max() > 0.01


# any angle


def test_a_rotated_disc_is_unchanged(in_place):
    torch.manual_seed(0)
    y, x = torch.meshgrid(torch.arange(96) - 47.5, torch.arange(96) - 47.5, indexing="ij")
    disc = torch.exp(-(x**2 + y**2) / 500).expand(16, 3, 96, 96)
    turned = apply_random_affine(disc)
    radius = (x**2 + y**2).sqrt() < 46
    assert (turned - disc)[..., radius].abs().max() < 0.01


def slopes(turned):
    """How much a placed ramp from left to right rises within 20 pixels, across and down: (N,), (N,)."""
    return turned[:, 0, 48, 58] - turned[:, 0, 48, 38], turned[:, 0, 58, 48] - turned[:, 0, 38, 48]


def ramps(count):
    return torch.linspace(0, 1, 96).view(1, 1, 1, 96).expand(count, 3, 96, 96)


def test_angles_are_arbitrary_and_different(in_place):
    torch.manual_seed(0)
    across, down = slopes(apply_random_affine(ramps(200)))
    angles = torch.atan2(down, across)
    assert torch.allclose(torch.hypot(across, down), torch.tensor(20 / 95), atol=1e-3)
    counts = torch.histc(angles, 4, -torch.pi, torch.pi)
    assert (counts > 30).all()
    assert len(torch.unique(angles.round(decimals=4))) > 190


def test_half_of_the_patches_are_mirrored(in_place):
    torch.manual_seed(0)
    across, down = slopes(apply_random_affine(ramps(400)))
    torch.manual_seed(0)
    across_below, down_below = slopes(apply_random_affine(ramps(400).transpose(2, 3)))
    handedness = (across * down_below - down * across_below).sign()  # of the images of two axes
    assert 140 < int((handedness > 0).sum()) < 260
    assert handedness.abs().min() == 1


def test_zoom_and_offset_stay_within_their_bounds():
    torch.manual_seed(0)
    turned = apply_random_affine(ramps(400))
    size = torch.hypot(*slopes(turned)) / (20 / 95)
    assert 1 / module.ZOOM - 1e-3 <= size.min() < 0.87
    assert 1.15 < size.max() <= module.ZOOM + 1e-3
    moved = (turned[:, 0, 47:49, 47:49].mean((1, 2)) - 0.5) * 95 / 96  # in sides of a patch
    assert 0.8 * module.OFFSET < moved.abs().max() <= module.OFFSET + 1e-3


def test_a_fine_pattern_becomes_grey_without_aliasing_when_made_smaller():
    stripes = torch.zeros(1, 3, 96, 96)
    stripes[..., ::2] = 1
    assert (resize_images(stripes, 48)[..., 4:-4] - 0.5).abs().max() < 0.01
    assert (resize_images(stripes, 64)[..., 4:-4] - 0.5).abs().max() < 0.2
    for same in (resize_images(stripes, 96), resize_images(stripes, None)):
        assert torch.equal(same, stripes)


@pytest.mark.parametrize("is_sharp", [False, True])
@pytest.mark.parametrize(("count", "side"), [(1, 96), (3, 48), (700, 96)])
def test_the_cpu_warps_patches_like_a_gpu(monkeypatch, count, side, is_sharp):
    images = patches(count, side)
    torch.manual_seed(0)
    placed = apply_random_affine(images, is_sharp=is_sharp)
    assert placed.dtype == torch.uint8
    monkeypatch.setattr(module, "_warp_with_opencv", module._warp_with_grid_sample)
    torch.manual_seed(0)
    as_a_gpu_does = apply_random_affine(images, is_sharp=is_sharp)
    assert 0 <= as_a_gpu_does.min() <= as_a_gpu_does.max() <= 255
    assert (placed - as_a_gpu_does).abs().mean() < 2  # of white noise, which a 1/32 of a pixel changes most
    smooth = resize_images(as_a_gpu_does, side // 4) - resize_images(placed.float(), side // 4)
    assert smooth.abs().max() < 2


@pytest.mark.parametrize("period", [3, 4])
def test_fine_patterns_are_kept_if_patches_are_not_made_smaller(in_place, period):
    torch.manual_seed(0)
    wave = 128 + 100 * torch.cos(torch.arange(96) * 2 * torch.pi / period)
    images = wave.round().to(torch.uint8).view(1, 1, 1, 96).expand(64, 3, 96, 96)
    inside = slice(24, 72)
    blurred, sharp = (
        apply_random_affine(images, is_sharp=is_sharp)[:, :, inside, inside].float().var() for is_sharp in (False, True)
    )
    torch.manual_seed(0)
    assert sharp / images.float().var() > blurred / images.float().var() + 0.15
    torch.manual_seed(0)
    pixels = augment(images, Augment.FLIPS, any_angle=True)[:, :, inside, inside] * 255
    assert pixels.var() == pytest.approx(float(sharp), rel=0.05)


def test_uint8_images_are_resized_like_floats_and_rounded():
    images = patches(5)
    smaller = resize_images(images, 64)
    assert smaller.dtype == torch.uint8
    assert (smaller - resize_images(images.float(), 64)).abs().max() <= 1


def test_borders_are_filled_with_the_reflected_image():
    torch.manual_seed(0)
    assert apply_random_affine(torch.full((8, 3, 96, 96), 0.7)).min() > 0.69


# sharpness


def test_random_sharpness_blurs_some_patches_and_sharpens_others_by_at_most_its_range():
    torch.manual_seed(0)
    image = torch.rand(3, 16, 16) / 2 + 0.25  # no value reaches 0 or 1
    images = (image / 4 + 0.375).expand(200, -1, -1, -1)
    changed = apply_random_sharpness(images)
    blurred = F.avg_pool2d(F.avg_pool2d(images, 2, 1), 2, 1)  # of the pixels inside the border
    details, changed_details = ((each[:, :, 1:-1, 1:-1] - blurred).flatten(1) for each in (images, changed))
    factors = (details * changed_details).sum(1) / details.square().sum(1)
    assert torch.allclose(changed_details, factors[:, None] * details, atol=1e-6)
    low, high = 1 - module.SHARPNESS, 1 + module.SHARPNESS
    assert low <= factors.min() < low + 0.1
    assert high - 0.1 < factors.max() <= high
    assert abs(factors.mean() - 1) < 0.1


def test_random_sharpness_leaves_a_patch_of_one_colour_unchanged():
    images = torch.full((8, 3, 12, 12), 0.7)
    assert torch.allclose(apply_random_sharpness(images), images)
