"""What a split keeps apart, read from the table itself."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

SLIDE = "slide"
OVERLAP = "overlap_group"  # the manifests' column of patches that show the same tissue, shifted


def parted_by(manifest: "pd.DataFrame") -> str:
    """What train and validation do not share: slide, overlap group, or patch alone.

    `slide` needs every slide known; `overlap group` needs some group known, and none on both sides.
    """
    train, val = (manifest[manifest["split"] == part] for part in ("train", "val"))
    known = "slide" in manifest.columns and not (train["slide"] == "").any() and not (val["slide"] == "").any()
    if known and set(train["slide"]).isdisjoint(val["slide"]):
        return "slide"
    if OVERLAP in manifest.columns:
        groups = set(train[OVERLAP]) - {""}, set(val[OVERLAP]) - {""}
        if groups[0].isdisjoint(groups[1]) and any(groups):
            return "overlap group"
    return "patch"


def hanging_together(frame: "pd.DataFrame") -> "tuple[str, np.ndarray]":
    """What of a table belongs together, and the number (N,) of what each row belongs to.

    That is the slide; where some slides are not known, what shares a slide or an overlap group, however indirectly;
    where neither is known of any, each patch is on its own. A patch of which neither is known is one of its own, so
    that where some slides and no groups are known it is `slide or patch`.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    n = len(frame)
    known = {
        name: frame[column].to_numpy(str)
        for name, column in (("slide", SLIDE), ("overlap group", OVERLAP))
        if column in frame.columns and (frame[column] != "").any()
    }
    if "slide" in known and (known["slide"] != "").all():
        known = {"slide": known["slide"]}
    nodes = n  # the patches, then the slides, then the groups
    edges = []
    for names in known.values():
        rows = np.flatnonzero(names != "")
        unique, codes = np.unique(names[rows], return_inverse=True)
        edges.append((rows, nodes + codes))
        nodes += len(unique)
    if not edges:
        return "patch", np.arange(n)
    ends = np.concatenate([np.stack(edge) for edge in edges], 1)
    graph = coo_matrix((np.ones(ends.shape[1], np.int8), ends), (nodes, nodes))
    components = connected_components(graph, directed=False)[1][:n]
    by = " or ".join(known)
    if by == "slide" and (known["slide"] == "").any():
        by = "slide or patch"
    return by, np.unique(components, return_inverse=True)[1]


def plural(by: str) -> str:
    """What `hanging_together` names, many of it."""
    return by + ("es" if by.endswith("h") else "s")
