"""Search the overlaps of packed data sets once, and save them in the folders of the data sets."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from histocli.atomic import write_atomically
from histocli.data.dataset import Subset, open_packed, read_dataset
from histocli.data.groups import OVERLAP, SLIDE
from histocli.data.overlaps import (
    CODING_ERROR,
    MIN_OVERLAP,
    PAIR,
    Array,
    OnStage,
    find_overlaps,
    group_overlaps,
    name_groups,
)
from histocli.data.store import map_array, open_store
from histocli.errors import HistoError
from histocli.workspace import Workspace


def search_overlaps(
    workspace: Workspace, data: str, others: Sequence[str] = (), on_stage: OnStage = lambda what, done, total: None
) -> Array:
    """Return the overlaps within a data set, as `find_overlaps` does; also search the overlaps with other data sets.

    Each pair of data sets has its own file, so that it stays valid when a third data set is packed. A pair that has a
    file is not searched again.

    Raises:
        HistoError: a data set is missing, cannot be read or does not match its manifest, or the disk is full.
    """
    within = read_overlaps(workspace, data)
    new = [name for name in others if read_overlaps(workspace, data, name) is None]
    if within is None or new:
        stores = [open_packed(workspace, name)[0] for name in (data, *new)]
        pairs = find_overlaps(stores, on_stage)
        starts = np.cumsum([0, *map(len, stores)], dtype=PAIR["a"])
        packed = [name for name in workspace.list_datasets() if _find_pixels_sha256(workspace, name)]
        needed = {_path(workspace, data, None if name == data else name) for name in packed}
        stale = set(workspace.dataset_dir(data).glob("overlaps-*.npy")) - needed
        within = _select_pairs(pairs, starts, 0, 0)
        _save(_path(workspace, data), within)
        for i, name in enumerate(new, 1):
            _save(_path(workspace, data, name), _select_pairs(pairs, starts, 0, i))
            _save(_path(workspace, name), _select_pairs(pairs, starts, i, i))
        for path in stale:
            path.unlink(missing_ok=True)
    return within


def read_overlaps(workspace: Workspace, data: str, other: str | None = None) -> Array | None:
    """Return the overlaps within a data set, or between it and another; None if they were not searched yet.

    Between two data sets, `a` is the row of a patch in the first, and `b` in the other.

    Raises:
        HistoError: the file with the overlaps cannot be read.
    """
    path = _path(workspace, data, other)
    if not path.is_file():
        return None
    hint = "delete it: histo balance searches again"
    pairs: Array = np.asarray(map_array(path, hint))
    if pairs.dtype != PAIR or pairs.ndim != 1:
        raise HistoError(f"{path} contains {pairs.dtype} {pairs.shape}, not pairs of patches", hint)
    for column, name in (("a", data), ("b", other or data)) if len(pairs) else ():
        rows, count = pairs[column], len(open_store(workspace.patches_path(name)))
        if not 0 <= rows.min() <= rows.max() < count:
            raise HistoError(f"{path} has rows that {name} does not have", hint)
    return pairs


def find_overlap_groups(workspace: Workspace, subset: Subset) -> Array | None:
    """Return the overlap group of each patch of a subset that lacks them, str (N,), as `name_groups` does.

    None if all slides are known, if the manifest has overlap groups, or if the overlaps were not searched yet.

    Raises:
        HistoError: the file with the overlaps cannot be read.
    """
    frame = subset.frame
    has_unknown_slides = SLIDE not in frame.columns or (frame[SLIDE] == "").any()
    if not has_unknown_slides or OVERLAP in frame.columns:
        return None
    if not _find_pixels_sha256(workspace, subset.data):
        return None  # an early version packed it, which could not search overlaps
    pairs = read_overlaps(workspace, subset.data)
    return None if pairs is None else name_groups(group_overlaps(pairs, len(subset.store)), subset.rows)


def _select_pairs(pairs: Array, starts: Array, a: int, b: int) -> Array:
    """Return the pairs between the stores `a` and `b`, which begin at `starts`, with rows counted from 0 in each."""
    are_selected = np.ones(len(pairs), bool)
    for end, store in (("a", a), ("b", b)):
        are_selected &= (pairs[end] >= starts[store]) & (pairs[end] < starts[store + 1])
    selected: Array = pairs[are_selected].copy()
    selected["a"] -= starts[a]
    selected["b"] -= starts[b]
    return selected


def _save(path: Path, pairs: Array) -> None:
    with write_atomically(path) as temporary, temporary.open("wb") as file:
        np.save(file, pairs)


def _path(workspace: Workspace, data: str, other: str | None = None) -> Path:
    """Return the path of the overlaps; its name depends on the pixels, so that packing again makes a new one."""
    pixels = []
    for name in (data, other) if other else (data,):
        if not (digest := _find_pixels_sha256(workspace, name)):
            raise HistoError(
                f"{workspace.dataset_path(name)} has no SHA-256 of the pixels",
                f"histo download --name {name} --force packs it again",
            )
        pixels.append(digest)
    key = sha256(" ".join([str(MIN_OVERLAP), str(CODING_ERROR), *pixels]).encode()).hexdigest()[:16]
    return workspace.dataset_dir(data) / f"overlaps-{key}.npy"


def _find_pixels_sha256(workspace: Workspace, name: str) -> str:
    """Return the SHA-256 of a data set's pixels, as its `dataset.json` has it; "" if it has none."""
    record = read_dataset(workspace, name)
    return record.sha256 if record else ""
