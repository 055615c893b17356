"""Flat buffers: tensors one after another in one vector, so that one operation updates all of them."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_ALIGNMENT = 32  # elements: cuDNN and oneDNN are slower where a weight does not begin on a multiple of 16 bytes


def compute_padded_size(count: int) -> int:
    """Return the number of elements that a tensor of `count` elements takes in a flat buffer."""
    return -(-count // _ALIGNMENT) * _ALIGNMENT


def flatten_in_memory_order(tensor: Tensor, *, like: Tensor) -> Tensor:
    """Return the values of a tensor as a vector, in the order in which those of `like` lie in memory."""
    if like.ndim == 4 and like.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).reshape(-1)
    return tensor.reshape(-1)


@torch.no_grad()
def sort_channels_last(flat: Tensor, params: Iterable[Tensor], *, undo: bool = False) -> None:
    """Reorder the values of a flat buffer in place: as if all of `params` were channels last in memory; or undo this.

    Files have this order. Only on MPS are the weights of convolutions not channels last in memory; on other devices the
    buffer does not change.
    """
    start = 0
    for param in params:
        if param.ndim == 4 and not param.is_contiguous(memory_format=torch.channels_last):
            part = flat[start : start + param.numel()]
            count, channels, height, width = param.shape
            if undo:
                ordered = part.view(count, height, width, channels).permute(0, 3, 1, 2)
            else:
                ordered = part.view(param.shape).permute(0, 2, 3, 1)
            part.copy_(ordered.reshape(-1))
        start += compute_padded_size(param.numel())


@torch.no_grad()
def flatten(model: nn.Module, names: list[str], layout: list[int]) -> Tensor:
    """Move the named tensors of a model into one new buffer; each keeps its shape and its strides."""
    tensors = model.state_dict(keep_vars=True)
    flat = torch.zeros(sum(layout), device=tensors[names[0]].device)
    start = 0
    for name, length in zip(names, layout, strict=True):
        tensor = tensors[name]
        strides = torch.empty_like(tensor, memory_format=torch.preserve_format).stride()  # without gaps in memory
        view = flat[start : start + tensor.numel()].as_strided(tensor.shape, strides)
        view.copy_(tensor)
        tensor.data = view
        start += length
    return flat


@torch.no_grad()
def share_counters(model: nn.Module, ema_model: nn.Module) -> None:
    """Let the EMA use the model's integer buffers, such as batch norm's count of batches."""
    buffers = dict(model.named_buffers())
    for name, buffer in ema_model.named_buffers():
        if not buffer.is_floating_point():
            buffer.data = buffers[name].data
