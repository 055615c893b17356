"""Every metric compared with scikit-learn, and the reasons of undefined metrics."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn import metrics as reference

from histocli.errors import HistoError
from histocli.metrics import Measurement, compute_auc, evaluate, registry
from histocli.metrics.curves import CURVE_POINTS, Confusion
from histocli.metrics.weighted import SortedScores
from histocli.schema import from_json, to_json


@st.composite
def labels_and_probabilities(draw, both_classes=True):
    """Return labels and probabilities, rounded to 1/64 (many ties) or not (few ties)."""
    n = draw(st.integers(2, 60))
    labels = draw(arrays(np.int64, n, elements=st.integers(0, 1)))
    if both_classes:
        labels[:2] = 0, 1
    steps = st.integers(0, 64).map(lambda k: k / 64)
    probs = draw(arrays(np.float64, n, elements=st.one_of(steps, st.floats(0, 1)), fill=st.nothing()))
    return labels, probs


@settings(deadline=None, max_examples=25)
@given(labels_and_probabilities(), st.sampled_from([0.25, 0.5, 0.9]))
def test_every_metric_agrees_with_scikit_learn(case, threshold):
    labels, probs = case
    called = (probs >= threshold).astype(int)
    ours = evaluate(labels, probs, threshold).metrics
    expected = {
        "auc": reference.roc_auc_score(labels, probs),
        "accuracy": reference.accuracy_score(labels, called),
        "balanced_accuracy": reference.balanced_accuracy_score(labels, called),
        "sensitivity": reference.recall_score(labels, called),
        "specificity": reference.recall_score(labels, called, pos_label=0),
        "ppv": reference.precision_score(labels, called) if called.any() else None,
        "npv": reference.precision_score(labels, called, pos_label=0) if not called.all() else None,
        "f1": reference.f1_score(labels, called),
        "mcc": reference.matthews_corrcoef(labels, called) if 0 < called.sum() < len(called) else None,
        "average_precision": reference.average_precision_score(labels, probs),
        "brier": reference.brier_score_loss(labels, probs),
        "log_loss": reference.log_loss(labels, probs),
    }
    for name, value in expected.items():
        assert ours[name] == (None if value is None else pytest.approx(value, abs=1e-9)), name


@settings(deadline=None, max_examples=25)
@given(labels_and_probabilities())
def test_auc_is_the_fraction_of_correctly_ordered_pairs(case):
    labels, probs = case
    above = probs[labels == 1][:, None] - probs[labels == 0]
    assert compute_auc(labels, probs) == pytest.approx(((above > 0) + 0.5 * (above == 0)).mean(), abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(labels_and_probabilities())
def test_points_of_curves_agree_with_the_confusion_at_their_thresholds(case):
    labels, probs = case
    curves = evaluate(labels, probs).curves
    roc = curves.roc
    for fpr, tpr, threshold in zip(roc.fpr, roc.tpr, roc.threshold, strict=True):
        called = probs >= threshold
        assert (fpr, tpr) == (called[labels == 0].mean(), called[labels == 1].mean())
    assert (roc.fpr[0], roc.tpr[0], roc.fpr[-1], roc.tpr[-1]) == (0, 0, 1, 1)
    precision, recall, _ = reference.precision_recall_curve(labels, probs)
    assert curves.pr.precision == pytest.approx(precision[::-1], abs=1e-12)
    assert curves.pr.recall == pytest.approx(recall[::-1], abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(labels_and_probabilities(both_classes=False))
def test_calibration_and_histogram_count_every_patch(case):
    labels, probs = case
    probs = np.floor(probs * 64) / 64  # no bound of a fifteenth but 0 and 1 is a multiple of 1/64
    result = evaluate(labels, probs)
    error = 0.0
    for bin in result.calibration:
        inside = (probs >= bin.low) & ((probs < bin.high) | (bin.high == 1))
        assert bin.count == inside.sum() > 0
        assert bin.mean_probability == pytest.approx(probs[inside].mean())
        assert bin.fraction_positive == pytest.approx(labels[inside].mean())
        error += inside.mean() * abs(probs[inside].mean() - labels[inside].mean())
    assert sum(bin.count for bin in result.calibration) == len(labels)
    assert result.metrics["ece"] == pytest.approx(error)
    histogram = result.histogram
    assert (len(histogram.edges), histogram.edges[0], histogram.edges[-1]) == (21, 0, 1)
    assert sum(histogram.negative) == (labels == 0).sum()
    assert sum(histogram.positive) == (labels == 1).sum()


@settings(deadline=None, max_examples=25)
@given(labels_and_probabilities(both_classes=False), st.floats(0, 1))
def test_the_result_is_json_and_every_missing_metric_has_a_reason(case, threshold):
    result = evaluate(*case, threshold)
    assert from_json(Measurement, json.loads(json.dumps(to_json(result), allow_nan=False)), "x.json") == result
    missing = {name for name, value in result.metrics.items() if value is None}
    assert missing == set(result.undefined)
    assert sum(vars(result.confusion).values()) == result.n == len(case[0])


CAN_BE_UNDEFINED = {
    *("auc", "balanced_accuracy", "sensitivity", "specificity", "ppv", "npv", "f1", "mcc", "average_precision"),
    *("accuracy", "brier", "log_loss", "ece"),  # these never are
}


@pytest.mark.parametrize(
    ("labels", "probs", "undefined"),
    [
        ([1, 1], [0.2, 0.8], {"auc", "balanced_accuracy", "specificity", "mcc"}),
        ([0, 0], [0.2, 0.8], {"auc", "balanced_accuracy", "sensitivity", "mcc", "average_precision"}),
        ([1], [0.9], {"auc", "balanced_accuracy", "specificity", "npv", "mcc"}),
        ([0], [0.1], {"auc", "balanced_accuracy", "sensitivity", "ppv", "f1", "mcc", "average_precision"}),
        ([0, 1], [0.1, 0.1], {"ppv", "mcc"}),
        ([0, 1], [0.5, 0.5], {"npv", "mcc"}),
    ],
)
def test_each_undefined_metric_has_a_reason(labels, probs, undefined):
    result = evaluate(labels, probs)
    assert set(result.undefined) & CAN_BE_UNDEFINED == undefined
    assert all(result.undefined.values())


def test_equal_scores_give_an_auc_of_one_half():
    result = evaluate([0, 1, 0, 1, 1], [0.3] * 5)
    assert result.metrics["auc"] == 0.5
    assert result.curves.roc.fpr == [0, 1]
    assert result.metrics["average_precision"] == pytest.approx(0.6)


def test_confident_errors_give_a_large_but_finite_log_loss():
    loss = evaluate([0, 1], [1.0, 0.0]).metrics["log_loss"]
    assert 30 < loss < 40


def test_a_score_at_the_threshold_is_called_tumour():
    assert evaluate([1, 0], [0.7, 0.69], threshold=0.7).confusion == Confusion(tn=1, fp=0, fn=0, tp=1)


def test_long_curves_are_thinned_with_both_ends_kept():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 20_000)
    probs = 1 / (1 + np.exp(-(2 * labels - 1) - rng.normal(size=20_000)))
    result = evaluate(labels, probs)
    roc, pr = result.curves.roc, result.curves.pr
    assert 200 < len(roc.fpr) <= CURVE_POINTS
    assert len(roc.fpr) == len(roc.tpr) == len(roc.threshold)
    assert (roc.fpr[0], roc.tpr[0], roc.fpr[-1], roc.tpr[-1]) == (0, 0, 1, 1)
    assert reference.auc(roc.fpr, roc.tpr) == pytest.approx(result.metrics["auc"], abs=1e-4)
    assert 200 < len(pr.recall) <= CURVE_POINTS
    assert (pr.recall[0], pr.precision[0], pr.recall[-1]) == (0, 1, 1)
    assert pr.precision[-1] == pytest.approx(labels.mean())


def test_float32_and_boolean_arrays_are_accepted():
    labels, probs = np.array([False, True, True]), np.array([0.25, 0.5, 0.125], np.float32)
    assert compute_auc(labels, probs) == 0.5
    assert evaluate(labels, probs).confusion == Confusion(tn=1, fp=0, fn=1, tp=1)


@pytest.mark.parametrize("measure", [compute_auc, evaluate])
@pytest.mark.parametrize(
    ("labels", "probs", "message"),
    [
        ([0, 1], [0.5, float("nan")], "1 of 2 probabilities are not numbers"),
        ([0, 1], [0.5, 1.5], "0.5 to 1.5"),
        ([0, 1], [-0.5, float("inf")], "-0.5 to inf"),
        ([0, -1], [0.5, 0.5], "a label is -1"),
        ([0, 1, 1], [0.5, 0.5], "have different shapes"),
        ([[0, 1]], [[0.5, 0.5]], "have different shapes"),
        ([], [], "no labelled patches"),
    ],
)
def test_invalid_scores_are_refused(measure, labels, probs, message):
    with pytest.raises(HistoError, match=message) as caught:
        measure(labels, probs)
    assert caught.value.hint


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_a_threshold_outside_the_unit_interval_is_refused(threshold):
    with pytest.raises(HistoError, match="threshold"):
        evaluate([0, 1], [0.1, 0.9], threshold)


def test_a_metric_that_divides_by_zero_is_undefined(monkeypatch):
    ratio = registry.Metric("ratio", lambda s: s.tp / s.fp, "ratio", "there is no false positive", "both")
    monkeypatch.setattr(registry, "METRICS", (ratio,))
    monkeypatch.setattr(registry, "NAMES", ("ratio",))
    scores = [SortedScores(np.array([1, 0]), np.array(probs), 0.5) for probs in ((0.9, 0.8), (0.9, 0.1))]
    assert [registry.compute_metric_values(one) for one in scores] == [{"ratio": 1}, {"ratio": None}]
