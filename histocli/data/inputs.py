"""Open the patches to score: folders, files, archives, arrays, packed data sets, or a list of paths on stdin."""

import errno
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from histocli.config import Resize
from histocli.data import MAX_PIXELS
from histocli.data.dataset import open_packed
from histocli.data.decoding import ImageFile
from histocli.data.images import fit
from histocli.data.manifest import file_sha256
from histocli.data.store import map_array
from histocli.errors import HistoError
from histocli.sources import Patch, Pixels
from histocli.sources.files import File, file_at, list_files, list_images
from histocli.sources.folder import unique_ids
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import h5py

_SLICE_BYTES = 1 << 24  # of an HDF5 array read at once
STDIN = "-"
_ARRAYS = (".npy", ".h5", ".hdf5")


class Inputs(NamedTuple):
    """Patches to score, and their number (None if unknown); `files` has the image files of each folder."""

    total: int | None
    patches: Iterable[Patch]
    files: dict[str, list[File]]


def open_inputs(names: Sequence[str], workspace: Workspace, resize: Resize, lines: list[bytes] | None = None) -> Inputs:
    """Open paths, data set names, or `-` for a list of paths on stdin; ids and their order are always the same.

    A path is preferred to a data set of the same name. The id of an image is the stem of its file name if all stems are
    different, else its relative path, which begins with the input's path if there are several inputs. In an array, the
    id is the row number. If there are several inputs and one is an array or a data set, every id begins with the name
    of its input. `lines` are the paths from stdin, if they have been read before.

    Raises:
        HistoError: an input is neither a path nor a data set, or contains no image.
    """
    if len(names) > 1 and all(_holds_images(Path(name)) for name in names):
        files = {name: _list_prefixed_files(name) for name in names}
        return _from_files([file for name in names for file in files[name]], resize, files)
    inputs = [_open_input(name, workspace, resize, lines) for name in names]
    if len(names) > 1:
        inputs = [_prefix_ids(one, name) for one, name in zip(inputs, names, strict=True)]
    totals = [one.total for one in inputs]
    total = None if None in totals else sum(n for n in totals if n is not None)
    files = {name: files for one in inputs for name, files in one.files.items()}
    return Inputs(total, chain.from_iterable(one.patches for one in inputs), files)


def _prefix_ids(inputs: Inputs, name: str) -> Inputs:
    """Add the input's name at the beginning of its patches' ids; paths from stdin are unique already."""
    if name == STDIN:
        return inputs
    stem = Path(name).as_posix()
    return inputs._replace(patches=(patch._replace(id=f"{stem}/{patch.id}") for patch in inputs.patches))


def fingerprint(inputs: Inputs, names: Sequence[str], workspace: Workspace, lines: list[bytes] | None = None) -> str:
    """Return a SHA-256 of a folder's file names, a data set's manifest, and a file's size and time.

    `inputs` are what `open_inputs` returned for the same `names` and `lines`.
    """
    digest = sha256()
    for name in names:
        path = Path(name)
        digest.update(f"{path.absolute()}\n".encode("utf-8", "surrogateescape"))
        if name == STDIN:
            digest.update(b"".join(lines or []))
        elif path.is_dir():
            digest.update("\n".join(file.name for file in inputs.files[name]).encode())
        elif path.is_file():
            digest.update(f"{path.stat().st_size} {path.stat().st_mtime_ns}\n".encode())
        else:
            digest.update(file_sha256(workspace.manifest_path(name)).encode())
    return digest.hexdigest()


def _open_input(name: str, workspace: Workspace, resize: Resize, lines: list[bytes] | None) -> Inputs:
    path = Path(name)
    if name == STDIN:
        total, source = (None, stdin_lines()) if lines is None else (len(lines), lines)
        return Inputs(total, _from_lines(source, resize), {})
    if not os.path.exists(path):  # noqa: PTH110 - Path.exists raises where a name is too long
        if name in workspace.dataset_names():
            return _from_dataset(workspace, name)
        known = ", ".join(workspace.dataset_names()) or "none"
        raise HistoError(f"there is no {name}: no such path, and no data set of that name", f"data sets: {known}")
    if path.is_file() and path.suffix.lower() == ".npy":
        return _from_array(_check_array(map_array(path), path), path, resize)
    if path.is_file() and path.suffix.lower() in (".h5", ".hdf5"):
        return _from_array(_open_h5(path), path, resize)
    files = _images(path)
    return _from_files(files, resize, {name: files})


def stdin_lines() -> Iterator[bytes]:
    """Yield the lines of stdin.

    Raises:
        HistoError: it is closed, or cannot be read.
    """
    if sys.stdin is None:
        raise HistoError("cannot read paths from stdin: it is closed", "pipe a list of paths to it")
    try:
        yield from sys.stdin.buffer
    except OSError as error:
        reason = "it is closed" if error.errno == errno.EBADF else error.strerror or str(error)
        raise HistoError(f"cannot read paths from stdin: {reason}", "pipe a list of paths to it") from error


def _holds_images(path: Path) -> bool:
    return path.is_dir() or (path.is_file() and path.suffix.lower() not in _ARRAYS)


def _images(path: Path) -> list[File]:
    files = list_images(path) if path.is_dir() or path.suffix.lower() == ".zip" else list_files(path)
    if not files:
        raise HistoError(f"there are no images in {path}", "give a folder or .zip that contains images")
    return files


def _list_prefixed_files(name: str) -> list[File]:
    """List the files of an input with the input in their names, so that names are unique among several inputs."""
    path = Path(name)
    if path.is_file() and path.suffix.lower() != ".zip":
        return [file_at(path)]
    return [File(f"{path.as_posix()}/{file.name}", file.read) for file in _images(path)]


def _from_files(files: list[File], resize: Resize, by_input: dict[str, list[File]]) -> Inputs:
    pairs = zip(unique_ids(files), files, strict=True)
    return Inputs(len(files), (Patch(key, ImageFile(file.name, file.read, resize)) for key, file in pairs), by_input)


def _from_lines(lines: Iterable[bytes], resize: Resize) -> Iterator[Patch]:
    """Yield the image at the path in each line; the id is the path as it is given, because stems may repeat."""
    for line in lines:
        if name := os.fsdecode(line.rstrip(b"\r\n")):
            file = file_at(Path(name), name)
            yield Patch(file.name, ImageFile(file.name, file.read, resize))


def _from_dataset(workspace: Workspace, name: str) -> Inputs:
    store, manifest = open_packed(workspace, name)
    return Inputs(len(store), (Patch(key, partial(store.__getitem__, i)) for i, key in enumerate(manifest["id"])), {})


def _from_array(array: "np.ndarray | h5py.Dataset", path: Path, resize: Resize) -> Inputs:
    step = max(1, _SLICE_BYTES // int(np.prod(array.shape[1:], dtype=np.int64)))

    def patches() -> Iterator[Patch]:
        for start in range(0, len(array), step):
            try:
                block: Pixels = array[start : start + step]
            except OSError as error:
                raise HistoError(f"cannot read {path} from row {start} on: {error}") from error
            for i, image in enumerate(block):
                yield Patch(str(start + i), partial(fit, np.ascontiguousarray(image), resize))

    return Inputs(len(array), patches(), {})


def _open_h5(path: Path) -> "h5py.Dataset":
    import h5py

    try:
        file = h5py.File(path, "r")
        sets = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
        if "x" not in sets and len(sets) != 1:
            raise HistoError(f"{path} contains {', '.join(sets) or 'no arrays'}", "the patches must be named 'x'")
        return _check_array(sets["x"] if "x" in sets else next(iter(sets.values())), path)
    except (OSError, KeyError, TypeError, RuntimeError) as error:
        raise HistoError(f"cannot read {path}: {error}") from error


def _check_array(array: Any, path: Path) -> Any:
    if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8:
        shape = f"{array.dtype} {tuple(array.shape)}"
        raise HistoError(f"{path} contains {shape}", "patches must be uint8 (N,H,W,3) in RGB order")
    if min(array.shape) < 1 or array.shape[1] * array.shape[2] > MAX_PIXELS:
        limit = f"a patch must have 1 to {MAX_PIXELS:,} pixels"
        raise HistoError(f"{path} contains patches of shape {tuple(array.shape)}", limit)
    return array
