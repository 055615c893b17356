"""Curves and counts of scored patches: the ranking, ROC, precision-recall, reliability, histogram, confusion."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from histocli.schema import Count, Fraction

CURVE_POINTS = 400
CALIBRATION_BINS = 15
HISTOGRAM_BINS = 20

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Ranking(NamedTuple):
    """The sorted scores, from which AUC, ROC and precision-recall are computed.

    `scores` (K,) are the distinct probabilities, the highest first; `tp` and `fp` (K,) count the tumour and
    the normal patches at or above each.
    """

    scores: Floats
    tp: Ints
    fp: Ints


@dataclass(frozen=True)
class Confusion:
    """The confusion matrix: true negatives, false positives, false negatives, true positives."""

    tn: Count
    fp: Count
    fn: Count
    tp: Count


@dataclass(frozen=True)
class RocCurve:
    """False and true positive rates, (P,) each, and the threshold of each point; empty where a class is missing."""

    fpr: list[Fraction]
    tpr: list[Fraction]
    threshold: list[float]

    def __post_init__(self) -> None:
        if not len(self.fpr) == len(self.tpr) == len(self.threshold):
            raise ValueError("has lists of different lengths")


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Recall, rising, and the precision at each, (P,) both; empty where no patch is tumour."""

    recall: list[Fraction]
    precision: list[Fraction]

    def __post_init__(self) -> None:
        if len(self.recall) != len(self.precision):
            raise ValueError("has lists of different lengths")


@dataclass(frozen=True)
class Curves:
    """The curves of an evaluation, at most `CURVE_POINTS` points each."""

    roc: RocCurve
    pr: PrecisionRecallCurve


@dataclass(frozen=True)
class CalibrationBin:
    """The patches whose probability is from `low` to `high`: how many, and how many of them are tumour."""

    low: Fraction
    high: Fraction
    count: Count
    mean_probability: Fraction
    fraction_positive: Fraction


@dataclass(frozen=True)
class Histogram:
    """How many patches of each class are in each of B bins of the probability; `edges` are the B+1 bounds."""

    edges: list[Fraction]
    negative: list[Count]
    positive: list[Count]

    def __post_init__(self) -> None:
        if not len(self.edges) - 1 == len(self.negative) == len(self.positive):
            raise ValueError("has lists of lengths that do not fit")


def rank(labels: Ints, probs: Floats) -> Ranking:
    """Sort (N,) probabilities, and count both classes at or above each distinct one."""
    order = np.argsort(-probs)
    scores = probs[order]
    last = ends_of_ties(scores)
    tp = np.cumsum(labels[order], dtype=np.int64)[last]
    return Ranking(scores[last], tp, last + 1 - tp)


def ends_of_ties(scores: Floats) -> Ints:
    """Return the index of the last of each run of equal values in sorted `scores` (N,): (K,)."""
    return np.flatnonzero(np.append(scores[1:] != scores[:-1], True))


def area(ranking: Ranking) -> float | None:
    """Return the area under the ROC curve, None where a class is missing.

    It is summed in whole numbers (twice the pairs in the right order), so that nothing is rounded.
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
    """Return which of the 15 equal bins of the reliability diagram each probability is in: (N,)."""
    return np.minimum((probs * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def reliability(labels: Ints, probs: Floats) -> list[CalibrationBin]:
    """Return the bins of the reliability diagram: those of 15 equal ones that are not empty."""
    which = bin_of(probs)
    count = np.bincount(which, minlength=CALIBRATION_BINS)
    probability = np.bincount(which, weights=probs, minlength=CALIBRATION_BINS)
    positive = np.bincount(which, weights=labels, minlength=CALIBRATION_BINS)
    return [
        CalibrationBin(
            low=i / CALIBRATION_BINS,
            high=(i + 1) / CALIBRATION_BINS,
            count=int(count[i]),
            mean_probability=float(probability[i] / count[i]),
            fraction_positive=float(positive[i] / count[i]),
        )
        for i in np.flatnonzero(count).tolist()
    ]


def roc(ranking: Ranking) -> RocCurve:
    """Return the ROC curve from (0, 0) to (1, 1); empty where a class is missing."""
    positives, negatives = int(ranking.tp[-1]), int(ranking.fp[-1])
    if not positives or not negatives:
        return RocCurve([], [], [])
    fpr, tpr = np.append(0, ranking.fp) / negatives, np.append(0, ranking.tp) / positives
    none_called = np.nextafter(ranking.scores[0], 2)  # the lowest threshold at which no patch is called tumour
    keep = _thinned(fpr, tpr)
    threshold = np.append(none_called, ranking.scores)
    return RocCurve(fpr[keep].tolist(), tpr[keep].tolist(), threshold[keep].tolist())


def precision_recall(ranking: Ranking) -> PrecisionRecallCurve:
    """Return precision by rising recall, from (0, 1) by convention; empty where no patch is tumour."""
    positives = int(ranking.tp[-1])
    if not positives:
        return PrecisionRecallCurve([], [])
    recall = np.append(0, ranking.tp / positives)
    precision = np.append(1, ranking.tp / (ranking.tp + ranking.fp))
    keep = _thinned(recall, precision)
    return PrecisionRecallCurve(recall[keep].tolist(), precision[keep].tolist())


def _thinned(x: Floats, y: Floats) -> Ints:
    """Choose at most `CURVE_POINTS` indices spread evenly along a curve, both ends among them."""
    if len(x) <= CURVE_POINTS:
        return np.arange(len(x))
    length = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    chosen = np.searchsorted(length, np.linspace(0, length[-1], CURVE_POINTS - 1)[:-1])
    return np.unique(np.append(chosen, len(x) - 1))


def histogram(labels: Ints, probs: Floats) -> Histogram:
    """Count the scores of each class in 20 equal bins."""
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    negative, positive = (np.histogram(probs[labels == label], edges)[0].tolist() for label in (0, 1))
    return Histogram(edges.tolist(), negative, positive)
