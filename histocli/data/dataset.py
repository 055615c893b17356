"""Open a manifest together with the packed pixels of its rows."""

from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocli.atomic import read_json
from histocli.config import BalanceConfig
from histocli.data.manifest import UNLABELLED, IdsDigest, find_line, read_manifest
from histocli.data.store import open_store
from histocli.enums import SplitName
from histocli.errors import HistoError
from histocli.patch import Pixels
from histocli.schema import Count, Json, from_json
from histocli.text import escape_control_characters, shorten
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

ReadManifest = Callable[[Path, tuple[str, ...]], "pd.DataFrame"]  # reads a manifest with the required columns
_SAMPLED = 64  # patches whose pixels are compared with the manifest
_LONGEST = 2000  # characters of a text of `dataset.json` that only people read


@dataclass(frozen=True)
class Dataset:
    """The content of `dataset.json`: the source, options, labels, counts and checksums of a packed data set.

    `labels` are the labels that occur: 0, 1, both or none. Earlier versions did not write all fields.
    """

    name: str = ""
    source: str = ""
    request: Json = field(default_factory=dict)
    origin: str = ""
    patches: Count = 0
    sha256: str = ""
    ids_sha256: str = ""
    labels: list[int] = field(default_factory=list)
    counts: dict[str, Count] = field(default_factory=dict)
    checksums: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Subset(NamedTuple):
    """Patches of a packed data set.

    Attributes:
        data: the name of the data set.
        store: all of its patches.
        rows: (N,) int64, the rows of the patches in `store`.
        labels: (N,) their labels.
        frame: their rows of the manifest.
        packed: the manifest of the data set.
    """

    data: str
    store: Pixels
    rows: "np.ndarray"
    labels: "np.ndarray"
    frame: "pd.DataFrame"
    packed: "pd.DataFrame"

    def select_split(self, split: str) -> "Subset":
        """Return the patches of one split."""
        return self.select((self.frame["split"] == split).to_numpy())

    def select(self, mask: "np.ndarray") -> "Subset":
        """Return the patches for which `mask` (N,) is true."""
        return self._replace(rows=self.rows[mask], labels=self.labels[mask], frame=self.frame[mask])


def open_balanced(workspace: Workspace, manifest_path: Path) -> Subset:
    """Open a subset that `histo balance` drew, or a copy of its manifest.

    Raises:
        HistoError: as `open_subset`, or the manifest is that of a whole data set.
    """
    subset = open_subset(workspace, manifest_path)
    workspace.check_complete(subset.data)
    if manifest_path == workspace.manifest_path(subset.data):
        raise HistoError(
            f"{subset.data} is a data set, not a balanced subset", make_balance_command(subset.data, len(subset.labels))
        )
    return subset


def open_subset(workspace: Workspace, manifest_path: Path, read: ReadManifest = read_manifest) -> Subset:
    """Open the manifest of a data set or of a subset, with the packed array that its rows are in.

    Raises:
        HistoError: the manifest or the array is missing or malformed; or ids, pixels or labels of the data set have
            changed since the subset was drawn.
    """
    frame = read(manifest_path, ("id", "label", "slide", "split"))
    if "data" not in frame.columns:
        frame = frame.assign(data=manifest_path.stem, index=range(len(frame)))
    if "index" not in frame.columns:
        raise HistoError(f"{manifest_path}, line 1: there is no column 'index'", "histo balance writes it again")
    names = frame["data"].unique()
    if len(names) != 1:
        raise HistoError(
            f"{manifest_path} names {len(names)} data sets; one is needed",
            "histo balance writes such a table",
        )
    name = str(names[0])
    rows = frame["index"].to_numpy(np.int64)
    store, packed = open_packed(workspace, name, read=read)
    hint = "histo balance draws a new subset; histo eval --data NAME evaluates runs of the old one"
    if rows.max(initial=-1) >= len(store) or not has_same_patches(frame, packed.iloc[rows]):
        raise HistoError(f"{manifest_path} does not match the packed data set {name}", hint)
    if changed := int((frame["label"].to_numpy() != packed["label"].to_numpy()[rows]).sum()):
        raise HistoError(f"{manifest_path} and the manifest of {name} disagree on {changed:,} labels", hint)
    return Subset(name, store, rows, frame["label"].to_numpy(np.int64), frame, packed)


def make_balance_command(data: str, patches: int) -> str:
    """Return the command that draws a subset of a data set; `--n max` is added if it is smaller than the default."""
    is_small = BalanceConfig.n is not None and patches < BalanceConfig.n
    return f"histo balance --data {data}" + (" --n max" if is_small else "")


def has_same_patches(subset: "pd.DataFrame", packed: "pd.DataFrame") -> bool:
    """Return whether rows of a subset and of a data set have the same ids, and the same SHA-1s if both have them."""
    names = [name for name in ("id", "sha1") if name in subset.columns and name in packed.columns]
    return all(bool((subset[name].to_numpy() == packed[name].to_numpy()).all()) for name in names)


def open_packed(
    workspace: Workspace,
    name: str,
    required: tuple[str, ...] = ("id", "label"),
    read: ReadManifest = read_manifest,
) -> tuple[Pixels, "pd.DataFrame"]:
    """Open the array of a data set and its manifest, which have the same rows in the same order.

    The ids and their order are compared with those that were packed, and the pixels of a sample of patches with the
    SHA-1s in the manifest. If a manifest was sorted by hand, for example, every patch would have a wrong label.

    Raises:
        HistoError: the array or the manifest is missing or malformed, or their rows differ.
    """
    store, path = open_store(workspace.patches_path(name)), workspace.manifest_path(name)
    frame = read(path, required)
    hint = f"histo download --name {name} --force packs it again"
    if len(frame) != len(store):
        raise HistoError(f"the manifest of {name} has {len(frame):,} rows, its array {len(store):,}", hint)
    record = read_dataset(workspace, name)
    has_other_ids = bool(record and record.ids_sha256 not in ("", IdsDigest(frame["id"].tolist()).hexdigest()))
    rows = np.arange(len(store)) if has_other_ids else np.unique(np.linspace(0, len(store) - 1, _SAMPLED).astype(int))
    for row in rows if "sha1" in frame.columns and len(store) else ():
        if sha1(store[row].data, usedforsecurity=False).hexdigest() != frame["sha1"].iloc[row]:
            key, line = frame["id"].iloc[row], find_line(path, int(row))
            problem = f"{key!r} is not in the row of its pixels, or was changed"
            raise HistoError(f"{path}, line {line}, column id: {problem}", hint)
    if has_other_ids:
        raise HistoError(f"{path}, column id: the ids or their order differ from those that were packed", hint)
    return store, frame


def read_dataset(workspace: Workspace, name: str) -> Dataset | None:
    """Read the `dataset.json` of a data set; None if there is none.

    Raises:
        HistoError: it cannot be read, or a field has a wrong type.
    """
    path = workspace.dataset_path(name)
    if not path.exists():
        return None
    content = read_json(path)
    if isinstance(content, dict):
        content = {key: value for key, value in content.items() if value is not None}
        # Only people read these two fields, and earlier versions wrote all names of files as they are.
        for key in ("origin", "notes"):
            if isinstance(text := content.get(key), str):
                content[key] = make_printable(text)
            elif isinstance(lines := content.get(key), list):
                content[key] = [make_printable(str(line)) for line in lines]
    return from_json(Dataset, content, str(path), f"histo download --name {name} --force packs it again")


def make_printable(text: str) -> str:
    """Return a text for `dataset.json` on one line, short, and without bytes that are not UTF-8, as paths may have."""
    return shorten(escape_control_characters(text), _LONGEST)


def find_source_name(workspace: Workspace, name: str) -> str:
    """Return the source that a data set was packed from, such as `pcam`; "" if it is not known."""
    record = read_dataset(workspace, name)
    return record.source if record else ""


def select_labelled(subset: Subset, split: SplitName) -> Subset:
    """Return the labelled patches of a split, or of all splits for `SplitName.ALL`.

    Raises:
        HistoError: there are no such patches.
    """
    selected = subset if split is SplitName.ALL else subset.select_split(split.value)
    selected = selected.select(selected.labels != UNLABELLED)
    if not len(selected.rows):
        splits = ", ".join(sorted(set(subset.frame["split"]) - {""})) or "none"
        if split is SplitName.ALL:
            hint = "pack it again with labels: histo download --labels TABLE, or --classes"
            raise HistoError(f"{subset.data} has no labelled patches", hint)
        raise HistoError(f"{subset.data} has no labelled patches in its split {split.value!r}", f"its splits: {splits}")
    return selected
