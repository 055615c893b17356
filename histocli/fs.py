"""Files and folders: writes that survive a power failure, lock files, temporary files, and free disk space."""

import errno
import os
import re
import secrets
import shutil
import socket
import stat
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import IO

from histocli.errors import HistoError

_DISK_FULL = frozenset({errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)})
_NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF})  # EBADF: NFS, for folders
_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp")
_LOCK = re.compile(r"\..+\.lock")
_MAX_NAME = 200  # bytes of a name that its temporary file repeats: most file systems allow 255 in all
_POLL_SECONDS = 0.02
_MAX_TRIES = 1000  # attempts to lock a file that no process holds
_OTHER_FOLDER = "choose another folder (--workspace, --out)"


class HeldError(HistoError):
    """Another process has a lock; the message names the process and its machine."""


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
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    fsync(path.parent)


@contextmanager
def temporary_path(path: Path, *, folder: bool = False) -> Iterator[Path]:
    """Make an empty file or folder next to `path`; at the end, remove it unless it was renamed.

    It is locked in this block, so that other processes do not remove it as a file of a killed process. Such files
    of the same `path` are removed first.
    """
    make_folder(path.parent)
    name = shorten_name(path.name)
    remove_strays(path.parent, name)
    temporary = path.with_name(f".{name}.{secrets.token_hex(8)}.tmp")
    descriptor = None
    try:  # choose the name first, so that the file is removed even if a signal comes while it is created
        descriptor = _create_and_lock(temporary, folder)
        yield temporary
    finally:
        _remove(temporary)
        if descriptor is not None:
            os.close(descriptor)


def _create_and_lock(temporary: Path, folder: bool) -> int | None:
    """Create a file or folder and return its locked descriptor; None on Windows, where open files cannot be renamed."""
    while True:
        try:
            if folder:
                temporary.mkdir()
            else:
                os.close(os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        except (
            FileExistsError
        ):  # we created it, and another process is about to remove it, because it was not locked yet
            time.sleep(0.001)
            continue
        if sys.platform == "win32":
            return None
        try:
            descriptor = _open(temporary)
        except FileNotFoundError:
            continue  # another process removed it as a stray before it was locked
        if _try_lock(descriptor) is not False and _has_path(descriptor, temporary):
            return descriptor
        os.close(descriptor)


def remove_strays(folder: Path, name: str | None = None) -> None:
    """Remove temporary files that killed processes left in `folder`: those of `name`, or all, and lock files."""
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        return
    for entry in list(os.scandir(folder)):
        match = _TEMPORARY.fullmatch(entry.name)
        is_wanted = match and match[1] == name if name else match or _LOCK.fullmatch(entry.name)
        if is_wanted and not entry.is_symlink():
            _remove_if_unlocked(Path(entry.path))


def _remove_if_unlocked(path: Path) -> None:
    """Remove a temporary file whose process has ended."""
    try:
        descriptor = _open(path)
    except (FileNotFoundError, PermissionError):
        return  # its process has ended and removed it, or it belongs to another user
    try:
        if _try_lock(descriptor):
            _remove(path)
    finally:
        os.close(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder. It disappears in one step, so that a killed process leaves no part of it under its name."""
    temporary = folder.with_name(f".{shorten_name(folder.name)}.{secrets.token_hex(8)}.tmp")
    descriptor = None if sys.platform == "win32" else _open(folder)
    try:
        if descriptor is not None:
            _try_lock(descriptor)  # so that other processes do not remove it as a folder of a killed process
        folder.rename(temporary)
        shutil.rmtree(temporary)
    finally:
        if descriptor is not None:
            os.close(descriptor)


@contextmanager
def hold(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path` in this block; the lock is free again when this process ends, even if it is killed.

    The file contains the number and machine of the process. `what` names the locked thing in the error message. On file
    systems without locks nothing is locked.

    Raises:
        HeldError: another process has the lock, and `wait` is false.
        HistoError: the file cannot be written.
    """
    from filelock import FileLock, Timeout

    def write_holder(descriptor: int) -> None:
        try:
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
        except OSError:
            path.unlink(missing_ok=True)
            raise

    tries = 0
    lock = FileLock(path, blocking=wait, poll_interval=_POLL_SECONDS, on_acquired=write_holder)
    try:
        make_folder(path.parent)
        while not lock.is_locked:
            try:
                lock.acquire()
            except Timeout:
                if (holder := _read_holder(path)) is not None:
                    raise HeldError(
                        f"another histo process is using {what}: {holder}", "wait until it has finished"
                    ) from None
                tries += 1
                if tries == _MAX_TRIES:  # of a folder in which no file can be made, such as /proc
                    raise write_error(path, OSError("no file can be made in this folder")) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise write_error(path, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release, so that a waiting process notices and opens a new file
        lock.release()


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock file `path`."""
    try:
        descriptor = _open(path)
    except FileNotFoundError:
        return False
    try:
        return _try_lock(descriptor) is False
    finally:
        os.close(descriptor)


def folder_size(folder: Path) -> int:
    """Return the bytes of all files in a folder and its subfolders."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def _read_holder(path: Path) -> str | None:
    """Return the process that has a lock; None if the lock was just released."""
    try:
        return path.read_text(errors="replace").strip() or "just started"
    except FileNotFoundError:
        return None


def _try_lock(descriptor: int) -> bool | None:
    """Lock an open file, and return whether this succeeded; None if the file system has no locks."""
    from filelock import lock_descriptor

    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise


def _has_path(descriptor: int, path: Path) -> bool:
    """Return whether `path` is still the name of an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


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


def write_error(path: Path, error: OSError, needed: int | None = None, written: int = 0) -> HistoError:
    """Return the error for a file that could not be written; if the disk is full, it names the space that is needed.

    `needed` is the size of the whole file in bytes, if it is known; `written` is the number of bytes already written.
    """
    why = error.strerror or str(error)
    folder = next((folder for folder in path.absolute().parents if os.path.isdir(folder)), path.parent)  # noqa: PTH112
    hint = f"check the folder {folder} and its permissions, or {_OTHER_FOLDER}"
    if error.errno in _DISK_FULL:
        size = format_bytes(needed) if needed is not None else f"more than {format_bytes(written)}"
        why += f" ({size} needed, {format_bytes(shutil.disk_usage(folder).free)} free)"
        hint = make_space_hint(folder)
    return HistoError(f"cannot write {path}: {why}", hint)


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
