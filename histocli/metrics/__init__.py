"""AUC, accuracy, calibration, intervals: arrays in, numbers out.

Class 1 is tumour, and a patch is called tumour when its probability is at or above the threshold.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.errors import HistoError
from histocli.metrics.curves import (
    CURVE_POINTS,
    Floats,
    Ints,
    area,
    confusion,
    histogram,
    precision_recall,
    rank,
    reliability,
    roc,
)
from histocli.metrics.delong import compare, delong
from histocli.metrics.intervals import REPLICATES, Clusters, by_patch, intervals, resampled
from histocli.metrics.weighted import NAMES, Weighted

__all__ = ["CURVE_POINTS", "Clusters", "auc", "by_patch", "evaluate", "paired_difference", "uncertainty"]

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


def auc(labels: npt.ArrayLike, probs: npt.ArrayLike) -> float | None:
    """Return the area under the ROC curve, ties counted half; None where a class is missing.

    Args:
        labels: (N,) 0 or 1.
        probs: (N,) tumour probabilities.

    Raises:
        HistoError: the shapes differ, N is 0, a label is neither 0 nor 1, or a probability is NaN or
            outside 0 to 1.

    """
    return area(rank(*checked(labels, probs)))


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
    y, p = checked(labels, probs)
    if not 0 <= threshold <= 1:
        raise HistoError(f"a threshold of {threshold} is not between 0 and 1", "0.5 is usual")
    ranking = rank(y, p)
    figures = Weighted(y, p, threshold).figures(np.ones((1, len(y))))[:, 0]
    metrics = {name: None if np.isnan(value) else float(value) for name, value in zip(NAMES, figures, strict=True)}
    n, positives = len(y), int(y.sum())
    return {
        "n": n,
        "positives": positives,
        "prevalence": positives / n,
        "threshold": float(threshold),
        "metrics": metrics,
        "undefined": {name: _UNDEFINED[name] for name, value in metrics.items() if value is None},
        "confusion": confusion(y, p, threshold)._asdict(),
        "curves": {"roc": roc(ranking), "pr": precision_recall(ranking)},
        "calibration": reliability(y, p),
        "histogram": histogram(y, p),
    }


def uncertainty(
    labels: npt.ArrayLike,
    probs: npt.ArrayLike,
    metrics: dict[str, float | None],
    threshold: float = 0.5,
    clusters: Clusters | None = None,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    threads: int = 1,
) -> dict[str, Any]:
    """Compute the 95 % intervals of what `evaluate` measured: the keys `intervals`, `bootstrap` and `delong`.

    Args:
        labels: (N,) 0 or 1.
        probs: (N,) tumour probabilities.
        metrics: the figures, as `evaluate` gives them.
        threshold: where a patch is called tumour, 0 to 1.
        clusters: what to draw again as a whole, slides for example; None draws patches.
        replicates: how many resamples.
        seed: of the resamples.
        threads: how many to compute them on; the result does not depend on it.

    Raises:
        HistoError: as `auc`.

    """
    y, p = checked(labels, probs)
    groups = clusters or by_patch(len(y))
    measured = [Weighted(y, p, threshold)]
    drawn = resampled(y, measured, groups, replicates=replicates, seed=seed, threads=threads)
    return {**intervals(drawn[0], metrics), "delong": delong(y, p, groups)}


def paired_difference(
    labels: npt.ArrayLike,
    one: npt.ArrayLike,
    other: npt.ArrayLike,
    clusters: Clusters,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    threads: int = 1,
) -> dict[str, Any]:
    """Compute AUC(one) - AUC(other) on the same patches, with 95 % intervals and two-sided p-values.

    Takes (N,) labels of both classes, two classifiers' probabilities (N,), and what to draw again as a whole. Gives the
    keys `difference`, `bootstrap` (its interval, None where all resamples agree, and the p-value at which that
    interval would end at 0) and `delong`.

    Raises:
        HistoError: as `auc`.

    """
    y, p = checked(labels, one)
    q = checked(labels, other)[1]
    measured = [Weighted(y, p, 0.5), Weighted(y, q, 0.5)]
    drawn = resampled(y, measured, clusters, replicates=replicates, seed=seed, threads=threads)
    differences = drawn[0].figures[0] - drawn[1].figures[0]
    interval = drawn[0].interval("auc", differences)
    told = isinstance(interval, list) or not differences.any()
    return {
        "difference": float(np.subtract(auc(y, p), auc(y, q))),  # type: ignore[arg-type]
        "bootstrap": {
            "by": clusters.by,
            "clusters": clusters.n,
            "holding": dict(zip(("normal", "tumour"), drawn[0].holding, strict=True)),
            "replicates": replicates,
            "seed": seed,
            "interval": interval if isinstance(interval, list) else None,
            "p": _p_value(differences, drawn[0].telling("auc")) if told else None,
        },
        "delong": compare(y, p, q, clusters),
    }


def _p_value(differences: Floats, telling: int) -> float:
    """Two-sided p-value of resampled differences (R,), expanded for few clusters as the interval is."""
    from scipy.special import ndtri, stdtr

    defined = differences[~np.isnan(differences)]
    if not defined.any():
        return 1.0
    beyond = min((defined <= 0).sum(), (defined >= 0).sum())
    tail = min(0.5, (int(beyond) + 1) / (len(defined) + 1))
    return float(2 * stdtr(telling - 1, ndtri(tail) / np.sqrt(telling / (telling - 1))))


def checked(labels: npt.ArrayLike, probs: npt.ArrayLike) -> tuple[Ints, Floats]:
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
