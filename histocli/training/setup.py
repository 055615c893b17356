"""The parts of a training run that follow from its options: loaders, network, recipe and trainer."""

from pathlib import Path

import torch
from torch import nn

from histocli.architectures import ARCHITECTURES
from histocli.compute.ddp import Ranks
from histocli.compute.device import Compute
from histocli.config import BATCH_SIZE, RunConfig, choose_batch_size
from histocli.data.dataset import Subset, select_labelled
from histocli.data.loaders import PatchLoader
from histocli.enums import HeadKind, SplitName, Weights
from histocli.errors import HistoError, UsageError
from histocli.models import Classifier, create_model
from histocli.models.checkpoint import load_checkpoint
from histocli.models.knn import KnnHead
from histocli.reports.run import Shots
from histocli.training.few_shot import draw_shots
from histocli.training.knn import KnnTrainer
from histocli.training.trainer import Recipe, Trainer

_GPU_VAL_BATCH = 1024  # the smallest validation batch of histo's networks on a GPU; with less it waits for the host
_MIN_NORM_BATCH = 32  # the fewest patches for batch norm's statistics: Wu and He, "Group normalization", 2018


def make_loaders(
    subset: Subset, config: RunConfig, device: torch.device, ranks: Ranks
) -> tuple[PatchLoader, PatchLoader, Shots | None]:
    """Return the loaders of a subset's training and validation patches, and with `--shots` which ones were drawn.

    Raises:
        HistoError: the training patches have one class only, or fewer of a class than `--shots`.
        UsageError: the batch is too small for the number of processes.
    """
    train, val = select_labelled(subset, SplitName.TRAIN), select_labelled(subset, SplitName.VAL)
    if len(set(train.labels)) < 2:
        raise HistoError("all training patches have the same label", "histo balance selects patches of both classes")
    shots = None
    if config.shots is not None:
        train, shots = draw_shots(train, config.shots, config.seed)
    size, fewest = config.batch_size or choose_batch_size(device.type, len(train.rows)), 2 * ranks.size
    if ranks.size > 1 and min(size, len(train.rows)) < fewest:
        raise UsageError(f"--batch-size {size}: {ranks.size} processes need at least {fewest} patches per step")
    val_size = choose_validation_batch(config.arch, device.type, size)
    return (
        PatchLoader(train.store, train.rows, train.labels, size, device, ranks=ranks),
        PatchLoader(val.store, val.rows, val.labels, val_size, device, ranks=ranks),
        shots,
    )


def choose_validation_batch(arch: str, device: str, batch_size: int) -> int:
    """Return the batch size of validation: twice that of training, and at least 1,024 for histo's networks on a GPU.

    Other networks may be so large that 1,024 patches do not fit the memory.
    """
    is_small = arch in ARCHITECTURES
    return max(2 * batch_size, _GPU_VAL_BATCH) if device == "cuda" and is_small else 2 * batch_size


def make_model(config: RunConfig, device: torch.device, ranks: Ranks, run_dir: Path | None) -> Classifier:
    """Return the network on the device: a new one, or that of the last.pt in `run_dir`.

    Raises:
        HistoError: the checkpoint cannot be used, or pretrained weights cannot be loaded.
    """
    if run_dir is None:
        model = create_model(config.arch, config.weights)
    else:
        checkpoint, backbone = load_checkpoint(run_dir / "last.pt"), None
        # last.pt may have only the head. best.pt has the backbone, but not before the end of the first epoch.
        if checkpoint.backbone_sha256 and not (run_dir / "best.pt").is_file():
            backbone = create_model(config.arch, config.weights).state_dict()
        model = checkpoint.build(backbone)
    size = config.batch_size or BATCH_SIZE
    if device.type == "cuda" and ranks.size > 1 and size < _MIN_NORM_BATCH * ranks.size:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    return model.to(device)


def make_trainer(model: Classifier, config: RunConfig, compute: Compute, ranks: Ranks, train: PatchLoader) -> Trainer:
    """Return the trainer of a model, or with `--freeze` the trainer of its head.

    With `--head knn`, the head of the model is first replaced by a `KnnHead`.
    """
    recipe = Recipe(
        config.learning_rate,
        train.steps * config.epochs,
        seed=config.seed,
        first_step=train.steps * config.extended_after,
        augment=config.augment,
        rotate=config.rotate,
        compile=config.compile,
        backbone_lr=config.backbone_lr,
        # Weights from elsewhere were trained with AdamW, so continue with AdamW.
        muon=config.weights in (Weights.RANDOM, Weights.HISTONET_PCAM),
    )
    if not config.freeze:
        return Trainer(model, recipe, compute, ranks)
    network = model.backbone_and_head
    if config.head is HeadKind.KNN:
        network.head = KnnHead(network.width, len(train))
        return KnnTrainer(network.head, recipe, compute, ranks)
    return Trainer(network.head, recipe, compute, ranks)
