"""Scored patches with weights, from which metrics and their bootstrap resamples are computed.

The scores are sorted only once. A bootstrap resample changes how often each patch counts, and not the order.
"""

from functools import cached_property

import numpy as np

from histocli.metrics.curves import Floats, Ints, find_bins, find_tie_ends


class SortedScores:
    """N scored patches, sorted by decreasing probability.

    Args:
        labels: (N,) 0 or 1.
        probs: (N,) tumour probabilities.
        threshold: a patch is predicted as tumour when its probability is at or above it.

    Attributes:
        order: (N,) the index of each sorted patch in the arguments.
        labels: (N,) the sorted labels as 0.0 and 1.0.
        probs: (N,) the sorted probabilities.
        n_predicted_tumour: the number of patches that are predicted as tumour; they are the first ones.
        tie_starts: (K,) the first index of each run of equal probabilities; None if all differ.
        bin_starts: (B,) the first index of each calibration bin that is not empty.
    """

    def __init__(self, labels: Ints, probs: Floats, threshold: float) -> None:
        self.order = np.argsort(-probs)
        self.probs = probs[self.order]
        self.labels = labels[self.order].astype(np.float64)
        self.n_predicted_tumour = int(np.searchsorted(-self.probs, -threshold, side="right"))
        ends = find_tie_ends(self.probs)
        self.tie_starts = None if len(ends) == len(probs) else np.append(0, ends[:-1] + 1)
        bins = find_bins(self.probs)
        self.bin_starts = np.flatnonzero(np.append(True, bins[1:] != bins[:-1]))

    @cached_property
    def errors(self) -> Floats:
        """Return probability minus label (N,)."""
        return self.probs - self.labels

    @cached_property
    def squared_errors(self) -> Floats:
        """Return the squares of `errors` (N,)."""
        return self.errors**2

    @cached_property
    def log_losses(self) -> Floats:
        """Return -log of the probability of the true class (N,); it is finite even if this probability is 0."""
        of_label = np.where(self.labels == 1, self.probs, 1 - self.probs)
        losses: Floats = -np.log(np.clip(of_label, np.finfo(np.float64).eps, 1))
        return losses


class WeightedScores:
    """`SortedScores` and R rows of weights: the argument of the function of a metric.

    Args:
        scores: N scored patches.
        weights: (R,N) how often each patch counts, in the order of `scores.order`; each row has a sum above 0.
    """

    def __init__(self, scores: SortedScores, weights: Floats) -> None:
        self.scores = scores
        self.weights = weights
        self.tumour_weights = weights * scores.labels  # (R,N)
        self.total = weights.sum(1)
        self.n_tumour = self.tumour_weights.sum(1)
        self.n_normal = self.total - self.n_tumour
        self.tp = self.tumour_weights[:, : scores.n_predicted_tumour].sum(1)
        self.fp = weights[:, : scores.n_predicted_tumour].sum(1) - self.tp
        self.fn = self.n_tumour - self.tp
        self.tn = self.n_normal - self.fp

    @cached_property
    def tied_weights(self) -> Floats:
        """Return the weight of the patches at each of K distinct probabilities (R,K), the highest first."""
        return self._sum_ties(self.weights)

    @cached_property
    def tied_tumour(self) -> Floats:
        """Return the weight of the tumour patches at each distinct probability (R,K)."""
        return self._sum_ties(self.tumour_weights)

    @cached_property
    def tumour_above(self) -> Floats:
        """Return the weight of the tumour patches at or above each distinct probability (R,K)."""
        return self.tied_tumour.cumsum(1)

    def average(self, values: Floats) -> Floats:
        """Return the weighted mean (R,) of a value of each sorted patch (N,)."""
        sums = np.einsum("rn,n->r", self.weights, values)  # not `@`: BLAS would start threads within these threads
        mean: Floats = sums / self.total
        return mean

    def sum_bins(self, values: Floats) -> Floats:
        """Return the weighted sum of values (N,) in each calibration bin (R,B)."""
        return np.add.reduceat(self.weights * values, self.scores.bin_starts, 1)

    def _sum_ties(self, weights: Floats) -> Floats:
        """Sum the weights (R,N) of patches that have equal scores."""
        starts = self.scores.tie_starts
        return weights if starts is None else np.add.reduceat(weights, starts, 1)
