"""The listener that sends the progress of a run to trackers. A tracker that fails never stops the training."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Self

from histocli.enums import Track
from histocli.errors import read_first_line
from histocli.listeners import CommandListener
from histocli.reports.run import Epoch
from histocli.trackers.base import Status, Summary, Tracker
from histocli.trackers.pictures import draw_pictures
from histocli.trackers.records import (
    evaluate_best_of_run,
    make_best_metrics,
    make_epoch_metrics,
    make_tracked_run,
    read_state,
    write_state,
)
from histocli.trackers.registry import check_packages, make_tracker
from histocli.training.listeners import Listener

if TYPE_CHECKING:
    from histocli.training.run import Run


@dataclass
class _ActiveTracker:
    """A tracker that has not failed, and the run's id in it, which is "" before it has started."""

    kind: Track
    tracker: Tracker
    id: str = ""


class TrackerListener(Listener):
    """Sends the configuration, the metrics of each epoch and the final metrics of one run to several trackers.

    It is a context manager, which ends the tracking. `listener` receives its messages. A tracker that fails
    gives one warning and is not used for the rest of the run.
    """

    def __init__(self, track: Sequence[Track], listener: CommandListener) -> None:
        check_packages(track)
        self.kinds, self.listener = list(dict.fromkeys(track)), listener
        self.active: list[_ActiveTracker] = []
        self.run: Run | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        status: Status = "finished"
        if kind is not None:
            status = "stopped" if issubclass(kind, KeyboardInterrupt) else "failed"
        self._call_each(lambda active: active.tracker.close(status))
        self.active = []

    def on_start(self, run: "Run", steps_before: int) -> None:
        """Start each tracker; it gets the earlier epochs of a resumed run that it does not have yet."""
        if not run.ranks.is_rank0:
            return
        self.run = run
        self.active = [_ActiveTracker(kind, make_tracker(kind)) for kind in self.kinds]
        self._call_each(self._start)

    def on_epoch_end(self, epoch: Epoch, is_best: bool) -> None:
        """Send the metrics of an epoch."""
        self._call_each(lambda active: self._send_epochs(active, [epoch]))

    def on_end(self, run: "Run") -> None:
        """Send the metrics of the best epoch with their intervals, its curves as pictures, and the model card."""
        if not self.active:
            return
        try:
            report = evaluate_best_of_run(run.dir)
            with TemporaryDirectory(prefix="histo-") as folder:
                pictures = draw_pictures(Path(folder), report)
                summary = Summary(make_best_metrics(report), pictures, run.dir / "model_card.md")
                self._call_each(lambda active: active.tracker.summarise(summary))
        except Exception as error:  # noqa: BLE001 - such as a full disk; the run is finished, and its files are written
            self.listener.on_warning(
                f"--track: the final metrics were not sent: {type(error).__name__}: {read_first_line(error)}"
            )

    def _start(self, active: _ActiveTracker) -> None:
        """Start or continue the run in a tracker, and print its address."""
        assert self.run is not None
        run = self.run
        state = read_state(run.dir).get(active.kind)
        started = active.tracker.start(make_tracked_run(run.workspace, run.dir, state.id if state else ""))
        active.id = started.id
        self.listener.on_note(f"{active.kind.value}: {started.message}")
        self._send_epochs(active, run.history[state.epochs if state and not started.is_empty else 0 :])

    def _send_epochs(self, active: _ActiveTracker, epochs: Sequence[Epoch]) -> None:
        """Send the metrics of epochs, and record the last one that was sent."""
        assert self.run is not None
        for epoch in epochs:
            active.tracker.log(make_epoch_metrics(epoch), epoch.step)
        write_state(self.run.dir, active.kind, active.id, epochs[-1].epoch if epochs else None)

    def _call_each(self, call: Callable[[_ActiveTracker], None]) -> None:
        """Call a function for each tracker; report one that fails, and do not use it again."""
        for active in list(self.active):
            try:
                call(active)
            except Exception as error:  # noqa: BLE001 - another library may raise anything, and the training continues
                self.active.remove(active)
                self.listener.on_warning(
                    f"--track {active.kind.value} failed; the run continues without it: "
                    f"{type(error).__name__}: {read_first_line(error)}"
                )
                with suppress(Exception):  # it is reported already
                    active.tracker.close("failed")
