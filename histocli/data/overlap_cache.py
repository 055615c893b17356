"""The overlaps of packed data sets: searched once, and kept beside the patches."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from histocli.data.overlaps import CODING_ERROR, MIN_OVERLAP, PAIR, Array, OnStage, find_overlaps
from histocli.data.store import map_array
from histocli.data.subset import open_packed
from histocli.errors import HistoError
from histocli.workspace import Workspace, atomic_path, read_json


def search_overlaps(
    workspace: Workspace, names: Sequence[str], on_stage: OnStage = lambda what, done, total: None
) -> Array:
    """Give the overlaps within and between data sets, counted through as one, as `find_overlaps` does.

    What was searched before is read; what is searched now is kept, with the pairs of the first data set by themselves.

    Raises:
        HistoError: a data set is not there, cannot be read or is not what its manifest says, or the disk is full.
    """
    pairs = known_overlaps(workspace, names)
    if pairs is None:
        stores = [open_packed(workspace, name)[0] for name in names]
        pairs = find_overlaps(stores, on_stage)
        kept = {_path(workspace, names[:1]): pairs[pairs["b"] < len(stores[0])], _path(workspace, names): pairs}
        for stale in set(workspace.dataset_dir(names[0]).glob("overlaps-*.npy")) - kept.keys():
            stale.unlink()
        for path, some in kept.items():
            with atomic_path(path) as temporary, temporary.open("wb") as file:
                np.save(file, some)
    return pairs


def known_overlaps(workspace: Workspace, names: Sequence[str]) -> Array | None:
    """Give the overlaps within and between data sets if they were searched since these were packed.

    Raises:
        HistoError: the file that keeps them cannot be read.
    """
    path = _path(workspace, names)
    if not path.is_file():
        return None
    hint = "remove it: histo balance searches again"
    pairs: Array = np.asarray(map_array(path, hint))
    if pairs.dtype != PAIR:
        raise HistoError(f"{path} holds {pairs.dtype}, not pairs of patches", hint)
    return pairs


def _path(workspace: Workspace, names: Sequence[str]) -> Path:
    """Where overlaps are kept: named by the pixels they were found in, so that another packing has no part in them."""
    pixels = [_pixels_sha256(workspace, name) for name in names]
    key = sha256(" ".join([str(MIN_OVERLAP), str(CODING_ERROR), *pixels]).encode()).hexdigest()[:16]
    return workspace.dataset_dir(names[0]) / f"overlaps-{key}.npy"


def _pixels_sha256(workspace: Workspace, name: str) -> str:
    path = workspace.dataset_path(name)
    digest = read_json(path).get("sha256")
    if not digest:
        raise HistoError(f"{path} has no SHA-256 of the pixels", f"histo download --name {name} --force packs it again")
    return str(digest)
