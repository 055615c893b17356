"""Whatever a user wants scored, as a stream of patches: folders, files, archives, arrays, packed data sets, stdin."""

import sys
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from histocli.choices import Resize
from histocli.data.images import decode_patch, fit
from histocli.data.manifest import read_manifest
from histocli.data.sources import Patch, Pixels
from histocli.data.sources.files import File, list_files, list_images, read_bytes
from histocli.data.sources.folder import unique_ids
from histocli.data.store import open_store
from histocli.errors import HistoError
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import h5py

_SLICE = 512  # rows of an HDF5 array read at once
STDIN = "-"


class Inputs(NamedTuple):
    """Patches to be scored, and how many there are where that is known."""

    total: int | None
    patches: Iterable[Patch]


def open_inputs(names: list[str], workspace: Workspace, resize: Resize) -> Inputs:
    """Open paths, data set names, or `-` for a list of paths on stdin; ids are stable, and so is the order.

    A path wins over a data set of the same name. Image ids are file stems where those are unique within an input,
    else relative paths; array ids are row numbers.

    Raises:
        HistoError: an input is neither a path nor a data set, or holds no image.
    """
    opened = [_open(name, workspace, resize) for name in names]
    totals = [one.total for one in opened]
    total = None if None in totals else sum(n for n in totals if n is not None)
    return Inputs(total, chain.from_iterable(one.patches for one in opened))


def _open(name: str, workspace: Workspace, resize: Resize) -> Inputs:
    path = Path(name)
    if name == STDIN:
        return Inputs(None, _from_lines(sys.stdin, resize))
    if not path.exists():
        if name in workspace.dataset_names():
            return _from_dataset(workspace, name)
        known = ", ".join(workspace.dataset_names()) or "none"
        raise HistoError(f"there is no {name}: no such path, and no data set of that name", f"data sets: {known}")
    if path.suffix.lower() == ".npy":
        return _from_array(_open_npy(path), resize)
    if path.suffix.lower() in (".h5", ".hdf5"):
        return _from_array(_open_h5(path), resize)
    files = list_images(path) if path.is_dir() or path.suffix.lower() == ".zip" else list_files(path)
    if not files:
        raise HistoError(f"there are no images in {name}", "give a folder or .zip that holds some")
    pairs = zip(unique_ids(files), files, strict=True)
    return Inputs(len(files), (Patch(key, _loader(file, resize)) for key, file in pairs))


def _loader(file: File, resize: Resize) -> Any:
    return lambda: decode_patch(read_bytes(file), file.name, resize)


def _from_lines(lines: Iterable[str], resize: Resize) -> Iterator[Patch]:
    """One path a line; the id is the path as it is given, for stems may repeat."""
    for line in lines:
        if name := line.rstrip("\r\n"):
            yield Patch(name, _loader(File(name, Path(name).read_bytes), resize))


def _from_dataset(workspace: Workspace, name: str) -> Inputs:
    store = open_store(workspace.patches_path(name))
    ids = read_manifest(workspace.manifest_path(name))["id"]
    return Inputs(len(store), (Patch(key, partial(store.__getitem__, i)) for i, key in enumerate(ids)))


def _from_array(array: "np.ndarray | h5py.Dataset", resize: Resize) -> Inputs:
    def patches() -> Iterator[Patch]:
        for start in range(0, len(array), _SLICE):
            block: Pixels = array[start : start + _SLICE]
            for i, image in enumerate(block):
                yield Patch(str(start + i), partial(fit, np.ascontiguousarray(image), resize))

    return Inputs(len(array), patches())


def _open_npy(path: Path) -> "np.ndarray":
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise HistoError(f"cannot read {path}: {error}") from error
    return _checked(array, path)  # type: ignore[no-any-return]


def _open_h5(path: Path) -> "h5py.Dataset":
    import h5py

    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise HistoError(f"cannot read {path}: {error}") from error
    sets = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
    if "x" not in sets and len(sets) != 1:
        raise HistoError(f"{path} holds {', '.join(sets) or 'no arrays'}", "the patches must be named 'x'")
    return _checked(sets.get("x", next(iter(sets.values()))), path)


def _checked(array: Any, path: Path) -> Any:
    if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8:
        raise HistoError(f"{path} holds {array.dtype} {tuple(array.shape)}", "patches are uint8 (N,H,W,3) in RGB order")
    return array
