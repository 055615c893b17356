"""The variance of an AUC, and of the difference of two, without resampling.

DeLong et al. (1988), by ranks after Sun and Xu, "Fast Implementation of DeLong's Algorithm" (2014); where patches come
in clusters, Obuchowski, "Nonparametric Analysis of Clustered ROC Curve Data" (1997), which is DeLong's for clusters
of one. Both use normal quantiles. Where patches come in clusters, this module uses the t distribution instead, because
slides with tumour are often few. Its degrees of freedom are one less than the clusters of the rarer class.
"""

import math
from dataclasses import dataclass

import numpy as np

from histocli.metrics.curves import Floats, Ints, rank
from histocli.metrics.intervals import LEVEL, Clusters, Interval
from histocli.schema import Fraction


@dataclass(frozen=True)
class AucError:
    """The standard error of an AUC and its 95% interval; `by` is what was taken as independent."""

    by: str
    standard_error: float
    interval: Interval


@dataclass(frozen=True)
class AucDifferenceError:
    """The standard error of the difference of two AUCs, its 95% interval, and the two-sided test of no difference."""

    by: str
    standard_error: float
    interval: Interval
    z: float
    p: Fraction


def delong(labels: Ints, probs: Floats, clusters: Clusters) -> AucError | None:
    """Return the standard error and the 95% interval of an AUC; None where it has no variance.

    A variance needs two clusters with tumour, two with normal patches, and an AUC that is neither 0 nor 1.

    Args:
        labels: (N,) 0 or 1.
        probs: (N,) tumour probabilities.
        clusters: what is independent of each other.

    """
    if not 0 < labels.sum() < len(labels):
        return None
    shares = _shares(labels, probs)
    value = float(shares[labels == 1].mean())
    error = _standard_error(labels, shares, clusters)
    if error is None:
        return None
    reach = -_quantile((1 - LEVEL) / 2, labels, clusters) * error
    low, high = max(0.0, value - reach), min(1.0, value + reach)
    return AucError(clusters.by, error, (low, high))


def delong_difference(labels: Ints, one: Floats, other: Floats, clusters: Clusters) -> AucDifferenceError | None:
    """Return the error of the difference AUC(one) - AUC(other) on the same patches; None where it has no variance.

    Args:
        labels: (N,) 0 or 1.
        one: (N,) the probabilities of one classifier.
        other: (N,) those of the other.
        clusters: what is independent of each other.

    """
    difference = _shares(labels, one) - _shares(labels, other)
    value = float(difference[labels == 1].mean())
    error = _standard_error(labels, difference, clusters)
    if error is None:
        return None
    z = value / error
    reach = -_quantile((1 - LEVEL) / 2, labels, clusters) * error
    p = 2 * _below(-abs(z), labels, clusters)
    return AucDifferenceError(clusters.by, error, (value - reach, value + reach), z, p)


def _freedom(labels: Ints, clusters: Clusters) -> float:
    """Degrees of freedom of the t distribution; infinitely many, as the normal distribution has, for single patches."""
    counts = clusters.by_class(labels)
    return math.inf if clusters.n == len(labels) else min(counts.normal, counts.tumour) - 1


def _quantile(share: float, labels: Ints, clusters: Clusters) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(_freedom(labels, clusters), share))


def _below(value: float, labels: Ints, clusters: Clusters) -> float:
    from scipy.special import stdtr

    return float(stdtr(_freedom(labels, clusters), value))


def _shares(labels: Ints, probs: Floats) -> Floats:
    """DeLong's structural components (N,): the share of the other class that each patch is correctly ranked against."""
    ranking = rank(labels, probs)
    tp, fp = np.append(0, ranking.tp), np.append(0, ranking.fp)
    of_tumour = 1 - (fp[1:] + fp[:-1]) / (2 * fp[-1])
    of_normal = (tp[1:] + tp[:-1]) / (2 * tp[-1])
    at = np.searchsorted(-ranking.scores, -probs)
    shares: Floats = np.where(labels == 1, of_tumour[at], of_normal[at])
    return shares


def _standard_error(labels: Ints, shares: Floats, clusters: Clusters) -> float | None:
    """Obuchowski's standard error: deviations are summed within clusters before they are squared."""
    tumour = labels == 1
    deviations = shares - shares[tumour].mean()
    n = clusters.n
    sums = [np.bincount(clusters.codes[part], deviations[part], n) for part in (tumour, ~tumour)]
    sizes = [int(part.sum()) for part in (tumour, ~tumour)]
    counts = clusters.by_class(labels)
    with_class = (counts.tumour, counts.normal)
    if min(with_class) < 2:
        return None
    squares = sum(k / (k - 1) * float(s @ s) / m**2 for k, s, m in zip(with_class, sums, sizes, strict=True))
    both = 2 * n / (n - 1) * float(sums[0] @ sums[1]) / (sizes[0] * sizes[1])
    return math.sqrt(squares + both) if squares + both > 0 else None
