"""The overlaps of packed data sets: searched once, and stored beside the patches."""

from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from histocli.data.dataset import open_packed
from histocli.data.overlaps import CODING_ERROR, MIN_OVERLAP, PAIR, Array, OnStage, find_overlaps
from histocli.data.store import map_array
from histocli.errors import HistoError
from histocli.workspace import Workspace, atomic_path, read_json


def search_overlaps(
    workspace: Workspace, data: str, others: Sequence[str] = (), on_stage: OnStage = lambda what, done, total: None
) -> Array:
    """Return the overlaps within a data set, as `find_overlaps` does, and search those with the others too.

    What was searched before is not searched again. Results are stored for each two data sets separately, so that they
    stay valid when a third one is packed again.

    Raises:
        HistoError: a data set is missing, cannot be read or does not fit its manifest, or the disk is full.
    """
    within = known_overlaps(workspace, data)
    new = [name for name in others if known_overlaps(workspace, data, name) is None]
    if within is None or new:
        stores = [open_packed(workspace, name)[0] for name in (data, *new)]
        pairs = find_overlaps(stores, on_stage)
        starts = np.cumsum([0, *map(len, stores)], dtype=PAIR["a"])
        stale = set(workspace.dataset_dir(data).glob("overlaps-*.npy")) - set(_current(workspace, data))
        within = _numbered(pairs, starts, 0, 0)
        _keep(_path(workspace, data), within)
        for i, name in enumerate(new, 1):
            _keep(_path(workspace, data, name), _numbered(pairs, starts, 0, i))
            _keep(_path(workspace, name), _numbered(pairs, starts, i, i))
        for path in stale:
            path.unlink(missing_ok=True)
    return within


def known_overlaps(workspace: Workspace, data: str, other: str | None = None) -> Array | None:
    """Return the overlaps within a data set, or between it and another; None where these have not been searched.

    Between two data sets, `a` is a patch of the first and `b` a patch of the other.

    Raises:
        HistoError: the file that stores them cannot be read.
    """
    path = _path(workspace, data, other)
    if not path.is_file():
        return None
    hint = "remove it: histo balance searches again"
    pairs: Array = np.asarray(map_array(path, hint))
    if pairs.dtype != PAIR:
        raise HistoError(f"{path} has values of type {pairs.dtype}, not pairs of patches", hint)
    return pairs


def _numbered(pairs: Array, starts: Array, a: int, b: int) -> Array:
    """The pairs of a patch of store `a` and one of store `b`; patches are numbered from 0 in each store."""
    chosen = pairs[_within(pairs["a"], starts, a) & _within(pairs["b"], starts, b)].copy()
    chosen["a"] -= starts[a]
    chosen["b"] -= starts[b]
    return chosen


def _within(numbers: Array, starts: Array, store: int) -> Array:
    inside: Array = (numbers >= starts[store]) & (numbers < starts[store + 1])
    return inside


def _keep(path: Path, pairs: Array) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, pairs)


def _current(workspace: Workspace, data: str) -> Iterator[Path]:
    """The files, existing or not, of the overlaps of `data` with the data sets that are packed now."""
    yield _path(workspace, data)
    for other in workspace.dataset_names():
        if other != data and read_json(workspace.dataset_path(other)).get("sha256"):
            yield _path(workspace, data, other)


def _path(workspace: Workspace, data: str, other: str | None = None) -> Path:
    """The file of overlaps. Its name is a hash of the pixels, so that it is not used for data that are packed again."""
    pixels = [_pixels_sha256(workspace, name) for name in (data, other) if name]
    key = sha256(" ".join([str(MIN_OVERLAP), str(CODING_ERROR), *pixels]).encode()).hexdigest()[:16]
    return workspace.dataset_dir(data) / f"overlaps-{key}.npy"


def _pixels_sha256(workspace: Workspace, name: str) -> str:
    path = workspace.dataset_path(name)
    digest = read_json(path).get("sha256")
    if not digest:
        raise HistoError(f"{path} has no SHA-256 of the pixels", f"histo download --name {name} --force packs it again")
    return str(digest)
