"""Read a list of paths, one on each line, as `find` and other programs write it to stdin."""

import codecs
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from histocli.errors import HistoError
from histocli.files.file import File, make_file

_QUOTES = "\"'"


@dataclass(slots=True)
class _MissingFile:
    """The reader of a file that does not exist; it says what is unusual about the line in the list."""

    reason: str

    def __call__(self) -> bytes:
        """Raise the error of a missing file."""
        raise OSError(self.reason)


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
