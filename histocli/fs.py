"""The disk: what outlasts a loss of power, locks that die with their holder, temporary files, free space."""

import errno
import os
import re
import secrets
import shutil
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from histocli.errors import HistoError

_FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
_NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF})  # the last: NFS, of folders
_STRAY = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp")
_LOCK = re.compile(r"\..+\.lock")
_LONGEST = 200  # of a name's characters in that of its temporary file: file systems take some 255
_HINT = "free some space or choose another --workspace"


class HeldError(HistoError):
    """Another process holds a lock; the message says which process on which machine."""


def fsync(path: Path) -> None:
    """Flush a file or a folder to the disk, so that it outlasts a loss of power."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handle on a folder to flush
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder and those above it, unless they are there, and flush each as an entry of its parent."""
    if path.is_dir():
        return
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    fsync(path.parent)


@contextmanager
def temporary_beside(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Make an empty file, or a folder, beside `path`; at the end remove it if it still has its name.

    It is locked for as long, so that another process can tell it from what a killed one left; such strays are removed.
    """
    make_folder(path.parent)
    remove_strays(path.parent, path.name[:_LONGEST])
    temporary = path.with_name(f".{path.name[:_LONGEST]}.{secrets.token_hex(8)}.tmp")
    descriptor = None
    try:  # the name comes first, so that it is removed wherever a signal finds us
        descriptor = _created(temporary, folder)
        yield temporary
    finally:
        _remove(temporary)
        if descriptor is not None:
            os.close(descriptor)


def _created(temporary: Path, folder: bool) -> int | None:
    while True:
        try:
            if folder:
                temporary.mkdir()
            else:
                os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        except FileExistsError:  # ours, and another process is about to remove it for a stray
            time.sleep(0.001)
            continue
        if sys.platform == "win32":
            return None  # what is open has no other name given to it there
        try:
            descriptor = _opened(temporary)
        except FileNotFoundError:
            continue  # another process took it for a stray before it was locked
        if _lock(descriptor) is not False and _is_at(descriptor, temporary):
            return descriptor
        os.close(descriptor)


def remove_strays(folder: Path, name: str | None = None) -> None:
    """Remove what killed processes left in `folder`: temporary files (made to become `name`), and without it locks."""
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return
    for entry in list(os.scandir(folder)):
        match = _STRAY.fullmatch(entry.name)
        wanted = match and match[1] == name if name else match or _LOCK.fullmatch(entry.name)
        if wanted and not entry.is_symlink():
            _remove_if_stray(Path(entry.path))


def _remove_if_stray(path: Path) -> None:
    try:
        descriptor = _opened(path)
    except (FileNotFoundError, PermissionError):
        return  # its process was done with it, or it is another user's
    try:
        if _lock(descriptor):
            _remove(path)
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def hold(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock `path` in this block: a file that says who holds it. When the holder dies, it is free.

    `what` is what the lock is on, for the error. Where the file system knows no locks, nothing is guarded.

    Raises:
        HeldError: another process has it, and `wait` does not say to wait.
        HistoError: it cannot be written.
    """
    try:
        descriptor = _taken(path, what, wait)
    except OSError as error:
        raise not_written(path, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before it is let go: whoever has it open by then sees that, and opens it anew
        os.close(descriptor)


def _taken(path: Path, what: str, wait: bool) -> int:
    make_folder(path.parent)
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        locked = _lock(descriptor)
        if locked is not False and (locked is None or _is_at(descriptor, path)):
            with _undone(path, descriptor):
                os.ftruncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            return descriptor
        holder = os.read(descriptor, 1000).decode(errors="replace").strip()
        os.close(descriptor)
        if locked is False and not wait:
            raise HeldError(f"another histo is at work on {what}: {holder or 'just begun'}", "wait until it is done")
        if locked is False:
            time.sleep(0.02)


@contextmanager
def _undone(path: Path, descriptor: int) -> Iterator[None]:
    """Let go of a lock that cannot say whose it is."""
    try:
        yield
    except OSError:
        path.unlink(missing_ok=True)
        os.close(descriptor)
        raise


def _lock(descriptor: int) -> bool | None:
    """Lock an open file: whether that worked, None where there are no such locks."""
    if sys.platform == "win32":
        return None
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether an open file still has its name."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def write_all(file: IO[bytes], data: bytes) -> None:
    """Write every byte to an unbuffered file, which may take fewer at a time."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def require_space(folder: Path, needed: int, what: str) -> None:
    """Check that `needed` bytes are free for `what` under the existing `folder`.

    Raises:
        HistoError: they are not.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise HistoError(f"{what} needs {human_bytes(needed)}, and {folder} has {human_bytes(free)} free", _HINT)


def not_written(path: Path, error: OSError, needed: int | None = None, written: int = 0) -> HistoError:
    """The error of a file that could not be written; of a full disk it says how much is `needed`, as far as known.

    `written` is how much of it was there when the disk was full.
    """
    why = error.strerror or str(error)
    if error.errno in _FULL:
        size = human_bytes(needed) if needed is not None else f"more than {human_bytes(written)}"
        folder = next(folder for folder in path.parents if folder.is_dir())
        why += f" ({size} needed, {human_bytes(shutil.disk_usage(folder).free)} free)"
    return HistoError(f"cannot write {path}: {why}", _HINT)


def human_bytes(count: float) -> str:
    """Write a number of bytes for people: `27.8 KB`, `6.4 GB`."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
