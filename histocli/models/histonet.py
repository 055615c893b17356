"""The default network, and its larger sister: stages of convolutions for patches whose centre decides the label."""

from typing import ClassVar

import torch
from torch import Tensor, nn

_REFINEMENTS = (0, 0, 1, 2, 3)  # in each stage


class HistoNet(nn.Module):
    """Five stages of convolution, batch norm and ReLU, each followed by max-pooling, then fully connected layers.

    Takes normalised images (N,3,64,64) and gives logits (N,2): patches at two thirds of their resolution, which costs
    little accuracy and takes half the time. A stage widens by a 3x3 convolution; the later ones refine by residual
    depthwise-separable convolutions (Howard et al., "MobileNets", 2017; He et al., "Deep residual learning", 2016),
    which cost a fifth of a full 3x3 at these widths on a CPU. Stages are narrow early, where maps are large and the
    time goes, and double their width as they halve its side. Where a stage has no refinement, pooling comes before
    batch norm, which then has a quarter of the work.

    The last max-pooling looks at the centre alone, which decides the label; beside it goes the mean over the whole
    patch. Both suit a label that no flip or right-angle rotation changes.

    Costs for one patch: 706,642 parameters, 55 MFLOP forward (a multiply-add counts as two).
    """

    SIDE: ClassVar[int] = 64
    WIDTHS: ClassVar[tuple[int, ...]] = (16, 32, 64, 128, 256)

    def __init__(self, hidden: int = 128) -> None:
        super().__init__()
        cells = self.SIDE >> (len(self.WIDTHS) - 1)  # along a side of the last stage
        self.centre = slice(cells // 2 - 1, cells // 2 + 1)  # they cover the central 32x32 pixels of a patch
        stages: list[nn.Module] = []
        channels = 3
        for width, refinements in zip(self.WIDTHS, _REFINEMENTS, strict=True):
            last = width == self.WIDTHS[-1]
            pool = [] if last else [nn.MaxPool2d(2)]
            norm = [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            refine = [Refinement(width) for _ in range(refinements)]
            stages.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
            stages += [*norm, *refine, *pool] if refine else [*pool, *norm]
            channels = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.Linear(2 * channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 2))

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N,2) of normalised images (N,3,SIDE,SIDE); their softmax are the class probabilities."""
        maps = self.stages(images)  # (N,C,4,4), of 64 pixels, or (N,C,6,6)
        centre = maps[:, :, self.centre, self.centre].amax((2, 3))
        logits: Tensor = self.head(torch.cat([centre, maps.mean((2, 3))], 1))
        return logits


class HistoNet96(HistoNet):
    """The same on patches in full resolution, and wider: for those who have hours to train, or a GPU.

    Takes normalised images (N,3,96,96). How far both come is in `benchmarks/accuracy.md`.

    Costs for one patch: 1,070,082 parameters, 169 MFLOP forward (a multiply-add counts as two).
    """

    SIDE: ClassVar[int] = 96
    WIDTHS: ClassVar[tuple[int, ...]] = (16, 32, 80, 160, 320)


class Refinement(nn.Module):
    """A residual depthwise 3x3 and pointwise convolution: (N,C,H,W) -> (N,C,H,W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )

    def forward(self, maps: Tensor) -> Tensor:
        """Add what was found, and rectify."""
        return torch.relu_(maps + self.body(maps))
