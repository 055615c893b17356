"""Every figure from how often each patch counts: the scores are sorted once, and no resample sorts them again."""

import numpy as np

from histocli.metrics.curves import Floats, Ints, bin_of, ends_of_ties

NAMES = (
    "auc",
    "accuracy",
    "balanced_accuracy",
    "sensitivity",
    "specificity",
    "ppv",
    "npv",
    "f1",
    "mcc",
    "average_precision",
    "brier",
    "log_loss",
    "ece",
)


class Weighted:
    """The figures of N scored patches, `NAMES`, as functions of the patches' weights.

    Args:
        labels: (N,) 0 or 1.
        probs: (N,) tumour probabilities.
        threshold: a patch is called tumour when its probability is at or above it.

    `order` (N,) is the order in which weights are given: that of falling probability.
    """

    def __init__(self, labels: Ints, probs: Floats, threshold: float) -> None:
        self.order = np.argsort(-probs)
        scores = probs[self.order]
        self.tumour = labels[self.order].astype(np.float64)
        self.excess = scores - self.tumour
        ends = ends_of_ties(scores)
        self.starts = None if len(ends) == len(scores) else np.append(0, ends[:-1] + 1)
        self.called = int(np.searchsorted(-scores, -threshold, side="right"))
        bins = bin_of(scores)
        self.bins = np.flatnonzero(np.append(True, bins[1:] != bins[:-1]))  # where each begins: they fall with scores
        of_label = np.where(self.tumour == 1, scores, 1 - scores)
        nats = -np.log(np.clip(of_label, np.finfo(np.float64).eps, 1))  # clipped, so that certainty stays finite
        self.losses = np.stack([self.excess**2, nats], 1)  # (N,2)

    def figures(self, weights: Floats) -> Floats:
        """The figures of R resamples: (len(NAMES),R), NaN where undefined.

        Takes (R,N) counts of the patches in `order`, each row with a sum above 0.
        """
        tumour = weights * self.tumour
        called, called_tp = weights[:, : self.called].sum(1), tumour[:, : self.called].sum(1)
        gaps = np.add.reduceat(weights * self.excess, self.bins, 1)
        losses = weights @ self.losses
        if self.starts is not None:
            weights, tumour = (np.add.reduceat(counts, self.starts, 1) for counts in (weights, tumour))
        tp, seen = tumour.cumsum(1), weights.cumsum(1)  # (R,K) tumour and all patches at or above each score
        positives, total = tp[:, -1].copy(), seen[:, -1].copy()
        negatives = total - positives
        np.maximum(seen, 1, out=seen)  # where the first patches have no weight, nothing is seen yet
        called_fp = called - called_tp
        with np.errstate(divide="ignore", invalid="ignore"):
            ranked = _pairs(weights, tumour, tp) / (positives * negatives)
            precision = _dot(tumour, np.divide(tp, seen, out=tp)) / positives
            calls = _of_calls(negatives - called_fp, called_fp, positives - called_tp, called_tp)
        return np.stack([ranked, *calls, precision, *losses.T / total, np.abs(gaps).sum(1) / total])


def _pairs(weights: Floats, tumour: Floats, tp: Floats) -> Floats:
    """The pairs of a tumour and a normal patch in the right order, ties counted half: (R,).

    That is the sum over scores of `(weights - tumour) * (tp - tumour / 2)`, without its temporaries.
    """
    return _dot(weights, tp) - _dot(tumour, tp) - (_dot(weights, tumour) - _dot(tumour, tumour)) / 2


def _dot(one: Floats, other: Floats) -> Floats:
    """The dot product of each row."""
    products: Floats = np.einsum("rk,rk->r", one, other)
    return products


def _of_calls(tn: Floats, fp: Floats, fn: Floats, tp: Floats) -> tuple[Floats, ...]:
    """From accuracy to MCC, in the order of `NAMES`."""
    sensitivity, specificity = tp / (tp + fn), tn / (tn + fp)
    return (
        (tp + tn) / (tn + fp + fn + tp),
        (sensitivity + specificity) / 2,
        sensitivity,
        specificity,
        tp / (tp + fp),
        tn / (tn + fn),
        2 * tp / (2 * tp + fp + fn),
        (tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)),
    )
