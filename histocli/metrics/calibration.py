"""Temperature scaling: one number that makes probabilities mean what they say, and leaves their order alone."""

import numpy as np
import numpy.typing as npt

from histocli.metrics.curves import Floats

COLDEST, HOTTEST = 0.05, 20.0


def fit_temperature(labels: npt.ArrayLike, log_odds: npt.ArrayLike) -> float:
    """Find the temperature that makes `probability(log_odds, temperature)` most likely to give the labels.

    Guo et al., "On Calibration of Modern Neural Networks" (2017), with the targets of Platt (1999) instead of 0 and 1,
    without which scores that part the classes perfectly would want certainty. The likelihood has one optimum.

    Args:
        labels: (N,) 0 or 1, N above 0.
        log_odds: (N,) log odds of tumour.

    Returns:
        Above 1 where the scores are too sure of themselves, under 1 where they are not sure enough; within
        `COLDEST` and `HOTTEST`.

    """
    from scipy.optimize import brentq
    from scipy.special import expit

    y, odds = np.asarray(labels, np.float64), np.asarray(log_odds, np.float64)
    positives, negatives = y.sum(), len(y) - y.sum()
    targets = np.where(y == 1, (positives + 1) / (positives + 2), 1 / (negatives + 2))

    def slope(log_scale: float) -> float:
        """Of the loss by the factor on the log odds, which is 1 / temperature; it rises throughout."""
        return float(odds @ (expit(odds * np.exp(log_scale)) - targets))

    smallest, largest = -np.log(HOTTEST), -np.log(COLDEST)
    if slope(smallest) >= 0:
        return HOTTEST
    if slope(largest) <= 0:
        return COLDEST
    return float(np.exp(-brentq(slope, smallest, largest)))


def probability(log_odds: npt.ArrayLike, temperature: float = 1.0) -> Floats:
    """The tumour probabilities (N,) of log odds (N,) at a temperature."""
    from scipy.special import expit

    return np.asarray(expit(np.asarray(log_odds, np.float64) / temperature))


def rescaled(threshold: float, temperature: float) -> float:
    """The threshold on uncalibrated probabilities that calls the same patches as `threshold` on calibrated ones."""
    with np.errstate(divide="ignore"):
        return float(probability(temperature * (np.log(threshold) - np.log1p(-threshold))))
