"""Cleaning, balancing, and splitting without leaks."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocli.data.manifest import UNLABELLED
from histocli.errors import HistoError

if TYPE_CHECKING:
    import pandas as pd

DARK, BRIGHT = 10, 245  # a patch darker than the first or brighter than the second throughout shows no tissue
_TRIES = 256  # random orders of the groups from which the split nearest to the wished fraction is taken
_ORDERED = 2_000_000  # groups in all these orders together: where there are many, a few orders come as near

HELD_OUT = frozenset({"test", "valid", "validation"})  # splits of public data sets that are for evaluation alone


class Cleaning(NamedTuple):
    """How many rows were dropped, and why."""

    held_out: int
    unlabelled: int
    outliers: int
    duplicates: int


def clean(manifest: "pd.DataFrame") -> tuple["pd.DataFrame", Cleaning]:
    """Drop rows that must not be trained on: held-out splits, no label, no tissue, and exact duplicates but the first.

    No tissue means all values under 10 or all over 245 (`max < 10 or min > 245`), the usual outlier rule for the
    Kaggle set.
    """
    held_out = manifest["split"].isin(HELD_OUT)
    kept = manifest[~held_out]
    unlabelled = kept["label"] == UNLABELLED
    kept = kept[~unlabelled]
    outliers = (kept["max"] < DARK) | (kept["min"] > BRIGHT)
    kept = kept[~outliers]
    duplicates = kept["sha1"].duplicated()
    counts = Cleaning(*(int(mask.sum()) for mask in (held_out, unlabelled, outliers, duplicates)))
    return kept[~duplicates], counts


def draw_balanced(manifest: "pd.DataFrame", n: int, seed: int) -> "pd.DataFrame":
    """Draw n/2 rows of each class without replacement, in the manifest's order.

    Raises:
        HistoError: n is odd or under 2, or a class has fewer than n/2 rows; the largest n possible is given.
    """
    sizes = [int((manifest["label"] == label).sum()) for label in (0, 1)]
    largest = 2 * min(sizes)
    if largest == 0:
        raise HistoError(f"{sizes[0]:,} negative and {sizes[1]:,} positive patches: both classes are needed")
    if n < 2 or n % 2:
        raise HistoError(f"--n {n} cannot be halved between two classes", f"give an even number from 2 to {largest}")
    if n > largest:
        raise HistoError(
            f"--n {n} asks for {n // 2:,} of each class; there are {sizes[0]:,} negative and {sizes[1]:,} positive",
            f"the largest n possible is --n {largest}",
        )
    rng = np.random.default_rng(seed)
    labels = manifest["label"].to_numpy()
    drawn = [rng.choice(np.flatnonzero(labels == label), n // 2, replace=False) for label in (0, 1)]
    return manifest.iloc[np.sort(np.concatenate(drawn))]


def split_random(labels: "np.ndarray", val_fraction: float, seed: int) -> "np.ndarray":
    """Mark `val_fraction` of each class for validation, at random: bool (N,). Patches of one slide may part.

    Raises:
        HistoError: a class has one patch, which cannot be on both sides.
    """
    rng = np.random.default_rng(seed)
    val = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            raise HistoError(f"one patch of class {label} cannot be on both sides of a split", "--n 4 is the least")
        held = min(len(rows) - 1, max(1, round(len(rows) * val_fraction)))
        val[rng.permutation(rows)[:held]] = True
    return val


def split_by_group(
    groups: "np.ndarray", labels: "np.ndarray", val_fraction: float, seed: int, unit: str = "slide"
) -> "np.ndarray":
    """Mark whole groups for validation, with both classes near `val_fraction` of theirs: bool (N,).

    Of many random orders of the groups, each cut off where it comes nearest to the wished counts, the best is taken.
    `unit` is what the error calls a group.

    Raises:
        HistoError: there is no way to have both classes on both sides.
    """
    import pandas as pd

    codes, names = pd.factorize(groups, sort=True, use_na_sentinel=False)  # of names, many times as fast as np.unique
    sizes = np.stack([np.bincount(codes[labels == label], minlength=len(names)) for label in (0, 1)], 1)  # (G,2)
    wished = sizes.sum(0) * val_fraction
    rng = np.random.default_rng(seed)
    best, best_error = None, np.inf
    for _ in range(max(2, min(_TRIES, _ORDERED // len(names)))):
        order = rng.permutation(len(names))
        taken = sizes[order].cumsum(0)  # (G,2) of each class if the first groups of this order validate
        both_sides = ((taken > 0) & (taken < sizes.sum(0))).all(1)
        error = np.where(both_sides, (np.abs(taken - wished) / np.maximum(wished, 1e-9)).max(1), np.inf)
        cut = int(error.argmin())
        if error[cut] < best_error:
            best, best_error = order[: cut + 1], float(error[cut])
    if best is None:
        raise HistoError(
            f"{len(names)} {unit}s cannot be split with both classes on both sides",
            f"bring more {unit}s, or keep less together (--split random parts even patches of one slide, and leaks)",
        )
    return np.isin(codes, best)
