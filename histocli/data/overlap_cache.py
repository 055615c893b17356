"""The overlaps of packed data sets: searched once, and kept beside the patches."""

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
    """Give the overlaps within a data set, as `find_overlaps` does, after those with each other one were searched too.

    What was searched before is not searched again; what is searched now is kept, for each two data sets by itself, so
    that packing a third one takes nothing away.

    Raises:
        HistoError: a data set is not there, cannot be read or is not what its manifest says, or the disk is full.
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
    """Give the overlaps within a data set, or between it and another, if they were searched since these were packed.

    Of those between two, `a` numbers the patches of the first, and `b` those of the other.

    Raises:
        HistoError: the file that keeps them cannot be read.
    """
    path = _path(workspace, data, other)
    if not path.is_file():
        return None
    hint = "remove it: histo balance searches again"
    pairs: Array = np.asarray(map_array(path, hint))
    if pairs.dtype != PAIR:
        raise HistoError(f"{path} holds {pairs.dtype}, not pairs of patches", hint)
    return pairs


def _numbered(pairs: Array, starts: Array, a: int, b: int) -> Array:
    """The pairs of patches of the stores `a` and `b`, which begin at `starts`, numbered from 0 in each."""
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
    """Where the overlaps of `data` with what is packed now are kept, or would be."""
    yield _path(workspace, data)
    for other in workspace.dataset_names():
        if other != data and read_json(workspace.dataset_path(other)).get("sha256"):
            yield _path(workspace, data, other)


def _path(workspace: Workspace, data: str, other: str | None = None) -> Path:
    """Where overlaps are kept: named by the pixels they were found in, so that another packing has no part in them."""
    pixels = [_pixels_sha256(workspace, name) for name in (data, other) if name]
    key = sha256(" ".join([str(MIN_OVERLAP), str(CODING_ERROR), *pixels]).encode()).hexdigest()[:16]
    return workspace.dataset_dir(data) / f"overlaps-{key}.npy"


def _pixels_sha256(workspace: Workspace, name: str) -> str:
    path = workspace.dataset_path(name)
    digest = read_json(path).get("sha256")
    if not digest:
        raise HistoError(f"{path} has no SHA-256 of the pixels", f"histo download --name {name} --force packs it again")
    return str(digest)
