"""The report of `histo tune`: when the gain of the best trial may be chance."""

import numpy as np
import pytest

from histocli.reports.tune import FINISHED, PRUNED, Parameters, TrialReport, TuneReport, compare_trials

PARAMETERS = Parameters(0.003, 128, 8, "full", "histonet")


def report_of(aucs, n_pruned=0):
    trials = [TrialReport(i, FINISHED, PARAMETERS, list(values)) for i, values in enumerate(aucs)]
    best = max(trials, key=lambda trial: trial.mean)
    above = compare_trials(best, trials[0])
    pruned = [TrialReport(len(trials) + i, PRUNED, PARAMETERS, [0.5]) for i in range(n_pruned)]
    folds = len(aucs[0])
    return TuneReport("tune", "balanced", "slide", folds, 0, "", trials + pruned, best.number, above_defaults=above)


@pytest.mark.parametrize(("folds", "count"), [(2, 10), (3, 5), (5, 30)])
def test_the_best_of_equally_good_trials_is_rarely_reported_without_a_warning(folds, count):
    draws = np.random.default_rng(0).normal(0.95, 0.003, (300, count, folds))
    reports = [report for aucs in draws if (report := report_of(aucs)).above_defaults]
    assert sum(not report.may_be_chance for report in reports) / len(draws) <= 0.05


def test_a_clear_gain_is_no_chance_unless_many_trials_were_compared():
    aucs = [[0.90, 0.91, 0.92], [0.95, 0.965, 0.965]]
    assert not report_of(aucs).may_be_chance
    assert report_of(aucs, n_pruned=60).may_be_chance
