"""Errors that a user can fix, and exit codes; after a signal the exit code is 128 + its number."""

from histocli.text import escape_control_characters, shorten

EXIT_FAILURE = 1
EXIT_USAGE = 2
EXIT_BUG = 3
EXIT_PARTIAL = 4
_MAX_TEXT = 10_000  # characters of a message: two of the longest paths that Linux allows


class HistoError(Exception):
    """An error that a user can fix: the message says what is wrong, and `hint` how to fix it.

    The command line prints both and exits with `EXIT_FAILURE`; any other exception is a bug. Messages repeat what files
    contain: control characters are escaped, and the middle of a long text is left out.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(_clean(message))
        self.hint = _clean(hint)


def _clean(text: str) -> str:
    """Return a text on one line that can be printed."""
    return escape_control_characters(shorten(text, _MAX_TEXT))


class PartialError(HistoError):
    """Some inputs could not be read, and all others were processed; the command line exits with `EXIT_PARTIAL`."""


class DamagedError(HistoError):
    """A file that `histo` wrote is missing, or its content cannot be read; reading it again will not help."""


class DiskError(HistoError):
    """The disk to write to is full or read-only: no later file can be written either."""


class UsageError(HistoError):
    """An option or its value is not allowed; the command line exits with `EXIT_USAGE`."""


class ExplanationError(HistoError):
    """The scores of a network cannot be explained, or the network is not there any more."""


def read_first_line(error: BaseException) -> str:
    """Return the first line of an exception's message, at most 300 characters of it; its type if it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def describe_value(value: object) -> str:
    """Return a value of a file for a message: a number or a short text as it is, anything else as its type.

    The `repr` of a value from a hostile file could be longer than the memory.
    """
    if value is None or isinstance(value, bool | float) or (isinstance(value, int) and abs(value) < 10**15):
        return repr(value)
    if isinstance(value, str):
        return repr(value) if len(value) <= 40 else f"{value[:40]!r}…"
    if isinstance(value, list | tuple | dict) and not value:
        return repr(value)
    kinds = {list: "a list", tuple: "a list", dict: "an object", int: "a very large number"}
    return kinds.get(type(value), f"a {type(value).__name__}")
