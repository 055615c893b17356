"""The classifiers in torchvision's registry."""

from functools import cache
from typing import Any

import torch
from torch import nn

from histocli.errors import read_first_line
from histocli.models.backbone import Backbone, make_missing_weights_error
from histocli.patch import PATCH_SIDE

# These have auxiliary classifiers for ImageNet's classes; with published weights they take images in [-1, 1].
_AUXILIARIES = {"googlenet": ("aux1", "aux2"), "inception_v3": ("AuxLogits",)}
_SIDES = {"inception_v3": 299}  # with 96 pixels, the last map of this network is a single cell


@cache
def list_torchvision_names() -> tuple[str, ...]:
    """Return the registered names of all classifiers."""
    from torchvision import models

    return tuple(models.list_models(module=models))


def create_torchvision_backbone(arch: str, pretrained: bool) -> Backbone:
    """Return the network registered as `arch`, without its last layer.

    It takes patches of 96x96 pixels, unless it needs larger images: then patches are resized to its smallest size.

    Raises:
        HistoError: the pretrained weights cannot be loaded.
    """
    from torchvision.models import get_model, get_model_weights

    published = get_model_weights(arch).DEFAULT
    smallest = published.meta["min_size"][0]
    options: dict[str, Any] = {"image_size": smallest} if arch.startswith("vit_") else {}
    if arch in _AUXILIARIES:
        options = {"transform_input": False, "init_weights": not pretrained}
    try:
        network: nn.Module = get_model(arch, weights=published if pretrained else None, **options)
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise make_missing_weights_error(arch, read_first_line(error), f"{torch.hub.get_dir()}/checkpoints") from error
    if arch in _AUXILIARIES:
        for name, value in (("aux_logits", False), *((name_of_part, None) for name_of_part in _AUXILIARIES[arch])):
            setattr(network, name, value)
    backbone = Backbone(arch, network, _remove_last_layer(network))
    side = _SIDES.get(arch, smallest)
    backbone = backbone._replace(side=side if side > PATCH_SIDE else None)
    if pretrained:
        transforms = published.transforms()
        half = (0.5, 0.5, 0.5)
        mean, std = (half, half) if arch in _AUXILIARIES else (tuple(transforms.mean), tuple(transforms.std))
        backbone = backbone._replace(mean=mean, std=std)
    return backbone


def _remove_last_layer(network: nn.Module) -> int:
    """Remove the layer for ImageNet's classes, and return the number of its inputs.

    In SqueezeNet this layer is a 1x1 convolution, followed by the mean over the map. Without it the mean is over its
    input; the order does not matter, because both are linear.
    """
    name, last = [
        (name, module) for name, module in network.named_modules() if isinstance(module, nn.Linear | nn.Conv2d)
    ][-1]
    network.set_submodule(name, nn.Identity())
    return last.in_features if isinstance(last, nn.Linear) else last.in_channels
