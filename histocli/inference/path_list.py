"""Read a list of paths, one on each line, as `find` and other programs write it to stdin."""

import codecs
import errno
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from histocli.errors import HistoError
from histocli.files.file import File, make_file

MAX_LISTED = 5_000_000  # paths of a list that is kept in memory, which take some 100 bytes each
_MAX_LISTED_BYTES = 1 << 28  # of such a list
_MAX_LINE_BYTES = 1 << 16  # of a line on stdin: no system has longer paths
_QUOTES = "\"'"


@dataclass(slots=True)
class _MissingFile:
    """The reader of a file that does not exist; it says what is unusual about the line in the list."""

    reason: str

    def __call__(self) -> bytes:
        """Raise the error of a missing file."""
        raise OSError(self.reason)


def read_stdin_lines(most: int | None = None) -> Iterator[bytes]:
    """Yield the lines of stdin, at most `most` of them.

    Raises:
        HistoError: it is closed, cannot be read, has more lines, or a line that is longer than any path.
    """
    if sys.stdin is None:
        raise HistoError("cannot read paths from stdin: it is closed", "pipe a list of paths to it")
    try:
        lines = iter(partial(sys.stdin.buffer.readline, _MAX_LINE_BYTES), b"")
        size = 0
        for number, line in enumerate(lines, start=1):
            size += len(line)
            if len(line) == _MAX_LINE_BYTES:
                raise HistoError(
                    f"line {number:,} on stdin has {_MAX_LINE_BYTES:,} bytes or more, which no path has",
                    "write one path on each line, in UTF-8",
                )
            if most is not None and (number > most or size > _MAX_LISTED_BYTES):
                what = f"{most:,} lines" if number > most else f"{_MAX_LISTED_BYTES >> 20} MiB"
                raise HistoError(f"the list on stdin has more than {what}", "give folders, or the list in pieces")
            yield line
    except OSError as error:
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror or str(error)
        raise HistoError(f"cannot read paths from stdin: {reason}", "pipe a list of paths to it") from error


def read_path_list(lines: Iterable[bytes]) -> Iterator[tuple[str, File]]:
    """Yield the path in each line that is not empty, and its file, without the mark of UTF-8 and the ends of lines.

    Raises:
        HistoError: a line contains null bytes, so the list is in another format.
    """
    for number, line in enumerate(lines):
        if b"\0" in line:
            raise HistoError(
                "the list of paths on stdin contains null bytes",
                "write one path on each line, in UTF-8: find -print instead of -print0; in PowerShell, "
                "Out-File -Encoding utf8",
            )
        text = line if number else line.removeprefix(codecs.BOM_UTF8)
        if path := os.fsdecode(text.rstrip(b"\r\n")):
            yield path, _find_file(path)


def _find_file(path: str) -> File:
    """Return the file of a line; if there is none, its error says that quotes or spaces are part of the line."""
    file = make_file(Path(path), path)
    is_quoted = len(path) > 1 and path[0] in _QUOTES and path[0] == path[-1]
    if (is_quoted or path != path.strip()) and not os.path.lexists(path):
        what = "quotes" if is_quoted else "spaces or tabs"
        return File(file.name, _MissingFile(f"there is no such file: write the path without {what} around it"))
    return file
