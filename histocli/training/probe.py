"""`--freeze`: a head trained on the features that a pretrained backbone gives of each patch once, as it is."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from histocli.compute.device import Compute
from histocli.data.features import FeatureLoader, compute_features
from histocli.data.loaders import PatchLoader
from histocli.models import Classifier
from histocli.models.backbone import HEAD, Head
from histocli.training.trainer import Trainer


class Described(NamedTuple):
    """The training and the validation patches by their features."""

    train: FeatureLoader
    val: FeatureLoader


def describe(
    model: Classifier,
    trainer: Trainer,
    train: PatchLoader,
    val: PatchLoader,
    on_patches: Callable[[int], None] = lambda done: None,
) -> Described:
    """Compute both parts' features, and let the heads that `trainer` trains and averages standardise by the first's.

    Each patch is seen once, upright and without augmentation. `on_patches` is told how many are done in all.
    """
    model.to(trainer.compute.device).eval()
    done = 0

    def count(patches: int) -> None:
        nonlocal done
        done += patches
        on_patches(done)

    parts = [
        compute_features(part, lambda images: _features(model, images, trainer.compute), count) for part in (train, val)
    ]
    for head in (trainer.model, trainer.ema_model):
        assert isinstance(head, Head)
        head.standardise(parts[0].features)
    return Described(*parts)


def _features(model: Classifier, images: Tensor, compute: Compute) -> Tensor:
    pixels = images.float().div_(255).contiguous(memory_format=torch.channels_last)
    with compute.autocast():
        return model.features(pixels)


def whole_state(model: Classifier, head: nn.Module) -> dict[str, Tensor]:
    """The state of the model with that of `head` in the place of its own."""
    return model.state_dict() | {HEAD + name: tensor for name, tensor in head.state_dict().items()}


def head_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The head's part of a model's state."""
    return {name.removeprefix(HEAD): tensor for name, tensor in state.items() if name.startswith(HEAD)}
