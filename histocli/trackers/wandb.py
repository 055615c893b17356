"""Weights & Biases: the server of the user's account, or files in the run's folder."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

from histocli.trackers.base import StartedTracking, Status, Summary, TrackedRun, Tracker

if TYPE_CHECKING:
    import wandb

_EXIT_CODES: dict[Status, int] = {"finished": 0, "stopped": 130, "failed": 1}
_MAX_TAG = 64  # the largest number of characters of a tag


class WandbTracker(Tracker):
    """Sends a run to the project `WANDB_PROJECT`; offline if `WANDB_MODE` says so or there is no API key."""

    run: "wandb.Run"

    def start(self, run: TrackedRun) -> StartedTracking:
        """Create the run, or continue it."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        has_mode = bool(os.environ.get("WANDB_MODE"))
        self.id = run.id or f"{re.sub('[^A-Za-z0-9_-]', '-', run.name)[:40]}-{uuid4().hex[:8]}"
        self.run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "histo"),
            name=run.name,
            id=self.id,
            resume="allow",
            group=run.group or None,
            dir=os.environ.get("WANDB_DIR") or str(run.folder),
            config=dict(run.config),
            tags=[value[:_MAX_TAG] for value in dict.fromkeys(run.tags.values())],
            mode=None if has_mode or wandb.login(prompt=False) else "offline",  # else it would ask for a key
            # Neither the user's code nor what is printed is sent; the library prints nothing.
            settings=wandb.Settings(silent=True, console="off", disable_git=True, disable_code=True),
        )
        if self.run.offline:
            # Each call of wandb.init writes a folder of its own, and a killed process leaves an incomplete one.
            message = f"offline; send it with wandb sync {Path(self.run.dir).parent}"
            return StartedTracking(message, is_empty=True)
        return StartedTracking(str(self.run.url))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Send metrics."""
        self.run.log(dict(metrics), step=step, commit=True)  # else it waits for the next step

    def summarise(self, summary: Summary) -> None:
        """Send the pictures and the final metrics. The model card is not sent: the library would only link to it."""
        import wandb

        self.run.log({name: wandb.Image(str(path)) for name, path in summary.pictures.items()})
        self.run.summary.update(dict(summary.metrics))

    def log_run_metrics(self, metrics: Mapping[str, float]) -> None:
        """Send metrics to the summary of the run."""
        self.run.summary.update(dict(metrics))

    def close(self, status: Status) -> None:
        """End the run, after everything is sent."""
        self.run.finish(exit_code=_EXIT_CODES[status])
