"""The 95% band of a ROC curve by bootstrap, which draws whole clusters of patches."""

from typing import NamedTuple

import numpy as np

from histocli.metrics.curves import Floats, Ints, find_tie_ends
from histocli.metrics.intervals import FEW_CLUSTERS, Clusters, draw_counts, find_tails

_SEED = 0
_REPLICATES = 1000
_POINTS = 101  # false positive rates at which the band is computed


class Band(NamedTuple):
    """The lowest and the highest sensitivity (P,) at each of P false positive rates."""

    fpr: Floats
    low: Floats
    high: Floats


def compute_roc_band(labels: Ints, probs: Floats, clusters: Clusters) -> Band | None:
    """Return the pointwise 95% band of a ROC curve; None if fewer than 10 clusters have patches of one of the classes.

    Args:
        labels: (N,) 0 or 1.
        probs: (N,) tumour probabilities.
        clusters: groups of patches that are drawn together.
    """
    by_class = clusters.count_by_class(labels)
    informative = min(by_class.normal, by_class.tumour)
    if informative < FEW_CLUSTERS:
        return None
    order = np.argsort(-probs, kind="stable")
    y, codes, last = labels[order], clusters.codes[order], find_tie_ends(probs[order])
    grid = np.linspace(0, 1, _POINTS)
    rng = np.random.default_rng(_SEED)
    curves = []
    for _ in range(_REPLICATES):
        weights = draw_counts(rng, 1, clusters.n)[0, codes]
        tp, fp = np.cumsum(weights * y)[last], np.cumsum(weights * (1 - y))[last]
        if tp[-1] and fp[-1]:
            curves.append(np.interp(grid, np.append(0, fp / fp[-1]), np.append(0, tp / tp[-1])))
    low, high = np.quantile(curves, find_tails(informative), axis=0)
    return Band(grid, low, high)
