"""The list of metrics. To add one, add an entry to `METRICS`: tables, intervals, reports and plots use this list.

The function of a metric takes `WeightedScores` and returns one value for each of R rows of weights, shape (R,). The
value is NaN if the metric is undefined. The function need not check for division by zero: a value that is not
finite becomes NaN.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from histocli.metrics.curves import Floats
from histocli.metrics.weighted import SortedScores, WeightedScores


@dataclass(frozen=True)
class Metric:
    """One metric of scored patches.

    Attributes:
        name: the key in reports.
        compute: the function, as described at the top of this module.
        title: the name in tables.
        undefined: the reason that is printed if the metric is undefined.
        classes: the class of patches that a cluster must have to be informative. The sensitivity, for example, depends
            only on slides that have tumour patches.
        is_changed_by_calibration: whether calibration changes the metric.
        is_per_group: whether the metric is also computed for each slide and each hospital.
        is_biased_upwards: whether the metric is too large on small samples, and larger again on resamples; its interval
            corrects this.
    """

    name: str
    compute: Callable[[WeightedScores], Floats]
    title: str
    undefined: str = ""
    classes: Literal["either", "both", "normal", "tumour"] = "either"
    is_changed_by_calibration: bool = False
    is_per_group: bool = False
    is_biased_upwards: bool = False


def _auc(s: WeightedScores) -> Floats:
    """Return the share of pairs of a tumour and a normal patch that are in the right order; ties count half.

    The numerator is the sum over distinct scores of (all - tumour) * (tumour above - tumour / 2). It is computed from
    dot products, which need no temporary arrays.
    """
    ordered = _dot_rows(s.tied_weights, s.tumour_above) - _dot_rows(s.tied_tumour, s.tumour_above)
    tied = (_dot_rows(s.tied_weights, s.tied_tumour) - _dot_rows(s.tied_tumour, s.tied_tumour)) / 2
    area: Floats = (ordered - tied) / (s.n_tumour * s.n_normal)
    return area


def _average_precision(s: WeightedScores) -> Floats:
    precision = s.tied_weights.cumsum(1)
    np.maximum(precision, 1, out=precision)  # the first patches may have no weight, which would be 0 / 0
    np.divide(s.tumour_above, precision, out=precision)
    average: Floats = _dot_rows(s.tied_tumour, precision) / s.n_tumour
    return average


def _sensitivity(s: WeightedScores) -> Floats:
    share: Floats = s.tp / (s.tp + s.fn)
    return share


def _specificity(s: WeightedScores) -> Floats:
    share: Floats = s.tn / (s.tn + s.fp)
    return share


def _mcc(s: WeightedScores) -> Floats:
    product = (s.tp + s.fp) * (s.tp + s.fn) * (s.tn + s.fp) * (s.tn + s.fn)
    coefficient: Floats = (s.tp * s.tn - s.fp * s.fn) / np.sqrt(product)
    return coefficient


def _ece(s: WeightedScores) -> Floats:
    """Return the mean over patches of |mean of (probability - label)| in the patch's bin of probability."""
    error: Floats = np.abs(s.sum_bins(s.scores.errors)).sum(1) / s.total
    return error


def _dot_rows(first: Floats, second: Floats) -> Floats:
    """Return the dot product of each row: (R,)."""
    products: Floats = np.einsum("rk,rk->r", first, second)
    return products


_BOTH = "it needs patches of both classes"
_NO_TUMOUR = "there is no tumour patch"

METRICS = (
    Metric("auc", _auc, "AUC", _BOTH, "both", is_per_group=True),
    Metric("accuracy", lambda s: (s.tp + s.tn) / (s.tn + s.fp + s.fn + s.tp), "accuracy", is_per_group=True),
    Metric("balanced_accuracy", lambda s: (_sensitivity(s) + _specificity(s)) / 2, "balanced accuracy", _BOTH, "both"),
    Metric("sensitivity", _sensitivity, "sensitivity", _NO_TUMOUR, "tumour", is_per_group=True),
    Metric("specificity", _specificity, "specificity", "there is no normal patch", "normal", is_per_group=True),
    Metric("ppv", lambda s: s.tp / (s.tp + s.fp), "PPV", "no patch is predicted as tumour at this threshold", "both"),
    Metric("npv", lambda s: s.tn / (s.tn + s.fn), "NPV", "no patch is predicted as normal at this threshold", "both"),
    Metric(
        "f1",
        lambda s: 2 * s.tp / (2 * s.tp + s.fp + s.fn),
        "F1",
        "no patch is tumour, and none is predicted as tumour at this threshold",
        "both",
    ),
    Metric("mcc", _mcc, "MCC", "it needs both classes, and patches predicted as each class at this threshold", "both"),
    Metric("average_precision", _average_precision, "average precision", _NO_TUMOUR, "both"),
    Metric(
        "brier",
        lambda s: s.average(s.scores.squared_errors),
        "Brier score",
        is_changed_by_calibration=True,
        is_per_group=True,
    ),
    Metric(
        "log_loss",
        lambda s: s.average(s.scores.log_losses),
        "log loss",
        is_changed_by_calibration=True,
        is_per_group=True,
    ),
    Metric("ece", _ece, "ECE", is_changed_by_calibration=True, is_biased_upwards=True),
)

NAMES = tuple(metric.name for metric in METRICS)
PER_GROUP = tuple(metric.name for metric in METRICS if metric.is_per_group)
BY_NAME = {metric.name: metric for metric in METRICS}


def compute_metrics(scores: SortedScores, weights: Floats) -> Floats:
    """Return every metric for each of R rows of weights (R,N): (len(METRICS),R), NaN if undefined."""
    weighted = WeightedScores(scores, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        values = np.stack([metric.compute(weighted) for metric in METRICS])
    return np.where(np.isfinite(values), values, np.nan)


def compute_metric_values(scores: SortedScores) -> dict[str, float | None]:
    """Return every metric by name, with each patch counted once; None if undefined."""
    values = compute_metrics(scores, np.ones((1, len(scores.probs))))[:, 0].tolist()
    return {name: None if np.isnan(value) else value for name, value in zip(NAMES, values, strict=True)}


def find_metric_title(name: str) -> str:
    """Return the title of a metric in tables; a metric that this version does not know has its key as title."""
    return BY_NAME[name].title if name in BY_NAME else name.replace("_", " ")
