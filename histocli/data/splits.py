"""Drop unusable patches, draw balanced subsets, and split them without leaks."""

from typing import TYPE_CHECKING

import numpy as np

from histocli.data.manifest import UNLABELLED
from histocli.errors import HistoError
from histocli.reports.balance import DroppedPatches
from histocli.text import format_count

if TYPE_CHECKING:
    import pandas as pd

DARK, BRIGHT = 10, 245  # a patch shows no tissue if all its values are below the first or above the second
_MAX_ORDERS = 256  # random orders of the groups; the one with a split nearest to the requested fraction is used
_MAX_ORDERED_GROUPS = 2_000_000  # groups in all these orders together: with many groups, a few orders are enough

HELD_OUT = frozenset({"test", "valid", "validation"})  # splits of public data sets that are for evaluation only
VALIDATION = frozenset({"val", "valid", "validation"})


def drop_unusable(
    manifest: "pd.DataFrame", held_out_splits: frozenset[str] = HELD_OUT
) -> tuple["pd.DataFrame", DroppedPatches]:
    """Drop rows that must not be trained on: held-out splits, no label, no tissue, and copies of an earlier row.

    No tissue means all values under 10 or all over 245 (`max < 10 or min > 245`), the usual outlier rule for the
    Kaggle set.
    """
    is_held_out = manifest["split"].isin(held_out_splits)
    kept = manifest[~is_held_out]
    is_unlabelled = kept["label"] == UNLABELLED
    kept = kept[~is_unlabelled]
    is_outlier = (kept["max"] < DARK) | (kept["min"] > BRIGHT)
    kept = kept[~is_outlier]
    is_duplicate = kept["sha1"].duplicated()
    counts = DroppedPatches(*(int(mask.sum()) for mask in (is_held_out, is_unlabelled, is_outlier, is_duplicate)))
    return kept[~is_duplicate], counts


def draw_balanced(manifest: "pd.DataFrame", n: int | None, seed: int) -> "pd.DataFrame":
    """Draw n/2 rows of each class without replacement; they stay in the manifest's order.

    `n` is even. If it is None, as many rows as possible are drawn.

    Raises:
        HistoError: a class has fewer than n/2 rows; the largest possible n is given.
    """
    sizes = [int((manifest["label"] == label).sum()) for label in (0, 1)]
    largest = 2 * min(sizes)
    if largest == 0:
        raise HistoError(f"{sizes[0]:,} normal and {sizes[1]:,} tumour patches: both classes are needed")
    if n is None:
        n = largest
    if n > largest:
        raise HistoError(
            f"--n {n} asks for {n // 2:,} of each class; there are {sizes[0]:,} normal and {sizes[1]:,} tumour patches",
            f"the largest n possible is --n {largest}",
        )
    rng = np.random.default_rng(seed)
    labels = manifest["label"].to_numpy()
    drawn = [rng.choice(np.flatnonzero(labels == label), n // 2, replace=False) for label in (0, 1)]
    return manifest.iloc[np.sort(np.concatenate(drawn))]


def draw_by_split(manifest: "pd.DataFrame", n: int | None, seed: int) -> "pd.DataFrame":
    """Draw n patches, the same number of each class in each split, in proportion to the sizes of the splits.

    If `n` is None, as many patches as possible are drawn.

    Raises:
        HistoError: as `draw_balanced`; or a split has patches of one class only.
    """
    frames = [manifest[manifest["split"] == name] for name in sorted(set(manifest["split"]))]
    largest = [2 * min(int((frame["label"] == label).sum()) for label in (0, 1)) for frame in frames]
    for frame, n_max in zip(frames, largest, strict=True):
        if n_max == 0:
            raise HistoError(
                f"the split {frame['split'].iloc[0]} has patches of one class only", "use --split slide or overlap"
            )
    total = sum(largest)
    if n is None:
        n = total
    if n < 2 * len(frames):
        raise HistoError(
            f"--n {n} is too small for {len(frames)} splits, which need a patch of each class",
            f"give an even number from {2 * len(frames)} to {total}",
        )
    if n > total:
        listed = ", ".join(
            f"{name} {n_max // 2:,}" for name, n_max in zip(sorted(set(manifest["split"])), largest, strict=True)
        )
        raise HistoError(
            f"--n {n} asks for {n // 2:,} of each class; the splits of the folders have: {listed}",
            f"the largest n possible is --n {total}",
        )
    sizes = [min(n_max, max(2, 2 * round(n * n_max / total / 2))) for n_max in largest]
    while (rest := n - sum(sizes)) != 0:  # the error of rounding
        step = 2 if rest > 0 else -2
        at = next(i for i, size in enumerate(sizes) if 2 <= size + step <= largest[i])
        sizes[at] += step
    import pandas as pd

    return pd.concat([draw_balanced(frame, size, seed) for frame, size in zip(frames, sizes, strict=True)]).sort_index()


def split_random(labels: "np.ndarray", val_fraction: float, seed: int) -> "np.ndarray":
    """Mark `val_fraction` of each class for validation, at random: bool (N,). A slide may be in both splits.

    Raises:
        HistoError: a class has one patch, which cannot be in both splits.
    """
    rng = np.random.default_rng(seed)
    is_val = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        if len(rows) < 2:
            raise HistoError(f"class {label} has one patch, which cannot be in both splits", "use --n 4 or more")
        n_val = min(len(rows) - 1, max(1, round(len(rows) * val_fraction)))
        is_val[rng.permutation(rows)[:n_val]] = True
    return is_val


def split_by_group(
    groups: "np.ndarray", labels: "np.ndarray", val_fraction: float, seed: int, unit: str = "slide"
) -> "np.ndarray":
    """Mark whole groups for validation, with about `val_fraction` of each class: bool (N,).

    Many random orders of the groups are tried. The first groups of an order, up to the group where their counts are
    nearest to the requested ones, form its validation split; the best of these splits is used.

    Args:
        groups: (N,) the group of each patch.
        labels: (N,) 0 or 1.
        val_fraction: the requested fraction of validation patches, 0 to 1.
        seed: the seed of the random orders.
        unit: the word for a group in the error.

    Raises:
        HistoError: no split has both classes in train and in validation.
    """
    import pandas as pd

    codes, names = pd.factorize(groups, sort=True, use_na_sentinel=False)  # on text, many times as fast as np.unique
    sizes = np.stack([np.bincount(codes[labels == label], minlength=len(names)) for label in (0, 1)], 1)  # (G,2)
    targets = sizes.sum(0) * val_fraction
    rng = np.random.default_rng(seed)
    best, best_error = None, np.inf
    for _ in range(max(2, min(_MAX_ORDERS, _MAX_ORDERED_GROUPS // len(names)))):
        order = rng.permutation(len(names))
        counts = sizes[order].cumsum(0)  # (G,2) of each class, if validation ends with this group of the order
        is_in_both = ((counts > 0) & (counts < sizes.sum(0))).all(1)
        error = np.where(is_in_both, (np.abs(counts - targets) / np.maximum(targets, 1e-9)).max(1), np.inf)
        cut = int(error.argmin())
        if error[cut] < best_error:
            best, best_error = order[: cut + 1], float(error[cut])
    if best is None:
        raise HistoError(
            f"{format_count(len(names), unit)} cannot be split with both classes in train and in validation",
            f"add {unit}s, or use smaller groups; --split random works with any number of {unit}s, but it leaks",
        )
    return np.isin(codes, best)
