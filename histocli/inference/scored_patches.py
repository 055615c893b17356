"""Read the pixels of patches that were scored: those of packed data sets, or of the folder that was evaluated."""

from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histocli.data.store import open_store
from histocli.enums import Resize
from histocli.errors import HistoError
from histocli.files.file import find_images
from histocli.files.listing import list_files
from histocli.images.decode import Preparation
from histocli.images.image_files import ImageFile, infer_file_ranges
from histocli.patch import PATCH_SHAPE, Pixels
from histocli.reports.evaluation import EvaluationReport
from histocli.sources.folder import make_unique_ids
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    Rows = np.ndarray[Any, np.dtype[np.int64]]


def can_read_scored_patches(workspace: Workspace, report: EvaluationReport, scores: "pd.DataFrame") -> bool:
    """Return whether the scored patches still exist."""
    if report.folder:
        return Path(report.folder).exists()
    return all(name and workspace.patches_path(name).is_file() for name in scores["data"].unique())


def read_scored_patches(workspace: Workspace, report: EvaluationReport, scores: "pd.DataFrame") -> Pixels:
    """Read patches (N,96,96,3) uint8 in the order of `scores`, which are some rows of an evaluation's scores.

    Raises:
        HistoError: they have been removed, or their pixels have changed.
    """
    patches = _read_folder(report, scores) if report.folder else _read_packed(workspace, scores)
    for patch, digest, key in zip(patches, scores["sha1"], scores["id"], strict=True):
        if digest and sha1(patch.data, usedforsecurity=False).hexdigest() != digest:
            raise HistoError(f"the patch {key!r} was scored with other pixels", "it has changed: run histo eval again")
    return patches


def read_packed(workspace: Workspace, name: str, rows: "Rows") -> Pixels:
    """Read rows of the data set `name`.

    Raises:
        HistoError: it has been packed again with fewer patches, or cannot be read.
    """
    store = open_store(workspace.patches_path(name))
    if len(rows) and rows.max() >= len(store):
        raise HistoError(
            f"{name} has {len(store):,} patches, but the scores name row {rows.max():,}",
            "it was packed again: run histo balance and histo eval again",
        )
    return np.asarray(store[rows])


def _read_packed(workspace: Workspace, scores: "pd.DataFrame") -> Pixels:
    rows = scores["index"].to_numpy(np.int64)
    patches = np.empty((len(rows), *PATCH_SHAPE), np.uint8)
    for name in scores["data"].unique():
        is_of_data_set = (scores["data"] == name).to_numpy()
        patches[is_of_data_set] = read_packed(workspace, name, rows[is_of_data_set])
    return patches


def _read_folder(report: EvaluationReport, scores: "pd.DataFrame") -> Pixels:
    """Read patches of the folder or zip file that was evaluated, by their ids."""
    row_of = {key: row for row, key in enumerate(scores["id"])}
    patches = np.empty((len(row_of), *PATCH_SHAPE), np.uint8)
    if not row_of:
        return patches
    images, _ = find_images(list_files(Path(report.folder or "")))
    how = Preparation(Resize(report.resize), report.mpp, ranges=infer_file_ranges(images))
    ids = make_unique_ids(images)
    # In a folder that is itself a class, such as `tumor`, ids that are paths begin with its name.
    prefix = f"{next(iter(row_of)).partition('/')[0]}/" if row_of.keys().isdisjoint(ids) else ""
    for key, file in zip(ids, images, strict=True):
        if (row := row_of.pop(prefix + key, None)) is not None:
            patches[row] = ImageFile(file.name, file.read, how)()
    if row_of:
        missing = f"{min(row_of)!r}" + (f" and {len(row_of) - 1} others" if len(row_of) > 1 else "")
        raise HistoError(f"{report.folder} has no patch {missing} any more", "run histo eval again")
    return patches
