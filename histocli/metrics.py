"""AUC, accuracy, calibration: arrays in, numbers out.

Class 1 is tumour, and a patch is called tumour when its probability is at or above the threshold.
"""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from histocli.errors import HistoError

CURVE_POINTS = 400
CALIBRATION_BINS = 15
HISTOGRAM_BINS = 20

_UNDEFINED = {
    "auc": "it needs patches of both classes",
    "balanced_accuracy": "it needs patches of both classes",
    "sensitivity": "there is no tumour patch",
    "specificity": "there is no normal patch",
    "ppv": "no patch is called tumour at this threshold",
    "npv": "no patch is called normal at this threshold",
    "f1": "no patch is tumour, and none is called tumour at this threshold",
    "mcc": "it needs both classes, and patches called either at this threshold",
    "average_precision": "there is no tumour patch",
}

_Floats = npt.NDArray[np.float64]
_Ints = npt.NDArray[np.int64]


class Ranking(NamedTuple):
    """The scores sorted once; AUC, ROC and precision-recall all follow from it.

    `scores` (K,) are the distinct probabilities, the highest first; `tp` and `fp` (K,) count the tumour and
    the normal patches at or above each.
    """

    scores: _Floats
    tp: _Ints
    fp: _Ints


class Confusion(NamedTuple):
    """Patches by true class and call: true negatives, false positives, false negatives, true positives."""

    tn: int
    fp: int
    fn: int
    tp: int


def auc(labels: npt.ArrayLike, probs: npt.ArrayLike) -> float | None:
    """Return the area under the ROC curve, ties counted half; None where a class is missing.

    Args:
        labels: (N,) 0 or 1.
        probs: (N,) tumour probabilities.

    Raises:
        HistoError: the shapes differ, N is 0, a label is neither 0 nor 1, or a probability is NaN or
            outside 0 to 1.

    """
    return _area(rank(*_checked(labels, probs)))


def evaluate(labels: npt.ArrayLike, probs: npt.ArrayLike, threshold: float = 0.5) -> dict[str, Any]:
    """Compute every figure of an evaluation, ready for JSON: no NaN, but None and a reason where undefined.

    The expected calibration error is that of Guo et al. (2017), https://arxiv.org/abs/1706.04599, for the
    probability of tumour over 15 bins of equal width. F1 and MCC are of the tumour class at `threshold`.

    Args:
        labels: (N,) 0 or 1.
        probs: (N,) tumour probabilities.
        threshold: where a patch is called tumour, 0 to 1.

    Raises:
        HistoError: as `auc`, or the threshold is outside 0 to 1.

    """
    checked_labels, checked_probs = _checked(labels, probs)
    if not 0 <= threshold <= 1:
        raise HistoError(f"a threshold of {threshold} is not between 0 and 1", "0.5 is usual")
    ranking = rank(checked_labels, checked_probs)
    counts = confusion(checked_labels, checked_probs, threshold)
    bins = calibration(checked_labels, checked_probs)
    metrics = {
        "auc": _area(ranking),
        **_of_calls(counts),
        "average_precision": _average_precision(ranking),
        "brier": float(np.mean((checked_probs - checked_labels) ** 2)),
        "log_loss": _log_loss(checked_labels, checked_probs),
        "ece": _calibration_error(bins),
    }
    n, positives = len(checked_labels), int(checked_labels.sum())
    return {
        "n": n,
        "positives": positives,
        "prevalence": positives / n,
        "threshold": float(threshold),
        "metrics": metrics,
        "undefined": {name: _UNDEFINED[name] for name, value in metrics.items() if value is None},
        "confusion": counts._asdict(),
        "curves": {"roc": _roc(ranking), "pr": _precision_recall(ranking)},
        "calibration": bins,
        "histogram": _histogram(checked_labels, checked_probs),
    }


def rank(labels: _Ints, probs: _Floats) -> Ranking:
    """Sort (N,) probabilities once, and count both classes at or above each distinct one."""
    order = np.argsort(-probs)
    scores = probs[order]
    last = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))  # the last row of each run of equal scores
    tp = np.cumsum(labels[order], dtype=np.int64)[last]
    return Ranking(scores[last], tp, last + 1 - tp)


def confusion(labels: _Ints, probs: _Floats, threshold: float) -> Confusion:
    """Count the confusion matrix of (N,) labels and probabilities at `threshold`."""
    called = probs >= threshold
    tn, fp, fn, tp = np.bincount(2 * labels + called, minlength=4).tolist()
    return Confusion(tn, fp, fn, tp)


def calibration(labels: _Ints, probs: _Floats) -> list[dict[str, float | int]]:
    """Bin the reliability diagram: bounds, count and two means of each of 15 equal bins that is not empty."""
    which = np.minimum((probs * CALIBRATION_BINS).astype(np.int64), CALIBRATION_BINS - 1)
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


def _checked(labels: npt.ArrayLike, probs: npt.ArrayLike) -> tuple[_Ints, _Floats]:
    """Both as plain arrays, or the HistoError that says what is wrong with them."""
    y, p = np.asarray(labels), np.asarray(probs, np.float64)
    if y.ndim != 1 or y.shape != p.shape:
        raise HistoError(f"labels {y.shape} and probabilities {p.shape} do not pair up", "score the same patches again")
    if not len(y):
        raise HistoError(
            "there are no labelled patches to evaluate", "histo eval --data NAME takes a labelled data set"
        )
    if not np.isin(y, (0, 1)).all():
        raise HistoError(f"a label is {y[~np.isin(y, (0, 1))][0]}, not 0 or 1", "evaluate the labelled patches alone")
    if np.isnan(p).any():
        raise HistoError(
            f"{np.isnan(p).sum()} of {len(p)} probabilities are not numbers",
            "train again with a lower --lr or --precision fp32",
        )
    if p.min() < 0 or p.max() > 1:
        raise HistoError(
            f"probabilities run from {p.min():g} to {p.max():g}, not within 0 to 1", "pass softmax's output"
        )
    return y.astype(np.int64), p


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _area(ranking: Ranking) -> float | None:
    """Sum the area in whole numbers (twice the pairs in the right order), so that no rounding enters."""
    tp, fp = np.append(0, ranking.tp), np.append(0, ranking.fp)
    twice_pairs = int(np.dot(np.diff(fp), tp[1:] + tp[:-1]))
    return _ratio(twice_pairs, 2 * int(tp[-1]) * int(fp[-1]))


def _average_precision(ranking: Ranking) -> float | None:
    """Average over all tumour patches the precision at that patch's score."""
    precision = ranking.tp / (ranking.tp + ranking.fp)
    return _ratio(float(np.dot(np.diff(ranking.tp, prepend=0), precision)), int(ranking.tp[-1]))


def _of_calls(counts: Confusion) -> dict[str, float | None]:
    tn, fp, fn, tp = counts
    sensitivity, specificity = _ratio(tp, tp + fn), _ratio(tn, tn + fp)
    both = sensitivity is not None and specificity is not None
    return {
        "accuracy": (tp + tn) / (tn + fp + fn + tp),
        "balanced_accuracy": (sensitivity + specificity) / 2 if both else None,  # type: ignore[operator]
        "sensitivity": sensitivity,
        "specificity": specificity,
        "ppv": _ratio(tp, tp + fp),
        "npv": _ratio(tn, tn + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
        "mcc": _ratio(tp * tn - fp * fn, math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn))),
    }


def _log_loss(labels: _Ints, probs: _Floats) -> float:
    """Average the negative log likelihood in nats; certainty is clipped by a rounding unit to stay finite."""
    of_label = np.where(labels == 1, probs, 1 - probs)
    return float(-np.log(np.clip(of_label, np.finfo(np.float64).eps, 1)).mean())


def _calibration_error(bins: list[dict[str, float | int]]) -> float:
    gaps = sum(b["count"] * abs(b["mean_probability"] - b["fraction_positive"]) for b in bins)
    return float(gaps / sum(b["count"] for b in bins))


def _roc(ranking: Ranking) -> dict[str, list[float]]:
    """Draw the ROC curve from (0, 0) to (1, 1); empty where a class is missing."""
    positives, negatives = int(ranking.tp[-1]), int(ranking.fp[-1])
    if not positives or not negatives:
        return {"fpr": [], "tpr": [], "threshold": []}
    fpr, tpr = np.append(0, ranking.fp) / negatives, np.append(0, ranking.tp) / positives
    none_called = np.nextafter(ranking.scores[0], 2)  # the lowest threshold at which no patch is called tumour
    keep = _thinned(fpr, tpr)
    threshold = np.append(none_called, ranking.scores)
    return {"fpr": fpr[keep].tolist(), "tpr": tpr[keep].tolist(), "threshold": threshold[keep].tolist()}


def _precision_recall(ranking: Ranking) -> dict[str, list[float]]:
    """Give precision by rising recall, from (0, 1) by convention; empty where no patch is positive."""
    positives = int(ranking.tp[-1])
    if not positives:
        return {"recall": [], "precision": []}
    recall = np.append(0, ranking.tp / positives)
    precision = np.append(1, ranking.tp / (ranking.tp + ranking.fp))
    keep = _thinned(recall, precision)
    return {"recall": recall[keep].tolist(), "precision": precision[keep].tolist()}


def _thinned(x: _Floats, y: _Floats) -> _Ints:
    """Choose at most `CURVE_POINTS` indices spread evenly along a curve, both ends among them."""
    if len(x) <= CURVE_POINTS:
        return np.arange(len(x))
    travelled = np.append(0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    stops = np.searchsorted(travelled, np.linspace(0, travelled[-1], CURVE_POINTS - 1)[:-1])
    return np.unique(np.append(stops, len(x) - 1))


def _histogram(labels: _Ints, probs: _Floats) -> dict[str, list[float] | list[int]]:
    edges = np.linspace(0, 1, HISTOGRAM_BINS + 1)
    negative, positive = (np.histogram(probs[labels == label], edges)[0].tolist() for label in (0, 1))
    return {"edges": edges.tolist(), "negative": negative, "positive": positive}
