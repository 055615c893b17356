"""What the validation patches decide about a network's scores: their temperature, and where tumour begins."""

from typing import Any

import numpy as np
import torch

from histocli.errors import HistoError
from histocli.metrics.calibration import fit_temperature, probability
from histocli.metrics.curves import Floats, Ints
from histocli.metrics.thresholds import choose_threshold, fixed

KEPT = ("temperature", "threshold", "validation", "appearance")  # a checkpoint's fields beyond weights and progress
_LEAST = 1e-7  # a single-precision probability says no more than this of certainty


def check_rule(rule: str, labels: Ints) -> None:
    """Raise an error for a threshold that is none, or a rule that these validation labels (N,) cannot decide.

    Raises:
        UsageError: it is neither a number nor a rule.
        HistoError: it takes both classes.
    """
    if fixed(rule) is None and len(set(labels.tolist())) < 2:
        raise HistoError(f"--threshold {rule} needs validation patches of both classes", "--threshold 0.5 needs none")


def decided(labels: Ints, probs: Floats, rule: str) -> dict[str, Any]:
    """The fields `temperature`, `threshold` and `validation` of a checkpoint.

    Takes the validation labels (N,), the uncalibrated probabilities (N,), and the rule for the threshold, which holds
    on calibrated ones.
    """
    certain = np.clip(probs, _LEAST, 1 - _LEAST)
    log_odds = np.log(certain) - np.log1p(-certain)
    temperature = fit_temperature(labels, log_odds)
    return {
        "temperature": temperature,
        "threshold": choose_threshold(rule, labels, probability(log_odds, temperature)),
        "validation": {
            "labels": torch.from_numpy(labels.astype(np.uint8)),
            "log_odds": torch.from_numpy(log_odds.astype(np.float32)),
        },
    }


def undecided(kept: dict[str, Any], rule: str) -> dict[str, Any]:
    """Of what a checkpoint keeps, what holds for weights that have moved on since: a number as the threshold does."""
    known = {name: value for name, value in kept.items() if name == "appearance"}
    number = fixed(rule)
    return known if number is None else known | {"threshold": number}
