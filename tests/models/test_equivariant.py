"""Group convolutions: transforming the input transforms the output in the same way."""

import pytest
import torch

from histocli.data.transforms import make_d4_views
from histocli.models.equivariant import (
    GroupBatchNorm,
    GroupConv,
    LiftingConv,
    average_orientations,
)

PROBE = torch.arange(9.0).view(1, 1, 3, 3)
VIEWS = [tuple(view.flatten().tolist()) for view in make_d4_views(PROBE)]
# orientation h of an image becomes orientation ORIENTATIONS[a][h] of the image transformed by symmetry a
ORIENTATIONS = [
    [VIEWS.index(tuple(make_d4_views(view)[a].flatten().tolist())) for view in make_d4_views(PROBE)] for a in range(8)
]
GENERATORS = (1, 4)  # a right angle and a flip: the other symmetries are sequences of these


def transform_maps(maps, a):
    """Return feature maps (N,8C,H,W) transformed by symmetry `a`."""
    transformed = make_d4_views(maps)[a].unflatten(1, (-1, 8))
    moved = torch.empty_like(transformed)
    moved[:, :, ORIENTATIONS[a]] = transformed
    return moved.flatten(1, 2)


def with_statistics(layer, channels):
    """Return the layer in evaluation mode, with batch norm statistics that differ from the initial ones."""
    with torch.no_grad():
        for number, parameter in enumerate(layer.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)))
        layer.train()(3 * torch.randn(4, channels, 8, 8, generator=torch.Generator().manual_seed(9)) + 1)
    return layer.eval()


def maps_of(channels, side):
    return torch.randn(2, channels, side, side, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("kernel", "side"), [(3, 7), (5, 9), (1, 6), (4, 8), (2, 7)])
@pytest.mark.parametrize("a", GENERATORS)
def test_layers_are_equivariant(kernel, side, a):
    image, maps = maps_of(3, side), maps_of(16, side)
    lifting = with_statistics(LiftingConv(3, 2, kernel), 3)
    group = with_statistics(GroupConv(2, 3, kernel), 16)
    assert torch.allclose(lifting(make_d4_views(image)[a]), transform_maps(lifting(image), a), atol=1e-4)
    assert torch.allclose(group(transform_maps(maps, a)), transform_maps(group(maps), a), atol=1e-4)


@pytest.mark.parametrize("a", GENERATORS)
def test_norms_are_equivariant_and_the_group_mean_is_invariant(a):
    maps = maps_of(16, 5)
    norm = with_statistics(GroupBatchNorm(2), 16)
    assert torch.allclose(norm(transform_maps(maps, a)), transform_maps(norm(maps), a), atol=1e-6)
    assert average_orientations(maps).shape == (2, 2, 5, 5)
    assert torch.allclose(
        average_orientations(transform_maps(maps, a)), make_d4_views(average_orientations(maps))[a], atol=1e-6
    )


def test_the_layers_distinguish_orientations():
    """A layer that pools over orientations too early would be equivariant too, but could not distinguish them."""
    image = maps_of(3, 7)
    lifted = with_statistics(LiftingConv(3, 2, 3), 3)(image)
    assert not torch.allclose(lifted[:, 0], lifted[:, 1])
    maps = maps_of(16, 7)
    shuffled = maps.unflatten(1, (2, 8)).roll(1, 2).flatten(1, 2)
    layer = GroupConv(2, 1, 3)
    assert not torch.allclose(layer(shuffled).sum(1), layer(maps).sum(1), atol=1e-3)


def test_the_first_orientation_is_the_plain_convolution():
    lifting = LiftingConv(3, 4, 3)
    images = maps_of(3, 6)
    plain = torch.nn.functional.conv2d(images, lifting.weight)
    assert torch.allclose(lifting(images).unflatten(1, (4, 8))[:, :, 0], plain, atol=1e-6)


def test_batch_norm_learns_the_mean_and_variance_of_its_input():
    norm = GroupBatchNorm(2)
    maps = maps_of(16, 9) * torch.tensor([2.0] * 8 + [5.0] * 8).view(1, 16, 1, 1) + 3
    assert norm(maps).mean((0, 2, 3)).abs().max() < 1e-5
    for _ in range(99):  # each batch moves the running values a tenth of the way
        norm(maps)
    assert torch.allclose(norm.running_mean, maps.unflatten(1, (2, 8)).mean((0, 2, 3, 4)), atol=1e-3)
    assert torch.allclose(norm.running_var.sqrt(), torch.tensor([2.0, 5.0]), rtol=0.1)
    before = norm.running_mean.clone()
    norm.eval()(maps + 7)
    assert torch.equal(norm.running_mean, before)


@pytest.mark.parametrize(
    ("layer", "channels", "fan_in"),
    [(LiftingConv(16, 64, 3), 16, 16 * 9), (GroupConv(8, 64, 3), 64, 8 * 8 * 9), (GroupConv(32, 64, 1), 256, 32 * 8)],
    ids=["lifting", "group", "pointwise"],
)
def test_weights_start_at_the_size_of_their_fan_in_and_take_gradients(layer, channels, fan_in):
    assert layer.weight.std().item() == pytest.approx((2 / fan_in) ** 0.5, rel=0.1)
    maps = maps_of(channels, 6).requires_grad_()
    layer(maps).square().sum().backward()
    assert (layer.weight.grad != 0).all()
    assert (maps.grad != 0).any(dim=0).all()


def test_the_state_has_only_weights_and_memory_can_be_channels_last():
    layers = torch.nn.Sequential(LiftingConv(3, 2, 3), GroupBatchNorm(2), GroupConv(2, 2, 3))
    expected = layers.eval()(maps_of(3, 9))
    assert sorted(layers.state_dict()) == [
        "0.weight", "1.bias", "1.running_mean", "1.running_var", "1.weight", "2.weight",
    ]  # fmt: skip
    assert torch.allclose(layers.to(memory_format=torch.channels_last)(maps_of(3, 9)), expected, atol=1e-5)
