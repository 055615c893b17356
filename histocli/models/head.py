"""The last layers of a network, computed in fp32 whatever the number format of the layers before them."""

from collections.abc import Callable

import torch
from torch import Tensor


def run_head_in_fp32(head: Callable[[Tensor], Tensor], features: Tensor) -> Tensor:
    """Return the logits (N,2) of features (N,F) in fp32, also under autocast to bf16 or fp16.

    A logit in bf16 has 8 significant bits, so many patches would get the same score. The head takes so little of a
    network's time that fp32 costs almost nothing there.
    """
    device = features.device.type
    is_autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if not is_autocast:  # as in an export, which could not contain a change of autocast
        return head(features)
    with torch.autocast(device, enabled=False):
        return head(features.float())
