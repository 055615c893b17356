"""The variance of an AUC, and of the difference of two AUCs, without resampling.

For independent patches the method is DeLong et al. (1988), computed from ranks as in Sun and Xu, "Fast Implementation
of DeLong's Algorithm" (2014). For patches in clusters it is Obuchowski, "Nonparametric Analysis of Clustered ROC Curve
Data" (1997), which is equal to DeLong's for clusters of one patch. Both use normal quantiles. For clusters this module
uses the t distribution instead, because there are often few slides with tumour. The degrees of freedom are the number
of clusters of the rarer class, minus one.
"""

import math
from dataclasses import dataclass

import numpy as np

from histocli.metrics.curves import Floats, Ints, rank_scores
from histocli.metrics.intervals import LEVEL, Clusters, Interval
from histocli.schema import Fraction


@dataclass(frozen=True)
class AucError:
    """The standard error of an AUC and its 95% interval; `by` names the clusters, for example slide."""

    by: str
    standard_error: float
    interval: Interval


@dataclass(frozen=True)
class AucDifferenceError:
    """The difference of two AUCs: its standard error, 95% interval, z statistic and two-sided p-value."""

    by: str
    standard_error: float
    interval: Interval
    z: float
    p: Fraction


def compute_delong(labels: Ints, probs: Floats, clusters: Clusters) -> AucError | None:
    """Return the standard error and the 95% interval of an AUC; None if it has no variance.

    A variance needs two clusters with tumour, two with normal patches, and an AUC that is neither 0 nor 1.

    Args:
        labels: (N,) 0 or 1.
        probs: (N,) tumour probabilities.
        clusters: groups of patches that are independent of one another.
    """
    if not 0 < labels.sum() < len(labels):
        return None
    shares = _compute_shares(labels, probs)
    value = float(shares[labels == 1].mean())
    found = _compute_standard_error(labels, shares, clusters)
    if found is None:
        return None
    error, degrees = found
    half_width = _compute_half_width(error, degrees)
    return AucError(clusters.by, error, (max(0.0, value - half_width), min(1.0, value + half_width)))


def compute_delong_difference(
    labels: Ints, first: Floats, second: Floats, clusters: Clusters
) -> AucDifferenceError | None:
    """Return the error of the difference AUC(first) - AUC(second) on the same patches; None if it has no variance.

    Args:
        labels: (N,) 0 or 1.
        first: (N,) the probabilities of the first classifier.
        second: (N,) the probabilities of the second classifier.
        clusters: groups of patches that are independent of one another.
    """
    from scipy.special import stdtr

    difference = _compute_shares(labels, first) - _compute_shares(labels, second)
    value = float(difference[labels == 1].mean())
    found = _compute_standard_error(labels, difference, clusters)
    if found is None:
        return None
    error, degrees = found
    z = value / error
    half_width = _compute_half_width(error, degrees)
    p = 2 * float(stdtr(degrees, -abs(z)))
    return AucDifferenceError(clusters.by, error, (value - half_width, value + half_width), z, p)


def _compute_half_width(error: float, degrees: float) -> float:
    """Return half the width of an interval: the standard error times the quantile of the t distribution."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, (1 + LEVEL) / 2)) * error


def _compute_shares(labels: Ints, probs: Floats) -> Floats:
    """Return DeLong's structural components (N,).

    That of a patch is the share of patches of the other class with which it forms a correctly ordered pair.
    """
    ranking = rank_scores(labels, probs)
    tp, fp = np.append(0, ranking.tp), np.append(0, ranking.fp)
    of_tumour = 1 - (fp[1:] + fp[:-1]) / (2 * fp[-1])
    of_normal = (tp[1:] + tp[:-1]) / (2 * tp[-1])
    at = np.searchsorted(-ranking.scores, -probs)
    shares: Floats = np.where(labels == 1, of_tumour[at], of_normal[at])
    return shares


def _compute_standard_error(labels: Ints, shares: Floats, clusters: Clusters) -> tuple[float, float] | None:
    """Return Obuchowski's standard error and the degrees of freedom of the t distribution; None if it has no variance.

    Deviations are summed within each cluster before they are squared. The degrees of freedom are those of the clusters;
    they are infinite for single patches, so that the distribution is normal.
    """
    tumour = labels == 1
    deviations = shares - shares[tumour].mean()
    n = clusters.n
    sums = [np.bincount(clusters.codes[part], deviations[part], n) for part in (tumour, ~tumour)]
    sizes = [int(part.sum()) for part in (tumour, ~tumour)]
    counts = clusters.count_by_class(labels)
    with_class = (counts.tumour, counts.normal)
    if min(with_class) < 2:
        return None
    squares = sum(k / (k - 1) * float(s @ s) / m**2 for k, s, m in zip(with_class, sums, sizes, strict=True))
    both = 2 * n / (n - 1) * float(sums[0] @ sums[1]) / (sizes[0] * sizes[1])
    if squares + both <= 0:
        return None
    return math.sqrt(squares + both), math.inf if n == len(labels) else min(with_class) - 1
