"""Choose a network's temperature and threshold on its validation patches."""

from typing import NamedTuple

import numpy as np
import torch

from histocli.errors import HistoError
from histocli.metrics.calibration import LOWEST, compute_probabilities, fit_temperature
from histocli.metrics.curves import Floats, Ints
from histocli.metrics.thresholds import UnreachableError, choose_threshold, parse_threshold

_MARGIN = 1e-7  # the smallest distance of a probability from 0 and from 1, as exact as single precision is

# The lowest temperature that is fitted on the slides of the training patches, or on few slides. A network with label
# smoothing is not confident enough on the slides of the training patches, and so a lower one fits; but on other slides
# it makes the network too confident. In six runs it raised the ECE on other slides by 0.006 to 0.008
# (benchmarks/accuracy.md). A temperature that is fitted on few slides fits only these slides.
_LOWEST_IF_WEAK = 1.0


class Calibration(NamedTuple):
    """The checkpoint fields that are chosen on the validation patches.

    `validation` holds their labels uint8 (N,) and uncalibrated log odds float32 (N,); it is empty before validation.
    """

    temperature: float
    threshold: float
    validation: dict[str, torch.Tensor]


def check_rule(rule: str, labels: Ints) -> None:
    """Check that a threshold, or the rule that chooses one, can be applied to validation labels (N,).

    Raises:
        UsageError: it is neither a number from 0 to 1 nor a rule.
        HistoError: the rule needs both classes, and one is missing.
    """
    if parse_threshold(rule) is None and len(set(labels.tolist())) < 2:
        raise HistoError(
            f"--threshold {rule} needs validation patches of both classes", "give a number: --threshold 0.5"
        )


def calibrate(labels: Ints, probs: Floats, rule: str, *, is_weak: bool) -> Calibration:
    """Fit the temperature, and choose the threshold on calibrated probabilities.

    Args:
        labels: (N,) the labels of the validation patches, 0 or 1.
        probs: (N,) their uncalibrated probabilities.
        rule: the threshold, or the rule that chooses one.
        is_weak: whether `explain_weak_validation` gives a reason. If so, the temperature is at least 1.
    """
    clipped = np.clip(probs, _MARGIN, 1 - _MARGIN)
    log_odds = np.log(clipped) - np.log1p(-clipped)
    temperature = max(fit_temperature(labels, log_odds), _LOWEST_IF_WEAK if is_weak else LOWEST)
    try:
        threshold = choose_threshold(rule, labels, compute_probabilities(log_odds, temperature))
    except UnreachableError:
        # This must not end the training: the highest threshold is the nearest one, and the metrics of the run show what
        # it reaches.
        threshold = 1.0
    return Calibration(
        temperature=temperature,
        threshold=threshold,
        validation={
            "labels": torch.from_numpy(labels.astype(np.uint8)),
            "log_odds": torch.from_numpy(log_odds.astype(np.float32)),
        },
    )


def make_default_calibration(rule: str) -> Calibration:
    """Return the calibration before validation: temperature 1, and the threshold `rule` if it is a number, else 0.5."""
    threshold = parse_threshold(rule)
    return Calibration(1.0, 0.5 if threshold is None else threshold, {})
