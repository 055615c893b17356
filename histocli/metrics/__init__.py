"""AUC, accuracy, calibration, intervals: arrays in, numbers out.

Class 1 is tumour, and a patch is predicted as tumour when its probability is at or above the threshold.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histocli.errors import HistoError
from histocli.metrics.curves import (
    CalibrationBin,
    Confusion,
    Curves,
    Floats,
    Histogram,
    Ints,
    bin_reliability,
    compute_area,
    compute_confusion,
    compute_histogram,
    compute_precision_recall,
    compute_roc,
    rank_scores,
)
from histocli.metrics.delong import AucDifferenceError, AucError, compute_delong, compute_delong_difference
from histocli.metrics.intervals import (
    REPLICATES,
    ClassCounts,
    Clusters,
    Interval,
    Resampling,
    compute_intervals,
    count_informative,
    make_patch_clusters,
    resample,
)
from histocli.metrics.registry import BY_NAME, NAMES, compute_metric_values
from histocli.metrics.weighted import SortedScores
from histocli.schema import Count, Fraction

__all__ = [
    "Clusters",
    "Interval",
    "Measurement",
    "PairedDifference",
    "Uncertainty",
    "compare_aucs",
    "compute_auc",
    "estimate_uncertainty",
    "evaluate",
    "make_patch_clusters",
]


@dataclass(frozen=True)
class Measurement:
    """Every metric of scored patches at one threshold.

    A metric that is undefined or missing is None, and `undefined` gives the reason.
    """

    n: Count
    positives: Count
    prevalence: Fraction
    threshold: Fraction
    metrics: dict[str, float | None]
    undefined: dict[str, str]
    confusion: Confusion
    curves: Curves
    calibration: list[CalibrationBin]
    histogram: Histogram

    def __post_init__(self) -> None:
        """Check that no metric is missing, because plots and pages look for all of them."""
        if missing := set(NAMES) - self.metrics.keys():
            raise ValueError(f"does not have the metric {min(missing)}")


@dataclass(frozen=True)
class Uncertainty:
    """The 95% interval of each metric by bootstrap (None if it has none), and that of the AUC by DeLong."""

    intervals: dict[str, Interval | None]
    bootstrap: Resampling
    delong: AucError | None

    def find_interval(self, name: str) -> Interval | None:
        """Return the interval of a metric by bootstrap, or else, for the AUC, the one by DeLong."""
        return self.delong.interval if self.has_delong_interval(name) and self.delong else self.intervals.get(name)

    def has_delong_interval(self, name: str) -> bool:
        """Return whether `find_interval` returns DeLong's."""
        return name == "auc" and self.intervals.get(name) is None and self.delong is not None

    def group_missing_intervals(self, measured: Measurement) -> dict[str, list[str]]:
        """Return the names of the metrics without an interval by bootstrap, by reason; undefined ones need none."""
        names_by_reason: dict[str, list[str]] = {}
        for name, reason in self.bootstrap.undefined.items():
            if name not in measured.undefined:
                names_by_reason.setdefault(reason, []).append(name)
        return names_by_reason


@dataclass(frozen=True)
class PairedBootstrap:
    """The difference of two AUCs by bootstrap: its 95% interval and two-sided p-value (None if it has none).

    `undefined` is why there is no interval, or "".
    """

    by: str
    clusters: Count
    clusters_by_class: ClassCounts
    replicates: Count
    seed: int
    interval: Interval | None
    p: Fraction | None
    undefined: str


@dataclass(frozen=True)
class PairedDifference:
    """The difference of the AUCs of two classifiers on the same patches."""

    difference: float
    bootstrap: PairedBootstrap
    delong: AucDifferenceError | None


def compute_auc(labels: npt.ArrayLike, probs: npt.ArrayLike) -> float | None:
    """Return the area under the ROC curve, in which ties count half; None if a class is missing.

    Args:
        labels: (N,) 0 or 1.
        probs: (N,) tumour probabilities.

    Raises:
        HistoError: the shapes differ, N is 0, a label is neither 0 nor 1, or a probability is NaN or
            outside 0 to 1.
    """
    return compute_area(rank_scores(*check_scores(labels, probs)))


def evaluate(labels: npt.ArrayLike, probs: npt.ArrayLike, threshold: float = 0.5) -> Measurement:
    """Compute every metric, the confusion matrix and the curves of scored patches.

    The expected calibration error is that of Guo et al. (2017), https://arxiv.org/abs/1706.04599, for the
    probability of tumour over 15 bins of equal width. F1 and MCC are of the tumour class at `threshold`.

    Args:
        labels: (N,) 0 or 1.
        probs: (N,) tumour probabilities.
        threshold: a patch is predicted as tumour if its probability is at or above it, 0 to 1.

    Raises:
        HistoError: as `compute_auc`, or the threshold is outside 0 to 1.
    """
    y, p = check_scores(labels, probs)
    if not 0 <= threshold <= 1:
        raise HistoError(f"a threshold of {threshold} is not between 0 and 1", "give 0.5, for example")
    ranking = rank_scores(y, p)
    metrics = compute_metric_values(SortedScores(y, p, threshold))
    n, positives = len(y), int(y.sum())
    return Measurement(
        n=n,
        positives=positives,
        prevalence=positives / n,
        threshold=float(threshold),
        metrics=metrics,
        undefined={name: BY_NAME[name].undefined for name, value in metrics.items() if value is None},
        confusion=compute_confusion(y, p, threshold),
        curves=Curves(compute_roc(ranking), compute_precision_recall(ranking)),
        calibration=bin_reliability(y, p),
        histogram=compute_histogram(y, p),
    )


def estimate_uncertainty(
    labels: npt.ArrayLike,
    probs: npt.ArrayLike,
    metrics: dict[str, float | None],
    threshold: float = 0.5,
    clusters: Clusters | None = None,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    threads: int = 1,
) -> Uncertainty:
    """Compute the 95% intervals of the metrics that `evaluate` computed.

    Args:
        labels: (N,) 0 or 1.
        probs: (N,) tumour probabilities.
        metrics: the metrics by name, as `evaluate` gives them.
        threshold: a patch is predicted as tumour if its probability is at or above it, 0 to 1.
        clusters: groups of patches that are drawn together, for example slides; None draws single patches.
        replicates: the number of resamples.
        seed: the seed of the resamples.
        threads: the number of threads; the result does not depend on it.

    Raises:
        HistoError: as `compute_auc`.
    """
    y, p = check_scores(labels, probs)
    clusters = clusters or make_patch_clusters(len(y))
    scored = [SortedScores(y, p, threshold)]
    (bootstrap,) = resample(y, scored, clusters, replicates=replicates, seed=seed, threads=threads)
    return Uncertainty(*compute_intervals(bootstrap, metrics), compute_delong(y, p, clusters))


def compare_aucs(
    labels: npt.ArrayLike,
    first_probs: npt.ArrayLike,
    second_probs: npt.ArrayLike,
    clusters: Clusters,
    *,
    threads: int = 1,
) -> PairedDifference:
    """Compute AUC(first) - AUC(second) on the same patches, with 95% intervals and two-sided p-values.

    The p-value by bootstrap is that for which an interval of level 1 - p would end at 0.

    Args:
        labels: (N,) 0 or 1, with both classes.
        first_probs: (N,) the probabilities of the first classifier.
        second_probs: (N,) the probabilities of the second classifier.
        clusters: groups of patches that are drawn together.
        threads: the number of threads; the result does not depend on it.

    Raises:
        HistoError: as `compute_auc`.
    """
    y, p = check_scores(labels, first_probs)
    q = check_scores(labels, second_probs)[1]
    scored = [SortedScores(y, p, 0.5), SortedScores(y, q, 0.5)]
    first, second = resample(y, scored, clusters, threads=threads)
    row, auc = NAMES.index("auc"), BY_NAME["auc"]
    differences = first.values[row] - second.values[row]
    found = first.compute_interval(auc, differences)
    interval, reason = (None, found) if isinstance(found, str) else (found, "")
    informative = count_informative(auc, clusters.n, first.by_class)
    return PairedDifference(
        difference=float(np.subtract(compute_auc(y, p), compute_auc(y, q))),  # type: ignore[arg-type]
        bootstrap=PairedBootstrap(
            by=clusters.by,
            clusters=clusters.n,
            clusters_by_class=first.by_class,
            replicates=REPLICATES,
            seed=first.seed,
            interval=interval,
            p=_compute_p_value(differences, informative) if interval or not differences.any() else None,
            undefined=reason,
        ),
        delong=compute_delong_difference(y, p, q, clusters),
    )


def _compute_p_value(differences: Floats, n_informative: int) -> float:
    """Return the two-sided p-value of resampled differences (R,), widened for few clusters as the interval is."""
    from scipy.special import ndtri, stdtr

    defined = differences[~np.isnan(differences)]
    if not defined.any():
        return 1.0
    beyond = min((defined <= 0).sum(), (defined >= 0).sum())
    tail = min(0.5, (int(beyond) + 1) / (len(defined) + 1))
    return float(2 * stdtr(n_informative - 1, ndtri(tail) / np.sqrt(n_informative / (n_informative - 1))))


def check_scores(labels: npt.ArrayLike, probs: npt.ArrayLike) -> tuple[Ints, Floats]:
    """Return labels (int64) and probabilities (float64) as arrays (N,).

    Raises:
        HistoError: as `compute_auc`.
    """
    y, p = np.asarray(labels), np.asarray(probs, np.float64)
    if y.ndim != 1 or y.shape != p.shape:
        raise HistoError(
            f"labels {y.shape} and probabilities {p.shape} have different shapes", "score the patches again"
        )
    if not len(y):
        raise HistoError(
            "there are no labelled patches to evaluate", "histo eval --data NAME takes a labelled data set"
        )
    if not np.isin(y, (0, 1)).all():
        raise HistoError(f"a label is {y[~np.isin(y, (0, 1))][0]}, not 0 or 1", "evaluate only the labelled patches")
    if np.isnan(p).any():
        raise HistoError(
            f"{np.isnan(p).sum()} of {len(p)} probabilities are not numbers",
            "train again with a lower --lr or --precision fp32",
        )
    if p.min() < 0 or p.max() > 1:
        raise HistoError(
            f"probabilities are from {p.min():g} to {p.max():g}, not from 0 to 1", "pass the output of softmax"
        )
    return y.astype(np.int64), p
