"""The report of `histo tune`: every trial of a study, the best one, and the importance of each parameter."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

import numpy as np

from histocli.schema import Count, Fraction, Range

FINISHED, PRUNED, FAILED, RUNNING = "finished", "pruned", "failed", "running"
_LEVEL = 0.05  # of the test that the best trial is better than the first one


@dataclass(frozen=True)
class Parameters:
    """The options of `histo train` that a trial chose."""

    lr: float
    batch_size: Count
    epochs: Count
    augment: str
    arch: str


@dataclass(frozen=True)
class TrialReport:
    """One trial.

    Attributes:
        number: from 0; the first trial has the defaults of `histo train`, as far as the search space has them.
        state: finished; pruned (stopped after some folds, because it was below the median); failed (see `problem`); or
            running (in a process, or stopped and to be continued).
        parameters: what it chose.
        auc: the validation AUC of the best epoch of each fold that was trained.
        seconds: the time that its folds took.
        problem: why it failed.
    """

    number: Count
    state: Literal["finished", "pruned", "failed", "running"]
    parameters: Parameters
    auc: list[Fraction]
    seconds: Annotated[float, Range(0, math.inf)] = 0.0
    problem: str = ""

    @property
    def mean(self) -> float | None:
        """The mean AUC of the folds that were trained."""
        return float(np.mean(self.auc)) if self.auc else None

    @property
    def standard_error(self) -> float | None:
        """The standard error of the mean over the folds; None with fewer than two."""
        return compute_standard_error(self.auc)


@dataclass(frozen=True)
class Difference:
    """The mean over the folds of the AUC of one trial minus that of another, and its standard error."""

    mean: float
    standard_error: float


@dataclass(frozen=True)
class TuneReport:
    """A study.

    Attributes:
        name: its name.
        data: the subset whose training and validation patches were divided into folds.
        split_by: what the folds keep together: slide, overlap group, hospital or patch.
        folds: how many.
        seed: of the folds, the search and the training.
        manifest_sha256: of the manifest of the subset.
        trials: all trials that were started.
        best: the number of the finished trial with the highest mean AUC; None if none is finished.
        above_defaults: the best trial compared with trial 0; None if one is not finished, or both are the same.
        importance: the share of each parameter in the variance of the AUC among the finished trials (fANOVA), from 0 to
            1; empty if fewer than two trials differ.
        command: the command that trains with the options of the best trial; "" if none is finished.
    """

    name: str
    data: str
    split_by: str
    folds: Count
    seed: Count
    manifest_sha256: str
    trials: list[TrialReport]
    best: Count | None = None
    above_defaults: Difference | None = None
    importance: dict[str, float] = field(default_factory=dict)
    command: str = ""

    def count(self, state: str) -> int:
        """Return the number of trials in a state."""
        return sum(trial.state == state for trial in self.trials)

    @property
    def may_be_chance(self) -> bool:
        """Whether `above_defaults` may be chance.

        If all trials are equally good, this is true in at least 95% of studies. The test is a one-sided t test over the
        folds. Its level of 5% is divided by the number of trials that were compared with trial 0 (Bonferroni), because
        the best of many trials is above trial 0 by chance. A pruned trial was compared too: it was left out because it
        was worse.
        """
        from scipy.special import stdtrit

        if self.above_defaults is None:
            return False
        compared = max(1, self.count(FINISHED) + self.count(PRUNED) - 1)
        errors = stdtrit(self.folds - 1, 1 - _LEVEL / compared)
        return bool(self.above_defaults.mean <= errors * self.above_defaults.standard_error)


def compute_standard_error(values: Sequence[float]) -> float | None:
    """Return the standard error of the mean, or None of fewer than two values."""
    return float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None


def compare_trials(trial: TrialReport, other: TrialReport) -> Difference | None:
    """Return the mean difference of two trials over the folds; None if they are the same, or not both finished."""
    if trial.number == other.number or {trial.state, other.state} != {FINISHED}:
        return None
    differences = [a - b for a, b in zip(trial.auc, other.auc, strict=True)]
    error = compute_standard_error(differences)
    assert error is not None  # there are at least two folds
    return Difference(float(np.mean(differences)), error)
