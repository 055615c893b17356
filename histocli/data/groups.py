"""Group patches of the same slide or tissue, and find what train and validation do not share."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocli.enums import Group
from histocli.metrics.intervals import FEW_CLUSTERS

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
    if _are_disjoint(manifest, SLIDE):
        return "slide"
    if OVERLAP in manifest.columns:
        train, val = (values - {""} for values in _list_values(manifest, OVERLAP))
        if train.isdisjoint(val) and (train or val):
            return "overlap group"
    return "patch"


def is_validated_on_other_slides(manifest: "pd.DataFrame") -> bool:
    """Return whether no validation patch is of a slide or a hospital that is trained on.

    If neither the slides nor the hospitals are known, it is false. It is also false if only the groups of appearance
    are not shared: a slide can have patches in both groups.
    """
    return any(_are_disjoint(manifest, unit) for unit in (SLIDE, Group.HOSPITAL))


def explain_weak_validation(manifests: "Sequence[pd.DataFrame]") -> str:
    """Return why validation patches, of one manifest or several, cannot show how confident a network is on new slides.

    It is "" if they can: if they are of other slides than the training patches, and `FEW_CLUSTERS` slides or more are
    known of each class.
    """
    import pandas as pd

    if not all(map(is_validated_on_other_slides, manifests)):
        return "it is not known whether the validation patches are of other slides than the training patches"
    patches = pd.concat([frame[frame["split"] == "val"] for frame in manifests]).reindex(columns=["label", SLIDE])
    slides_by_label = patches[patches[SLIDE] != ""].groupby("label")[SLIDE].nunique()
    n, kind = min((int(slides_by_label.get(label, 0)), kind) for label, kind in ((0, "normal"), (1, "tumour")))
    if slides_by_label.empty:
        return "no validation slide is known"
    return "" if n >= FEW_CLUSTERS else f"only {n} of the known validation slides have {kind} patches"


def find_held_out_hospitals(manifest: "pd.DataFrame") -> list[str]:
    """Return the hospitals of the validation patches, sorted, if no training patch is from one of them; else none."""
    return sorted(_list_values(manifest, Group.HOSPITAL)[1]) if _are_disjoint(manifest, Group.HOSPITAL) else []


def _are_disjoint(manifest: "pd.DataFrame", column: str) -> bool:
    """Return whether a column has a value for every patch of train and validation, and none of them in both."""
    if column not in manifest.columns:
        return False
    train, val = _list_values(manifest, column)
    return "" not in train | val and train.isdisjoint(val)


def _list_values(manifest: "pd.DataFrame", column: str) -> tuple[set[str], set[str]]:
    """Return the values of a column in train and in validation."""
    splits = manifest["split"]
    return set(manifest.loc[splits == "train", column]), set(manifest.loc[splits == "val", column])


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
