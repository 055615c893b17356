"""The standard streams, when they are closed, full, a terminal or a pipe."""

import errno
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from typing import IO, Any

from histocli.errors import HistoError
from histocli.text import escape_control_characters


class Stderr:
    """Writes to the current `sys.stderr`, and drops what cannot be written, so that the command can continue.

    This happens if the terminal or pipe was closed, if the disk is full, or if `sys.stderr` is None.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> int:
        """Write text."""
        with self._ignore_lost_output():
            if sys.stderr is not None:
                sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._ignore_lost_output():
            if sys.stderr is not None:
                sys.stderr.flush()

    @contextmanager
    def _ignore_lost_output(self) -> Iterator[None]:
        """Ignore in this block that stderr was closed or that the disk is full."""
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE, errno.ENOSPC, errno.EBADF):
                raise
            discard(sys.stderr)


class Stdout:
    """The current `sys.stdout`; on a terminal, control characters are escaped, because ids may contain them.

    Raises:
        HistoError: it is closed, or cannot be written; the result is lost.
        BrokenPipeError: the reader of the pipe has ended.
    """

    def write(self, text: str) -> int:
        """Write text."""
        with self._explain_errors() as stream:
            if stream.isatty():
                text = re.sub(r"[^\n\t]+", lambda match: escape_control_characters(match[0]), text)
            return stream.write(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._explain_errors() as stream:
            stream.flush()

    @contextmanager
    def _explain_errors(self) -> Iterator[IO[str]]:
        """Yield stdout, and turn its errors in this block into `HistoError`."""
        if sys.stdout is None:
            raise _cannot_write("it is closed")
        try:
            yield sys.stdout
        except BrokenPipeError:
            raise
        except OSError as error:
            discard(sys.stdout)
            raise _cannot_write(_reason(error)) from error


class CheckedStdout(TextIOWrapper):
    """A text stream that keeps its last error, because other packages write the help texts."""

    error: OSError | None = None

    def write(self, text: str) -> int:
        """Write text."""
        try:
            return super().write(text)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        """Flush the stream."""
        try:
            super().flush()
        except OSError as error:
            self.error = error
            raise


def find_stdout_error() -> HistoError | None:
    """Return the error if stdout could not be written, and drop what it still holds, so that Python can exit."""
    error = getattr(sys.stdout, "error", None)
    if not isinstance(error, OSError):
        return None
    discard(sys.stdout)
    return _cannot_write(_reason(error))


def _reason(error: OSError) -> str:
    return "it is closed" if error.errno == errno.EBADF else error.strerror or str(error)


def _cannot_write(reason: str) -> HistoError:
    return HistoError(f"cannot write the result to stdout: {reason}", "redirect stdout to a file that can be written")


def discard(stream: IO[str]) -> None:
    """Discard the buffered and all later output of a stream, so that neither a later write nor Python's exit fails."""
    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, stream.fileno())
    os.close(devnull)


def prepare_streams() -> None:
    """Open the standard streams that were closed when this process began, so that no file gets their descriptors.

    What is written to stderr is dropped. Reading stdin, or writing to stdout, is an error, because data would be lost.
    Results are written in UTF-8 in any locale, because programs read them.
    """
    modes = (os.O_WRONLY, os.O_RDONLY, os.O_WRONLY)
    for number, mode in enumerate(modes):
        try:
            os.fstat(number)
        except OSError:  # `os.open` gives the lowest number that is free, which is this one
            os.set_inheritable(os.open(os.devnull, mode), True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - open until the process ends
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):
        by_line = sys.stdout.line_buffering
        sys.stdout = CheckedStdout(sys.stdout.detach(), encoding="utf-8", line_buffering=by_line)
        sys.__stdout__ = sys.stdout  # type: ignore[misc]  # the former object cannot be used any more
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def is_stdout_a_file() -> bool:
    """Return whether stdout is a regular file; on a terminal, results and a progress bar would mix."""
    try:
        return sys.stdout is not None and stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except OSError:  # a stream with no descriptor, as in a notebook
        return False


def write_out(text: str) -> None:
    """Write a result to stdout, and flush it."""
    stdout = Stdout()
    stdout.write(text)
    stdout.flush()


def write_out_json(value: object) -> None:
    """Write the result of a command with `--json` to stdout: one JSON document, indented."""
    write_out(json.dumps(value, indent=2) + "\n")
