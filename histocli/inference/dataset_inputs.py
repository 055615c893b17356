"""Open packed data sets as patches to score."""

from collections import Counter
from collections.abc import Iterable

import numpy as np

from histocli.data.dataset import open_packed
from histocli.enums import SplitName
from histocli.errors import HistoError, UsageError
from histocli.images.decode import Preparation
from histocli.images.image_files import PackedPatch
from histocli.patch import Patch
from histocli.workspace import Workspace


def open_dataset_patches(
    workspace: Workspace, name: str, split: SplitName | None, preparation: Preparation
) -> tuple[int, Iterable[Patch], tuple[str, ...]]:
    """Return the number of patches of a packed data set, or of one of its splits, the patches, and notes for the user.

    The ids are those of the manifest. The notes say which splits are scored.

    Raises:
        HistoError: the data set has no such split.
        UsageError: `preparation` has a resolution, and packed patches are not rescaled.
    """
    if preparation.mpp is not None:
        raise UsageError(
            f"--mpp is for images, and {name} is a packed data set",
            "its patches are 96x96: histo download --source folder --mpp rescales images before it packs them",
        )
    required = ("id", "label") if split in (None, SplitName.ALL) else ("id", "split")
    store, manifest = open_packed(workspace, name, required)
    rows = np.arange(len(store))
    notes: tuple[str, ...] = ()
    counts = Counter(manifest["split"]) if split is None and "split" in manifest else Counter()
    if len(counts) > 1:
        listed = ", ".join(f"{found or 'none'} ({counts[found]:,})" for found in sorted(counts))
        notes = (f"all splits of {name} are scored: {listed}; --split scores one of them",)
    if split not in (None, SplitName.ALL):
        split = split.choose_existing(set(manifest["split"]))
        rows = np.flatnonzero(manifest["split"] == split.value)
        if not len(rows):
            splits = ", ".join(sorted(set(manifest["split"]) - {""})) or "none"
            raise HistoError(f"{name} has no patches in its split {split.value!r}", f"its splits: {splits}")
    ids = manifest["id"].tolist()
    return len(rows), (Patch(ids[row], PackedPatch(store, row)) for row in rows.tolist()), notes
