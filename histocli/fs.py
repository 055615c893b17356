"""Files and folders: writes that survive a power failure, free disk space, and the errors of writing."""

import errno
import os
import shutil
import stat
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import IO

from histocli.errors import DiskError, HistoError

_DISK_FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
_MAX_NAME = 200  # bytes of a name that its temporary file repeats: most file systems allow 255 in all
_OTHER_FOLDER = "choose another folder (--workspace, --out)"


def shorten_name(name: str) -> str:
    """Return a file's name, shortened for the name of a hidden file in its folder; file systems count bytes.

    A hash replaces the end of a long name, so that different names stay different.
    """
    encoded = os.fsencode(name)
    if len(encoded) <= _MAX_NAME:
        return name
    start = encoded[: _MAX_NAME - 17].decode(errors="ignore")  # without a character that was cut
    return f"{start}-{sha256(encoded).hexdigest()[:16]}"


def fsync(path: Path) -> None:
    """Flush a file or a folder to the disk, so that it survives a power failure."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open a folder to flush it
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and its missing parents, and flush each new folder to the disk."""
    if path.is_dir():
        return
    if path.exists() and not path.is_dir():  # another process may just have made it
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    fsync(path.parent)


def is_same_file(first: str | Path, second: str | Path) -> bool:
    """Return whether two paths lead to the same file or folder; False if one of them does not exist."""
    try:
        return os.path.samefile(first, second)  # noqa: PTH121 - both may be texts
    except OSError:
        return False


def measure_folder(folder: Path) -> int:
    """Return the bytes of all files in a folder and its subfolders."""
    size = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with suppress(FileNotFoundError):  # a temporary file that was renamed meanwhile
                size += Path(parent, name).lstat().st_size
    return size


def check_replaceable(path: Path) -> None:
    """Check that nothing else than a regular file is at `path`: a rename to it would replace a link or a pipe.

    Raises:
        HistoError: something else is there.
    """
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISREG(mode):
        kind = "a link" if stat.S_ISLNK(mode) else "a folder" if stat.S_ISDIR(mode) else "a pipe or a device"
        raise HistoError(f"cannot write {path}: it is {kind}, not a file", "move it away")


def write_all(file: IO[bytes], data: bytes) -> None:
    """Write all bytes to an unbuffered file; a single write may write fewer."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def require_space(folder: Path, needed: int, what: str) -> None:
    """Check that `folder`, which must exist, has `needed` bytes free for `what`.

    Raises:
        HistoError: fewer bytes are free.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        text = f"{what} needs {format_bytes(needed)}, and {folder} has {format_bytes(free)} free"
        raise HistoError(text, make_space_hint(folder))


def make_write_error(path: Path, error: OSError, needed: int | None = None, written: int = 0) -> HistoError:
    """Return the error for a file that could not be written; if the disk is full, it names the space that is needed.

    `needed` is the size of the whole file in bytes, if it is known; `written` is the number of bytes already written.
    """
    why = error.strerror or str(error)
    folder = next((folder for folder in path.absolute().parents if os.path.isdir(folder)), path.parent)  # noqa: PTH112
    hint = f"check the folder {folder} and its permissions, or {_OTHER_FOLDER}"
    if error.errno in _DISK_FULL:
        size = f"{format_bytes(needed)} needed, " if needed is not None else ""
        if needed is None and written:
            size = f"more than {format_bytes(written)} needed, "
        why += f" ({size}{format_bytes(shutil.disk_usage(folder).free)} free)"
        hint = make_space_hint(folder)
    kind = DiskError if error.errno in _DISK_FULL or error.errno == errno.EROFS else HistoError
    return kind(f"cannot write {path}: {why}", hint)


def make_space_hint(folder: Path) -> str:
    """Return what to do if the disk of a folder is full."""
    return f"free some space on the disk of {folder}, or {_OTHER_FOLDER}"


def format_bytes(count: float) -> str:
    """Format a number of bytes: `27.8 KB`, `6.4 GB`."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
