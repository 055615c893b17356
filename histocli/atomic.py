"""Write files that are complete when they have their final names; write and read JSON files."""

import json
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from histocli.errors import DamagedError, HistoError
from histocli.fs import check_replaceable, fsync, make_write_error, require_space
from histocli.temporary import make_temporary
from histocli.text import parse_finite

_MAX_JSON = 1 << 25  # the largest number of bytes; the report of an evaluation with 10,000 slides has a tenth


@contextmanager
def write_atomically(path: Path, size: int | None = None) -> Iterator[Path]:
    """Yield a temporary path next to `path` to write to; at the end, flush it to the disk and rename it to `path`.

    The new file gets the permissions of the one that it replaces. On any exception the temporary file is removed, and
    `path` does not change. Temporary files of `path` that killed processes left are removed first. `size` is the number
    of bytes, if it is known.

    Raises:
        HistoError: there is not enough space, the folder cannot be written, or something else than a file is there.
    """
    written = 0
    try:
        check_replaceable(path)
        with make_temporary(path) as temporary:
            if size is not None:
                require_space(path.parent, size, str(path))
            try:
                yield temporary
                fsync(temporary)
                _copy_permissions(path, temporary)
                temporary.replace(path)
            finally:
                written = temporary.stat().st_size if temporary.exists() else 0
        fsync(path.parent)
    except OSError as error:
        raise make_write_error(path, error, size, written) from error


def _copy_permissions(path: Path, temporary: Path) -> None:
    """Give a temporary file the permissions of the file that it replaces, if there is one."""
    with suppress(OSError):  # there is no file, or the file system has no permissions
        mode = stat.S_IMODE(path.stat().st_mode)
        if stat.S_IMODE(temporary.stat().st_mode) != mode:
            temporary.chmod(mode)


@contextmanager
def create_folder_atomically(path: Path) -> Iterator[Path]:
    """Yield a temporary folder next to `path` to fill; at the end, rename it to `path` in one step.

    On any exception it is removed. Write the files in it atomically, so that they are on the disk.

    Raises:
        HistoError: the folder exists already, there is not enough space, or the parent cannot be written.
    """
    try:
        with make_temporary(path, folder=True) as temporary:
            yield temporary
            fsync(temporary)
            temporary.rename(path)
        fsync(path.parent)
    except OSError as error:
        raise make_write_error(path, error) from error


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically."""
    with write_atomically(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON atomically; NaN and infinity raise `ValueError`, because they are not valid JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path, hint: str = "") -> Any:
    """Read a JSON file; `hint` is that of the error if it cannot be read.

    Raises:
        HistoError: the file does not exist, is larger than any of histo's, or is not JSON.
    """
    try:
        if path.exists() and not path.is_file():  # reading a pipe could block
            raise HistoError(f"{path} is not a file", hint or "give a .json file")
        if (size := path.stat().st_size) > _MAX_JSON:
            raise HistoError(f"{path} has {size >> 20:,} MiB: histo writes no such JSON file", hint)
        if not size:
            raise DamagedError(f"cannot read {path}: it is empty", hint)
        return json.loads(path.read_text(encoding="utf-8"), parse_float=parse_finite, parse_constant=parse_finite)
    except FileNotFoundError:
        why = ": it is a link to a file that does not exist" if path.is_symlink() else ""
        raise DamagedError(f"there is no file {path}{why}", hint) from None
    except OSError as error:
        raise HistoError(f"cannot read {path}: {error}", hint) from error
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"cannot read {path} as JSON: {error}", hint) from error
