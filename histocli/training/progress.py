"""The progress of a training run: steps, and epochs with their metrics."""

from dataclasses import dataclass
from typing import NamedTuple

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
    """The metrics of an epoch: a row of `history.jsonl`.

    Those of the validation patches are of uncalibrated probabilities; the accuracy is at the threshold 0.5.
    """

    epoch: Count
    step: Count
    train_loss: float
    lr: float
    patches_per_second: float
    seconds: float
    val_loss: float
    val_auc: Fraction | None
    val_accuracy: Fraction


def make_epoch_key(epoch: Epoch) -> tuple[float, float]:
    """Return the key that orders epochs: the validation AUC, then the loss; only the loss if there is no AUC."""
    return (-1.0 if epoch.val_auc is None else epoch.val_auc, -epoch.val_loss)
