"""Curves and counts of scored patches: ROC, precision-recall, reliability diagram, histogram, confusion matrix."""

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

    `scores` (K,) are the distinct probabilities, the highest first. `tp` and `fp` (K,) are the numbers of tumour and
    normal patches at or above each of them.
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

    @property
    def single_class(self) -> str:
        """The class that is predicted for all patches although both classes are there; "" if there is none."""
        if 0 in (self.tn + self.fp, self.fn + self.tp):
            return ""
        if self.fp + self.tp == 0:
            return "normal"
        return "tumour" if self.tn + self.fn == 0 else ""


@dataclass(frozen=True)
class RocCurve:
    """False positive rates, true positive rates and thresholds of P points; empty if a class is missing."""

    fpr: list[Fraction]
    tpr: list[Fraction]
    threshold: list[float]

    def __post_init__(self) -> None:
        if not len(self.fpr) == len(self.tpr) == len(self.threshold):
            raise ValueError("has lists of different lengths")


@dataclass(frozen=True)
class PrecisionRecallCurve:
    """Recall, increasing, and precision of P points; empty if no patch is tumour."""

    recall: list[Fraction]
    precision: list[Fraction]

    def __post_init__(self) -> None:
        if len(self.recall) != len(self.precision):
            raise ValueError("has lists of different lengths")

    def find_drawn_points(self) -> list[tuple[float, float]]:
        """Return recall and precision as drawn: without points at recall 0, where the first precision is repeated.

        The point (0, 1) is a convention, and normal patches with the highest scores have recall 0 as well. Between them
        there would be a line at recall 0 that nothing measured.
        """
        points = [point for point in zip(self.recall, self.precision, strict=True) if point[0] > 0]
        return [(0.0, precision) for _, precision in points[:1]] + points


@dataclass(frozen=True)
class Curves:
    """The curves of an evaluation, with at most `CURVE_POINTS` points each."""

    roc: RocCurve
    pr: PrecisionRecallCurve


@dataclass(frozen=True)
class CalibrationBin:
    """One bin of the reliability diagram: patches with a probability from `low` to `high`."""

    low: Fraction
    high: Fraction
    count: Count
    mean_probability: Fraction
    fraction_positive: Fraction


@dataclass(frozen=True)
class Histogram:
    """The number of patches of each class in B bins of the probability; `edges` are the B+1 bounds of the bins."""

    edges: list[Fraction]
    negative: list[Count]
    positive: list[Count]

    def __post_init__(self) -> None:
        if not len(self.edges) - 1 == len(self.negative) == len(self.positive):
            raise ValueError("has lists of lengths that do not match")


def rank_scores(labels: Ints, probs: Floats) -> Ranking:
    """Sort (N,) probabilities, and count the patches of each class at or above each distinct probability."""
    order = np.argsort(-probs)
    scores = probs[order]
    last = find_tie_ends(scores)
    tp = np.cumsum(labels[order], dtype=np.int64)[last]
    return Ranking(scores[last], tp, last + 1 - tp)


def find_tie_ends(scores: Floats) -> Ints:
    """Return the last index (K,) of each run of equal values in sorted `scores` (N,)."""
    return np.flatnonzero(np.append(scores[1:] != scores[:-1], True))


def compute_area(ranking: Ranking) -> float | None:
    """Return the area under the ROC curve, None if a class is missing.

    The sum is twice the number of correctly ordered pairs. It is an integer, so there is no rounding error.
    """
    tp, fp = np.append(0, ranking.tp), np.append(0, ranking.fp)
    twice_pairs = int(np.dot(np.diff(fp), tp[1:] + tp[:-1]))
    pairs = int(tp[-1]) * int(fp[-1])
    return twice_pairs / (2 * pairs) if pairs else None


def compute_confusion(labels: Ints, probs: Floats, threshold: float) -> Confusion:
    """Return the confusion matrix of (N,) labels and probabilities at `threshold`."""
    predicted = probs >= threshold
    tn, fp, fn, tp = np.bincount(2 * labels + predicted, minlength=4).tolist()
    return Confusion(tn, fp, fn, tp)


def find_bins(probs: Floats) -> Ints:
    """Return the bin (N,) of each probability, from 0 to 14, in the reliability diagram."""
    return np.minimum((probs * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)


def bin_reliability(labels: Ints, probs: Floats) -> list[CalibrationBin]:
    """Return the bins of the reliability diagram that are not empty, of 15 bins of equal width."""
    which = find_bins(probs)
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


def compute_roc(ranking: Ranking) -> RocCurve:
    """Return the ROC curve from (0, 0) to (1, 1); it is empty if a class is missing."""
    positives, negatives = int(ranking.tp[-1]), int(ranking.fp[-1])
    if not positives or not negatives:
        return RocCurve([], [], [])
    fpr, tpr = np.append(0, ranking.fp) / negatives, np.append(0, ranking.tp) / positives
    above_all = np.nextafter(ranking.scores[0], 2)  # the lowest threshold at which no patch is predicted as tumour
    keep = _thin_out(fpr, tpr)
    threshold = np.append(above_all, ranking.scores)
    return RocCurve(fpr[keep].tolist(), tpr[keep].tolist(), threshold[keep].tolist())


def compute_precision_recall(ranking: Ranking) -> PrecisionRecallCurve:
    """Return precision by increasing recall, beginning at (0, 1) by convention; it is empty if no patch is tumour."""
    positives = int(ranking.tp[-1])
    if not positives:
        return PrecisionRecallCurve([], [])
    recall = np.append(0, ranking.tp / positives)
    precision = np.append(1, ranking.tp / (ranking.tp + ranking.fp))
    keep = _thin_out(recall, precision)
    return PrecisionRecallCurve(recall[keep].tolist(), precision[keep].tolist())


def _thin_out(x: Floats, y: Floats) -> Ints:
    """Return at most `CURVE_POINTS` indices at equal distances along a curve, including both ends."""
    if len(x) <= CURVE_POINTS:
        return np.arange(len(x))
    length = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    chosen = np.searchsorted(length, np.linspace(0, length[-1], CURVE_POINTS - 1)[:-1])
    return np.unique(np.append(chosen, len(x) - 1))


def compute_histogram(labels: Ints, probs: Floats) -> Histogram:
    """Count the scores of each class in 20 equal bins."""
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    negative, positive = (np.histogram(probs[labels == label], edges)[0].tolist() for label in (0, 1))
    return Histogram(edges.tolist(), negative, positive)
