"""Temperature scaling: one number that calibrates probabilities and does not change their order."""

import numpy as np
import numpy.typing as npt

from histocli.metrics.curves import Floats

LOWEST, HIGHEST = 0.05, 20.0


def fit_temperature(labels: npt.ArrayLike, log_odds: npt.ArrayLike) -> float:
    """Return the temperature at which the calibrated probabilities give the labels the highest likelihood.

    The method is from Guo et al., "On Calibration of Modern Neural Networks" (2017). The targets are those of Platt
    (1999), slightly inside 0 and 1: with 0 and 1, scores that separate the classes perfectly would be scaled without
    end. The likelihood has one optimum.

    Args:
        labels: (N,) 0 or 1, N above 0.
        log_odds: (N,) log odds of tumour.

    Returns:
        Above 1 where the scores are overconfident, below 1 where they are underconfident; from `LOWEST` to `HIGHEST`.
    """
    from scipy.optimize import brentq
    from scipy.special import expit

    y, odds = np.asarray(labels, np.float64), np.asarray(log_odds, np.float64)
    positives, negatives = y.sum(), len(y) - y.sum()
    targets = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def slope(log_scale: float) -> float:
        """Return the derivative of the loss with respect to exp(log_scale), which is 1 / temperature."""
        return float(odds @ (expit(odds * np.exp(log_scale)) - targets))

    smallest, largest = -np.log(HIGHEST), -np.log(LOWEST)
    if slope(smallest) >= 0:
        return HIGHEST
    if slope(largest) <= 0:
        return LOWEST
    return float(np.exp(-brentq(slope, smallest, largest)))


def compute_probabilities(log_odds: npt.ArrayLike, temperature: float = 1.0) -> Floats:
    """Return the tumour probabilities (N,) of log odds (N,) at a temperature.

    This is `scipy.special.expit`, whose import would take a tenth of a second of every `histo predict`.
    """
    with np.errstate(over="ignore"):  # far below 0, where the probability is 0
        return np.asarray(1 / (1 + np.exp(-np.asarray(log_odds, np.float64) / temperature)))


def rescale_threshold(threshold: float, temperature: float) -> float:
    """Return the threshold on uncalibrated probabilities that gives the same classes as a calibrated `threshold`."""
    with np.errstate(divide="ignore"):
        return float(compute_probabilities(temperature * (np.log(threshold) - np.log1p(-threshold))))


def adjust_prevalence(probs: npt.ArrayLike, trained: float, expected: float) -> Floats:
    """Return probabilities (N,) for data of another share of tumour than that of the training data.

    The odds are multiplied by the ratio of the two prior odds (Saerens et al. 2002). This holds if patches with tumour
    look alike in both, and patches without tumour too.

    Args:
        probs: calibrated probabilities of tumour.
        trained: the share of tumour patches in the data on which the probabilities are calibrated, above 0 and below 1.
        expected: the share in the data that is scored, above 0 and below 1.
    """
    probs = np.asarray(probs, np.float64)
    factor = expected * (1 - trained) / (trained * (1 - expected))
    return np.asarray(probs * factor / (probs * factor + (1 - probs)))
