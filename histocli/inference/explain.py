"""Explain a score: which regions of a patch raise the log odds of tumour, and which lower them.

HiResCAM (Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of convolutional neural
networks", 2020, arXiv:2011.08891) of a coarse and a finer feature map, averaged over the eight flips and right-angle
rotations. docs/explanations.md compares it with Grad-CAM and other methods.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from histocli.compute.device import apply_compute_settings
from histocli.data.transforms import make_d4_views, undo_d4_view
from histocli.errors import ExplanationError
from histocli.inference.forward import Network
from histocli.models import Classifier
from histocli.patch import PATCH_SIDE, Pixels

MIN_SIDES = (12, 6)  # cells on a side of the feature maps: a cell has at most 8x8 and 16x16 of the 96x96 pixels
_BATCH = 16  # patches in a pass with gradients, which takes more memory than one without

Maps = npt.NDArray[np.float32]


def explain(networks: Sequence[Network], pixels: Pixels) -> Maps:
    """Compute how much each pixel of each patch raises (above 0) or lowers (below 0) the log odds of tumour.

    The map is the mean over the eight flips and right-angle rotations of the patch, and over the networks (of a
    `histonet-pair`, both are counted). If the patch is rotated, the map is rotated too. It has no unit: compare regions
    of one patch, not different patches.

    Args:
        networks: classifiers in evaluation mode, on the CPU: float images (N,3,96,96) in [0, 1] -> logits (N,2).
        pixels: patches, uint8 (N,96,96,3) in RGB order.

    Returns:
        float32 (N,96,96).

    Raises:
        ExplanationError: a network is not run by PyTorch, or has no feature map.
    """
    maps = np.zeros(pixels.shape[:3], np.float32)
    with apply_compute_settings():
        parts = [part for network in networks for part in _list_modules(network)]
        explained = [(part, find_feature_maps(part)) for part in parts]
        for first in range(0, len(pixels), _BATCH):
            rows = slice(first, first + _BATCH)
            images = torch.from_numpy(np.array(pixels[rows])).permute(0, 3, 1, 2).float() / 255
            for network, modules in explained:
                maps[rows] += (compute_maps(network, modules, images) / len(explained)).numpy()
    return maps


def _list_modules(network: Network) -> list[nn.Module]:
    """Return the network, or those whose probabilities it averages: each of them has its own maps.

    Raises:
        ExplanationError: PyTorch does not run the network.
    """
    if not isinstance(network, nn.Module):
        raise ExplanationError(
            "an ONNX file cannot be explained, because it has no gradients", "give the checkpoint that it was made from"
        )
    return [*network.split_members()] if isinstance(network, Classifier) else [network]


def find_feature_maps(network: nn.Module, min_sides: Sequence[int] = MIN_SIDES) -> list[nn.Module]:
    """Find the modules whose outputs are explained: for each minimal side, the last decisive map.

    A map is decisive if the logits depend on the patch only through this map. Other branches would not be explained.
    If no map is so large, the largest one is used. The modules are in the order of their calls, each once.

    Raises:
        ExplanationError: the network has no such map.
    """
    sides = _find_map_sides(network)
    found = []
    for min_side in min_sides:
        large = [module for module, side in sides.items() if side >= min_side]
        small = sorted((module for module in sides if sides[module] < min_side), key=lambda module: sides[module])
        found.append(next((m for m in [*reversed(large), *reversed(small)] if _is_decisive(network, m)), None))
    modules = [module for module in sides if module in found]
    if not modules:
        name = getattr(network, "arch", type(network).__name__)
        raise ExplanationError(
            f"{name} cannot be explained: it has no feature map with the positions of the patch",
            "networks of convolutions have one, such as histonet or resnet18; vision transformers have none",
        )
    return modules


def _make_blank_images(count: int) -> Tensor:
    return torch.full((count, 3, PATCH_SIDE, PATCH_SIDE), 0.5)


def _find_map_sides(network: nn.Module) -> dict[nn.Module, int]:
    """Return the modules whose outputs are maps of several cells, and their cells on a side, in the order of the calls.

    Maps after a single layer of weights are skipped, such as the patch embedding of a vision transformer: they show
    only edges and colours. Maps that are larger than an earlier one are skipped too: VGG and AlexNet stretch a smaller
    map to a fixed size. Two images are computed, because outputs that are not of an image have other numbers of rows:
    each block of a Swin transformer V2 computes a table of relative positions.
    """
    sides: dict[nn.Module, int] = {}
    layers, smallest, images = 0, PATCH_SIDE**2, _make_blank_images(2)

    def note(module: nn.Module, output: Any) -> None:
        nonlocal layers, smallest
        layers += any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))
        if layers > 1 and isinstance(output, Tensor) and output.ndim == 4 and len(output) == len(images):
            height, width = output.shape[1:3] if _is_channels_last(output) else output.shape[2:]
            if smallest >= height == width > 1:
                smallest = height
                sides.pop(module, None)
                sides[module] = height

    with _hook(network.modules(), note), torch.no_grad():
        network(images)
    return sides


def _is_channels_last(maps: Tensor) -> bool:
    """Return whether a map is (N,H,W,C), as in Swin transformers, and not (N,C,H,W)."""
    return maps.shape[2] != maps.shape[3] and maps.shape[1] == maps.shape[2]


def _is_decisive(network: nn.Module, module: nn.Module) -> bool:
    """Return whether the logits depend on the image only through the output of a module."""
    image = _make_blank_images(1).requires_grad_()
    with _hook([module], lambda _, output: output.detach()), torch.enable_grad():
        logits = network(image).sum()
        return not logits.requires_grad or torch.autograd.grad(logits, image, allow_unused=True)[0] is None


def compute_hires_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return activation times gradient: to first order, the contribution of each value of a map to the log odds."""
    return activation * gradient


def compute_maps(
    network: nn.Module,
    modules: Sequence[nn.Module],
    images: Tensor,
    contribution: Callable[[Tensor, Tensor], Tensor] = compute_hires_cam,
) -> Tensor:
    """Return the maps (N,H,H) of float images (N,3,H,H): the mean over the eight views, each rotated back.

    `contribution` combines the output (N,C,h,h) of a module with its gradient. The results are summed over channels and
    modules, each in the same unit.
    """
    total = torch.zeros(len(images), 1, *images.shape[2:])
    for number, view in enumerate(make_d4_views(images)):
        for activation, gradient in _compute_activations_and_gradients(network, modules, view):
            cells = contribution(activation, gradient).sum(1, keepdim=True)
            total += undo_d4_view(F.interpolate(cells, images.shape[2:], mode="bilinear"), number)
    return total[:, 0] / 8


def _compute_activations_and_gradients(
    network: nn.Module, modules: Sequence[nn.Module], images: Tensor
) -> list[tuple[Tensor, Tensor]]:
    """Return the outputs of modules for images (N,3,H,H), and the gradients of the log odds there: all (N,C,h,h)."""
    captured: list[Tensor] = []

    def capture(_: nn.Module, output: Tensor) -> Tensor:
        captured.append(output if captured else output.detach().requires_grad_())  # no gradient before the first map
        return captured[-1].clone()  # the next module may change it in place

    with _hook(modules, capture), torch.enable_grad():
        logits = network(images)
        gradients = torch.autograd.grad((logits[:, 1] - logits[:, 0]).sum(), captured)
    pairs = zip((output.detach() for output in captured), gradients, strict=True)
    return [
        (output.movedim(3, 1), gradient.movedim(3, 1)) if _is_channels_last(output) else (output, gradient)
        for output, gradient in pairs
    ]


@contextmanager
def _hook(
    modules: Iterator[nn.Module] | Sequence[nn.Module], on_output: Callable[[nn.Module, Any], Any]
) -> Iterator[None]:
    """In this block, replace the output of each of these modules by the result of `on_output(module, output)`."""
    handles = [module.register_forward_hook(lambda module, _, output: on_output(module, output)) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
