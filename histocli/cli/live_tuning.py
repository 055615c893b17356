"""The display of a search: a row for each trial, and a progress bar below them."""

from collections.abc import Sequence
from typing import Self

from histocli.cli.live import STOPPING
from histocli.cli.render import TRIAL_COLUMNS, format_trial
from histocli.commands.tune import TuneListener
from histocli.console import Rate, Reporter
from histocli.reports.tune import TrialReport
from histocli.text import format_count
from histocli.training.listeners import Progress as Step
from histocli.training.run import Run
from histocli.training.study import ClaimedTrial, Study

_WIDTHS = (5, 8, 8, 7, 9, 7, 8, 9)  # the widths of all columns except the last one


class LiveTuning(TuneListener):
    """Shows the progress of a study; if stderr is not a terminal, only the row of each trial."""

    def __init__(self, reporter: Reporter) -> None:
        self.reporter = reporter
        self.progress = reporter.make_progress(Rate("patches"), width=8)
        self.task = self.progress.add_task("", visible=False)
        self.has_device = False

    def __enter__(self) -> Self:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.update(self.task, visible=False)
        self.progress.stop()

    def on_study(self, study: Study, trials: list[TrialReport]) -> None:
        """Print what the trials are measured on, and how many there are already."""
        self.folds = study.config.folds
        name, parts = study.config.name, f"{self.folds} folds of {study.config.data} by {study.split_by}"
        already = f"continued after {format_count(len(trials), 'trial')}" if trials else "a new study"
        self.reporter.note(f"{name}: {already}; {parts}")
        self.reporter.note(_format_row(TRIAL_COLUMNS))

    def on_fold_start(self, trial: ClaimedTrial, fold: int) -> None:
        """Show the trial and the fold beside the progress bar."""
        description = f"trial {trial.number}, fold {fold + 1}/{self.folds}"
        self.progress.reset(self.task, description=description, visible=True)

    def on_start(self, run: Run, steps_before: int) -> None:
        """Set the length of the progress bar, and print the device once."""
        if not self.has_device:
            self.has_device = True
            if run.compute.warning:
                self.reporter.warn(run.compute.warning)
            self.reporter.print_detail(run.compute.reason)
        size = min(run.train_loader.batch_size, len(run.train_loader))
        self.progress.update(self.task, total=run.trainer.recipe.total_steps * size, completed=steps_before * size)

    def on_step(self, progress: Step) -> None:
        """Update the progress bar."""
        self.progress.update(self.task, completed=progress.patches)

    def on_signal(self) -> None:
        """Print that the study is going to stop, because this may take some seconds."""
        self.reporter.note(STOPPING)

    def on_trial_end(self, trial: TrialReport) -> None:
        """Print the row of a trial, and why it failed or was stopped early."""
        self.reporter.note(_format_row(format_trial(trial, self.folds)))
        if trial.problem:
            self.reporter.warn(f"trial {trial.number} failed: {trial.problem}")


def _format_row(cells: Sequence[str]) -> str:
    """Return the cells in columns; the last one has no width."""
    return "".join(cell.rjust(width) for cell, width in zip(cells, _WIDTHS, strict=False)) + f"  {cells[-1]}"
