"""The progress of a training run, and the listener that receives it."""

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from histocli.training.run import Run


class Progress(NamedTuple):
    """The state of a run after a step; `loss` is the mean of recent steps, `auc` that of the last complete epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int
    patches: int
    loss: float | None
    auc: float | None


class EpochStats(NamedTuple):
    """The mean loss of an epoch's training steps, patches per second, and seconds."""

    loss: float
    rate: float
    seconds: float


class Epoch(NamedTuple):
    """The metrics of an epoch: a row of `history.jsonl`."""

    epoch: int
    step: int
    train_loss: float
    lr: float
    patches_per_second: float
    seconds: float
    val_loss: float
    val_auc: float | None
    val_accuracy: float


class Listener:
    """Receives the progress of training; this base class ignores it."""

    def on_start(self, run: "Run", at: int) -> None:
        """Training starts after step `at`, which is 0 for a new run."""

    def on_features(self, done: int, total: int) -> None:
        """A frozen backbone has computed the features of `done` patches."""

    def on_step(self, progress: Progress) -> None:
        """A step is finished."""

    def on_epoch_end(self, epoch: Epoch, is_best: bool) -> None:
        """An epoch is trained, validated and saved."""


def quality(epoch: Epoch) -> tuple[float, float]:
    """Return the key that orders epochs: the validation AUC, then the loss; only the loss if there is no AUC."""
    return (-1.0 if epoch.val_auc is None else epoch.val_auc, -epoch.val_loss)
