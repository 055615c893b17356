"""Explanations of scores: where they are high and low, of rotated patches, and which networks have one."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from histocli.config import PACKAGED_ARCH
from histocli.data.transforms import make_d4_views, undo_d4_view
from histocli.errors import HistoError
from histocli.inference.explain import explain, find_feature_maps
from histocli.models import create_model, packaged
from histocli.models.checkpoint import load_checkpoint
from tests.models.test_models import with_statistics

SPOT = slice(64, 80), slice(16, 32)  # rows and columns


class Detector(nn.Module):
    """Log odds that rise with red and fall with blue."""

    def __init__(self):
        super().__init__()
        first, second = nn.Conv2d(3, 2, 1, bias=False), nn.Conv2d(2, 2, 1, bias=False)
        with torch.no_grad():
            first.weight.copy_(torch.tensor([[-1.0, 0, 1], [1, 0, -1]])[:, :, None, None])
            second.weight.copy_(torch.eye(2)[:, :, None, None])
        self.layers = nn.Sequential(first, nn.ReLU(), nn.AvgPool2d(8), second)

    def forward(self, images):
        return self.layers(images).mean((2, 3))


def patch(*spots):
    """Return a grey patch, uint8 (1,96,96,3), with coloured squares: (rows, columns, colour)."""
    pixels = np.full((1, 96, 96, 3), 128, np.uint8)
    for rows, columns, colour in spots:
        pixels[0, rows, columns] = colour
    return pixels


def peak(values):
    return np.unravel_index(values.argmax(), values.shape)


def test_the_map_is_highest_where_the_score_is_raised_and_lowest_where_it_is_lowered():
    red, blue = (*SPOT, (255, 0, 0)), (slice(8, 24), slice(56, 72), (0, 0, 255))
    (found,) = explain([Detector().eval()], patch(red, blue))
    assert found.shape == (96, 96)
    row, column = peak(found)
    assert 64 <= row < 80
    assert 16 <= column < 32
    row, column = peak(-found)
    assert 8 <= row < 24
    assert 56 <= column < 72


def test_the_map_is_zero_where_the_network_does_not_look():
    """Grad-CAM fails this: its weights are the same at all places."""

    class Centre(Detector):
        def forward(self, images):
            return self.layers(images)[:, :, 4:8, 4:8].mean((2, 3))

    red = (255, 0, 0)
    (found,) = explain([Centre().eval()], patch((slice(40, 56), slice(40, 56), red), (slice(0, 16), slice(0, 16), red)))
    assert found[48, 48] > 0
    assert np.abs(found[:20, :20]).max() == 0


@pytest.mark.parametrize("arch", ["histonet", "histonet-64", "p4m-densenet", "shufflenet_v2_x0_5"])
def test_the_map_of_a_rotated_patch_is_rotated(arch):
    torch.manual_seed(5)
    model = with_statistics(create_model(arch))
    images = torch.randint(0, 256, (1, 3, 12, 12), generator=torch.Generator().manual_seed(1)).float()
    pixels = F.interpolate(images, (96, 96), mode="bicubic").clamp(0, 255).byte()
    rotated = torch.cat(make_d4_views(pixels)[1:6:2])
    as_arrays = [each.permute(0, 2, 3, 1).contiguous().numpy() for each in (pixels, rotated)]
    original, of_rotated = (torch.from_numpy(explain([model], each))[:, None] for each in as_arrays)
    assert original.std() > 0
    for number, found in zip((1, 3, 5), of_rotated.split(1), strict=True):
        back = undo_d4_view(found, number)
        assert torch.allclose(back, original, atol=2e-3 * float(original.abs().max())), number


def test_undo_d4_view_reverses_every_flip_and_rotation():
    images = torch.arange(2 * 16).view(2, 1, 4, 4)
    for number, view in enumerate(make_d4_views(images)):
        assert torch.equal(undo_d4_view(view, number), images), number


def test_a_network_with_random_weights_gives_another_map():
    """The sanity check of Adebayo et al., 2018: a map that is the same for any weights does not explain the network."""
    trained = load_checkpoint(packaged.PATH).build()
    rng = np.random.default_rng(3)
    coarse = torch.from_numpy(rng.uniform(60, 255, (6, 3, 12, 12)))
    pixels = F.interpolate(coarse, (96, 96), mode="bilinear").byte().permute(0, 2, 3, 1).contiguous().numpy()
    of_trained = explain([trained], pixels)
    torch.manual_seed(9)
    of_random = explain([with_statistics(create_model(PACKAGED_ARCH))], pixels)
    ranks = [maps[:, 4::8, 4::8].reshape(6, -1).argsort().argsort() for maps in (of_trained, of_random)]
    correlations = [np.corrcoef(a, b)[0, 1] for a, b in zip(*ranks, strict=True)]
    assert np.mean(np.abs(correlations)) < 0.5
    again = [explain([trained], pixels)[0], of_trained[0]]
    assert np.allclose(*again, atol=1e-6)


def test_several_networks_and_a_pair_are_explained_by_the_mean_of_their_maps():
    torch.manual_seed(2)
    pair = with_statistics(create_model("histonet-pair"))
    parts = [*pair.split_members()]
    pixels = np.random.default_rng(0).integers(0, 256, (1, 96, 96, 3), np.uint8)
    of_pair, of_both, first, second = (explain(chosen, pixels) for chosen in ([pair], parts, parts[:1], parts[1:]))
    assert np.allclose(of_pair, (first + second) / 2, atol=1e-6)
    assert np.allclose(of_both, of_pair, atol=1e-6)
    assert not np.allclose(first, second)


def test_explaining_does_not_change_the_network():
    torch.manual_seed(2)
    model = with_statistics(create_model("histonet-64"))
    images = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        before = model(images)
        explain([model], np.zeros((1, 96, 96, 3), np.uint8))
        assert torch.equal(model(images), before)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize(
    "arch",
    [
        *("densenet121", "mobilenet_v3_small", "squeezenet1_1", "timm/test_resnet"),
        pytest.param("swin_t", marks=pytest.mark.slow),
    ],
)
def test_networks_of_convolutions_and_swin_have_a_map(arch):
    if arch.startswith("timm/"):
        pytest.importorskip("timm", reason="timm is not installed (the extra `timm`)")
    torch.manual_seed(4)
    model = with_statistics(create_model(arch))
    found = explain([model], np.random.default_rng(0).integers(0, 256, (2, 96, 96, 3), np.uint8))
    assert found.shape == (2, 96, 96)
    assert np.isfinite(found).all()
    assert (found.std((1, 2)) > 0).all()


class NetworkWithTable(nn.Module):
    """Adds a table of positions to its map, which it computes from constants as a Swin transformer V2 does."""

    def __init__(self):
        super().__init__()
        self.convolutions = nn.Sequential(nn.Conv2d(3, 4, 8, stride=8), nn.ReLU(), nn.Conv2d(4, 4, 1))
        self.table = nn.Sequential(nn.Linear(2, 8), nn.Linear(8, 4))
        self.head = nn.Linear(4, 2)

    def forward(self, images):
        positions = self.table(torch.ones(1, 5, 5, 2)).mean((1, 2))
        return self.head(self.convolutions(images).mean((2, 3)) + positions)


def test_a_table_that_does_not_depend_on_the_image_is_no_map():
    network = NetworkWithTable().eval()
    assert find_feature_maps(network) == [network.convolutions]


@pytest.mark.parametrize("arch", ["vit_b_32", "timm/test_vit?img_size=96"])
def test_vision_transformers_have_no_map(arch):
    if arch.startswith("timm/"):
        pytest.importorskip("timm", reason="timm is not installed (the extra `timm`)")
    with pytest.raises(HistoError, match="cannot be explained: it has no feature map") as caught:
        find_feature_maps(create_model(arch).eval())
    assert arch.partition("?")[0] in str(caught.value)
    assert "histonet" in caught.value.hint


def test_an_onnx_file_has_no_map():
    with pytest.raises(HistoError, match="an ONNX file cannot be explained") as caught:
        explain([lambda images: images], np.zeros((1, 96, 96, 3), np.uint8))
    assert "checkpoint" in caught.value.hint
