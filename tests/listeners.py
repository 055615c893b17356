"""A listener that records what a command reports."""

from histocli.listeners import CommandListener


class RecordingListener(CommandListener):
    """Records the numbers of patches and the messages of errors."""

    def __init__(self):
        self.progress, self.errors = [], []

    def on_progress(self, done):
        self.progress.append(done)

    def on_unreadable(self, error):
        self.errors.append(str(error))
