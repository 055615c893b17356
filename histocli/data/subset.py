"""The rows of a manifest together with the packed pixels that they name."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocli.choices import Part
from histocli.data.manifest import UNLABELLED, read_manifest
from histocli.data.sources import Pixels
from histocli.data.store import open_store
from histocli.errors import HistoError
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


class Subset(NamedTuple):
    """Some patches of a packed data set: `rows` (N,) int64 into `store`, `labels` (N,), and their manifest rows."""

    data: str
    store: Pixels
    rows: "np.ndarray"
    labels: "np.ndarray"
    frame: "pd.DataFrame"

    def part(self, split: str) -> "Subset":
        """The patches of one split."""
        return self.where((self.frame["split"] == split).to_numpy())

    def where(self, mask: "np.ndarray") -> "Subset":
        """The patches that `mask` (N,) marks."""
        return self._replace(rows=self.rows[mask], labels=self.labels[mask], frame=self.frame[mask])


def open_subset(workspace: Workspace, manifest_path: Path) -> Subset:
    """Open the manifest of a data set, or of a subset of one, with the array it speaks of.

    Raises:
        HistoError: the manifest or the array is missing or malformed, or the two do not belong together.
    """
    frame = read_manifest(manifest_path, ("id", "label", "slide", "split"))
    if "data" not in frame.columns:
        frame["data"], frame["index"] = manifest_path.stem, range(len(frame))
    names = frame["data"].unique()
    if len(names) != 1:
        raise HistoError(
            f"{manifest_path} names {len(names)} data sets; one is needed",
            "histo balance writes such a table",
        )
    name = str(names[0])
    store = open_store(workspace.patches_path(name))
    rows = frame["index"].to_numpy(np.int64)
    packed = read_manifest(workspace.manifest_path(name))
    if len(packed) != len(store):
        raise HistoError(
            f"the manifest of {name} has {len(packed):,} rows, its array {len(store):,}",
            f"histo download --name {name} --force packs it again",
        )
    if rows.max(initial=-1) >= len(store) or (packed["id"].to_numpy()[rows] != frame["id"].to_numpy()).any():
        raise HistoError(f"{manifest_path} speaks of another packing of {name}", "histo balance makes it anew")
    return Subset(name, store, rows, frame["label"].to_numpy(np.int64), frame)


def labelled_part(subset: Subset, part: Part) -> Subset:
    """The labelled patches of a split; of them all for `all`.

    Raises:
        HistoError: there are none.
    """
    chosen = subset if part is Part.ALL else subset.part(part.value)
    chosen = chosen.where(chosen.labels != UNLABELLED)
    if not len(chosen.rows):
        splits = ", ".join(sorted(set(subset.frame["split"]) - {""})) or "none"
        raise HistoError(f"{subset.data} has no labelled patches in its split {part.value!r}", f"its splits: {splits}")
    return chosen
