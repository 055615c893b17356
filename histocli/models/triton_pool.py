"""Max-pooling without aliasing as one kernel for NVIDIA GPUs, written in Triton, which comes with PyTorch on Linux.

PyTorch's max-pooling writes and reads a position of 8 bytes for each value of 2, and took almost half of a training
step of `histonet` on an H100. These kernels read the maps once and write no positions; the gradient finds the largest
values again. Import this module only where Triton is installed.
"""

from contextlib import nullcontext
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

_VALUES = 8  # neighbouring channels that one thread computes: 16 bytes in 16 bits
# Groups of channels that a program computes. The interpreter of Triton needs large blocks.
_GROUPS = 128 if torch.cuda.is_available() else 1 << 14


def can_pool(maps: Tensor) -> bool:
    """Whether the kernels can pool these maps (N,C,H,W)."""
    _, channels, height, width = maps.shape
    is_even = height % 2 == 0 and width % 2 == 0 and channels % _VALUES == 0
    return is_even and maps.numel() < 1 << 31 and maps.dtype in (torch.float32, torch.float16, torch.bfloat16)


class TritonBlurredMaxPool(torch.autograd.Function):
    """What `BlurredMaxPool` computes, for maps (N,C,H,W) that `can_pool` accepts.

    Where several values of a window are the largest, the gradient belongs to the first, as that of `max_pool2d`.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        """Return the pooled maps (N,C,H/2,W/2)."""
        maps = maps.contiguous(memory_format=torch.channels_last)
        ctx.save_for_backward(maps)
        n, channels, height, width = maps.shape
        pooled = maps.new_empty((n, height // 2, width // 2, channels))
        _launch(_pool, maps, pooled, height=height, width=width, channels=channels)
        return pooled.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grads: Tensor) -> Tensor:
        """Return the gradient of the maps (N,C,H,W) for that of the pooled maps (N,C,H/2,W/2)."""
        (maps,) = ctx.saved_tensors
        n, channels, height, width = maps.shape
        result = maps.new_empty((n, height, width, channels))
        grads = grads.contiguous(memory_format=torch.channels_last)
        _launch(_differentiate, maps, grads, result, height=height, width=width, channels=channels)
        gradient: Tensor = result.permute(0, 3, 1, 2)
        return gradient


def _launch(kernel: Any, *tensors: Tensor, **sizes: int) -> None:
    """Run a kernel that computes the last tensor, which is stored as (N,H,W,C)."""
    groups = tensors[-1].numel() // _VALUES
    device = tensors[-1].device
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        kernel[(triton.cdiv(groups, _GROUPS),)](*tensors, groups, **sizes, block=_GROUPS, values=_VALUES)


@triton.jit  # type: ignore[untyped-decorator]
def _find_group(height, width, channels, block: tl.constexpr, values: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return group, image, row, column and first channel (block,1) of this program's part of maps (N,H,W,C)."""
    group = (tl.program_id(0) * block + tl.arange(0, block))[:, None]
    per_pixel = channels // values
    pixel = group // per_pixel
    line = pixel // width
    return group, line // height, line % height, pixel % width, (group % per_pixel) * values


@triton.jit  # type: ignore[untyped-decorator]
def _load(maps, image, row, column, channel, height, width, channels, valid, other, values: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return neighbouring channels (block,values) of maps (N,H,W,C) in fp32, and `other` outside the maps."""
    inside = valid & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    start = ((image * height + row) * width + column) * channels + channel
    at = tl.max_contiguous(tl.multiple_of(start + tl.arange(0, values)[None, :], (1, values)), (1, values))
    return tl.load(maps + at, inside, other).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _larger(first, second):  # type: ignore[no-untyped-def]
    """Return the larger values, and NaN where one of two values is NaN."""
    return tl.maximum(first, second, propagate_nan=tl.PropagateNan.ALL)


@triton.jit  # type: ignore[untyped-decorator]
def _store(maps, group, valid, result, values: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write the channels (block,values) of each group."""
    at = group * values + tl.arange(0, values)[None, :]
    tl.store(maps + tl.max_contiguous(tl.multiple_of(at, (1, values)), (1, values)), result, valid)


@triton.jit(do_not_specialize=["groups", "height", "width", "channels"])  # type: ignore[untyped-decorator]
def _pool(  # type: ignore[no-untyped-def]
    maps, pooled, groups, height, width, channels, block: tl.constexpr, values: tl.constexpr
):
    """Write pooled (N,H/2,W/2,C): the sum of 3x3 maxima of 2x2 values, weighted 1, 2, 1 in each direction."""
    group, image, row, column, channel = _find_group(height // 2, width // 2, channels, block, values)
    valid = group < groups
    low = float("-inf")
    total = tl.zeros((block, values), tl.float32)
    left_top, left_middle, left_bottom = total, total, total  # of the column before; replaced before they are read
    for c in tl.static_range(4):
        beside = 2 * column + c - 1
        first = _load(maps, image, 2 * row - 1, beside, channel, height, width, channels, valid, low, values)
        second = _load(maps, image, 2 * row, beside, channel, height, width, channels, valid, low, values)
        third = _load(maps, image, 2 * row + 1, beside, channel, height, width, channels, valid, low, values)
        fourth = _load(maps, image, 2 * row + 2, beside, channel, height, width, channels, valid, low, values)
        top, middle, bottom = _larger(first, second), _larger(second, third), _larger(third, fourth)
        if c > 0:
            windows = _larger(left_top, top) + 2 * _larger(left_middle, middle) + _larger(left_bottom, bottom)
            total += windows * ((2 - (c - 2) * (c - 2)) / 16)
        left_top, left_middle, left_bottom = top, middle, bottom
    _store(pooled, group, valid, total, values)


@triton.jit(do_not_specialize=["groups", "height", "width", "channels"])  # type: ignore[untyped-decorator]
def _differentiate(  # type: ignore[no-untyped-def]
    maps, grads, result, groups, height, width, channels, block: tl.constexpr, values: tl.constexpr
):
    """Write the gradient (N,H,W,C) of the maps for the gradient (N,H/2,W/2,C) of the pooled maps.

    A value is in four windows of 2x2. It gets the gradient of those in which it is the first of the largest values.
    """
    group, image, row, column, channel = _find_group(height, width, channels, block, values)
    valid = group < groups
    own = _load(maps, image, row, column, channel, height, width, channels, valid, 0.0, values)
    beats_left = _beats(own, maps, image, row, column, channel, height, width, channels, valid, 0, -1, values)
    beats_right = _beats(own, maps, image, row, column, channel, height, width, channels, valid, 0, 1, values)
    total = tl.zeros((block, values), tl.float32)
    # The two outputs in each direction whose windows hold the value: `below - 1` and `below`, `right - 1` and `right`.
    below, right = (row + 1) // 2, (column + 1) // 2
    rows, columns = height // 2, width // 2
    first = _load(grads, image, below - 1, right - 1, channel, rows, columns, channels, valid, 0.0, values)
    second = _load(grads, image, below - 1, right, channel, rows, columns, channels, valid, 0.0, values)
    third = _load(grads, image, below, right - 1, channel, rows, columns, channels, valid, 0.0, values)
    fourth = _load(grads, image, below, right, channel, rows, columns, channels, valid, 0.0, values)
    for r in tl.static_range(2):  # windows that begin a row above the value (0), or in its row (1)
        beats_row = _beats(own, maps, image, row, column, channel, height, width, channels, valid, 2 * r - 1, 0, values)
        in_above, in_below = _weigh(row + r, below - 1), _weigh(row + r, below)
        of_left, of_right = in_above * first + in_below * third, in_above * second + in_below * fourth
        for c in tl.static_range(2):
            beats_corner = _beats(
                own, maps, image, row, column, channel, height, width, channels, valid, 2 * r - 1, 2 * c - 1, values
            )
            is_first = beats_row & beats_corner & (beats_right if c == 1 else beats_left)
            of_window = _weigh(column + c, right - 1) * of_left + _weigh(column + c, right) * of_right
            total += tl.where(is_first, of_window, 0.0)
    _store(result, group, valid, total, values)


@triton.jit  # type: ignore[untyped-decorator]
def _beats(  # type: ignore[no-untyped-def]
    own, maps, image, row, column, channel, height, width, channels, valid,
    down: tl.constexpr, right: tl.constexpr, values: tl.constexpr
):  # fmt: skip
    """Return whether a value is chosen before a neighbour: it is larger, or equal and first in the order of reading."""
    low = float("-inf")
    other = _load(maps, image, row + down, column + right, channel, height, width, channels, valid, low, values)
    return (own >= other) if down * 3 + right > 0 else (own > other)


@triton.jit  # type: ignore[untyped-decorator]
def _weigh(window, output):  # type: ignore[no-untyped-def]
    """Return the weight of a window in an output, in one direction: 1/4, 1/2, 1/4 for windows 2 o, 2 o + 1, 2 o + 2."""
    distance = window - 2 * output
    return tl.where(distance == 1, 0.5, tl.where((distance == 0) | (distance == 2), 0.25, 0.0))
