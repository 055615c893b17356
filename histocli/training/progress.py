"""The progress of a training run: steps, epochs, and the metrics of its validation patches."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from histocli.metrics import compute_auc
from histocli.metrics.curves import Floats, Ints
from histocli.schema import Count, Fraction


class Progress(NamedTuple):
    """The state of a run after a step; `loss` is the mean of recent steps, `auc` that of the last complete epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int
    patches: int
    loss: float | None
    auc: float | None


@dataclass(frozen=True)
class EpochStats:
    """The mean loss of an epoch's training steps, patches per second, and seconds."""

    loss: float
    rate: float
    seconds: float


@dataclass(frozen=True)
class Epoch:
    """The metrics of an epoch: a row of `history.jsonl`."""

    epoch: Count
    step: Count
    train_loss: float
    lr: float
    patches_per_second: float
    seconds: float
    val_loss: float
    val_auc: Fraction | None
    val_accuracy: Fraction


class ValidationMetrics(NamedTuple):
    """The metrics of the validation patches, from uncalibrated probabilities; the accuracy is at the threshold 0.5."""

    val_loss: float
    val_auc: float | None
    val_accuracy: float


def make_epoch_key(epoch: Epoch) -> tuple[float, float]:
    """Return the key that orders epochs: the validation AUC, then the loss; only the loss if there is no AUC."""
    return (-1.0 if epoch.val_auc is None else epoch.val_auc, -epoch.val_loss)


def measure_validation(labels: Ints, probs: Floats) -> ValidationMetrics:
    """Return the metrics of validation patches, from labels (N,) and probabilities (N,)."""
    label_probs = np.clip(np.where(labels == 1, probs, 1 - probs), 1e-7, 1)
    return ValidationMetrics(
        val_loss=float(-np.log(label_probs).mean()),
        val_auc=compute_auc(labels, probs),
        val_accuracy=float(((probs >= 0.5) == labels).mean()),
    )
