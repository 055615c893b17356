"""The listener that shows the messages and the progress of a command on stderr."""

from histocli.console import OnProgress, Reporter
from histocli.errors import HistoError
from histocli.listeners import CommandListener


class ConsoleListener(CommandListener):
    """Prints messages, and moves a progress bar."""

    def __init__(self, reporter: Reporter, bar: OnProgress = lambda done, total: None) -> None:
        self.reporter, self.bar = reporter, bar
        self.total: int | None = None
        self._warned: set[str] = set()

    def on_note(self, message: str) -> None:
        """Print it."""
        self.reporter.note(message)

    def on_warning(self, message: str) -> None:
        """Print a warning; if the same warning comes again, as when two checkpoints are compared, do not repeat it."""
        if message not in self._warned:
            self._warned.add(message)
            self.reporter.warn(message)

    def on_total(self, total: int | None) -> None:
        """Keep the total for the bar."""
        self.total = total

    def on_progress(self, done: int) -> None:
        """Move the bar."""
        self.bar(done, self.total)

    def on_unreadable(self, error: HistoError) -> None:
        """Print the error and its hint as a warning."""
        self.reporter.warn(f"{error} ({error.hint})" if error.hint else str(error))
