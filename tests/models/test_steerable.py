"""The network of steerable filters in benchmarks/steerable.py: its symmetry, and the filters."""

import torch

from benchmarks.steerable import SteerableConv, SteerableNet, make_harmonics


def test_a_rotation_by_90_degrees_does_not_change_the_logits():
    torch.manual_seed(0)
    network = SteerableNet(fields=(1, 2, 2, 2, 3), side=64).eval()
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        logits = network(images)
        assert torch.allclose(network(torch.rot90(images, 1, (2, 3))), logits, atol=1e-4)
        assert not torch.allclose(network(images.flip(3)), logits, atol=1e-4)  # mirrored: not one of the symmetries


def test_two_steps_turn_the_filters_by_90_degrees():
    filters = make_harmonics(5).unflatten(2, (5, 5))
    assert torch.allclose(filters[2], torch.rot90(filters[0], -1, (1, 2)), atol=1e-5)
    assert torch.allclose(filters[5], torch.rot90(filters[1], 2, (1, 2)), atol=1e-5)


def test_fields_and_their_orientations_change_places_when_the_image_is_rotated():
    torch.manual_seed(0)
    lift, convolve = SteerableConv(3, 2, is_image=True), SteerableConv(2, 3)
    image = torch.randn(1, 3, 17, 17)
    with torch.no_grad():
        maps, rotated = convolve(lift(image)), convolve(lift(torch.rot90(image, -1, (2, 3))))
    expected = torch.rot90(maps, -1, (2, 3)).unflatten(1, (3, 8)).roll(2, 2).flatten(1, 2)
    assert torch.allclose(rotated, expected, atol=1e-3)
