"""A network that is equivariant to rotations by 45 degrees, to compare with `histonet` in `benchmarks.shift`.

After Graham et al., "Dense steerable filter CNNs for exploiting rotational symmetry in histology images", 2020, and
Weiler et al., "Learning steerable filters for rotation equivariant CNNs", 2018. A filter is a sum of circular
harmonics: cos(m phi) and sin(m phi) on rings of Gaussian profile. So it can be turned by any angle without
interpolation. Maps have one plane for each of eight orientations: (N,8C,H,W), where channel 8c+g is field c, turned by
g times 45 degrees.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from histocli.models.blurred_pool import BlurredMaxPool
from histocli.models.equivariant import ORDER, GroupBatchNorm, average_orientations
from histocli.models.head import run_head_in_fp32
from histocli.models.patch_network import PatchNetwork

RING_WIDTH = 0.6  # standard deviation of the Gaussian profile, in pixels


def make_harmonics(side: int) -> Tensor:
    """Return the J basis filters, turned by g times 45 degrees: fp32 (8,J,side²), each of norm 1 at angle 0."""
    radius = side // 2
    y, x = torch.meshgrid(*[torch.arange(-radius, radius + 1.0)] * 2, indexing="ij")
    distance, angle = torch.hypot(x, y).flatten(), torch.atan2(y, x).flatten()
    turned = angle - torch.arange(ORDER)[:, None] * math.tau / ORDER  # (8,side²)
    filters = []
    for ring in range(radius + 1):
        profile = torch.exp(-((distance - ring) ** 2) / (2 * RING_WIDTH**2)) * (distance < radius + 0.5)
        filters.append(profile.expand(ORDER, -1))
        profile = profile * (distance > 0)  # the centre has no angle
        # A higher frequency than this would not be resolved by the pixels of the ring.
        for frequency in range(1, min(2 * ring, ring + 2) + 1):
            filters += [profile * torch.cos(frequency * turned), profile * torch.sin(frequency * turned)]
    harmonics = torch.stack(filters, 1)
    unit: Tensor = harmonics / harmonics[:1].norm(dim=2, keepdim=True)
    return unit


class SteerableConv(nn.Module):
    """Convolve with filters in eight orientations: (N,C,H,W) of an image, or (N,8C,H,W) of fields, to (N,8 out,H,W)."""

    harmonics: Tensor
    orientation: Tensor

    def __init__(self, channels: int, out_channels: int, side: int = 5, *, is_image: bool = False) -> None:
        super().__init__()
        self.channels, self.side, self.orders = channels, side, 1 if is_image else ORDER
        self.register_buffer("harmonics", make_harmonics(side), persistent=False)
        size = self.orders * self.harmonics.shape[1]
        self.weight = nn.Parameter(torch.randn(out_channels, channels, size) * (2 / (channels * size)) ** 0.5)
        # For output orientation g, the weights of input orientation h are those of h - g.
        steps = torch.arange(ORDER)
        self.register_buffer("orientation", (steps - steps[:, None]) % ORDER, persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve; the height and width stay."""
        weight = self.weight.unflatten(2, (self.orders, -1))  # (out,in,orders,J)
        if self.orders == 1:
            filters = torch.einsum("oiaj,gjp->ogiap", weight, self.harmonics)
        else:
            filters = torch.einsum("oigaj,gjp->ogiap", weight[:, :, self.orientation], self.harmonics)
        filters = filters.reshape(-1, self.channels * self.orders, self.side, self.side)
        return F.conv2d(maps, filters, padding=self.side // 2)


class SteerableNet(PatchNetwork):
    """Five stages of steerable convolutions, as `histonet` but without its refinements; logits (N,2).

    The last maps are pooled over the centre that decides the label and over the whole patch, and over the eight
    orientations. So a rotation of the patch by 90 degrees does not change the logits, and one by 45 degrees changes
    them little.
    """

    def __init__(self, fields: tuple[int, ...] = (4, 8, 16, 24, 32), side: int = 96, hidden: int = 64) -> None:
        super().__init__()
        self.side = side
        self.centre = {96: slice(2, 4), 64: slice(1, 3)}[side]
        stages: list[nn.Module] = []
        channels = 3
        for count in fields:
            stages.append(SteerableConv(channels, count, is_image=channels == 3))
            if count != fields[-1]:
                stages.append(BlurredMaxPool(ORDER * count))
            stages += [GroupBatchNorm(count), nn.ReLU(inplace=True)]
            channels = count
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.Linear(2 * channels, hidden), nn.ReLU(inplace=True), nn.Linear(hidden, 2))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of normalised images (N,3,S,S)."""
        maps = self.stages(images)
        centre = maps[:, :, self.centre, self.centre].amax((2, 3))
        features = torch.cat([centre.unflatten(1, (-1, ORDER)).amax(2), average_orientations(maps.mean((2, 3)))], 1)
        return run_head_in_fp32(self.head, features)
