"""Curves and counts of scored patches: the ranking, ROC, precision-recall, reliability, histogram, confusion."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

CURVE_POINTS = 400
CALIBRATION_BINS = 15
HISTOGRAM_BINS = 20

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Ranking(NamedTuple):
    """The scores sorted once; AUC, ROC and precision-recall all follow from it.

    `scores` (K,) are the distinct probabilities, the highest first; `tp` and `fp` (K,) count the tumour and
    the normal patches at or above each.
    """

    scores: Floats
    tp: Ints
    fp: Ints


class Confusion(NamedTuple):
    """Patches by true class and call: true negatives, false positives, false negatives, true positives."""

    tn: int
    fp: int
    fn: int
    tp: int


def rank(labels: Ints, probs: Floats) -> Ranking:
    """Sort (N,) probabilities once, and count both classes at or above each distinct one."""
    order = np.argsort(-probs)
    scores = probs[order]
    last = ends_of_ties(scores)
    tp = np.cumsum(labels[order], dtype=np.int64)[last]
    return Ranking(scores[last], tp, last + 1 - tp)


def ends_of_ties(scores: Floats) -> Ints:
    """The index of the last of each run of equal values in sorted `scores` (N,): (K,)."""
    return np.flatnonzero(np.append(scores[1:] != scores[:-1], True))


def area(ranking: Ranking) -> float | None:
    """The area under the ROC curve, summed in whole numbers (twice the pairs in the right order): no rounding enters.

    None where a class is missing.
    """
    tp, fp = np.append(0, ranking.tp), np.append(0, ranking.fp)
    twice_pairs = int(np.dot(np.diff(fp), tp[1:] + tp[:-1]))
    pairs = int(tp[-1]) * int(fp[-1])
    return twice_pairs / (2 * pairs) if pairs else None


def confusion(labels: Ints, probs: Floats, threshold: float) -> Confusion:
    """Count the confusion matrix of (N,) labels and probabilities at `threshold`."""
    called = probs >= threshold
    tn, fp, fn, tp = np.bincount(2 * labels + called, minlength=4).tolist()
    return Confusion(tn, fp, fn, tp)


def bin_of(probs: Floats) -> Ints:
    """Which of the 15 equal bins of the reliability diagram each probability is in."""
    return np.minimum((probs * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def reliability(labels: Ints, probs: Floats) -> list[dict[str, float | int]]:
    """Bin the reliability diagram: bounds, count and two means of each of 15 equal bins that is not empty."""
    which = bin_of(probs)
    count = np.bincount(which, minlength=CALIBRATION_BINS)
    probability = np.bincount(which, weights=probs, minlength=CALIBRATION_BINS)
    positive = np.bincount(which, weights=labels, minlength=CALIBRATION_BINS)
    return [
        {
            "low": i / CALIBRATION_BINS,
            "high": (i + 1) / CALIBRATION_BINS,
            "count": int(count[i]),
            "mean_probability": float(probability[i] / count[i]),
            "fraction_positive": float(positive[i] / count[i]),
        }
        for i in np.flatnonzero(count).tolist()
    ]


def roc(ranking: Ranking) -> dict[str, list[float]]:
    """Draw the ROC curve from (0, 0) to (1, 1); empty where a class is missing."""
    positives, negatives = int(ranking.tp[-1]), int(ranking.fp[-1])
    if not positives or not negatives:
        return {"fpr": [], "tpr": [], "threshold": []}
    fpr, tpr = np.append(0, ranking.fp) / negatives, np.append(0, ranking.tp) / positives
    none_called = np.nextafter(ranking.scores[0], 2)  # the lowest threshold at which no patch is called tumour
    keep = _thinned(fpr, tpr)
    threshold = np.append(none_called, ranking.scores)
    return {"fpr": fpr[keep].tolist(), "tpr": tpr[keep].tolist(), "threshold": threshold[keep].tolist()}


def precision_recall(ranking: Ranking) -> dict[str, list[float]]:
    """Give precision by rising recall, from (0, 1) by convention; empty where no patch is positive."""
    positives = int(ranking.tp[-1])
    if not positives:
        return {"recall": [], "precision": []}
    recall = np.append(0, ranking.tp / positives)
    precision = np.append(1, ranking.tp / (ranking.tp + ranking.fp))
    keep = _thinned(recall, precision)
    return {"recall": recall[keep].tolist(), "precision": precision[keep].tolist()}


def _thinned(x: Floats, y: Floats) -> Ints:
    """Choose at most `CURVE_POINTS` indices spread evenly along a curve, both ends among them."""
    if len(x) <= CURVE_POINTS:
        return np.arange(len(x))
    travelled = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    stops = np.searchsorted(travelled, np.linspace(0, travelled[-1], CURVE_POINTS - 1)[:-1])
    return np.unique(np.append(stops, len(x) - 1))


def histogram(labels: Ints, probs: Floats) -> dict[str, list[float] | list[int]]:
    """Count the scores of each class in 20 equal bins."""
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    negative, positive = (np.histogram(probs[labels == label], edges)[0].tolist() for label in (0, 1))
    return {"edges": edges.tolist(), "negative": negative, "positive": positive}
