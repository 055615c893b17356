"""Listeners, which receive the progress of a whole training run, from its start to its end."""

from typing import TYPE_CHECKING, NamedTuple

from histocli.reports.run import Epoch

if TYPE_CHECKING:
    from histocli.training.probe import Features
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


class Listener:
    """Receives the progress of training; this base class ignores it."""

    def on_start(self, run: "Run", steps_before: int) -> None:
        """Called when training starts; `steps_before` steps were trained before, 0 in a new run."""

    def on_features(self, done: int, total: int) -> None:
        """Called when a frozen backbone has computed the features of `done` patches."""

    def on_features_end(self, features: "Features") -> None:
        """Called when the features of all patches are there."""

    def on_step(self, progress: Progress) -> None:
        """Called after each step."""

    def on_epoch_end(self, epoch: Epoch, is_best: bool) -> None:
        """Called when an epoch is trained, validated and saved."""

    def on_end(self, run: "Run") -> None:
        """Called when all epochs are trained and the model card is written."""

    def on_signal(self) -> None:
        """Called in another thread when a signal asks the run to stop; it stops after its current step."""


class Listeners(Listener):
    """Passes everything on to several listeners, in their order."""

    def __init__(self, *listeners: Listener) -> None:
        self.listeners = listeners

    def on_start(self, run: "Run", steps_before: int) -> None:
        """Pass it on."""
        for listener in self.listeners:
            listener.on_start(run, steps_before)

    def on_features(self, done: int, total: int) -> None:
        """Pass it on."""
        for listener in self.listeners:
            listener.on_features(done, total)

    def on_features_end(self, features: "Features") -> None:
        """Pass it on."""
        for listener in self.listeners:
            listener.on_features_end(features)

    def on_step(self, progress: Progress) -> None:
        """Pass it on."""
        for listener in self.listeners:
            listener.on_step(progress)

    def on_epoch_end(self, epoch: Epoch, is_best: bool) -> None:
        """Pass it on."""
        for listener in self.listeners:
            listener.on_epoch_end(epoch, is_best)

    def on_end(self, run: "Run") -> None:
        """Pass it on, to the last listener first: the progress bar is closed before trackers print their messages."""
        for listener in reversed(self.listeners):
            listener.on_end(run)

    def on_signal(self) -> None:
        """Pass it on."""
        for listener in self.listeners:
            listener.on_signal()
