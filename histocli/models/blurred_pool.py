"""Max-pooling without aliasing, with versions for CPUs and GPUs that are faster than PyTorch's two operations.

PyTorch's max-pooling writes a position of 8 bytes for each value, which only the gradient needs. On a GPU, kernels
that need no positions do the same (`triton_pool.py`). On a CPU in bf16, the gradient of a depthwise convolution with
stride 2 is slow too: together they took 60% of a training step of `histonet` with AMX. `_PoolInBlocks` takes less than
half of their time. In fp32 it is not faster, so it is not used.
"""

import sys
import warnings
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from histocli.compute.memory import is_out_of_memory
from histocli.packages import is_installed

# Of input values. Smaller blocks fit the caches better, but two cores wait for each other after each operation: on a
# CPU with AMX and 2 MiB of cache per core, 0.5 MiB gave 413 patches/s in training, 2 MiB 442, and 8 MiB 454.
_BLOCK_BYTES = 1 << 21
_TRITON_POOL = "histocli.models.triton_pool"
_ROWS, _COLUMNS = 1, 2  # dimensions of maps (N,H,W,C)


class BlurredMaxPool(nn.Module):
    """Max-pooling with stride 1, then a blur with stride 2: (N,C,H,W) -> (N,C,H/2,W/2).

    The output of plain max-pooling with stride 2 depends on whether a detail begins at an even or an odd pixel. A blur
    before the reduction removes most of this (Zhang, "Making convolutional networks shift-invariant again", 2019).
    """

    kernel: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        # Python computes the products: on the meta device, torch.prod imports torch._dynamo, which takes seconds.
        binomial = (0.25, 0.5, 0.25)
        kernel = torch.tensor([[a * b for b in binomial] for a in binomial]).expand(channels, 1, 3, 3)
        self.register_buffer("kernel", kernel.contiguous(), persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Pool maps of even height and width."""
        if torch.compiler.is_compiling():
            return pool_with_pytorch(maps, self.kernel)
        # To load and to compile the kernels takes a second or two, which scoring alone would not gain back.
        if maps.is_cuda and (maps.requires_grad or _TRITON_POOL in sys.modules):
            kernels = find_triton_kernels(maps.dtype)
            if kernels is not None and kernels.can_pool(maps):
                on_gpu: Tensor = kernels.TritonBlurredMaxPool.apply(maps)
                return on_gpu
        if maps.device.type == "cpu":
            if torch.is_inference_mode_enabled():
                return _pool(maps.permute(0, 2, 3, 1), self.kernel).permute(0, 3, 1, 2)
            if maps.dtype == torch.bfloat16 and maps.requires_grad:
                pooled: Tensor = _PoolInBlocks.apply(maps, self.kernel)  # type: ignore[no-untyped-call]
                return pooled
        return pool_with_pytorch(maps, self.kernel)


def pool_with_pytorch(maps: Tensor, kernel: Tensor) -> Tensor:
    """Return what `BlurredMaxPool` computes, by PyTorch's two operations; the kernel is (C,1,3,3)."""
    # max_pool2d gives (N,C,H+1,W+1).
    return F.conv2d(F.max_pool2d(maps, 2, 1, 1), kernel.to(maps.dtype), stride=2, groups=len(kernel))


@cache
def find_triton_kernels(dtype: torch.dtype) -> ModuleType | None:
    """Return the module of the kernels for NVIDIA GPUs; None where they cannot be compiled for maps of this type.

    Triton comes with PyTorch for CUDA on Linux. It needs a C compiler, a GPU of 2018 or later, and for bf16 a GPU with
    bf16 units.
    """
    if torch.version.cuda is None or not is_installed("triton"):
        return None
    try:
        from histocli.models import triton_pool

        with torch.inference_mode(False), torch.enable_grad():
            maps = torch.zeros(1, 8, 2, 2, device="cuda", dtype=dtype, requires_grad=True)
            triton_pool.TritonBlurredMaxPool.apply(maps).sum().backward()
    except Exception as error:  # Triton raises errors of many kinds, also those of a C compiler
        if is_out_of_memory(error):
            raise
        reason = (str(error).strip().splitlines() or [type(error).__name__])[-1]
        warnings.warn(f"Triton cannot compile the pooling, so training on the GPU is slower: {reason}", stacklevel=2)
        return None
    return triton_pool


def _pool(maps: Tensor, kernel: Tensor) -> Tensor:
    """Return what `BlurredMaxPool` computes for maps (N,H,W,C), without a gradient: (N,H/2,W/2,C)."""
    largest = _pair_maximum(_pair_maximum(maps, _COLUMNS), _ROWS).permute(0, 3, 1, 2)
    return F.conv2d(largest, kernel.to(maps.dtype), stride=2, groups=len(kernel)).permute(0, 2, 3, 1)


class _PoolInBlocks(torch.autograd.Function):
    """What `BlurredMaxPool` computes, with its gradient, in blocks of patches that stay in the processor's cache.

    Where several values of a window are the largest, the gradient belongs to the first, as that of `max_pool2d`.
    """

    @staticmethod
    def forward(ctx: Any, maps: Tensor, kernel: Tensor) -> Tensor:
        """Return the pooled maps (N,C,H/2,W/2)."""
        ctx.save_for_backward(maps)
        n, channels, height, width = maps.shape
        pooled = maps.new_empty((n, height // 2, width // 2, channels))

        def pool(values: Tensor, out: Tensor) -> None:
            out.copy_(_pool(values, kernel))

        _compute_blocks(pool, maps.permute(0, 2, 3, 1), pooled)
        return pooled.permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor, None]:
        """Return the gradient of the maps (N,C,H,W) for that of the pooled maps (N,C,H/2,W/2)."""
        (maps,) = ctx.saved_tensors
        result = maps.new_empty((len(maps), *maps.shape[2:], maps.shape[1]))

        def differentiate(values: Tensor, grads: Tensor, out: Tensor) -> None:
            of_largest = _transpose_blur(_transpose_blur(grads / 16, _COLUMNS), _ROWS)
            of_rows = _pair_maximum_backward(_pair_maximum(values, _COLUMNS), of_largest, _ROWS)
            _pair_maximum_backward(values, of_rows, _COLUMNS, out)

        _compute_blocks(differentiate, maps.permute(0, 2, 3, 1), grads.permute(0, 2, 3, 1), result)
        return result.permute(0, 3, 1, 2), None


def _compute_blocks(function: Callable[..., object], maps: Tensor, *more: Tensor) -> None:
    """Call a function with the same few patches of `maps` and of each other tensor."""
    size = max(1, _BLOCK_BYTES // (maps[:1].numel() * maps.element_size()))
    for block in zip(*(tensor.split(size) for tensor in (maps, *more)), strict=True):
        function(*block)


def _pair_maximum(maps: Tensor, dim: int) -> Tensor:
    """Return the maximum of each two neighbours along a dimension, between the two ends of the input.

    The result is longer by one, as that of max-pooling with kernel size 2, stride 1 and padding 1.
    """
    size = maps.shape[dim]
    result = maps.new_empty([length + (axis == dim) for axis, length in enumerate(maps.shape)])
    torch.maximum(maps.narrow(dim, 0, size - 1), maps.narrow(dim, 1, size - 1), out=result.narrow(dim, 1, size - 1))
    for end in (0, -1):
        result.select(dim, end).copy_(maps.select(dim, end))
    return result


def _pair_maximum_backward(maps: Tensor, grads: Tensor, dim: int, out: Tensor | None = None) -> Tensor:
    """Return the gradient of `maps` for the gradient of `_pair_maximum(maps, dim)`; write it into `out`."""
    out = torch.empty_like(maps) if out is None else out
    size = maps.shape[dim]
    inner = grads.narrow(dim, 1, size - 1)  # of pairs; the two other gradients are of single values
    is_first = torch.empty_like(inner)  # 1 where the first of a pair is the larger one, or equal; else 0
    torch.ge(maps.narrow(dim, 0, size - 1), maps.narrow(dim, 1, size - 1), out=is_first)
    torch.addcmul(inner, is_first, inner, value=-1, out=out.narrow(dim, 1, size - 1))
    out.select(dim, 0).copy_(grads.select(dim, 0))
    out.narrow(dim, 0, size - 1).addcmul_(is_first, inner)
    out.select(dim, -1).add_(grads.select(dim, -1))
    return out


def _transpose_blur(grads: Tensor, dim: int) -> Tensor:
    """Return the gradient of values that were blurred with the weights 1, 2, 1 and stride 2 along a dimension.

    The result has the length 2 L + 1, where the gradient has L.
    """
    length = grads.shape[dim]
    result = grads.new_empty([2 * size + 1 if axis == dim else size for axis, size in enumerate(grads.shape)])
    even, odd = (result.unfold(dim, 1, 2).squeeze(-1), result.narrow(dim, 1, 2 * length).unfold(dim, 1, 2).squeeze(-1))
    torch.mul(grads, 2, out=odd)
    torch.add(grads.narrow(dim, 0, length - 1), grads.narrow(dim, 1, length - 1), out=even.narrow(dim, 1, length - 1))
    for end in (0, -1):
        even.select(dim, end).copy_(grads.select(dim, end))
    return result
