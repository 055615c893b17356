"""Group-equivariant convolutions for the group p4m: translations, right-angle rotations and flips.

After Cohen and Welling, "Group equivariant convolutional networks", 2016, and Veeling et al., "Rotation equivariant
CNNs for digital pathology", 2018. A feature map has one plane for each of the eight symmetries of the square (D4, in
the order of `data.transforms.make_d4_views`): (N,8C,H,W), where channel 8c+g is field c in orientation g. If the input
image is transformed by a symmetry, each plane is transformed in the same way, and the eight planes of a field change
places. Therefore the maximum or mean over the planes and the image does not change.

Each layer makes the eight filters of an output field from one filter, by index, and convolves once, without padding and
with a stride of 1, so that it is exactly equivariant.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from histocli.data.transforms import make_d4_views

ORDER = 8  # elements of the group


class LiftingConv(nn.Module):
    """Convolve an image with every filter in all eight orientations: (N,C,H,W) -> (N,8 out,H',W')."""

    pixels: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, kernel_size, kernel_size))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        self.register_buffer("pixels", _index_transformed_pixels(kernel_size), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Convolve with the filters in all orientations."""
        fields, channels, side = self.weight.shape[:3]
        rotated = self.weight.flatten(2)[:, :, self.pixels].transpose(1, 2)  # (out,8,in,k²)
        filters = rotated.reshape(ORDER * fields, channels, side, side)
        return F.conv2d(images, filters)


class GroupConv(nn.Module):
    """Convolve all orientations with filters over position and orientation: (N,8 in,H,W) -> (N,8 out,H',W').

    For output orientation g, the filter is transformed by g, and orientation h of the input is used as (g inverse) h.
    """

    index: Tensor

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        # Of three dimensions, which have the right fan-in; Module.to(memory_format=...) fails on five.
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels, ORDER * kernel_size**2))
        nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        self.kernel_size = kernel_size
        self.register_buffer("index", _index_transformed_filter(kernel_size), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve with the filters in all orientations."""
        fields, channels, side = *self.weight.shape[:2], self.kernel_size
        rotated = self.weight.flatten(0, 1).index_select(1, self.index)  # several times as fast as [..., index]
        rotated = rotated.view(fields, channels, ORDER, ORDER * side**2).transpose(1, 2)  # (out,8,in,8k²)
        filters = rotated.reshape(ORDER * fields, ORDER * channels, side, side)
        return F.conv2d(maps, filters)


class GroupBatchNorm(nn.Module):
    """Batch normalisation with one scale, shift, mean and variance for the eight orientations of a field.

    In training, PyTorch's fused kernel normalises each orientation by its own mean and variance in the batch. Over many
    batches these are the same for all orientations, and the running mean and variance are averaged over them. In
    evaluation the layer is exactly equivariant.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, maps: Tensor) -> Tensor:
        """Normalise (N,8C,H,W); in training, update the running mean and variance."""
        mean, var, weight, bias = (
            tensor.repeat_interleave(ORDER) for tensor in (self.running_mean, self.running_var, self.weight, self.bias)
        )
        normal = F.batch_norm(maps, mean, var, weight, bias, self.training)
        if self.training:  # `batch_norm` has updated the copies `mean` and `var`
            with torch.no_grad():
                self.running_mean.copy_(mean.view(-1, ORDER).mean(1))
                self.running_var.copy_(var.view(-1, ORDER).mean(1))
        return normal


def average_orientations(maps: Tensor) -> Tensor:
    """Return the mean over the eight orientations of every field: (N,8C,...) -> (N,C,...)."""
    mean: Tensor = maps.unflatten(1, (-1, ORDER)).mean(2)
    return mean


def _index_transformed_pixels(side: int) -> Tensor:
    """Return the source of each pixel of a square after each symmetry: flat indices, int64 (8,side²)."""
    square = torch.arange(side**2).view(1, 1, side, side)
    return torch.stack([view.flatten() for view in make_d4_views(square)])


def _index_transformed_filter(side: int) -> Tensor:
    """Return the source of each value of a filter (8,side,side) after each symmetry: flat, int64 (8*8*side²)."""
    return (_compute_relative_orientations()[:, :, None] * side**2 + _index_transformed_pixels(side)[:, None]).flatten()


def _compute_relative_orientations() -> Tensor:
    """Return a table (8,8) of group elements: entry [g,h] is the number of (g inverse) h."""
    corners = _index_transformed_pixels(2)  # the permutation of the corners of a square identifies the symmetry
    products = corners[:, corners].transpose(0, 1)  # [a,b]: first b, then a
    table = (products[:, :, None] == corners).all(-1).int().argmax(-1)
    inverse = (table == 0).int().argmax(1)
    return table[inverse]
