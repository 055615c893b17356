"""The threshold at which a patch is predicted as tumour: a number, or a rule that chooses it on scored patches."""

import re

import numpy as np

from histocli.errors import HistoError, UsageError
from histocli.metrics.curves import Floats, Ints, rank_scores
from histocli.text import parse_number

RULES = "a number from 0 to 1, youden, sensitivity=0.95 or specificity=0.9"
_RULE = re.compile(r"(youden)|(sensitivity|specificity)=(\d*\.?\d+)")


class UnreachableError(HistoError):
    """No threshold has the specificity of a rule, because normal patches have a probability of exactly 1."""


def parse_threshold(rule: str) -> float | None:
    """Return the threshold if the rule is a number; None if the threshold must be chosen on scored patches.

    Raises:
        UsageError: it is neither a number from 0 to 1 nor a rule.
    """
    match = _RULE.fullmatch(rule)
    if match and (match[1] or 0 < float(match[3]) <= 1):
        return None
    try:
        value = parse_number(rule)
    except ValueError:
        value = -1  # refused below
    if not 0 <= value <= 1:
        raise UsageError(f"--threshold {rule} is not a threshold", f"give {RULES}")
    return value


def choose_threshold(rule: str, labels: Ints, probs: Floats) -> float:
    """Return the threshold that a rule chooses on (N,) labels and probabilities.

    `youden` is the threshold with the highest sensitivity + specificity (Youden 1950). `sensitivity=S` is the highest
    threshold with a sensitivity of at least S. `specificity=S` is the lowest threshold with a specificity of at least
    S. The threshold is in the middle between two neighbouring probabilities.

    Raises:
        UsageError: as `parse_threshold`.
        HistoError: the rule needs both classes, and one is missing.
        UnreachableError: no threshold reaches the specificity.
    """
    value = parse_threshold(rule)
    if value is not None:
        return value
    name, _, target = rule.partition("=")
    ranking = rank_scores(labels, probs)
    tp, fp = np.append(0, ranking.tp), np.append(0, ranking.fp)
    if not tp[-1] or not fp[-1]:
        raise HistoError(f"--threshold {rule} needs patches of both classes", "give a number, such as --threshold 0.5")
    edges = np.concatenate([[1.0], ranking.scores, [0.0]])
    between = (edges[:-1] + edges[1:]) / 2
    between = np.where(between > edges[1:], between, edges[:-1])  # the middle of adjacent floats may be the lower one
    sensitivity, specificity = tp / tp[-1], 1 - fp / fp[-1]
    if ranking.scores[0] == 1:  # no threshold is above a probability of 1
        between, sensitivity, specificity = between[1:], sensitivity[1:], specificity[1:]
    if name == "youden":
        at = int(np.argmax(sensitivity + specificity))
    elif name == "sensitivity":
        at = int(np.argmax(sensitivity >= float(target) - 1e-12))
    else:
        reached = np.flatnonzero(specificity >= float(target) - 1e-12)
        if not reached.size:
            raise UnreachableError(
                f"no threshold has a specificity of {target}: with the highest, it is {specificity[0]:.6g}, because "
                "normal patches have a probability of 1",
                "give a lower specificity, or a number",
            )
        at = int(reached[-1])
    return float(between[at])
