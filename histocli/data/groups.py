"""Group patches of the same slide or tissue, and find what train and validation do not share."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocli.enums import Group

if TYPE_CHECKING:
    import pandas as pd

SLIDE = "slide"
OVERLAP = "overlap_group"  # the manifests' column: patches with the same value show the same tissue, shifted


class Groups(NamedTuple):
    """The group of each patch, `codes` (N,), and the kind of the groups, `by`: slide, overlap group, patch."""

    by: str
    codes: "np.ndarray"


def find_split_unit(manifest: "pd.DataFrame") -> str:
    """Return what train and validation do not share: `slide`, `overlap group`, or only the `patch`.

    It is `slide` where every slide is known and none is in both; else `overlap group` where some group is known and
    none is in both.
    """
    train, val = (manifest[manifest["split"] == split] for split in ("train", "val"))
    are_slides_known = SLIDE in manifest.columns and not (train[SLIDE] == "").any() and not (val[SLIDE] == "").any()
    if are_slides_known and set(train[SLIDE]).isdisjoint(val[SLIDE]):
        return "slide"
    if OVERLAP in manifest.columns:
        groups = set(train[OVERLAP]) - {""}, set(val[OVERLAP]) - {""}
        if groups[0].isdisjoint(groups[1]) and any(groups):
            return "overlap group"
    return "patch"


def is_validated_on_other_slides(manifest: "pd.DataFrame") -> bool:
    """Return whether no validation patch is of a slide, a hospital or a group of appearance that is trained on.

    If the slides are not known, neither is this, and it is false.
    """
    train, val = (manifest[manifest["split"] == split] for split in ("train", "val"))
    for unit in (SLIDE, *Group):
        if unit in manifest.columns:
            units = set(train[unit]), set(val[unit])
            if "" not in units[0] | units[1] and units[0].isdisjoint(units[1]):
                return True
    return False


def find_held_out_hospitals(manifest: "pd.DataFrame") -> list[str]:
    """Return the hospitals of the validation patches, sorted, if no training patch is from one of them; else none."""
    if Group.HOSPITAL not in manifest.columns:
        return []
    train, val = (set(manifest.loc[manifest["split"] == split, Group.HOSPITAL]) for split in ("train", "val"))
    return sorted(val) if train.isdisjoint(val) and "" not in train | val else []


def find_connected_components(frame: "pd.DataFrame", *, should_trust_slides: bool = True) -> Groups:
    """Group the patches of a table that share a slide or an overlap group, directly or through other patches.

    If every slide is known, only slides are used, unless `should_trust_slides` is false: then overlapping patches are
    also grouped if they are on two slides in the manifest. A patch without a known slide and without an overlap group
    is its own group. If this is true for all patches, `by` is `patch`; if some slides and no overlap groups are known,
    `by` is `slide or patch`.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components as components_of

    n = len(frame)
    known = {
        name: frame[column].to_numpy(str)
        for name, column in (("slide", SLIDE), ("overlap group", OVERLAP))
        if column in frame.columns and (frame[column] != "").any()
    }
    if should_trust_slides and "slide" in known and (known["slide"] != "").all():
        known = {"slide": known["slide"]}
    n_nodes = n  # the patches, then the slides, then the overlap groups
    edges = []
    for names in known.values():
        rows = np.flatnonzero(names != "")
        unique, codes = np.unique(names[rows], return_inverse=True)
        edges.append((rows, n_nodes + codes))
        n_nodes += len(unique)
    if not edges:
        return Groups("patch", np.arange(n))
    ends = np.concatenate([np.stack(edge) for edge in edges], 1)
    graph = coo_matrix((np.ones(ends.shape[1], np.int8), ends), (n_nodes, n_nodes))
    components = components_of(graph, directed=False)[1][:n]
    by = " or ".join(known)
    if by == "slide" and (known["slide"] == "").any():
        by = "slide or patch"
    return Groups(by, np.unique(components, return_inverse=True)[1])
