"""Cross-validation: every patch is in validation once, and patches of one slide are in the same fold."""

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocli.data.groups import Groups, find_connected_components
from histocli.data.manifest import UNLABELLED
from histocli.enums import Group
from histocli.errors import HistoError
from histocli.text import pluralise

if TYPE_CHECKING:
    import pandas as pd


_FOLD = re.compile(r".+-fold[0-9]+")


def is_fold(subset: str) -> bool:
    """Return whether a subset is by its name a fold of `histo train --folds` or `histo tune`."""
    return _FOLD.fullmatch(subset) is not None


class Folds(NamedTuple):
    """The labelled patches of train and validation, the kind of their groups, and the fold of each (N,), from 0."""

    manifest: "pd.DataFrame"
    by: str
    number: "np.ndarray"

    def split(self, fold: int) -> "pd.DataFrame":
        """Return the manifest with this fold for validation and all others for training."""
        return self.manifest.assign(split=np.where(self.number == fold, "val", "train"))


def make_folds(manifest: "pd.DataFrame", k: int, seed: int, group: Group | None = None) -> Folds:
    """Assign the labelled rows of train and validation to `k` folds that have similar shares of both classes.

    The patches of one group of `find_connected_components` are in the same fold: a slide, or else an overlap group.
    With `group`, the patches that have the same value in that column are in the same fold instead.

    Raises:
        HistoError: there are too few slides, groups or patches for both classes in and outside each fold.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    labelled = manifest[manifest["split"].isin(("train", "val")) & (manifest["label"] != UNLABELLED)]
    by, codes = Groups(group.value, labelled[group].to_numpy(str)) if group else find_connected_components(labelled)
    labels = labelled["label"].to_numpy(np.int64)
    n_groups = len(np.unique(codes))
    kind, groups = (StratifiedKFold, None) if by == "patch" else (StratifiedGroupKFold, codes)
    too_few = HistoError(
        f"{n_groups:,} {pluralise(by)} cannot be divided into {k} folds with both classes in each",
        f"histo balance without --group {group} makes smaller groups"
        if group
        else "give a smaller number of --folds; 2 is the smallest",
    )
    if k > n_groups or k > int(np.bincount(labels, minlength=2).min()):
        raise too_few
    folds = kind(k, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels, groups)
    number = np.empty(len(labels), np.int64)
    for fold, (_, val_rows) in enumerate(folds):
        number[val_rows] = fold
        if len(np.unique(labels[val_rows])) < 2 or len(np.unique(np.delete(labels, val_rows))) < 2:
            raise too_few
    return Folds(labelled, by, number)
