"""Temporary files and folders. They are locked while they are used: those of killed processes can then be removed."""

import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from histocli.fs import make_folder, shorten_name
from histocli.locks import open_to_lock, try_lock

_TEMPORARY = re.compile(r"\.(.+)\.[0-9a-f]{16}\.tmp")
_LOCK = re.compile(r"\..+\.lock")


@contextmanager
def make_temporary(path: Path, *, folder: bool = False) -> Iterator[Path]:
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
        except FileExistsError:
            # We created it, and another process is about to remove it, because it was not locked yet.
            time.sleep(0.001)
            continue
        if sys.platform == "win32":
            return None
        try:
            descriptor = open_to_lock(temporary)
        except FileNotFoundError:
            continue  # another process removed it as a stray before it was locked
        if try_lock(descriptor) is not False and _has_path(descriptor, temporary):
            return descriptor
        os.close(descriptor)


def _has_path(descriptor: int, path: Path) -> bool:
    """Return whether `path` is still the name of an open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


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
        descriptor = open_to_lock(path)
    except (FileNotFoundError, PermissionError):
        return  # its process has ended and removed it, or it belongs to another user
    try:
        if try_lock(descriptor):
            _remove(path)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder. It disappears in one step, so that a killed process leaves no part of it under its name."""
    temporary = folder.with_name(f".{shorten_name(folder.name)}.{secrets.token_hex(8)}.tmp")
    descriptor = None if sys.platform == "win32" else open_to_lock(folder)
    try:
        if descriptor is not None:
            try_lock(descriptor)  # so that other processes do not remove it as a folder of a killed process
        folder.rename(temporary)
        shutil.rmtree(temporary)
    finally:
        if descriptor is not None:
            os.close(descriptor)
