"""What a split keeps apart, read from the table itself."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

OVERLAP = "overlap_group"  # the manifests' column of patches that show the same tissue, shifted


def parted_by(manifest: "pd.DataFrame") -> str:
    """What train and validation do not share: slide, overlap group, or patch alone.

    `slide` needs every slide known; `overlap group` needs some group known, and none on both sides.
    """
    train, val = (manifest[manifest["split"] == part] for part in ("train", "val"))
    if "slide" in manifest.columns and not (train["slide"] == "").any() and not (val["slide"] == "").any():
        if set(train["slide"]).isdisjoint(val["slide"]):
            return "slide"
    elif OVERLAP in manifest.columns:
        groups = set(train[OVERLAP]) - {""}, set(val[OVERLAP]) - {""}
        if groups[0].isdisjoint(groups[1]) and any(groups):
            return "overlap group"
    return "patch"
