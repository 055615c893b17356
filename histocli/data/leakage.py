"""What a training subset shares with its validation split and with every other packed data set."""

import re
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from histocli.data.manifest import UNLABELLED, read_manifest
from histocli.data.overlap_cache import known_overlaps
from histocli.data.overlaps import PAIR, Array, overlap_groups
from histocli.data.splits import HELD_OUT
from histocli.errors import HistoError
from histocli.workspace import Workspace, read_json

if TYPE_CHECKING:
    import pandas as pd

_NAMED = 10  # ids that stand for all patches whose labels contradict each other


class _Part(NamedTuple):
    """Some patches that are used together: rows of the table of all, whether for evaluation alone, and whose."""

    rows: Array
    held_out: bool
    data: str


def audited_sets(workspace: Workspace, data: str) -> list[str]:
    """The data sets that an audit of `data` compares: itself first, then every other that has a manifest."""
    others = [name for name in workspace.dataset_names() if name != data and workspace.manifest_path(name).is_file()]
    return [data, *others]


def audit(workspace: Workspace, subset: "pd.DataFrame", manifest: "pd.DataFrame | None" = None) -> dict[str, Any]:
    """Count what the splits of a subset share with each other and with every other packed data set.

    Takes the subset's rows (`split`, `data`, `index`) and, where it is at hand, its data set's manifest. Overlaps are
    counted as far as they have been searched: `overlaps_searched` names the data sets; nothing is searched here. Gives,
    as JSON holds it: `duplicates` (patches whose pixels stood before) and `overlaps` within the data set;
    `contradictions`, equal pixels with both labels, in all data sets; and in `leaks`, for every other part into `train`
    and into `val`: its patches whose pixels are there too, those that overlap one there, the slides that are there too,
    and its patches of these. None stands for what is not known. A part is `held_out` where its split or its data set is
    called test or valid.

    Raises:
        HistoError: a manifest or the file of overlaps cannot be read.
    """
    names = audited_sets(workspace, str(subset["data"].iloc[0]))
    own = read_manifest(workspace.manifest_path(names[0])) if manifest is None else manifest
    table, whose = _table(workspace, names, own)
    searched, pairs = _searched(workspace, names, whose)
    parts = _parts(table, whose, subset)
    repeated = table["sha1"].duplicated() & (table["sha1"] != "")
    return {
        "data": names[0],
        "compared_with": names[1:],
        "duplicates": int(repeated[whose[names[0]]].sum()),
        "contradictions": _contradictions(table, repeated),
        "overlaps_searched": searched,
        "overlaps": _overlaps(pairs, len(own)) if names[0] in searched else None,
        "leaks": [
            {"from": name, "into": into, "held_out": part.held_out, "patches": len(part.rows)}
            | _shared(table, part.rows, parts[into].rows)
            | {"overlaps": _touching(pairs, part.rows, parts[into].rows, len(table)) if part.data in searched else None}
            for into in ("train", "val")
            for name, part in parts.items()
            if name not in ("train", into)
        ],
    }


def seen_already(workspace: Workspace, subset: "pd.DataFrame", data: str, split: str) -> dict[str, int | None]:
    """What a split of a packed data set (`all`: the whole) shares with a subset, be that train or val.

    `shared_slides` counts slides, `overlaps` patches that overlap one of the subset; None stands for what is not known.
    """
    own = str(subset["data"].iloc[0])
    names = list(dict.fromkeys((own, data)))
    table, whose = _table(workspace, names, read_manifest(workspace.manifest_path(own)))
    searched, pairs = _searched(workspace, names, whose)
    splits = table["split"].to_numpy()[whose[data]]
    rows = whose[data].start + np.flatnonzero((splits == split) | (split == "all"))
    into = subset["index"].to_numpy()
    return {
        "shared_slides": _shared(table, rows, into)["shared_slides"],
        "overlaps": _touching(pairs, rows, into, len(table)) if data in searched else None,
    }


def unsearched(found: dict[str, Any]) -> list[str]:
    """What is for evaluation alone and may share more with train than `audit` knows, by slide or by overlap."""
    return [
        leak["from"]
        for leak in found["leaks"]
        if leak["held_out"] and leak["into"] == "train" and leak["overlaps"] is None and leak["shared_slides"] is None
    ]


def held_out_leaks(found: dict[str, Any]) -> list[str]:
    """Say, for each part for evaluation alone that leaks into train by what `audit` gave, what of it is there."""
    whats = {"duplicates": "exact duplicates", "overlaps": "overlapping patches", "shared_slides": "shared slides"}
    leaks = []
    for leak in found["leaks"]:
        shared = [f"{what}: {leak[key]:,}" for key, what in whats.items() if leak[key]]
        if shared and leak["held_out"] and leak["into"] == "train":
            leaks.append(f"{leak['from']} ({', '.join(shared)})")
    return leaks


def refuse_leaks(found: dict[str, Any]) -> None:
    """Raise `HistoError` where patches for evaluation alone, by what `audit` gave, leak into train."""
    if leaks := held_out_leaks(found):
        raise HistoError(
            f"patches for evaluation leak into train: {'; '.join(leaks)}",
            "histo balance --audit shows all that is shared; --allow-leak trains all the same",
        )


def _is_held_out(name: str) -> bool:
    """Whether a split's or a data set's name says that it is for evaluation alone."""
    return not HELD_OUT.isdisjoint(re.split(r"[^a-z]+", name.lower()))


def _table(workspace: Workspace, names: list[str], own: "pd.DataFrame") -> tuple["pd.DataFrame", dict[str, slice]]:
    """All patches of all data sets, one below the other, and which rows are whose; equal slides have equal names."""
    import pandas as pd

    frames, whose, first = [], {}, 0
    for name in names:
        frame = own if name == names[0] else read_manifest(workspace.manifest_path(name))
        texts = {column: frame.get(column, pd.Series("", frame.index)) for column in ("id", "sha1", "slide", "split")}
        texts["slide"] = _slides(workspace, name, texts["slide"])
        frames.append(pd.DataFrame({**texts, "label": frame["label"]}))
        whose[name] = slice(first, first + len(frame))
        first += len(frame)
    return frames[0] if len(frames) == 1 else pd.concat(frames, ignore_index=True), whose


def _slides(workspace: Workspace, name: str, slides: "pd.Series[str]") -> "pd.Series[str]":
    """Slides of synthetic data sets are called alike without being the same, unless their seed and size are."""
    dataset = read_json(workspace.dataset_path(name))
    if dataset.get("source") != "synthetic":
        return slides
    return slides.where(slides == "", f"{dataset['patches']} of seed {dataset['request']['seed']}: " + slides)


def _parts(table: "pd.DataFrame", whose: dict[str, slice], subset: "pd.DataFrame") -> dict[str, _Part]:
    """The splits of the subset, what its data set holds out, and the other data sets by split."""
    data, *others = whose
    index, split_of = subset["index"].to_numpy(), subset["split"].to_numpy()
    parts = {name: _Part(index[split_of == name], False, data) for name in ("train", "val")}
    for name in (data, *others):
        splits = table["split"].to_numpy()[whose[name]]
        for split in sorted(set(splits)):
            held_out = _is_held_out(name) or _is_held_out(split)
            if held_out or name in others:
                rows = whose[name].start + np.flatnonzero(splits == split)
                parts[f"{name}: {split or 'all'}"] = _Part(rows, held_out, name)
    return parts


def _searched(workspace: Workspace, names: list[str], whose: dict[str, slice]) -> tuple[list[str], Array]:
    """The data sets whose overlaps with the first one are known, and the pairs, by the rows of the table of all."""
    searched, found = [], [np.empty(0, PAIR)]
    for name in names:
        pairs = known_overlaps(workspace, names[0], None if name == names[0] else name)
        if pairs is None:
            continue
        moved = pairs.copy()
        moved["b"] += whose[name].start
        searched.append(name)
        found.append(moved)
    return searched, np.concatenate(found)


def _contradictions(table: "pd.DataFrame", repeated: "pd.Series[bool]") -> dict[str, Any]:
    """Patches whose pixels stand elsewhere with the other label; two that overlap without a shift are such a pair."""
    alike = table[table["sha1"].isin(table["sha1"][repeated])]
    labelled = alike[alike["label"] != UNLABELLED]
    both = labelled[labelled.groupby("sha1")["label"].transform("nunique") > 1]
    return {"patches": len(both), "ids": both["id"].iloc[:_NAMED].tolist()}


def _overlaps(pairs: Array, n: int) -> dict[str, int]:
    """What the overlaps among the first `n` patches come to; groups are of two or more."""
    pairs = pairs[pairs["b"] < n]
    sizes = np.bincount(overlap_groups(pairs, n), minlength=1)
    return {
        "pairs": len(pairs),
        "groups": int((sizes > 1).sum()),
        "patches": int(sizes[sizes > 1].sum()),
        "largest_group": int(sizes.max()) if len(pairs) else 0,
    }


def _shared(table: "pd.DataFrame", rows: Array, into: Array) -> dict[str, int | None]:
    """Patches of `rows` whose pixels are among those `into`, and the slides that both have."""
    sha1, slide = table["sha1"].to_numpy(), table["slide"].to_numpy()
    theirs, ours = set(slide[into]) - {""}, set(slide[rows]) - {""}
    return {
        "duplicates": len(_members(sha1[rows], set(sha1[into]) - {""})),
        "shared_slides": len(theirs & ours) if theirs and ours else None,
        "patches_of_shared_slides": len(_members(slide[rows], theirs)) if theirs and ours else None,
    }


def _members(values: Array, wanted: set[str]) -> list[str]:
    return [value for value in values if value in wanted]


def _touching(pairs: Array, rows: Array, into: Array, n: int) -> int:
    """How many of the patches `rows` overlap one of those `into`."""
    there, touched = np.zeros(n, bool), np.zeros(n, bool)
    there[into] = True
    touched[pairs["b"][there[pairs["a"]]]] = True
    touched[pairs["a"][there[pairs["b"]]]] = True
    return int(touched[rows].sum())
