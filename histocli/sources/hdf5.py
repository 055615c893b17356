"""Read PCam's HDF5 arrays, which may be compressed with gzip, a few hundred patches at a time."""

import gzip
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histocli.errors import HistoError
from histocli.files.hdf5_array import MAX_CHUNK, convert_damage_errors, find_array
from histocli.fs import format_bytes, make_space_hint, require_space, write_all
from histocli.patch import PATCH_SHAPE, Pixels
from histocli.sources import OnProgress
from histocli.temporary import make_temporary

if TYPE_CHECKING:
    import h5py

_CHUNK = 1 << 20
_MAX_LABELS = 50_000_000
_LABEL_BYTES = 1 << 26  # PCam's largest label file unpacks to 2 MB
# Bytes of HDF5 in addition to the pixels: the last chunk is always stored in its full size.
_OVERHEAD = MAX_CHUNK + (1 << 24)

Labels = np.ndarray[tuple[int], np.dtype[np.uint8]]


def read_labels(path: Path, scratch: Path, *, is_download: bool = False) -> Labels:
    """Read the labels `y` of an `.h5` or `.h5.gz`: 0 or 1, (N,) uint8.

    `is_download` says that `histo` downloaded the file: then the hint of an error is to delete it.

    Raises:
        HistoError: the file is truncated or damaged, or does not contain this array.
    """
    with open_h5(path, scratch, limit=_LABEL_BYTES, is_download=is_download) as file:
        found = find_array(file, path, "y", hint=_make_damage_hint(path, is_download))
        if not 0 < found.shape[0] == prod(found.shape) <= _MAX_LABELS or found.dtype.kind not in "uib":
            raise HistoError(f"{path}: y is {found.dtype} {found.shape}, not one label for each patch")
        labels = np.concatenate([rows.reshape(-1) for _, rows in found.read_blocks()])
    wrong = np.flatnonzero((labels != 0) & (labels != 1))
    if len(wrong):
        raise HistoError(f"{path}: label {labels[wrong[0]]} in row {wrong[0]} is not 0 or 1")
    return labels.astype(np.uint8)


def read_patches(file: "h5py.File", path: Path, rows: int, *, is_download: bool = False) -> Iterator[Pixels]:
    """Yield the patches (96,96,3) uint8 of the array `x`, reading a few hundred at a time.

    `is_download` is as in `read_labels`.

    Raises:
        HistoError: the file is damaged, does not contain this array, or the number of patches is not `rows`.
    """
    found = find_array(file, path, "x", hint=_make_damage_hint(path, is_download))
    if found.shape[1:] != PATCH_SHAPE or found.dtype != np.uint8:
        raise HistoError(f"{path}: x is {found.dtype} {found.shape}, not uint8 (N,96,96,3)")
    if found.shape[0] != rows:
        raise HistoError(
            f"{path} has {found.shape[0]:,} patches for {rows:,} labels",
            make_version_hint(is_download),
        )
    for _, block in found.read_blocks():
        yield from block


@contextmanager
def open_h5(
    path: Path,
    scratch: Path,
    *,
    rows: int | None = None,
    limit: int | None = None,
    is_download: bool = False,
    on_progress: OnProgress = lambda done, total: None,
) -> "Iterator[h5py.File]":
    """Open an `.h5`, or unpack an `.h5.gz` to a temporary file in `scratch` and open that.

    An `.h5.gz` may unpack to at most `limit` bytes, or to the size of `rows` patches. `is_download` is as in
    `read_labels`.

    Raises:
        HistoError: the file is truncated, damaged or not HDF5, unpacks to more, or the disk has no space for it.
    """
    hint = _make_damage_hint(path, is_download)
    if path.suffix != ".gz":
        with _open_file(path, path, hint) as file:
            yield file
        return
    expected = None if rows is None else rows * prod(PATCH_SHAPE)
    with ExitStack() as stack:
        with _convert_disk_errors(path, scratch, expected):
            temporary = stack.enter_context(make_temporary(scratch / path.stem))
        if expected is not None:
            require_space(scratch, expected, f"unpacking {path.name}")
            limit = expected + expected // 16 + _OVERHEAD
        _unpack(path, temporary, expected, limit, hint, on_progress)
        yield stack.enter_context(_open_file(temporary, path, hint))


def _unpack(
    path: Path, target: Path, expected: int | None, limit: int | None, hint: str, on_progress: OnProgress
) -> None:
    """Unpack a gzip file to `target`, with at most `limit` bytes."""
    done = 0
    with (
        _convert_disk_errors(path, target.parent, expected),
        target.open("wb", buffering=0) as output,
        convert_damage_errors(path, hint),
        gzip.open(path) as packed,
    ):
        while chunk := packed.read(_CHUNK):
            done += len(chunk)
            if limit is not None and done > limit:
                raise HistoError(f"{path} unpacks to more than {format_bytes(limit)}", "it is not PCam's file")
            with _convert_disk_errors(path, target.parent, expected):
                write_all(output, chunk)
            on_progress(done, expected)


@contextmanager
def _convert_disk_errors(path: Path, folder: Path, expected: int | None) -> Iterator[None]:
    """Convert errors of the disk in this block to `HistoError`."""
    try:
        yield
    except OSError as error:
        needed = "" if expected is None else f" ({format_bytes(expected)} needed)"
        raise HistoError(
            f"cannot unpack {path.name} to {folder}: {error.strerror or error}{needed}",
            make_space_hint(folder),
        ) from error


@contextmanager
def _open_file(path: Path, original: Path, hint: str) -> "Iterator[h5py.File]":
    """Open an HDF5 file in this block; errors name the file `original`."""
    import h5py

    # The temporary file is locked already. Some file systems of clusters have no locks: then a file is read without.
    locking = "best-effort" if path == original else False
    with convert_damage_errors(original, hint):
        file = h5py.File(path, "r", locking=locking)
    with file:
        yield file


def make_version_hint(is_download: bool) -> str:
    """Return what to do if two files of one split have different numbers of rows."""
    remedy = "download them again with --force" if is_download else "give the files of one split and version"
    return f"the files are from different versions: {remedy}"


def _make_damage_hint(path: Path, is_download: bool) -> str:
    """Return what to do if a file is damaged; a file of the user must not be deleted."""
    if is_download:
        return f"delete {path.name} and run the same command again, or give --force"
    return "copy or download this file again: it may be incomplete"
