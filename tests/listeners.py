"""Listeners for tests: one records what a command reports, one stops a training run."""

from histocli.listeners import CommandListener
from histocli.signals import Stopped
from histocli.training.listeners import Listener


class RecordingListener(CommandListener):
    """Records the notes, the numbers of patches and the messages of errors."""

    def __init__(self):
        self.notes, self.progress, self.errors = [], [], []

    def on_note(self, message):
        self.notes.append(message)

    def on_progress(self, done):
        self.progress.append(done)

    def on_unreadable(self, error):
        self.errors.append(str(error))


class StopAfterEpoch(Listener):
    """Ends a run after its first epoch, as Ctrl-C does."""

    def on_epoch_end(self, epoch, is_best):
        raise Stopped(2)
