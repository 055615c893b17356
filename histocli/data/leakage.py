"""Count what a training subset shares with its validation split and with every other packed data set."""

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocli.data.dataset import read_dataset
from histocli.data.manifest import UNLABELLED, read_manifest
from histocli.data.overlap_cache import read_overlaps
from histocli.data.overlaps import PAIR, Array, group_overlaps
from histocli.data.splits import HELD_OUT, VALIDATION
from histocli.reports.audit import AuditReport, Contradictions, Leak, Overlaps
from histocli.sources.camelyon import remove_prefix
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

_SYNTHETIC_FOLDER = re.compile(r"/synthetic-slides/seed-(?P<seed>\d+)-side-(?P<side>\d+)/")  # in the downloads
_MAX_IDS_SHOWN = 10  # patches with contradicting labels that are printed
_MAX_PAIRS_SHOWN = 3  # overlaps of different slides that are printed


class _PatchSet(NamedTuple):
    """A set of patches: their rows in the combined table, whether they are for evaluation only, and their data set."""

    rows: Array
    is_held_out: bool
    data: str


def list_audited_names(workspace: Workspace, data: str) -> list[str]:
    """Return the names of the data sets that an audit compares: `data` first, then the others that have a manifest."""
    others = [name for name in workspace.list_datasets() if name != data and workspace.manifest_path(name).is_file()]
    return [data, *others]


def audit(
    workspace: Workspace, subset: "pd.DataFrame", manifest: "pd.DataFrame", *, is_fold: bool = False
) -> AuditReport:
    """Count what the splits of a subset share with each other and with every other packed data set.

    Overlaps are counted if they have been searched before. This function does not search them.

    Args:
        workspace: where the data sets are.
        subset: the subset's rows, with the columns `split`, `data` and `index`.
        manifest: its data set's manifest.
        is_fold: whether the subset is a fold of a cross-validation. Folds may contain patches of the data set's own
            split `valid`, so this split is then not one for evaluation only.

    Raises:
        HistoError: a manifest or the file of overlaps cannot be read.
    """
    names = list_audited_names(workspace, str(subset["data"].iloc[0]))
    table, rows_of = _combine_manifests(workspace, names, manifest)
    searched, pairs = _read_known_pairs(workspace, names, rows_of)
    patch_sets = _collect_patch_sets(table, rows_of, subset, VALIDATION if is_fold else frozenset())
    repeated = table["sha1"].duplicated() & (table["sha1"] != "")
    return AuditReport(
        data=names[0],
        compared_with=names[1:],
        duplicates=int(repeated[rows_of[names[0]]].sum()),
        contradictions=_find_contradictions(table, repeated, rows_of),
        overlaps_searched=searched,
        overlaps=_count_overlaps(pairs, manifest) if names[0] in searched else None,
        leaks=[
            _count_leak(
                table, pairs if patch_set.data in searched else None, name, patch_set, into, patch_sets[into].rows
            )
            for into in ("train", "val")
            for name, patch_set in patch_sets.items()
            if name not in ("train", into)
        ],
    )


def _count_leak(
    table: "pd.DataFrame", pairs: Array | None, name: str, patch_set: _PatchSet, into: str, rows_into: Array
) -> Leak:
    """Count what a set of patches shares with the patches `rows_into`.

    `pairs` are the overlaps; None if they were not searched.
    """
    rows = patch_set.rows
    sha1, slide = table["sha1"].to_numpy(), table["slide"].to_numpy()
    sha1_into, slides_into = set(sha1[rows_into]) - {""}, set(slide[rows_into]) - {""}
    slides = set(slide[rows]) - {""}
    are_slides_known = bool(slides and slides_into)
    return Leak(
        source=name,
        into=into,
        held_out=patch_set.is_held_out,
        patches=len(rows),
        duplicates=sum(digest in sha1_into for digest in sha1[rows]),
        shared_slides=len(slides & slides_into) if are_slides_known else None,
        patches_of_shared_slides=sum(key in slides_into for key in slide[rows]) if are_slides_known else None,
        overlaps=None if pairs is None else _count_overlapping(pairs, rows, rows_into, len(table)),
    )


def count_shared_with_subset(workspace: Workspace, subset: "pd.DataFrame", data: str, split: str) -> Leak:
    """Count what a split of a packed data set (`all`: the whole data set) shares with a subset."""
    subset_data = str(subset["data"].iloc[0])
    names = list(dict.fromkeys((subset_data, data)))
    table, rows_of = _combine_manifests(workspace, names, read_manifest(workspace.manifest_path(subset_data)))
    searched, pairs = _read_known_pairs(workspace, names, rows_of)
    splits = table["split"].to_numpy()[rows_of[data]]
    rows = rows_of[data].start + np.flatnonzero((splits == split) | (split == "all"))
    patch_set, into = _PatchSet(rows, is_held_out=True, data=data), subset["index"].to_numpy()
    return _count_leak(table, pairs if data in searched else None, data, patch_set, "the subset", into)


def find_leaking(workspace: Workspace, data: str, manifest: "pd.DataFrame") -> Array:
    """Mark the patches of a data set that share pixels or a slide with a patch for evaluation: bool (N,).

    All packed data sets are compared. Overlaps are compared if they have been searched.
    """
    names = list_audited_names(workspace, data)
    table, rows_of = _combine_manifests(workspace, names, manifest)
    _, pairs = _read_known_pairs(workspace, names, rows_of)
    is_held_out = np.zeros(len(table), bool)
    for name, rows in rows_of.items():
        splits = table["split"].iloc[rows]
        is_held_out[rows] = _is_held_out(name) or splits.isin(list(filter(_is_held_out, set(splits))))
    is_leaking = np.zeros(len(table), bool)
    for column in ("sha1", "slide"):
        is_leaking |= table[column].isin(set(table[column][is_held_out]) - {""}).to_numpy()
    for first, second in (("a", "b"), ("b", "a")):
        is_leaking[pairs[first][is_held_out[pairs[second]]]] = True
    in_data: Array = (is_leaking & ~is_held_out)[rows_of[data]]
    return in_data


def _is_held_out(name: str) -> bool:
    """Return whether the name of a split or data set says that it is for evaluation only."""
    return not HELD_OUT.isdisjoint(re.split(r"[^a-z]+", name.lower()))


def _combine_manifests(
    workspace: Workspace, names: list[str], manifest: "pd.DataFrame"
) -> tuple["pd.DataFrame", dict[str, slice]]:
    """Return the patches of all data sets in one table, and the rows of each data set.

    `manifest` is the manifest of the first data set. The same slide has the same name in all data sets.
    """
    import pandas as pd

    frames, rows_of, first = [], {}, 0
    for name in names:
        frame = manifest if name == names[0] else read_manifest(workspace.manifest_path(name))
        columns = {column: frame.get(column, pd.Series("", frame.index)) for column in ("id", "sha1", "slide", "split")}
        columns["slide"] = unify_slide_names(workspace, name, columns["slide"])
        frames.append(pd.DataFrame({**columns, "label": frame["label"]}))
        rows_of[name] = slice(first, first + len(frame))
        first += len(frame)
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True), rows_of


def unify_slide_names(workspace: Workspace, name: str, slides: "pd.Series[str]") -> "pd.Series[str]":
    """Return the names of the slides of a data set; in all data sets, the same slide has the same name.

    Slides of Camelyon16 have the names of their files. The names of synthetic slides begin with seed and size: all
    synthetic data sets use the same names, but their slides are the same only if seed and size are.

    Raises:
        HistoError: the data set's name cannot be that of one, or its `dataset.json` cannot be read.
    """
    dataset = read_dataset(workspace, name)
    if not dataset or dataset.source not in ("synthetic", "synthetic-slides", "slides"):
        return slides.map(remove_prefix)
    request = dataset.request
    if dataset.source == "slides":
        # Synthetic slides can also be packed from their folder. If real slides are packed with them, none is taken for
        # a synthetic one: a leak of a real slide would be missed.
        folders = request.get("from")
        paths = [Path(str(folder), "slide") for folder in (isinstance(folders, list) and folders) or [""]]
        path = next((path for path in paths if not _SYNTHETIC_FOLDER.search(path.as_posix())), paths[0])
        return slides.where(slides == "", slides.map(partial(unify_name_of_file, path)))
    size = dataset.patches if dataset.source == "synthetic" else f"side {request.get('slide-side')}"
    return slides.where(slides == "", f"{size} of seed {request.get('seed')}: " + slides)


def unify_name_of_file(path: Path, name: str) -> str:
    """Return a name of a slide file as `unify_slide_names` returns it; the folder shows which slides are synthetic."""
    if found := _SYNTHETIC_FOLDER.search(path.as_posix()):
        return f"side {found['side']} of seed {found['seed']}: {name}"
    return remove_prefix(name)


def _collect_patch_sets(
    table: "pd.DataFrame", rows_of: dict[str, slice], subset: "pd.DataFrame", divided: frozenset[str]
) -> dict[str, _PatchSet]:
    """Return the splits of the subset, the held-out splits of its data set, and the other data sets by split.

    The splits `divided` of its data set are left out, because they are not for evaluation only.
    """
    data, *others = rows_of
    index, split_of = subset["index"].to_numpy(), subset["split"].to_numpy()
    patch_sets = {name: _PatchSet(index[split_of == name], False, data) for name in ("train", "val")}
    for name in (data, *others):
        splits = table["split"].to_numpy()[rows_of[name]]
        for split in sorted(set(splits)):
            is_held_out = _is_held_out(name) or _is_held_out(split)
            if name in others or (is_held_out and split not in divided):
                rows = rows_of[name].start + np.flatnonzero(splits == split)
                patch_sets[f"{name}: {split or 'all'}"] = _PatchSet(rows, is_held_out, name)
    return patch_sets


def _read_known_pairs(workspace: Workspace, names: list[str], rows_of: dict[str, slice]) -> tuple[list[str], Array]:
    """Return the data sets that were searched for overlaps with the first, and the pairs by combined row."""
    searched, found = [], [np.empty(0, PAIR)]
    for name in names:
        pairs = read_overlaps(workspace, names[0], None if name == names[0] else name)
        if pairs is None:
            continue
        combined = pairs.copy()
        combined["b"] += rows_of[name].start
        searched.append(name)
        found.append(combined)
    return searched, np.concatenate(found)


def _find_contradictions(
    table: "pd.DataFrame", repeated: "pd.Series[bool]", rows_of: dict[str, slice]
) -> Contradictions:
    """Find the patches whose pixels also occur with the other label."""
    copies = table[table["sha1"].isin(table["sha1"][repeated])]
    labelled = copies[copies["label"] != UNLABELLED]
    both = labelled[labelled.groupby("sha1")["label"].transform("nunique") > 1]
    shown = both["id"].iloc[:_MAX_IDS_SHOWN]
    data = {row: name for name, rows in rows_of.items() for row in shown.index if rows.start <= row < rows.stop}
    return Contradictions(len(both), [f"{data[row]}: {key}" for row, key in shown.items()])


def _count_overlaps(pairs: Array, manifest: "pd.DataFrame") -> Overlaps:
    """Count the overlaps among the patches of a manifest; groups have two patches or more."""
    n = len(manifest)
    pairs = pairs[pairs["b"] < n]
    slides, ids = manifest["slide"].to_numpy() if "slide" in manifest else np.full(n, ""), manifest["id"].to_numpy()
    first, second = slides[pairs["a"]], slides[pairs["b"]]
    across = pairs[(first != second) & (first != "") & (second != "")]
    sizes = np.bincount(group_overlaps(pairs, n), minlength=1)
    return Overlaps(
        pairs=len(pairs),
        groups=int((sizes > 1).sum()),
        patches=int(sizes[sizes > 1].sum()),
        largest_group=int(sizes.max()) if len(pairs) else 0,
        across_slides=len(across),
        examples=[
            f"{ids[a]} ({slides[a]}) and {ids[b]} ({slides[b]})"
            for a, b in zip(across["a"][:_MAX_PAIRS_SHOWN], across["b"][:_MAX_PAIRS_SHOWN], strict=True)
        ],
    )


def _count_overlapping(pairs: Array, rows: Array, other_rows: Array, n: int) -> int:
    """Count the patches of `rows` that overlap a patch of `other_rows`; `n` is the number of all patches."""
    is_other, overlaps = np.zeros(n, bool), np.zeros(n, bool)
    is_other[other_rows] = True
    overlaps[pairs["b"][is_other[pairs["a"]]]] = True
    overlaps[pairs["a"][is_other[pairs["b"]]]] = True
    return int(overlaps[rows].sum())
