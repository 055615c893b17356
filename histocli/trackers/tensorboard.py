"""TensorBoard: event files in the run's folder."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from histocli.trackers.base import StartedTracking, Status, Summary, TrackedRun, Tracker

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter


class TensorBoardTracker(Tracker):
    """Writes scalars, texts and the table of hyperparameters with the library of TensorBoard."""

    writer: "SummaryWriter"

    def start(self, run: TrackedRun) -> StartedTracking:
        """Open a new event file; TensorBoard shows all event files of a folder as one run."""
        from torch.utils.tensorboard import SummaryWriter

        self.run, self.id = run, run.name
        folder = run.folder / "tensorboard"
        self.writer = SummaryWriter(str(folder))
        self.writer.add_text("config", _format_table(run.config))
        self.writer.add_text("tags", _format_table({"run": run.name, "group": run.group or "-", **run.tags}))
        self.writer.flush()
        return StartedTracking(f"tensorboard --logdir {run.folder.parent}")

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Write scalars."""
        for name, value in metrics.items():
            self.writer.add_scalar(name, value, step)
        self.writer.flush()

    def summarise(self, summary: Summary) -> None:
        """Write the model card, the pictures and the final metrics; these are the run's row of hyperparameters too."""
        self.writer.add_text("model_card", summary.card.read_text(encoding="utf-8"))
        for name, path in summary.pictures.items():
            with Image.open(path) as picture:
                self.writer.add_image(name, np.asarray(picture.convert("RGB")), dataformats="HWC")
        self.writer.add_hparams(self.run.config, dict(summary.metrics), run_name=".")  # "." is the same folder
        self.writer.flush()

    def close(self, status: Status) -> None:
        """Close the event file."""
        self.writer.close()


def _format_table(values: Mapping[str, object]) -> str:
    """Return names and values as a Markdown table."""
    rows = (f"| {name} | {str(value).replace('|', '&#124;')} |" for name, value in values.items())
    return "\n".join(["| name | value |", "| --- | --- |", *rows])
