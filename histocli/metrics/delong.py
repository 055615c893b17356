"""The variance of an AUC, and of the difference of two, without resampling.

DeLong et al. (1988), by ranks after Sun and Xu, "Fast Implementation of DeLong's Algorithm" (2014); where patches come
in clusters, Obuchowski, "Nonparametric Analysis of Clustered ROC Curve Data" (1997), which is DeLong's for clusters
of one. Theirs are normal quantiles; where patches come in clusters, those of the t distribution stand in their place,
with one degree of freedom less than clusters hold the class that fewer hold, for slides with tumour are often few.
"""

import math
from typing import Any

import numpy as np

from histocli.metrics.curves import Floats, Ints, rank
from histocli.metrics.intervals import LEVEL, Clusters


def delong(labels: Ints, probs: Floats, clusters: Clusters) -> dict[str, Any] | None:
    """The AUC's standard error and 95 % interval: the key `delong` of an evaluation; None where it has no variance.

    Takes (N,) labels and probabilities. A variance needs two clusters with tumour, two with normal patches, and an
    AUC that is neither 0 nor 1.
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
    return {"by": clusters.by, "standard_error": error, "interval": [low, high]}


def compare(labels: Ints, one: Floats, other: Floats, clusters: Clusters) -> dict[str, Any] | None:
    """The difference AUC(one) - AUC(other) on the same patches, its standard error, 95 % interval, z and p-value.

    Takes (N,) labels and two classifiers' probabilities; None where the difference has no variance.
    """
    difference = _shares(labels, one) - _shares(labels, other)
    value = float(difference[labels == 1].mean())
    error = _standard_error(labels, difference, clusters)
    if error is None:
        return None
    z = value / error
    reach = -_quantile((1 - LEVEL) / 2, labels, clusters) * error
    return {
        "by": clusters.by,
        "standard_error": error,
        "interval": [value - reach, value + reach],
        "z": z,
        "p": 2 * _below(-abs(z), labels, clusters),
    }


def _freedom(labels: Ints, clusters: Clusters) -> float:
    """Degrees of freedom of the t distribution: infinitely many, which is the normal one, for patches on their own."""
    return math.inf if clusters.n == len(labels) else min(clusters.holding(labels)) - 1


def _quantile(share: float, labels: Ints, clusters: Clusters) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(_freedom(labels, clusters), share))


def _below(value: float, labels: Ints, clusters: Clusters) -> float:
    from scipy.special import stdtr

    return float(stdtr(_freedom(labels, clusters), value))


def _shares(labels: Ints, probs: Floats) -> Floats:
    """DeLong's structural components (N,): the share of the other class that each patch is on the right side of."""
    ranking = rank(labels, probs)
    tp, fp = np.append(0, ranking.tp), np.append(0, ranking.fp)
    of_tumour = 1 - (fp[1:] + fp[:-1]) / (2 * fp[-1])
    of_normal = (tp[1:] + tp[:-1]) / (2 * tp[-1])
    at = np.searchsorted(-ranking.scores, -probs)
    shares: Floats = np.where(labels == 1, of_tumour[at], of_normal[at])
    return shares


def _standard_error(labels: Ints, shares: Floats, clusters: Clusters) -> float | None:
    """Obuchowski's: the shares' deviations are summed within clusters before they are squared."""
    tumour = labels == 1
    away = shares - shares[tumour].mean()
    n = clusters.n
    sums = [np.bincount(clusters.codes[part], away[part], n) for part in (tumour, ~tumour)]
    sizes = [int(part.sum()) for part in (tumour, ~tumour)]
    holding = clusters.holding(labels)[::-1]
    if min(holding) < 2:
        return None
    squares = sum(k / (k - 1) * float(s @ s) / m**2 for k, s, m in zip(holding, sums, sizes, strict=True))
    both = 2 * n / (n - 1) * float(sums[0] @ sums[1]) / (sizes[0] * sizes[1])
    return math.sqrt(squares + both) if squares + both > 0 else None
