"""Build the network of an untrusted checkpoint, but never one with more parameters than the file has."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

from histocli.architectures import ENCODERS
from histocli.errors import HistoError, read_first_line
from histocli.models import Classifier, rebuild_model
from histocli.models.backbone import HEAD, HeadedNetwork
from histocli.models.knn import KnnHead
from histocli.models.timm_models import PREFIX
from histocli.patch import PATCH_SIDE

# Of layers that are replaced after construction, such as those for ImageNet's classes.
_EXTRA_PARAMETERS, _EXTRA_ELEMENTS = 100, 1 << 24
_BUFFER_ELEMENTS = 1 << 26  # of buffers that a network computes, such as the masks of a Swin transformer
BANK = HEAD + "bank"  # the name of the weights of a k-NN head: a row for each training patch
_MODULES_PER_PARAMETER = 20  # modules for each parameter; many have none


class _MismatchError(Exception):
    """A network does not fit the weights that it is built for."""


def build_for(arch: str, weights: Mapping[str, torch.Tensor]) -> Classifier:
    """Return the network `arch`, with random weights, after checking that `weights` fit it.

    It is first built on the meta device, which allocates nothing. There and later, construction ends as soon as there
    are more parameters or elements than in `weights`.

    Raises:
        UsageError: no architecture has that name, or an option is not allowed.
        HistoError: it cannot be built, or the weights do not fit: the message says what differs.
    """
    try:
        with _limit_size(weights):
            planned = _build_on_meta_device(arch, weights)
        if planned:
            _compare_weights(planned.state_dict(), weights)
        with _limit_size(weights):
            model = _rebuild(arch, weights)
    except _MismatchError as error:
        raise HistoError(f"the weights do not fit {arch[:100]}: {error}") from error
    if "?" in arch:
        _try_forward(model)
    return model


def _try_forward(model: Classifier) -> None:
    """Score one patch: with some options, a network can be built but does not take patches."""
    try:
        with torch.inference_mode():
            logits = model.eval()(torch.zeros(1, 3, PATCH_SIDE, PATCH_SIDE))
    except Exception as error:  # a network of another library can raise any kind of exception
        raise HistoError(f"{model.arch[:100]} does not take patches: {read_first_line(error)}") from error
    if logits.shape != (1, 2):
        raise HistoError(f"{model.arch[:100]} gives an output of {tuple(logits.shape)} for a patch, not (1, 2)")


def _rebuild(arch: str, weights: Mapping[str, torch.Tensor]) -> Classifier:
    """Build the network, with a k-NN head if the weights have one."""
    model, bank = rebuild_model(arch), weights.get(BANK)
    if bank is not None:
        network = model.network
        if not isinstance(network, HeadedNetwork):
            raise _MismatchError(f"the network has no {BANK}")
        if bank.ndim != 2 or not len(bank):
            raise _MismatchError(f"{BANK} has the shape {tuple(bank.shape)}")
        network.head = KnnHead(network.width, len(bank))
    return model


def _build_on_meta_device(arch: str, weights: Mapping[str, torch.Tensor]) -> Classifier | None:
    """Return the network without memory for its weights; None for a network of torchvision that cannot be built so.

    torchvision's networks have no options, and allocate no parameter before they register it.
    """
    try:
        with torch.device("meta"):
            return _rebuild(arch, weights)
    except NotImplementedError as error:
        if arch.startswith(PREFIX) or arch in ENCODERS:
            raise HistoError(f"{arch[:100]} cannot be built on the meta device: {read_first_line(error)}") from error
        return None


def _compare_weights(expected: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> None:
    """Raise `_MismatchError` unless the weights have the names, shapes and types that the network expects."""
    for name, tensor in expected.items():
        if name not in weights:
            raise _MismatchError(f"{name} is missing")
        found = weights[name]
        if (found.shape, found.dtype) != (tensor.shape, tensor.dtype):
            raise _MismatchError(
                f"{name} is {found.dtype} {tuple(found.shape)}, not {tensor.dtype} {tuple(tensor.shape)}"
            )
    if unexpected := weights.keys() - expected.keys():
        raise _MismatchError(f"the network has no {min(unexpected)[:100]}")


@contextmanager
def _limit_size(weights: Mapping[str, torch.Tensor]) -> Iterator[None]:
    """In this block, raise `_MismatchError` if a network gets more modules or parameters than the weights have.

    Modules call the hooks before they initialise a parameter, when its memory is not in use yet.
    """
    elements = sum(tensor.numel() for tensor in weights.values()) + _EXTRA_ELEMENTS
    remaining = {
        "parameters": len(weights) + _EXTRA_PARAMETERS,
        "modules": _MODULES_PER_PARAMETER * (len(weights) + _EXTRA_PARAMETERS),
    }
    remaining |= {"elements": elements, "elements of buffers": elements + _BUFFER_ELEMENTS}

    def take(what: str, count: int = 1) -> None:
        remaining[what] -= count
        if remaining[what] < 0:
            raise _MismatchError(f"it has more {what} than the checkpoint")

    def on_parameter(module: Any, name: str, parameter: torch.Tensor | None) -> None:
        if parameter is not None:
            take("parameters")
            take("elements", _count_elements(parameter))

    def on_buffer(module: Any, name: str, buffer: torch.Tensor | None) -> None:
        if buffer is not None:
            take("elements of buffers", _count_elements(buffer))

    def on_module(module: Any, name: str, child: Any) -> None:
        take("modules")

    with ExitStack() as hooks:
        for handle in (
            register_module_parameter_registration_hook(on_parameter),
            register_module_buffer_registration_hook(on_buffer),
            register_module_module_registration_hook(on_module),
        ):
            hooks.callback(handle.remove)
        yield


def _count_elements(tensor: torch.Tensor) -> int:
    return 0 if torch.nn.parameter.is_lazy(tensor) else tensor.numel()
