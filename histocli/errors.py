"""What can go wrong, and the exit code each kind of it ends with; a signal's is 128 and its number."""

EXIT_OK = 0
EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_BUG = 3


class HistoError(Exception):
    """An expected failure: one line says what is wrong, `hint` how to mend it.

    The command line prints both and exits with `EXIT_FAILURE`; anything else that escapes is a bug.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(HistoError):
    """The options themselves are wrong: the same two lines, and `EXIT_USAGE`."""
