"""The progress of a training run, and the listener that receives it."""

from typing import TYPE_CHECKING, Any, NamedTuple

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

    def started(self, run: "Run", at: int) -> None:
        """Everything is checked, and training starts after step `at`, which is 0 for a new run."""

    def described(self, done: int, total: int) -> None:
        """A frozen backbone has computed the features of `done` patches."""

    def stepped(self, progress: Progress) -> None:
        """A step is finished."""

    def finished_epoch(self, row: Epoch, best: bool) -> None:
        """An epoch is trained, validated and saved."""


def quality(row: dict[str, Any]) -> tuple[float, float]:
    """Return the key that orders epochs: the validation AUC, then the loss; only the loss if there is no AUC."""
    return (-1.0 if row["val_auc"] is None else row["val_auc"], -row["val_loss"])
