"""The expected errors, and the exit codes; the exit code of a signal is 128 + its number."""

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_BUG = 3


class HistoError(Exception):
    """An expected failure: the message says what is wrong, and `hint` how to fix it.

    The command line prints both and exits with `EXIT_FAILURE`; any other exception is a bug.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(HistoError):
    """The options cannot be used; the command line exits with `EXIT_USAGE`."""
