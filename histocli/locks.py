"""Lock files, which show other processes that something is in use."""

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from histocli.errors import HistoError
from histocli.fs import make_folder, make_write_error

_NO_LOCKS = frozenset({errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF})  # EBADF: NFS, for folders
_POLL_SECONDS = 0.02
_MAX_TRIES = 1000  # attempts to lock a file that no process holds


class HeldError(HistoError):
    """Another process has a lock; the message names the process and its machine."""


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
                    raise make_write_error(path, OSError("no file can be made in this folder")) from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise make_write_error(path, error) from error
    try:
        yield
    finally:
        path.unlink(missing_ok=True)  # before the release, so that a waiting process notices and opens a new file
        lock.release()


def is_held(path: Path) -> bool:
    """Return whether a process holds the lock file `path`."""
    try:
        # The lock of another user can only be read. Where it can be written, write access is asked for: NFS needs it.
        descriptor = os.open(path, os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY)
    except FileNotFoundError:
        return False
    except PermissionError:
        return True  # another user has made it, and only this user can use what it locks
    try:
        return try_lock(descriptor) is False
    finally:
        os.close(descriptor)


def _read_holder(path: Path) -> str | None:
    """Return the process that has a lock; None if the lock was just released."""
    try:
        return path.read_text(errors="replace").strip() or "just started"
    except FileNotFoundError:
        return None


def try_lock(descriptor: int) -> bool | None:
    """Lock an open file, and return whether this succeeded; None if the file system has no locks."""
    from filelock import lock_descriptor

    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno in _NO_LOCKS:
            return None
        raise


def open_to_lock(path: Path) -> int:
    """Open a file or a folder, and return its descriptor for `try_lock`."""
    return os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
