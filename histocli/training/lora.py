"""`--lora RANK`: fine-tune a backbone by small matrices beside its linear layers (Hu et al. 2021, arXiv 2106.09685)."""

from typing import Any

import torch
from torch import Tensor, nn

from histocli.errors import UsageError
from histocli.models import Classifier
from histocli.packages import require_packages

_ADAPTER = "default"
_BASE = ".base_layer."  # the part of a weight's name that shows it is the original weight of a layer with an adapter


def require_peft() -> None:
    """Raise `HistoError` if peft is not installed."""
    require_packages("--lora", "peft", extra="lora")


def add_lora(model: Classifier, rank: int) -> None:
    """Put an adapter beside every linear layer of the backbone, and freeze its other weights.

    The matrices B begin as zeros, so that the network computes the same as before.

    Raises:
        HistoError: peft is not installed.
        UsageError: the backbone has no linear layers.
    """
    require_peft()
    from peft import LoraConfig, inject_adapter_in_model

    backbone = model.backbone_and_head.backbone
    layers = [name for name, module in backbone.named_modules() if type(module) is nn.Linear]
    if not layers:
        raise UsageError(f"--lora: {model.arch} has no linear layers", "use a transformer, or --backbone-lr 0.1")
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers), backbone)
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_("lora_" in name)


@torch.no_grad()
def merge_adapters(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a model's state on the CPU in which the adapters are added to the weights beside them.

    It has the names of the same model without adapters. Without adapters it is the model's own state.
    """
    deltas = {
        f"{name}.weight": module.get_delta_weight(_ADAPTER)  # type: ignore[operator]
        for name, module in model.named_modules()
        if hasattr(module, "get_delta_weight")
    }
    state = {}
    for name, tensor in model.state_dict().items():
        if ".lora_" in name:
            continue
        plain = name.replace(_BASE, ".")
        state[plain] = (tensor + deltas[plain] if plain in deltas else tensor).to("cpu", copy=True)
    return state


def copy_adapters(ema_model: nn.Module) -> dict[str, Any]:
    """Return the averaged adapters, which `merge_adapters` does not keep; empty for a model without adapters."""
    return {name: tensor.to("cpu", copy=True) for name, tensor in ema_model.state_dict().items() if ".lora_" in name}


def restore_ema_state(
    state: dict[str, Tensor], adapters: dict[str, Tensor], merged: dict[str, Tensor]
) -> dict[str, Any]:
    """Return the state of the moving average with adapters.

    Args:
        state: that of the trained model, which has the same frozen weights.
        adapters: what `copy_adapters` returned.
        merged: what `merge_adapters` returned for the moving average.
    """
    frozen = {name: tensor for name, tensor in state.items() if _BASE in name}
    return {name: merged.get(name, tensor) for name, tensor in state.items()} | frozen | adapters
