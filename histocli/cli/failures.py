"""How an exception of a command becomes an error message and an exit code."""

import os
import sys
import traceback
from datetime import datetime
from pathlib import Path
from tempfile import gettempdir

from histocli.compute.memory import is_out_of_memory
from histocli.console import Reporter
from histocli.errors import (
    EXIT_BUG,
    EXIT_FAILURE,
    EXIT_PARTIAL,
    EXIT_USAGE,
    HistoError,
    PartialError,
    UsageError,
)
from histocli.signals import Stopped
from histocli.stdio import discard, find_stdout_error
from histocli.workspace import find_user_folder

_EXIT_PIPE = 141  # the exit code of a program that writes to a closed pipe: 128 + SIGPIPE


def print_failure(error: Exception | Stopped, reporter: Reporter) -> int:
    """Print an exception as an error message, and return the exit code (see errors.py)."""
    if isinstance(error, Stopped):
        if reporter.is_rank0:
            hint = str(error)
            what = "stopped by a signal" + (f" after {error.after}" if error.after else "")
            reporter.print_error(HistoError(what + ("; the state is saved" if hint else ""), hint))
        return error.exit_code
    if isinstance(error, BrokenPipeError):
        discard(sys.stdout)  # so that Python can flush it at exit
        return _EXIT_PIPE
    if os.environ.get("HISTO_DEBUG") == "1":
        traceback.print_exception(error)
    message, exit_code = _explain(error)
    reporter.print_error(message)
    return exit_code


def _explain(error: Exception) -> tuple[HistoError, int]:
    """Return the message and the hint for an exception, and the exit code."""
    if isinstance(error, UsageError):
        return error, EXIT_USAGE
    if isinstance(error, PartialError):
        return error, EXIT_PARTIAL
    if isinstance(error, HistoError):
        return error, EXIT_FAILURE
    if isinstance(error, OSError):
        reason = HistoError(f"{error.filename or 'the system'}: {error.strerror or error}")
        return find_stdout_error() or reason, EXIT_FAILURE
    if is_out_of_memory(error):
        hint = "use a smaller --batch-size, or --batch-size auto"
        return HistoError("there is not enough memory", hint), EXIT_FAILURE
    return HistoError(f"this is a bug in histo: {error!r}", _write_log(error)), EXIT_BUG


def _write_log(error: Exception) -> str:
    """Write the traceback to a new file in the log folder, or where temporary files are, and say where it is.

    If neither can be written, it is printed.
    """
    from platformdirs import user_log_path

    text = "".join(traceback.format_exception(error))
    name = f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.log"
    for find_folder in (lambda: find_user_folder(user_log_path), lambda: Path(gettempdir())):
        try:
            if (folder := find_folder()) is None:  # this user has no home folder
                continue
            path = folder / f"histo-{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8", errors="backslashreplace")
        except OSError:
            continue
        return f"its traceback is in {path}"
    return f"no log file can be written; its traceback is: {text}"
