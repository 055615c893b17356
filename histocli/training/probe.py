"""`--freeze`: train only the head, on features that the frozen backbone computes once for each patch."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn

from histocli.data.features import FeatureLoader, compute_features
from histocli.data.loaders import PatchLoader
from histocli.models import Classifier
from histocli.models.backbone import HEAD, Head
from histocli.training.trainer import Trainer, copy_state


class FeatureLoaders(NamedTuple):
    """The features of the training and of the validation patches."""

    train: FeatureLoader
    val: FeatureLoader


def extract_features(
    model: Classifier,
    trainer: Trainer,
    train: PatchLoader,
    val: PatchLoader,
    on_patches: Callable[[int], None] = lambda done: None,
) -> FeatureLoaders:
    """Compute the features of all patches once, and standardise the trainer's heads by those of the training patches.

    The patches are not augmented. `on_patches` receives the number of patches that are done.
    """
    model.to(trainer.compute.device).eval()
    done = 0

    def count(patches: int) -> None:
        nonlocal done
        done += patches
        on_patches(done)

    def backbone(images: Tensor) -> Tensor:
        pixels = images.float().div_(255).contiguous(memory_format=torch.channels_last)
        with trainer.compute.autocast():
            return model.features(pixels)

    loaders = FeatureLoaders(*(compute_features(patches, backbone, count) for patches in (train, val)))
    for head in (trainer.model, trainer.ema_model):
        assert isinstance(head, Head)
        head.standardise(loaders.train.features)
    return loaders


def whole_state(model: Classifier, head: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the state of `model` with the weights of `head` instead of its own head, on the CPU."""
    return copy_state(model) | head_weights(head)


def head_weights(head: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the state of a head on the CPU, with the names that it has in the state of a whole model."""
    return {HEAD + name: tensor for name, tensor in copy_state(head).items()}


def head_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of the head alone, given the state of a whole model."""
    return {name.removeprefix(HEAD): tensor for name, tensor in state.items() if name.startswith(HEAD)}
