"""Write the files that users name with `--out`.

A regular file appears under its name only when it is complete; pipes and devices are written to directly.
"""

import codecs
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO

from histocli.atomic import write_atomically
from histocli.errors import UsageError
from histocli.files.file import HEAD_BYTES, is_image, is_image_start
from histocli.fs import make_write_error, shorten_name
from histocli.workspace import Workspace

_DESCRIPTOR = re.compile(r"/(?:dev|proc/self|proc/thread-self)/fd/(\d+)")
_STANDARD = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
_ZIP = b"PK\3\4"  # archives, checkpoints, and documents of Office
# Programs, for example the interpreter of Python, to which the link /proc/self/exe leads; and arrays.
_OTHER_STARTS = (b"\x7fELF", b"MZ", b"#!", b"\xcf\xfa\xed\xfe", b"\x89HDF", b"\x93NUMPY")
# Of the maps of slides, which `histo predict` writes and other commands read. `files` cannot import `slides.records`.
_SLIDE_FILES = ("slide.json", "scores.csv")  # in a folder of each slide
_SLIDE_TABLE_START = b"slide,status,"
_MAX_LINKS = 40  # symbolic links in a row that Linux follows


def is_stream(path: Path) -> bool:
    """Return whether a path is a pipe, a device or an open descriptor (`/dev/stdout`), which is written to directly."""
    if _parse_descriptor(path) is not None:
        return True
    try:
        mode = path.stat().st_mode
    except OSError:  # it does not exist, or opening it will say what is wrong
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def check_output(
    path: Path, workspace: Workspace, inputs: Iterable[Path] = (), option: str = "--out", *, is_zip: bool = False
) -> None:
    """Check that a file may be written to `path`, the value of `option`; `is_zip` if a zip archive is written.

    Raises:
        UsageError: `path` is a folder, a link that leads back to itself, one of `inputs`, a file that other commands of
            histo read, such as a packed data set, a checkpoint or the map of a slide, or a file of a kind that no
            command writes there, such as an image or a program.
    """
    if path.is_dir():
        raise UsageError(f"{option} {path} is a folder", "name the file to write")
    if is_stream(path):
        return
    file, start = resolve_link(path), _read_start(path)
    if file.is_symlink():
        raise UsageError(f"{option} {path} is a link that leads back to itself", "remove it, or name another file")
    if not path.exists():
        return
    is_slide_table = start.removeprefix(codecs.BOM_UTF8).startswith(_SLIDE_TABLE_START)
    if is_slide_table or all((file.parent / name).is_file() for name in _SLIDE_FILES):
        raise UsageError(
            f"{option} {path} is part of the maps of slides, which other commands of histo read",
            "name a file in another folder",
        )
    for source in inputs:
        if source.exists() and source.samefile(path):
            raise UsageError(f"{option} {path} is the input {source}, which would be lost", "name another file")
    if workspace.is_workspace_file(path):
        raise UsageError(f"{option} {path} is a file that other commands of histo read", "name another file")
    if is_image(path.name) or is_image_start(start):
        raise UsageError(f"{option} {path} is an image, which would be lost", "name another file")
    if start.startswith(_OTHER_STARTS) or (start.startswith(_ZIP) and not is_zip):
        what = "a program, an array or an archive"
        raise UsageError(f"{option} {path} is {what}, which would be lost", "name another file")


def _read_start(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(HEAD_BYTES)
    except OSError:  # a file that may not be read; writing says whether it may be replaced
        return b""


@contextmanager
def write_output(path: Path, size: int | None = None) -> Iterator[Path]:
    """Yield a temporary path to write a whole file to; at the end of the block, its content is at `path`.

    A regular file is replaced in one step; a symbolic link stays, and the file that it points to is replaced. A pipe or
    a device gets a copy of the content. `size` is the number of bytes, if it is known.

    Raises:
        HistoError: there is not enough space, or `path` cannot be written.
    """
    if not is_stream(path):
        with write_atomically(resolve_link(path), size) as temporary:
            yield temporary
        return
    with TemporaryDirectory(prefix="histo-") as folder:
        temporary = Path(folder, "output")
        yield temporary
        with temporary.open("rb") as source, open_stream(path) as target:
            shutil.copyfileobj(source, target)


@contextmanager
def open_stream(path: Path) -> Iterator[IO[bytes]]:
    """Open a pipe, a device or a descriptor for writing; what is written arrives at once.

    Raises:
        HistoError: it cannot be written.
        BrokenPipeError: the reader of the pipe has ended.
    """
    try:
        number = _parse_descriptor(path)
        descriptor = os.open(path, os.O_WRONLY) if number is None else os.dup(number)
        with os.fdopen(descriptor, "wb") as file:
            yield file
    except BrokenPipeError:
        raise
    except OSError as error:
        raise make_write_error(path, error) from error


def resolve_link(path: Path) -> Path:
    """Return the file that a symbolic link points to, or `path` itself if it is none."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def find_record_path(path: Path) -> Path:
    """Return the path of the hidden file in which `histo predict --out PATH` records how the scores were made."""
    return path.with_name(f".{shorten_name(path.name)}.made-with.json")


def _parse_descriptor(path: Path) -> int | None:
    """Return N for `/dev/fd/N`, `/dev/stdout` and links to these; None for other paths.

    Such a path must not be opened again: this would truncate a file that the shell appends to.
    """
    name = os.path.abspath(path)  # noqa: PTH100 - a Path would follow the link to what the descriptor refers to
    for _ in range(_MAX_LINKS):
        if (match := _DESCRIPTOR.fullmatch(name)) or name in _STANDARD:
            return int(match[1]) if match else _STANDARD[name]
        try:
            target = os.readlink(name)  # noqa: PTH115 - one link at a time
        except OSError:  # it is no link, or does not exist
            return None
        name = os.path.normpath(os.path.join(os.path.dirname(name), target))  # noqa: PTH118, PTH120
    return None
