"""What a training run tells of its progress, and who is told."""

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from histocli.training.run import Run


class Progress(NamedTuple):
    """Where a run stands after a step; `loss` is the mean of recent steps, `auc` that of the last full epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int
    patches: int
    loss: float | None
    auc: float | None


class Epoch(NamedTuple):
    """A row of `history.jsonl`."""

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
    """Told how training goes; this one says nothing."""

    def started(self, run: "Run", at: int) -> None:
        """Everything is checked and the step after `at` comes next; that is 0 for a new run."""

    def described(self, done: int, total: int) -> None:
        """A frozen backbone has seen so many of all patches."""

    def stepped(self, progress: Progress) -> None:
        """A step is done."""

    def finished_epoch(self, row: Epoch, best: bool) -> None:
        """An epoch is trained, validated and saved."""


def quality(row: dict[str, Any]) -> tuple[float, float]:
    """What makes an epoch the best: the validation AUC, then the loss; the loss alone where there is no AUC."""
    return (-1.0 if row["val_auc"] is None else row["val_auc"], -row["val_loss"])
