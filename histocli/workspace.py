"""Every path in the workspace, and atomic writes to it.

A file under its final name is always whole: it is written beside it under a temporary name, flushed to the disk,
and moved over the old one in a single step.
"""

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histocli.errors import HistoError, UsageError

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,98}[A-Za-z0-9_-])?")
_DEVICE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # no file on Windows has such a name


@dataclass(frozen=True)
class Workspace:
    """The folder that all commands share; nothing in it is created before something is written."""

    root: Path

    @property
    def data_dir(self) -> Path:
        """Packed data sets, a folder each."""
        return self.root / "data"

    @property
    def manifests_dir(self) -> Path:
        """One CSV per data set, and `balanced.csv`."""
        return self.root / "manifests"

    @property
    def downloads_dir(self) -> Path:
        """Fetched archives, whole and partial."""
        return self.root / "downloads"

    @property
    def runs_dir(self) -> Path:
        """One folder per training run."""
        return self.root / "runs"

    @property
    def checkpoints_dir(self) -> Path:
        """The newest run's `best.pt` and `last.pt`."""
        return self.root / "checkpoints"

    @property
    def metrics_dir(self) -> Path:
        """JSON files that `plot` draws and scripts may read."""
        return self.root / "metrics"

    @property
    def plots_dir(self) -> Path:
        """Figures."""
        return self.root / "plots"

    def dataset_dir(self, name: str) -> Path:
        """The folder of the packed data set `name`."""
        return self.data_dir / checked_name(name, "data set")

    def patches_path(self, name: str) -> Path:
        """The memory-mapped array (N,96,96,3) uint8 of the data set `name`."""
        return self.dataset_dir(name) / "patches.npy"

    def dataset_path(self, name: str) -> Path:
        """Where the data set `name` came from: counts and checksums."""
        return self.dataset_dir(name) / "dataset.json"

    def manifest_path(self, name: str) -> Path:
        """The table of the data set `name`, a row per patch in the array's order."""
        return self.manifests_dir / f"{checked_name(name, 'data set')}.csv"

    def run_dir(self, run: str) -> Path:
        """The folder of the training run `run`."""
        return self.runs_dir / checked_name(run, "run")

    def dataset_names(self) -> list[str]:
        """The names of all packed data sets, sorted."""
        if not self.data_dir.is_dir():
            return []
        return sorted(p.parent.name for p in self.data_dir.glob("*/dataset.json"))

    def run_names(self) -> list[str]:
        """The names of all training runs, the newest last."""
        if not self.runs_dir.is_dir():
            return []
        configs = sorted(self.runs_dir.glob("*/config.json"), key=lambda p: (p.stat().st_mtime_ns, p))
        return [p.parent.name for p in configs]


def checked_name(name: str, what: str) -> str:
    """Return `name` if it can stand as one folder or file name on every platform.

    Raises:
        UsageError: it holds a separator, starts or ends with a dot, is empty, over 100 characters or a device.
    """
    if not _NAME.fullmatch(name) or _DEVICE.fullmatch(name):
        raise UsageError(
            f"{name!r} cannot name a {what}",
            "use letters, digits, '.', '_' and '-', starting with a letter or digit",
        )
    return name


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Give a temporary path beside `path` to write to; on success flush it to disk and move it over `path`.

    On any exception the temporary file is removed and `path` stays as it was.

    Raises:
        HistoError: the disk is full or the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            fsync(temporary)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        fsync(path.parent)
    except OSError as error:
        raise HistoError(
            f"cannot write {path}: {error.strerror or error}", "free some space or choose another --workspace"
        ) from error


def fsync(path: Path) -> None:
    """Flush a file or a folder to the disk, so that it outlasts a loss of power."""
    if path.is_dir() and os.name == "nt":
        return  # Windows has no handle on a folder to flush
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as JSON atomically; NaN and infinity are a `ValueError`, for no parser but Python's reads them."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        HistoError: it is not there, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise HistoError(f"there is no {path}") from None
    except (ValueError, OSError, RecursionError) as error:
        raise HistoError(f"cannot read {path}: {error}") from error
