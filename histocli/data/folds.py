"""Cross-validation: every patch validates once, and what belongs together stays together."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocli.config import Group
from histocli.data.groups import hanging_together, plural
from histocli.data.manifest import UNLABELLED
from histocli.errors import HistoError

if TYPE_CHECKING:
    import pandas as pd


class Folds(NamedTuple):
    """The labelled patches of train and validation, what was kept together, and the fold (N,), from 0, of each."""

    manifest: "pd.DataFrame"
    by: str
    number: "np.ndarray"

    def split(self, fold: int) -> "pd.DataFrame":
        """The manifest with this fold for validation and all others for training."""
        return self.manifest.assign(split=np.where(self.number == fold, "val", "train"))


def make_folds(manifest: "pd.DataFrame", k: int, seed: int, group: Group | None = None) -> Folds:
    """Part the rows of train and validation into `k` folds, with both classes alike, whole slides where known.

    Where not all slides are known overlap groups stay whole, where none of those is known either, patches are alone.
    With `group` it is that column's values that stay whole.

    Raises:
        HistoError: there are too few slides, groups or patches for both classes to stand on both sides of each fold.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    labelled = manifest[manifest["split"].isin(("train", "val")) & (manifest["label"] != UNLABELLED)]
    by, groups = (group.value, labelled[group].to_numpy(str)) if group else hanging_together(labelled)
    labels = labelled["label"].to_numpy(np.int64)
    units = len(np.unique(groups))
    kind, together = (StratifiedKFold, None) if by == "patch" else (StratifiedGroupKFold, groups)
    few = HistoError(
        f"{units:,} {plural(by)} do not part into {k} folds with both classes",
        f"histo balance without --group {group} keeps less together" if group else "--folds 2 is the least",
    )
    if k > units or k > int(np.bincount(labels, minlength=2).min()):
        raise few
    parted = kind(k, shuffle=True, random_state=seed).split(np.zeros(len(labels)), labels, together)
    number = np.empty(len(labels), np.int64)
    for fold, (_, held) in enumerate(parted):
        number[held] = fold
        if len(np.unique(labels[held])) < 2 or len(np.unique(np.delete(labels, held))) < 2:
            raise few
    return Folds(labelled, by, number)
