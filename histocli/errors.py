"""Errors that a user can fix, and exit codes; after a signal the exit code is 128 + its number."""

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_BUG = 3
EXIT_PARTIAL = 4


class HistoError(Exception):
    """An error that a user can fix: the message says what is wrong, and `hint` how to fix it.

    The command line prints both and exits with `EXIT_FAILURE`; any other exception is a bug.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class PartialError(HistoError):
    """Some inputs could not be read, and all others were processed; the command line exits with `EXIT_PARTIAL`."""


class UsageError(HistoError):
    """An option or its value is not allowed; the command line exits with `EXIT_USAGE`."""
