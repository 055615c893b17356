"""`--freeze`: train only the head, on features that the frozen backbone computes once for each patch.

They are kept in the workspace, for later runs with the same backbone.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from histocli.compute.device import Compute, move_model
from histocli.data.feature_cache import FeatureCache, FeatureSource
from histocli.data.features import FeatureLoader, compute_features
from histocli.data.loaders import PatchLoader
from histocli.models import Classifier
from histocli.models.backbone import HEAD, Head
from histocli.models.knn import KnnHead
from histocli.training.trainer import Trainer, copy_state
from histocli.workspace import Workspace


class Features(NamedTuple):
    """The features of the training patches and of the validation patches, and the `folder` that keeps them.

    `cached` is the number of patches whose features were in this folder already. `damaged` is the number of patches
    whose features were damaged there, and were computed again.
    """

    train: FeatureLoader
    val: FeatureLoader
    cached: int
    damaged: int
    folder: Path


def open_cache(workspace: Workspace, model: Classifier, compute: Compute, backbone_sha256: str) -> FeatureCache:
    """Return the features on disk that the backbone of `model` computes with this device and precision.

    Raises:
        HistoError: their folder cannot be written, or holds the features of another backbone.
    """
    source = FeatureSource(
        arch=model.arch,
        backbone_sha256=backbone_sha256,
        side=model.side,
        width=model.backbone_and_head.width,
        device=compute.device.type,
        precision=compute.precision.value,
    )
    return FeatureCache(workspace, source)


def extract_features(
    model: Classifier,
    trainer: Trainer,
    train: PatchLoader,
    val: PatchLoader,
    cache: FeatureCache,
    on_patches: Callable[[int], None],
) -> Features:
    """Read the features of patches from the cache; compute and save those that are not there yet.

    The trainer's heads then standardise, or remember, those of the training patches. The patches are not augmented.
    `on_patches` receives the number of patches that were done since its last call.
    """
    compute = trainer.compute
    move_model(model, compute.device).eval()

    def backbone(images: Tensor) -> Tensor:
        return compute_backbone_features(model, images, compute)

    parts = [compute_features(patches, backbone, cache, on_patches) for patches in (train, val)]
    _fit_heads(trainer, parts[0].loader)
    cached, damaged = sum(part.cached for part in parts), sum(part.damaged for part in parts)
    return Features(parts[0].loader, parts[1].loader, cached, damaged, cache.folder)


@torch.no_grad()
def compute_backbone_features(model: Classifier, images: Tensor, compute: Compute) -> Tensor:
    """Return the features (N,F) that the backbone of `model` computes from uint8 images (N,3,96,96) in one batch."""
    pixels = images.float().div_(255).contiguous(memory_format=torch.channels_last)
    with compute.autocast():
        return model.compute_features(pixels)


def _fit_heads(trainer: Trainer, train: FeatureLoader) -> None:
    """Let the trainer's heads standardise their input by the features of the training patches, or remember these."""
    for head in (trainer.model, trainer.ema_model):
        if isinstance(head, KnnHead):
            head.remember(train.features, train.labels)
        else:
            assert isinstance(head, Head)
            head.standardise(train.features)


def copy_head_weights(head: nn.Module) -> dict[str, Tensor]:
    """Return a copy of the state of a head on the CPU, with the names that it has in the state of a whole model."""
    return {HEAD + name: tensor for name, tensor in copy_state(head).items()}


def select_head_state(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the state of the head alone, given the state of a whole model."""
    return {name.removeprefix(HEAD): tensor for name, tensor in state.items() if name.startswith(HEAD)}
