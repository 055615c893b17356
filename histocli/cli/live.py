"""How training looks while it runs: a row for each epoch, and a bar below them."""

from contextlib import ExitStack
from types import TracebackType
from typing import Self

from rich.progress import (
    BarColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from histocli.commands.train import Epoch, Listener
from histocli.commands.train import Progress as Step
from histocli.console import Rate, Reporter, number
from histocli.engine import Compute


class LiveTraining(Listener):
    """Draws a run's progress; off a terminal it prints the rows alone."""

    def __init__(self, report: Reporter) -> None:
        self.report = report
        self.progress = Progress(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            Rate("patches"),
            TimeElapsedColumn(),
            TextColumn("[dim]left[/]"),
            TimeRemainingColumn(),
            console=report.console,
            disable=report.quiet or not report.console.is_terminal,
        )
        self.stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stack.close()

    def started(self, run: str, compute: Compute, train: int, val: int, resumed_at: int) -> None:
        """Say what runs where."""
        self.report.note(f"{run}: {train:,} patches to train on, {val:,} to validate; {compute.reason}")
        if resumed_at:
            self.report.note(f"resumed after step {resumed_at:,}")
        self.report.note(_row("epoch", "loss", "val loss", "val AUC", "val acc", "patches/s", "seconds"))
        self.stack.enter_context(self.progress)
        self.task = self.progress.add_task("epoch 1", total=None)

    def stepped(self, progress: Step) -> None:
        """Move the bar."""
        self.progress.update(
            self.task,
            description=f"epoch {progress.epoch}/{progress.epochs}",
            completed=progress.patches,
            total=progress.patches / progress.step * progress.steps,
        )

    def finished_epoch(self, row: Epoch, best: bool) -> None:
        """Print the epoch's row."""
        self.report.note(
            _row(
                str(row.epoch),
                f"{row.train_loss:.4f}",
                f"{row.val_loss:.4f}",
                number(row.val_auc),
                f"{row.val_accuracy:.4f}",
                f"{row.patches_per_second:,.0f}",
                f"{row.seconds:,.0f}",
            )
            + ("  best" if best else "")
        )


def _row(*cells: str) -> str:
    return "".join(cell.rjust(width) for cell, width in zip(cells, (5, 9, 10, 9, 9, 11, 9), strict=True))
