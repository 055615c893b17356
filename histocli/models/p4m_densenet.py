"""P4M-DenseNet: a densely connected network that is equivariant to flips and right-angle rotations."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from histocli.models.equivariant import GroupBatchNorm, GroupConv, LiftingConv, average_orientations
from histocli.models.head import run_head_in_fp32
from histocli.models.patch_network import PatchNetwork

BLOCKS = 5
GROWTH = 9  # fields of eight orientations each


class P4MDenseNet(PatchNetwork):
    """Five dense blocks of one group convolution each; logits that no symmetry of the patch changes.

    After Veeling et al., "Rotation equivariant CNNs for digital pathology", 2018 (arXiv:1806.03962), and the authors'
    published code. As in the paper: 3x3 convolutions without padding, so that a patch of 96 pixels is halved exactly at
    every transition; one of them to each dense block (Huang et al., "Densely connected convolutional networks", 2017),
    without bottleneck or compression; between blocks batch norm, ReLU, a 1x1 convolution and mean pooling; at the end
    batch norm, ReLU, the mean over the eight orientations and over the map, and one linear layer.

    Different from the paper: a transition pools before its 1x1 convolution, which gives the same values at a quarter of
    the cost, because both are linear; the output is two logits instead of one probability; the number of fields (9 in
    the first layer, and 9 more in each block) is chosen so that there are about 119 thousand weights, as in the paper;
    and the network is trained with the settings of this project.

    The paper's results, trained on all of PCam's training split and measured on its test split: accuracy 0.898 and AUC
    0.963, compared with 0.876 and 0.955 of a plain DenseNet.

    Costs for one patch: 123,455 parameters, 1,477 MFLOP forward (a multiply-add counts as two).
    """

    def __init__(self, growth: int = GROWTH, blocks: int = BLOCKS) -> None:
        super().__init__()
        layers: list[nn.Module] = [LiftingConv(3, growth, 3)]
        for channels in range(growth, growth * blocks, growth):
            wider = channels + growth
            layers += [DenseLayer(channels, growth), GroupBatchNorm(wider), nn.ReLU(inplace=True)]
            layers += [nn.AvgPool2d(2), GroupConv(wider, wider, 1)]
        channels = growth * (blocks + 1)
        layers += [DenseLayer(channels - growth, growth), GroupBatchNorm(channels), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(channels, 2)

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N,2) of normalised images (N,3,96,96); their softmax is the class probabilities."""
        maps = self.layers(images)  # (N,8C,2,2)
        return run_head_in_fp32(self.head, average_orientations(maps.mean((2, 3))))


class DenseLayer(nn.Module):
    """Batch norm, ReLU and 3x3 group convolution, concatenated to the input: (N,8C,H,W) -> (N,8(C+growth),H-2,W-2)."""

    def __init__(self, channels: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(GroupBatchNorm(channels), nn.ReLU(inplace=True), GroupConv(channels, growth, 3))

    def forward(self, maps: Tensor) -> Tensor:
        """Return the input without its border, concatenated with the new fields."""
        return torch.cat([F.pad(maps, (-1,) * 4), self.body(maps)], 1)
