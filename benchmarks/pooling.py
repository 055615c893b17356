"""Compare the Triton kernels for pooling with PyTorch's operations: `python -m benchmarks.pooling`.

Prints the largest differences, which must be 0, and the milliseconds of both for the maps of each stage of `histonet`.

`TRITON_INTERPRET=1 python -m benchmarks.pooling --device cpu` checks the equality without a GPU.
"""

import argparse
import sys
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from histocli.models.blurred_pool import BlurredMaxPool, pool_with_pytorch
from histocli.models.triton_pool import TritonBlurredMaxPool

STAGES = (16, 96), (32, 48), (64, 24), (128, 12)  # channels and side of the maps
SMALL_MAPS = (16, 6), (24, 8)  # for the interpreter, which is slow


def measure_difference(
    images: int, channels: int, side: int, device: str, precision: torch.dtype
) -> tuple[float, float]:
    """Return the largest differences between both ways: of the values, and of the gradients.

    The inputs are small whole numbers. They are exact in each precision, and many neighbours are equal.
    """
    generator = torch.Generator().manual_seed(0)
    shape, pooled_shape = (images, channels, side, side), (images, channels, side // 2, side // 2)
    maps = torch.randint(-3, 4, shape, generator=generator).relu().to(device, precision)
    grads = torch.randint(-4, 5, pooled_shape, generator=generator).to(device, precision)
    kernel = BlurredMaxPool(channels).kernel.to(device)
    results = []
    for pool in (partial(pool_with_pytorch, kernel=kernel), TritonBlurredMaxPool.apply):
        own = maps.to(memory_format=torch.channels_last).clone().requires_grad_()
        pooled = pool(own)
        pooled.backward(grads)
        assert own.grad is not None
        results.append((pooled.detach(), own.grad))
    (values, gradients), (other_values, other_gradients) = results
    return float((values - other_values).abs().max()), float((gradients - other_gradients).abs().max())


def measure_milliseconds(pool: Callable[[Tensor], Tensor], maps: Tensor) -> float:
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
    is_equal = True
    for channels, side in STAGES if device == "cuda" else SMALL_MAPS:
        for precision in (torch.float32, torch.bfloat16, torch.float16):
            values, gradients = measure_difference(2, channels, side, device, precision)
            is_equal &= values == gradients == 0
            print(
                f"maps {channels} x {side} x {side}, {precision}: the largest differences are {values:g} of the values "
                f"and {gradients:g} of the gradients",
                flush=True,
            )
        if device == "cuda":
            maps = torch.randn(512, channels, side, side, device="cuda", dtype=torch.bfloat16)
            maps = maps.to(memory_format=torch.channels_last).requires_grad_()
            pytorch = partial(pool_with_pytorch, kernel=BlurredMaxPool(channels).kernel.to("cuda"))
            times = [measure_milliseconds(pool, maps) for pool in (pytorch, TritonBlurredMaxPool.apply)]
            print(f"512 of them, bf16, forward and backward: PyTorch {times[0]:.2f} ms, Triton {times[1]:.2f} ms")
    sys.exit(not is_equal)


if __name__ == "__main__":
    main()
