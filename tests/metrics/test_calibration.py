"""Temperatures are estimated correctly, and thresholds follow their rules."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, logit

from histocli.errors import HistoError, UsageError
from histocli.metrics import evaluate
from histocli.metrics.calibration import HIGHEST, LOWEST, compute_probabilities, fit_temperature, rescale_threshold
from histocli.metrics.thresholds import choose_threshold, parse_threshold


@pytest.mark.parametrize("temperature", [0.4, 1.0, 3.0])
def test_fit_temperature_finds_a_known_temperature(temperature):
    rng = np.random.default_rng(2)
    truth = rng.normal(0, 2, 20_000)
    labels = (rng.random(20_000) < expit(truth)).astype(int)
    scores = truth * temperature
    found = fit_temperature(labels, scores)
    assert found == pytest.approx(temperature, rel=0.03)
    before, after = (evaluate(labels, compute_probabilities(scores, t)).metrics for t in (1.0, found))
    assert after["auc"] == before["auc"]
    assert after["accuracy"] == before["accuracy"]
    assert after["ece"] < 0.02
    if temperature != 1:
        assert after["ece"] < before["ece"]
        assert after["log_loss"] < before["log_loss"]
        assert after["brier"] < before["brier"]


def test_the_fitted_temperature_has_the_highest_likelihood():
    rng = np.random.default_rng(4)
    odds = rng.normal(0, 3, 500)
    labels = (rng.random(500) < expit(odds / 2)).astype(int)
    targets = np.where(labels == 1, (labels.sum() + 1) / (labels.sum() + 2), 1 / (500 - labels.sum() + 2))

    def loss(temperature):
        probs = compute_probabilities(odds, temperature)
        return -(targets * np.log(probs) + (1 - targets) * np.log(1 - probs)).mean()

    best = fit_temperature(labels, odds)
    assert loss(best) < min(loss(best * 1.02), loss(best / 1.02))


def test_perfectly_separated_scores_do_not_get_an_extreme_temperature():
    labels, odds = np.repeat([0, 1], 20), np.repeat([-2.0, 2.0], 20)
    probs = compute_probabilities(odds, fit_temperature(labels, odds))
    assert probs[-1] == pytest.approx(21 / 22)


def test_scores_without_information_get_a_temperature_at_the_bounds():
    labels = np.repeat([0, 1], 20)
    assert fit_temperature(labels, np.where(labels == 1, -1.0, 1.0)) == HIGHEST
    assert fit_temperature(labels, np.where(labels == 1, 1e-4, -1e-4)) == LOWEST
    assert fit_temperature(labels, np.zeros(40)) == HIGHEST


@given(st.floats(0, 1), st.floats(0.1, 9), st.floats(-20, 20))
def test_a_rescaled_threshold_calls_the_same_patches(threshold, temperature, odds):
    if 1e-9 < threshold < 1 - 1e-9 and abs(odds / temperature - logit(threshold)) < 1e-6:
        return  # rounding decides
    if threshold > 1 - 1e-9 and odds / temperature > 20:
        return  # here too: the calibrated probability is rounded to 1
    calibrated, raw = compute_probabilities([odds], temperature), compute_probabilities([odds])
    assert (calibrated >= threshold) == (raw >= rescale_threshold(threshold, temperature))


def test_thresholds_0_and_1_are_not_rescaled():
    assert [rescale_threshold(edge, 3.0) for edge in (0, 0.5, 1)] == [0, 0.5, 1]


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_the_chosen_threshold_is_the_best_for_its_rule(data):
    n = data.draw(st.integers(2, 40))
    labels = np.array([0, 1, *data.draw(st.lists(st.integers(0, 1), min_size=n - 2, max_size=n - 2))])
    probs = np.array(data.draw(st.lists(st.integers(1, 19), min_size=n, max_size=n))) / 20

    def of(threshold):
        made = evaluate(labels, probs, threshold).metrics
        return made["sensitivity"], made["specificity"]

    others = np.append(np.unique(probs), 1)
    youden = sum(of(choose_threshold("youden", labels, probs)))
    assert youden == pytest.approx(max(sum(of(other)) for other in others))
    wanted = data.draw(st.sampled_from([0.5, 0.9, 1.0]))
    sensitivity, specificity = of(choose_threshold(f"sensitivity={wanted}", labels, probs))
    assert sensitivity >= wanted
    assert specificity == max(of(other)[1] for other in others if of(other)[0] >= wanted)
    sensitivity, specificity = of(choose_threshold(f"specificity={wanted}", labels, probs))
    assert specificity >= wanted
    assert sensitivity == max(of(other)[0] for other in others if of(other)[1] >= wanted)


def test_a_chosen_threshold_is_half_way_between_two_scores():
    labels, probs = np.array([0, 0, 1, 1]), np.array([0.1, 0.2, 0.8, 0.9])
    for rule in ("youden", "sensitivity=1", "specificity=1"):
        assert choose_threshold(rule, labels, probs) == pytest.approx(0.5)


def test_a_chosen_threshold_parts_two_scores_between_which_there_is_no_other_float():
    labels, probs = np.array([1, 1, 0, 0]), 1 - np.array([2, 3, 4, 9]) * 2**-53
    assert evaluate(labels, probs, choose_threshold("youden", labels, probs)).metrics["accuracy"] == 1


def test_no_threshold_is_above_a_probability_of_1():
    labels, probs = np.array([0, 0, 1, 1]), np.array([0.1, 1.0, 0.8, 1.0])
    assert choose_threshold("specificity=0.5", labels, probs) == pytest.approx(0.45)
    with pytest.raises(HistoError, match=r"no threshold has a specificity of 0\.9: with the highest, it is 0\.5,"):
        choose_threshold("specificity=0.9", labels, probs)
    worst = evaluate([0, 1], [1.0, 0.1], choose_threshold("youden", np.array([0, 1]), np.array([1.0, 0.1]))).metrics
    assert worst["sensitivity"] + worst["specificity"] == 1


def test_a_number_as_rule_needs_no_patches():
    assert choose_threshold("0.3", np.array([1]), np.array([0.5])) == 0.3
    assert [parse_threshold(rule) for rule in ("0", "1", "youden", "specificity=.9")] == [0, 1, None, None]


@pytest.mark.parametrize("rule", ["", "two", "1.5", "-1", "nan", "youden=1", "sensitivity", "sensitivity=0", "ppv=0.9"])
def test_an_invalid_rule_is_refused(rule):
    with pytest.raises(UsageError, match="is not a threshold") as caught:
        choose_threshold(rule, np.array([0, 1]), np.array([0.1, 0.9]))
    assert "youden" in caught.value.hint


def test_a_rule_needs_both_classes():
    with pytest.raises(HistoError, match="both classes"):
        choose_threshold("youden", np.array([1, 1]), np.array([0.1, 0.9]))
