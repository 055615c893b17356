"""The display of training: a row for each epoch, and a progress bar below them."""

from contextlib import ExitStack
from typing import Self

from histocli.console import Rate, Reporter, format_cell
from histocli.models import describe_weights
from histocli.reports.run import Epoch
from histocli.training.listeners import Listener
from histocli.training.listeners import Progress as Step
from histocli.training.probe import Features
from histocli.training.run import Run

STOPPING = "stopping after this step, and saving the state; Ctrl-C again stops at once"


class LiveTraining(Listener):
    """Shows the progress of a run; if stderr is not a terminal, only the row of each epoch."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.stack = ExitStack()  # closes the progress bar of the current run

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def on_start(self, run: Run, steps_before: int) -> None:
        """Print the run, its numbers of patches and its device."""
        self.reporter.note(
            f"{run.name}: {len(run.train_loader):,} patches to train on, {len(run.val_loader):,} to validate"
        )
        if run.compute.warning:
            self.reporter.warn(run.compute.warning)
        if run.shots:
            self.reporter.note(run.shots.describe(run.config.seed))
        if note := describe_weights(run.config.arch, run.config.weights):
            self.reporter.warn(note)
        self.reporter.note(run.compute.reason + (f"; {run.ranks.size} processes" if run.ranks.size > 1 else ""))
        for name, value in vars(run.config).items():
            self.reporter.print_detail(f"{name.replace('_', ' ')}: {value}")
        if steps_before:
            before, now = run.processes_before, run.ranks.size
            processes = "1 process" if now == 1 else f"{now} processes"
            changed = f", with {processes} where there were {before}" if now != before else ""
            if run.epochs_before < run.config.epochs:
                self.reporter.note(
                    f"extended from {run.epochs_before} to {run.config.epochs} epochs: the learning rate rises to "
                    f"{run.config.learning_rate:g} again, and falls"
                )
            self.reporter.note(f"resumed after step {steps_before:,} of {run.trainer.recipe.total_steps:,}{changed}")
        elif run.is_resumed:
            self.reporter.note("starts again at the first step: no step had been saved")
        if not run.config.freeze:  # else after the features
            self._show_header()
        self.progress = self.stack.enter_context(self.reporter.make_progress(Rate("patches"), width=8))
        self.epochs = run.config.epochs
        size = min(run.train_loader.batch_size, len(run.train_loader))
        self.task = self.progress.add_task(
            f"epoch {len(run.history) + 1}/{run.config.epochs}",
            completed=steps_before * size,  # steps before resuming do not count in the rate
            total=run.trainer.recipe.total_steps * size,
        )

    def on_features(self, done: int, total: int) -> None:
        """Show for how many patches the features are computed."""
        self.progress.update(self.task, description=f"features {done:,}/{total:,}")

    def on_features_end(self, features: Features) -> None:
        """Print how many patches had features in the cache, and how many were damaged there."""
        total = len(features.train) + len(features.val)
        others = "; the others were computed" if features.cached < total else ""
        verb = "was" if features.cached == 1 else "were"
        self.reporter.note(
            f"features: {features.cached:,} of {total:,} patches {verb} cached in {features.folder}{others}"
        )
        if features.damaged:
            self.reporter.warn(f"{features.damaged:,} features in {features.folder} were damaged and computed again")
        self._show_header()

    def _show_header(self) -> None:
        self.reporter.note(_format_row("epoch", "loss", "val loss", "val AUC", "val acc", "patches/s", "seconds"))

    def on_step(self, progress: Step) -> None:
        """Update the progress bar."""
        self.progress.update(
            self.task,
            description=_describe_progress(progress.epoch, progress.epochs, progress.loss, progress.auc),
            completed=progress.patches,
        )

    def on_end(self, run: Run) -> None:
        """Close the progress bar; another fold or seed gets its own."""
        self.stack.close()

    def on_signal(self) -> None:
        """Print that the run is going to stop, because this may take some seconds."""
        self.reporter.note(STOPPING)

    def on_epoch_end(self, epoch: Epoch, is_best: bool) -> None:
        """Print the row of an epoch, and show its loss and AUC next to the progress bar."""
        self.progress.update(
            self.task, description=_describe_progress(epoch.epoch, self.epochs, epoch.train_loss, epoch.val_auc)
        )
        self.reporter.note(
            _format_row(
                str(epoch.epoch),
                f"{epoch.train_loss:.4f}",
                f"{epoch.val_loss:.4f}",
                format_cell(epoch.val_auc),
                f"{epoch.val_accuracy:.4f}",
                f"{epoch.patches_per_second:,.0f}",
                f"{epoch.seconds:,.0f}",
            )
            + ("  best" if is_best else "")
        )


def _describe_progress(epoch: int, epochs: int, loss: float | None, auc: float | None) -> str:
    """Return the text before the progress bar: the epoch, and the loss and the validation AUC if they are known."""
    text = f"epoch {epoch}/{epochs}" + ("" if loss is None else f" loss {loss:.3f}")
    return text + ("" if auc is None else f" AUC {auc:.3f}")


def _format_row(*cells: str) -> str:
    return "".join(cell.rjust(width) for cell, width in zip(cells, (5, 9, 10, 9, 9, 11, 9), strict=True))
