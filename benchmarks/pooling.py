"""Compare `BlurredMaxPool` with one Triton kernel that does the same: `python -m benchmarks.pooling`.

On the H100, max-pooling and blur take 5.4 of the 12.6 ms of a training step of 512 patches, because PyTorch's
max-pooling writes and reads a position of 8 bytes for each value of 2. This kernel reads the maps once and writes no
positions; its gradient finds the largest values again. It needs Triton and a GPU; `histo` does not use it, because it
has not run on a GPU yet. Prints whether outputs and gradients are equal, and the milliseconds of both for the maps of
each stage of `histonet`.

`TRITON_INTERPRET=1 python -m benchmarks.pooling --device cpu` checks the equality without a GPU.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from histocli.models.blurred_pool import BlurredMaxPool

STAGES = (16, 96), (32, 48), (64, 24), (128, 12)  # channels and side of the maps
_BLOCK = 1024 if torch.cuda.is_available() else 1 << 17  # values a program computes; the interpreter needs large blocks


@triton.jit  # type: ignore[untyped-decorator]
def _load(maps, image, row, column, channel, height, width, channels, valid, other):  # type: ignore[no-untyped-def]
    """Return values of maps (N,H,W,C) in fp32, and `other` outside the maps."""
    inside = valid & (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return tl.load(maps + ((image * height + row) * width + column) * channels + channel, inside, other).to(tl.float32)


@triton.jit  # type: ignore[untyped-decorator]
def _forward(maps, pooled, count, height, width, channels, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write pooled (N,H/2,W/2,C): the sum of 3x3 maxima of 2x2 values, weighted 1, 2, 1 in each direction."""
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    valid = at < count
    channel = at % channels
    column = at // channels % (width // 2)
    row = at // (channels * (width // 2)) % (height // 2)
    image = at // (channels * (width // 2) * (height // 2))
    total = tl.zeros((block,), tl.float32)
    for a in tl.static_range(3):
        for b in tl.static_range(3):
            largest = tl.full((block,), float("-inf"), tl.float32)
            for r in tl.static_range(2):
                for s in tl.static_range(2):
                    value = _load(
                        maps, image, 2 * row + a - 1 + r, 2 * column + b - 1 + s, channel, height, width, channels,
                        valid, float("-inf"),
                    )  # fmt: skip
                    largest = tl.maximum(largest, value)
            total += largest * ((2 - (a - 1) * (a - 1)) * (2 - (b - 1) * (b - 1)) / 16)
    tl.store(pooled + at, total, valid)


@triton.jit  # type: ignore[untyped-decorator]
def _backward(maps, grads, out, count, height, width, channels, block: tl.constexpr):  # type: ignore[no-untyped-def]
    """Write the gradient (N,H,W,C) of the maps for the gradient (N,H/2,W/2,C) of the pooled maps.

    A value is in four windows of 2x2. It gets the gradient of those in which it is the first of the largest values.
    """
    at = tl.program_id(0).to(tl.int64) * block + tl.arange(0, block)
    valid = at < count
    channel = at % channels
    column = at // channels % width
    row = at // (channels * width) % height
    image = at // (channels * width * height)
    own = tl.load(maps + at, valid, 0).to(tl.float32)
    total = tl.zeros((block,), tl.float32)
    for down in tl.static_range(2):  # the value is in the lower (0) or the upper (1) row of the window
        for right in tl.static_range(2):
            is_first = valid
            for r in tl.static_range(2):
                for s in tl.static_range(2):
                    if r != 1 - down or s != 1 - right:
                        value = _load(
                            maps, image, row + down - 1 + r, column + right - 1 + s, channel, height, width, channels,
                            valid, float("-inf"),
                        )  # fmt: skip
                        if 2 * r + s < 2 * (1 - down) + 1 - right:
                            is_first = is_first & (value < own)
                        else:
                            is_first = is_first & (value <= own)
            grad = tl.zeros((block,), tl.float32)  # of the maximum of this window, which up to four outputs use
            for i in tl.static_range(2):
                for j in tl.static_range(2):
                    p, q = row + down, column + right
                    weight = _weight(p, i) * _weight(q, j)
                    grad += weight * _load(
                        grads, image, p // 2 - i, q // 2 - j, channel, height // 2, width // 2, channels, valid, 0.0
                    )
            total += tl.where(is_first, grad, 0.0)
    tl.store(out + at, total, valid)


@triton.jit  # type: ignore[untyped-decorator]
def _weight(position, before: tl.constexpr):  # type: ignore[no-untyped-def]
    """Return the weight of the maximum at `position` in the output at position // 2, or in the one before it."""
    if before == 0:
        return tl.where(position % 2 == 0, 0.25, 0.5)
    return tl.where(position % 2 == 0, 0.25, 0.0)


class FusedBlurredMaxPool(torch.autograd.Function):
    """What `BlurredMaxPool` computes, for maps (N,C,H,W) in the format channels_last with even height and width."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor) -> Tensor:
        """Return the pooled maps (N,C,H/2,W/2)."""
        ctx.save_for_backward(maps)
        n, channels, height, width = maps.shape
        pooled = torch.empty((n, channels, height // 2, width // 2), dtype=maps.dtype, device=maps.device)
        pooled = pooled.to(memory_format=torch.channels_last)
        _forward[(triton.cdiv(pooled.numel(), _BLOCK),)](
            maps, pooled, pooled.numel(), height, width, channels, block=_BLOCK
        )
        return pooled

    @staticmethod
    def backward(ctx: Any, grads: Tensor) -> Tensor:  # type: ignore[override]
        """Return the gradient of the maps."""
        (maps,) = ctx.saved_tensors
        _, channels, height, width = maps.shape
        grads, out = grads.contiguous(memory_format=torch.channels_last), torch.empty_like(maps)
        _backward[(triton.cdiv(maps.numel(), _BLOCK),)](
            maps, grads, out, maps.numel(), height, width, channels, block=_BLOCK
        )
        return out


def difference(channels: int, side: int, device: str, dtype: torch.dtype) -> tuple[float, float]:
    """Return the largest difference between both ways: of the output, and of the gradient."""
    torch.manual_seed(0)
    maps = torch.randn(2, channels, side, side, device=device).relu().to(dtype)  # ReLU: many values are equal
    maps = maps.to(memory_format=torch.channels_last)
    results = []
    for pool in (BlurredMaxPool(channels).to(device, dtype), FusedBlurredMaxPool.apply):
        own = maps.clone().requires_grad_()
        pooled = pool(own)
        generator = torch.Generator().manual_seed(1)
        pooled.backward(torch.randn(pooled.shape, generator=generator).to(device, dtype))
        assert own.grad is not None
        results.append((pooled.detach(), own.grad))
    (output, gradient), (other_output, other_gradient) = results
    return float((output - other_output).abs().max()), float((gradient - other_gradient).abs().max())


def milliseconds(pool: Callable[[Tensor], Tensor], maps: Tensor) -> float:
    """Return the time of one forward and backward pass on the GPU."""
    for count in (5, 30):
        torch.cuda.synchronize()
        start = time.perf_counter()
        for _ in range(count):
            pool(maps).sum().backward()
        torch.cuda.synchronize()
    return (time.perf_counter() - start) / count * 1e3


def main() -> None:
    """Compare both ways."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda")
    device = parser.parse_args().device
    for channels, side in STAGES:
        line = f"{channels} x {side} x {side}:"
        for dtype in (torch.float32, torch.bfloat16):
            output, gradient = difference(channels, side, device, dtype)
            line += f" {dtype}: largest difference {output:.1e}, of the gradient {gradient:.1e};"
        if device == "cuda":
            maps = torch.randn(512, channels, side, side, device=device, dtype=torch.bfloat16)
            maps = maps.to(memory_format=torch.channels_last).requires_grad_()
            now = milliseconds(BlurredMaxPool(channels).to(device, torch.bfloat16), maps)
            line += f" {now:.2f} ms, fused {milliseconds(FusedBlurredMaxPool.apply, maps):.2f} ms"
        print(line, flush=True)


if __name__ == "__main__":
    main()
