"""The default network: five stages of convolutions for patches whose centre decides the label."""

import torch
from torch import Tensor, nn

from histocli.models.blurred_pool import BlurredMaxPool
from histocli.models.head import run_head_in_fp32
from histocli.models.patch_network import PatchNetwork

WIDTHS = (16, 32, 64, 128, 256)
REFINEMENTS = (0, 0, 1, 2, 3)


class HistoNet(PatchNetwork):
    """Five stages of convolution, batch norm and ReLU, each followed by max-pooling, then fully connected layers.

    Takes normalised images (N,3,S,S), S = `side`, and returns logits (N,2). Each stage begins with a 3x3 convolution
    that doubles the width. The later stages continue with residual depthwise-separable convolutions (Howard et al.,
    "MobileNets", 2017; He et al., "Deep residual learning", 2016), which take a fifth of the time of a full 3x3 at
    these widths on a CPU. The first stages are narrow, because their maps are large and take most of the time. In a
    stage without such refinements, pooling comes before batch norm, which then has a quarter of the work.

    The last max-pooling is over the centre only, which decides the label. The mean over the whole patch is concatenated
    to it. Neither changes with flips or right-angle rotations, and neither does the label.

    Costs for one patch, forward (a multiply-add counts as two): as `histonet` 706,642 parameters, 124 MFLOP; as
    `histonet-64` 706,642 parameters, 55 MFLOP; as `histonet-wide` 1,263,866 parameters, 254 MFLOP.

    Args:
        widths: the channels of the five stages.
        side: the height and width of the images: 64, 80 or 96.
        hidden: the units of the fully connected layer.
    """

    def __init__(self, widths: tuple[int, ...] = WIDTHS, side: int = 96, hidden: int = 128) -> None:
        super().__init__()
        self.side = side
        # The central cells of the last stage: at side 96, 2x2 of 6x6 cells, which are the 32x32 pixels that decide the
        # label; at side 80, 3x3 of 5x5 cells, 58x58 of 96 pixels; at side 64, 2x2 of 4x4 cells, 48x48 of 96 pixels.
        self.centre = {96: slice(2, 4), 80: slice(1, 4), 64: slice(1, 3)}[side]
        stages: list[nn.Module] = []
        channels = 3
        for width, refinements in zip(widths, REFINEMENTS, strict=True):
            is_last = width == widths[-1]
            pool = [] if is_last else [BlurredMaxPool(width)]
            norm = [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
            refine = [Refinement(width) for _ in range(refinements)]
            stages.append(nn.Conv2d(channels, width, 3, padding=1, bias=False))
            stages += [*norm, *refine, *pool] if refine else [*pool, *norm]
            channels = width
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.Linear(2 * channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 2))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N,2) of normalised images (N,3,S,S); their softmax is the class probabilities."""
        maps = self.stages(images)  # (N,C,S/16,S/16)
        centre = maps[:, :, self.centre, self.centre].amax((2, 3))
        return run_head_in_fp32(self.head, torch.cat([centre, maps.mean((2, 3))], 1))


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
        """Add the output of the convolutions, and apply ReLU."""
        return torch.relu_(maps + self.body(maps))
