"""The listener that sends the progress of a run to trackers. A tracker that fails never stops the training."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
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


class TrackerListener(Listener):
    """Sends the configuration, the metrics of each epoch and the final metrics of runs to several trackers.

    It is a context manager, which ends the tracking of a run that was stopped or has failed. `listener` receives its
    messages. A tracker that fails gives one warning and is not used for the rest of the run.
    """

    def __init__(self, track: Sequence[Track], listener: CommandListener) -> None:
        check_packages(track)
        self.kinds, self.listener = list(dict.fromkeys(track)), listener
        self.active: list[Tracker] = []  # those that have not failed
        self.run: Run | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._close("stopped" if kind is not None and issubclass(kind, KeyboardInterrupt) else "failed")

    def on_start(self, run: "Run", steps_before: int) -> None:
        """Start each tracker; it gets the earlier epochs of a resumed run that it does not have yet."""
        if not run.ranks.is_rank0:
            return
        self.run = run
        self.active = [make_tracker(kind) for kind in self.kinds]
        self._call_each(self._start)

    def on_epoch_end(self, epoch: Epoch, is_best: bool) -> None:
        """Send the metrics of an epoch."""
        self._call_each(lambda tracker: self._send_epochs(tracker, [epoch]))

    def on_end(self, run: "Run") -> None:
        """Send the metrics of the best epoch, its curves as pictures, and the model card, and end the tracking."""
        if self.active:
            self._send_results(run)
        self._close("finished")

    def _send_results(self, run: "Run") -> None:
        """Send the metrics, the pictures and the model card of a finished run."""
        try:
            report = evaluate_best_of_run(run.dir)
            with TemporaryDirectory(prefix="histo-") as folder:
                pictures = draw_pictures(Path(folder), report)
                summary = Summary(make_best_metrics(report), pictures, run.dir / "model_card.md")
                self._call_each(lambda tracker: tracker.summarise(summary))
        except Exception as error:  # noqa: BLE001 - such as a full disk; the run is finished, and its files are written
            self.listener.on_warning(
                f"--track: the final metrics of {run.name} were not sent: "
                f"{type(error).__name__}: {read_first_line(error)}"
            )

    def _close(self, status: Status) -> None:
        """End the tracking of the current run, and release the memory of its network and patches."""
        self._call_each(lambda tracker: tracker.close(status))
        self.active, self.run = [], None

    def _start(self, tracker: Tracker) -> None:
        """Start or continue the run in a tracker, and print its address."""
        assert self.run is not None
        run = self.run
        state = read_state(run.dir).get(tracker.kind)
        started = tracker.start(make_tracked_run(run.workspace, run.dir, state.id if state else ""))
        self.listener.on_note(f"{tracker.kind.value}: {started.message}")
        self._send_epochs(tracker, run.history[state.epochs if state and not started.is_empty else 0 :])

    def _send_epochs(self, tracker: Tracker, epochs: Sequence[Epoch]) -> None:
        """Send the metrics of epochs, and record the last one that was sent."""
        assert self.run is not None
        for epoch in epochs:
            tracker.log(make_epoch_metrics(epoch), epoch.step)
        write_state(self.run.dir, tracker.kind, tracker.id, epochs[-1].epoch if epochs else None)

    def _call_each(self, call: Callable[[Tracker], None]) -> None:
        """Call a function for each tracker; report one that fails, and do not use it again."""
        for tracker in list(self.active):
            try:
                call(tracker)
            except Exception as error:  # noqa: BLE001 - another library may raise anything, and the training continues
                self.active.remove(tracker)
                assert self.run is not None
                self.listener.on_warning(
                    f"--track {tracker.kind.value} failed; the run {self.run.name} continues without it: "
                    f"{type(error).__name__}: {read_first_line(error)}"
                )
                with suppress(Exception):  # it is reported already
                    tracker.close("failed")
