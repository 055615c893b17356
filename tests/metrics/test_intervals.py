"""Intervals: compared with scipy's bootstrap and with the definition, and their coverage."""

import json
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from histocli.metrics import (
    Clusters,
    Uncertainty,
    compare_aucs,
    compute_auc,
    estimate_uncertainty,
    evaluate,
    make_patch_clusters,
)
from histocli.metrics.delong import compute_delong, compute_delong_difference
from histocli.metrics.intervals import ClassCounts, count_informative, explain_few_clusters, resample
from histocli.metrics.registry import BY_NAME, METRICS, NAMES, compute_metrics
from histocli.metrics.weighted import SortedScores
from histocli.schema import from_json, to_json


def scores(rng, n, distance=1.5):
    """Labels of both classes, and scores of normal distributions `distance` apart, squeezed into 0 to 1."""
    labels = rng.permutation(np.arange(n) % 2)
    return labels, stats.norm.cdf(rng.normal(size=n) + distance * (labels - 0.5))


def interval(labels, probs, name="auc", clusters=None, **options):
    result = estimate_uncertainty(labels, probs, evaluate(labels, probs).metrics, clusters=clusters, **options)
    return result.intervals[name]


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_a_patch_of_weight_w_counts_as_w_patches(data):
    n = data.draw(st.integers(1, 40))
    labels = np.array(data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)))
    probs = np.array(data.draw(st.lists(st.integers(0, 30), min_size=n, max_size=n))) / 30
    weights = np.array(data.draw(st.lists(st.integers(0, 3), min_size=n, max_size=n)))
    weights[0] += 1
    threshold = data.draw(st.sampled_from([0, 0.3, 0.5, 1]))
    scored = SortedScores(labels, probs, threshold)
    rows = np.stack([np.ones(n), weights])[:, scored.order]
    for values, repeats in zip(compute_metrics(scored, rows).T, (np.ones(n, int), weights), strict=True):
        expected = evaluate(np.repeat(labels, repeats), np.repeat(probs, repeats), threshold).metrics
        expected["auc"] = compute_auc(np.repeat(labels, repeats), np.repeat(probs, repeats))  # counted in another way
        for name, value in zip(NAMES, values, strict=True):
            assert value == pytest.approx(np.nan if expected[name] is None else expected[name], nan_ok=True), name


def test_the_bootstrap_by_patch_agrees_with_scipy():
    labels, probs = scores(np.random.default_rng(3), 300)
    result = estimate_uncertainty(labels, probs, evaluate(labels, probs).metrics)
    statistics = {
        "auc": compute_auc,
        "brier": lambda y, p: np.mean((y - p) ** 2),
        "sensitivity": lambda y, p: (p[y == 1] >= 0.5).mean(),
    }
    for name, statistic in statistics.items():
        theirs = stats.bootstrap(
            (labels, probs), statistic, paired=True, vectorized=False, method="percentile", n_resamples=1500, rng=8
        ).confidence_interval
        width = theirs.high - theirs.low
        assert result.intervals[name] == pytest.approx([theirs.low, theirs.high], abs=0.12 * width), name
    assert to_json(result.bootstrap) == {
        "by": "patch",
        "clusters": 300,
        "clusters_by_class": {"normal": 150, "tumour": 150},
        "replicates": 2000,
        "seed": 0,
        "level": 0.95,
        "undefined": {},
    }


def test_few_clusters_give_wider_intervals():
    """By the t quantile and the lost degree of freedom (Hesterberg 2015), checked on a mean of normal values."""
    labels, probs = scores(np.random.default_rng(0), 400)
    replicates = np.array(NormalDist().samples(200_000, seed=1))

    def width(name, slides, codes):
        result = resample(labels, [SortedScores(labels, probs, 0.5)], Clusters("slide", codes, slides))[0]
        low, high = result.compute_interval(BY_NAME[name], replicates)
        assert low == pytest.approx(-high, rel=0.05)
        return high - low

    def expected(slides):
        return pytest.approx(2 * stats.t.ppf(0.975, slides - 1) * (slides / (slides - 1)) ** 0.5, rel=0.02)

    assert width("auc", 10, np.arange(400) % 10) == expected(10)
    few = np.where(labels == 1, np.arange(400) % 10, 10 + np.arange(400) % 20)  # slides hold one class each
    widths = {name: width(name, 30, few) for name in ("auc", "sensitivity", "specificity", "accuracy")}
    assert widths == {
        "auc": expected(10),
        "sensitivity": expected(10),
        "specificity": expected(20),
        "accuracy": expected(30),
    }


@pytest.mark.parametrize(
    ("slides", "with_tumour", "without", "reason"),
    [
        (9, 9, "auc accuracy sensitivity specificity ece", "there are only 9"),
        (25, 5, "auc sensitivity ppv average_precision", "only 5 have tumour patches"),
        (25, 20, "auc specificity npv", "only 5 have normal patches"),
    ],
)
def test_below_ten_informative_clusters_only_delong_gives_an_interval(slides, with_tumour, without, reason):
    rng = np.random.default_rng(0)
    codes = rng.permutation(np.arange(400) % slides)
    labels = (codes < with_tumour).astype(np.int64) if with_tumour < slides else np.arange(400) % 2
    probs = stats.norm.cdf(rng.normal(size=400) + labels)
    result = estimate_uncertainty(
        labels, probs, evaluate(labels, probs).metrics, clusters=Clusters("slide", codes, slides)
    )
    for name in without.split():
        assert result.intervals[name] is None
        assert result.bootstrap.undefined[name] == f"the bootstrap needs 10 slides, and {reason}"
    assert (result.intervals["accuracy"] is None) == (slides < 10)
    assert result.has_delong_interval("auc")
    assert result.find_interval("auc") == result.delong.interval
    assert result.find_interval("sensitivity") == result.intervals["sensitivity"]


def test_the_reason_for_a_missing_interval_of_patches_counts_patches():
    labels = np.arange(40) < 6
    probs = np.linspace(0.1, 0.9, 40)
    result = estimate_uncertainty(labels.astype(np.int64), probs, evaluate(labels, probs).metrics)
    assert result.bootstrap.undefined["sensitivity"] == "the bootstrap needs 10 patches, and only 6 are tumour patches"


@pytest.mark.parametrize(
    ("metric", "by", "counts", "reason"),
    [
        ("accuracy", "slide or patch", (9, 9, 9), "10 slides or patches, and there are only 9"),
        ("accuracy", "slide or overlap group", (9, 9, 9), "10 slides or overlap groups, and there are only 9"),
        ("accuracy", "slide", (1, 1, 1), "10 slides, and there is only 1"),
        ("sensitivity", "patch", (30, 30, 1), "10 patches, and only 1 is a tumour patch"),
        ("sensitivity", "slide", (30, 30, 1), "10 slides, and only 1 has tumour patches"),
        ("sensitivity", "slide", (10, 5, 5), "10 slides, and only 5 have tumour patches"),
        ("specificity", "slide", (10, 5, 5), "10 slides, and only 5 have normal patches"),
        ("auc", "slide", (10, 5, 5), "10 slides, and only 5 have tumour patches"),
    ],
)
def test_the_reason_for_a_missing_interval_is_grammatical_and_names_the_class(metric, by, counts, reason):
    """`counts` are the clusters: all, those with normal patches, and those with tumour."""
    found = explain_few_clusters(BY_NAME[metric], by, counts[0], ClassCounts(*counts[1:]))
    assert found == f"the bootstrap needs {reason}"


def test_the_reason_for_a_missing_interval_says_that_a_class_has_no_patches():
    assert explain_few_clusters(BY_NAME["auc"], "slide", 10, ClassCounts(0, 10)) == "there are no normal patches"


def test_copies_of_a_patch_in_its_cluster_do_not_change_the_interval():
    labels, probs = scores(np.random.default_rng(5), 60)
    copied = np.repeat(labels, 7), np.repeat(probs, 7)
    slides = Clusters("slide", np.repeat(np.arange(60), 7), 60)
    assert interval(*copied, clusters=slides) == pytest.approx(interval(labels, probs), abs=0.02)
    assert compute_delong(*copied, slides).standard_error == pytest.approx(
        compute_delong(labels, probs, make_patch_clusters(60)).standard_error
    )
    low, high = interval(*copied)
    wide_low, wide_high = interval(*copied, clusters=slides)
    assert wide_high - wide_low > 2 * (high - low)


def test_the_interval_depends_only_on_the_seed():
    labels, probs = scores(np.random.default_rng(7), 400)
    expected = interval(labels, probs, seed=1)
    assert interval(labels, probs, seed=1, threads=3) == expected
    assert interval(labels, probs, seed=2) != expected


def test_delong_agrees_with_its_definition():
    rng = np.random.default_rng(11)
    labels, probs = scores(rng, 50)
    probs = np.round(probs, 1)  # ties
    other = np.round(scores(rng, 50)[1], 1)

    def kernel(p):
        above = p[labels == 1][:, None] - p[labels == 0]
        return (above > 0) + 0.5 * (above == 0)

    def error(k):
        return (k.mean(1).var(ddof=1) / len(k) + k.mean(0).var(ddof=1) / k.shape[1]) ** 0.5

    result = compute_delong(labels, probs, make_patch_clusters(50))
    assert result.standard_error == pytest.approx(error(kernel(probs)))
    assert result.interval == pytest.approx(
        [compute_auc(labels, probs) + sign * 1.959964 * result.standard_error for sign in (-1, 1)], abs=1e-6
    )
    paired = compute_delong_difference(labels, probs, other, make_patch_clusters(50))
    assert paired.standard_error == pytest.approx(error(kernel(probs) - kernel(other)))
    z = (compute_auc(labels, probs) - compute_auc(labels, other)) / paired.standard_error
    assert (paired.z, paired.p) == (pytest.approx(z), pytest.approx(2 * stats.norm.sf(abs(z))))


@pytest.mark.parametrize("slides", [None, 30])
def test_delong_and_the_bootstrap_agree(slides):
    rng = np.random.default_rng(13)
    labels, probs = scores(rng, 900)
    clusters = make_patch_clusters(900)
    if slides:
        codes = rng.integers(0, slides, 900)
        probs = stats.norm.cdf(stats.norm.ppf(probs) + rng.normal(size=slides)[codes])
        clusters = Clusters("slide", codes, slides)
    result = estimate_uncertainty(labels, probs, evaluate(labels, probs).metrics, clusters=clusters)
    low, high = result.intervals["auc"]
    assert result.delong.by == clusters.by
    assert result.delong.interval == pytest.approx([low, high], abs=0.15 * (high - low))


def measure_coverage(draw, truth, clusters, simulations=150, sensitivity=0.0):
    """Return the coverage of the AUC's intervals (bootstrap and DeLong) and of the sensitivity's interval."""
    held = np.zeros(3)  # a missing interval counts as one that does not contain the value
    for number in range(simulations):
        labels, probs, groups = draw(np.random.default_rng([17, number]))
        metrics = evaluate(labels, probs).metrics
        result = estimate_uncertainty(
            labels, probs, metrics, clusters=groups if clusters else None, replicates=300, seed=number
        )
        found = result.intervals["auc"], result.delong.interval, result.intervals["sensitivity"]
        for i, (ends, value) in enumerate(zip(found, (truth, truth, sensitivity), strict=True)):
            held[i] += ends is not None and ends[0] <= value <= ends[1]
    return held / simulations


def test_intervals_of_independent_patches_cover_the_true_value():
    def draw(rng):
        return *scores(rng, 120, 2.0), None

    shares = measure_coverage(draw, NormalDist().cdf(2 / 2**0.5), clusters=False, sensitivity=NormalDist().cdf(1))
    assert ((shares >= 0.90) & (shares <= 0.99)).all()


def test_intervals_by_slide_cover_the_true_value_and_intervals_by_patch_do_not():
    """If each slide shifts its scores, intervals by patch are too narrow and intervals by slide are right."""
    slides, per_slide, spread = 16, 20, 1.0

    def draw(rng):
        labels, probs = scores(rng, slides * per_slide, 2.0)
        codes = np.repeat(np.arange(slides), per_slide)
        moved = stats.norm.ppf(probs) + spread * rng.normal(size=slides)[codes] * (2 * labels - 1)
        return labels, stats.norm.cdf(moved), Clusters("slide", codes, slides)

    # Of two patches of one slide the scores part by 2 shifts of that slide; of two slides, by one shift of each.
    same, apart = (2 / (2 + k * spread**2) ** 0.5 for k in (4, 2))
    truth = NormalDist().cdf(same) / slides + NormalDist().cdf(apart) * (1 - 1 / slides)
    for share in measure_coverage(draw, truth, clusters=True)[:2]:
        assert 0.88 <= share <= 0.99
    assert max(measure_coverage(draw, truth, clusters=False)[:2]) < 0.75


@pytest.mark.parametrize("with_tumour", [4, 8, 12])
def test_intervals_cover_the_true_value_if_few_of_many_slides_have_tumour(with_tumour):
    """As in lymph nodes, most slides are normal, and only a few slides have tumour patches."""
    slides, per_slide, spread, distance = 40, 20, 0.7, 2.0

    def draw(rng):
        codes = np.repeat(np.arange(slides), per_slide)
        labels = (codes < with_tumour).astype(np.int64)
        moved = rng.normal(size=slides * per_slide) + spread * rng.normal(size=slides)[codes]
        return labels, stats.norm.cdf(moved + distance * (labels - 0.5)), Clusters("slide", codes, slides)

    truth = NormalDist().cdf(distance / (2 * (1 + spread**2)) ** 0.5)
    found = measure_coverage(
        draw, truth, clusters=True, sensitivity=NormalDist().cdf(distance / 2 / (1 + spread**2) ** 0.5)
    )
    assert found[1] >= 0.90
    if with_tumour < 10:
        assert found[[0, 2]].tolist() == [0, 0]
    else:
        assert found[[0, 2]].min() >= 0.90


@pytest.mark.parametrize(
    ("labels", "probs", "threshold", "slides", "missing", "why"),
    [
        ([0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4], 0.5, None, "auc", "the metric itself is undefined"),
        ([0, 0, 0, 0], [0.1, 0.2, 0.3, 0.4], 0.25, None, "ppv", "there are no tumour patches"),
        ([0, 1] * 20, np.linspace(0, 1, 40), 0, None, "sensitivity", "it is the same in every resample"),
        ([0, 1] * 20, np.linspace(0, 1, 40), 0.5, [0] * 40, "brier", "all patches are of one slide"),
        ([0, 1] * 20, np.linspace(0, 1, 40), 0.99, None, "ppv", "it is defined in only"),
        ([0, 1, 0, 0], [0.1, 0.2, 0.3, 0.4], 0.15, None, "auc", "a class has only one patch"),
        (
            [0, 1] * 4,
            np.linspace(0, 1, 8),
            0.5,
            None,
            "accuracy",
            "the bootstrap needs 10 patches, and there are only 8",
        ),
    ],
)
def test_an_undefined_interval_is_none_with_a_reason(labels, probs, threshold, slides, missing, why):
    clusters = Clusters("slide", np.array(slides), 1) if slides else None
    result = estimate_uncertainty(labels, probs, evaluate(labels, probs, threshold).metrics, threshold, clusters)
    assert result.intervals[missing] is None
    assert result.bootstrap.undefined[missing].startswith(why)
    assert from_json(Uncertainty, json.loads(json.dumps(to_json(result), allow_nan=False)), "x.json") == result
    assert {name for name, ends in result.intervals.items() if ends is None} == set(result.bootstrap.undefined)


@pytest.mark.parametrize(
    ("labels", "probs", "codes"),
    [
        ([1, 1, 1], [0.1, 0.2, 0.3], [0, 1, 2]),
        ([0, 0, 1, 1], [0.1, 0.2, 0.8, 0.9], [0, 1, 2, 3]),  # ranked perfectly
        ([0, 0, 1, 1], [0.1, 0.8, 0.2, 0.9], [0, 1, 2, 2]),  # tumour in one slide alone
    ],
)
def test_an_auc_without_variance_has_no_delong(labels, probs, codes):
    clusters = Clusters("slide", np.array(codes), max(codes) + 1)
    assert compute_delong(np.array(labels), np.array(probs), clusters) is None


@pytest.mark.parametrize("slides", [1, 12, 300])
def test_the_p_value_is_below_5_percent_if_the_interval_excludes_0(slides):
    rng = np.random.default_rng(3)
    for strength in np.linspace(0, 0.4, 6):
        labels, probs = scores(rng, 300)
        better = np.clip(probs + strength * (labels - 0.5), 0, 1)
        codes = rng.permutation(np.arange(300) % slides)
        found = compare_aucs(labels, better, probs, Clusters("slide", codes, slides)).bootstrap
        if slides == 1:
            assert found.interval is None
            assert found.p == (1 if strength == 0 else None)
        elif found.interval:
            low, high = found.interval
            assert (found.p < 0.05) == (low > 0 or high < 0)
        assert bool(found.undefined) == (found.interval is None)


def test_a_difference_that_is_the_same_in_every_resample_has_no_interval_and_says_why():
    found = compare_aucs([0, 1] * 24, [0.1, 0.9] * 24, [0.9, 0.1] * 24, make_patch_clusters(48)).bootstrap
    assert (found.interval, found.p) == (None, None)
    assert found.undefined == "it is the same in every resample, so its error is not known"


@pytest.mark.parametrize(("classes", "expected"), [("either", 25), ("normal", 20), ("tumour", 5), ("both", 5)])
def test_informative_clusters_are_those_of_the_classes_that_a_metric_needs(classes, expected):
    metric = next(metric for metric in METRICS if metric.classes == classes)
    assert count_informative(metric, 25, ClassCounts(20, 5)) == expected
