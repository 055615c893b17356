"""The list of metrics. To add one, add an entry to `METRICS`: tables, intervals, reports and plots follow from it.

A metric's function takes `WeightedScores` and returns one value for each of its R rows of weights, (R,), NaN where the
metric is not defined. It divides without checking: NaN and infinity from a division by zero are expected.
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
        name: its key in reports.
        compute: its function, see this module's description.
        title: its name in tables.
        undefined: why it has no value, where it has none.
        classes: the class whose patches it depends on. It decides how many clusters are informative: the sensitivity,
            for example, is only measured on the slides that have tumour.
        depends_on_temperature: whether calibration changes it.
        by_group: whether it is also reported for each slide and each hospital.
        biased_upwards: whether chance makes it larger, and resampling larger again; its interval corrects for this.

    """

    name: str
    compute: Callable[[WeightedScores], Floats]
    title: str
    undefined: str = ""
    classes: Literal["either", "both", "normal", "tumour"] = "either"
    depends_on_temperature: bool = False
    by_group: bool = False
    biased_upwards: bool = False

    def n_informative(self, clusters: int, with_normal: int, with_tumour: int) -> int:
        """Return how many clusters carry information about this metric.

        Args:
            clusters: how many there are.
            with_normal: how many of them have normal patches.
            with_tumour: how many of them have tumour patches.

        """
        counts = {
            "either": clusters,
            "both": min(with_normal, with_tumour),
            "normal": with_normal,
            "tumour": with_tumour,
        }
        return counts[self.classes]


def _auc(s: WeightedScores) -> Floats:
    """The share of pairs of a tumour and a normal patch in the right order; ties count half.

    The numerator is the sum over distinct scores of (all - tumour) * (tumour above - tumour / 2), without temporaries.
    """
    ordered = _dot(s.tied_weights, s.tumour_above) - _dot(s.tied_tumour, s.tumour_above)
    tied = (_dot(s.tied_weights, s.tied_tumour) - _dot(s.tied_tumour, s.tied_tumour)) / 2
    area: Floats = (ordered - tied) / (s.n_tumour * s.n_normal)
    return area


def _average_precision(s: WeightedScores) -> Floats:
    precision = s.tied_weights.cumsum(1)
    np.maximum(precision, 1, out=precision)  # where the first patches have no weight, none are above a score yet
    np.divide(s.tumour_above, precision, out=precision)
    average: Floats = _dot(s.tied_tumour, precision) / s.n_tumour
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
    error: Floats = np.abs(s.sums_by_bin(s.scores.errors)).sum(1) / s.total
    return error


def _dot(one: Floats, other: Floats) -> Floats:
    """The dot product of each row."""
    products: Floats = np.einsum("rk,rk->r", one, other)
    return products


_BOTH = "it needs patches of both classes"
_NO_TUMOUR = "there is no tumour patch"

METRICS = (
    Metric("auc", _auc, "AUC", _BOTH, "both", by_group=True),
    Metric("accuracy", lambda s: (s.tp + s.tn) / (s.tn + s.fp + s.fn + s.tp), "accuracy", by_group=True),
    Metric("balanced_accuracy", lambda s: (_sensitivity(s) + _specificity(s)) / 2, "balanced accuracy", _BOTH, "both"),
    Metric("sensitivity", _sensitivity, "sensitivity", _NO_TUMOUR, "tumour", by_group=True),
    Metric("specificity", _specificity, "specificity", "there is no normal patch", "normal", by_group=True),
    Metric("ppv", lambda s: s.tp / (s.tp + s.fp), "PPV", "no patch is called tumour at this threshold", "both"),
    Metric("npv", lambda s: s.tn / (s.tn + s.fn), "NPV", "no patch is called normal at this threshold", "both"),
    Metric(
        "f1",
        lambda s: 2 * s.tp / (2 * s.tp + s.fp + s.fn),
        "F1",
        "no patch is tumour, and none is called tumour at this threshold",
        "both",
    ),
    Metric("mcc", _mcc, "MCC", "it needs both classes, and patches called either at this threshold", "both"),
    Metric("average_precision", _average_precision, "average precision", _NO_TUMOUR, "both"),
    Metric(
        "brier",
        lambda s: s.mean(s.scores.squared_errors),
        "Brier score",
        depends_on_temperature=True,
        by_group=True,
    ),
    Metric("log_loss", lambda s: s.mean(s.scores.log_losses), "log loss", depends_on_temperature=True, by_group=True),
    Metric("ece", _ece, "ECE", depends_on_temperature=True, biased_upwards=True),
)

NAMES = tuple(metric.name for metric in METRICS)
BY_NAME = {metric.name: metric for metric in METRICS}


def compute_metrics(scores: SortedScores, weights: Floats) -> Floats:
    """Compute every metric for each of R rows of weights (R,N): (len(METRICS),R), NaN where undefined."""
    weighted = WeightedScores(scores, weights)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.stack([metric.compute(weighted) for metric in METRICS])


def metric_values(scores: SortedScores) -> dict[str, float | None]:
    """Compute every metric with each patch counted once, by name; None where undefined."""
    values = compute_metrics(scores, np.ones((1, len(scores.probs))))[:, 0].tolist()
    return {name: None if np.isnan(value) else value for name, value in zip(NAMES, values, strict=True)}


def metric_title(name: str) -> str:
    """Return a metric's name in tables; one of another version keeps its key."""
    return BY_NAME[name].title if name in BY_NAME else name.replace("_", " ")
