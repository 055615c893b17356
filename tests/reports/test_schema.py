"""Reports as JSON: they are read as they were written, and old and invalid files are refused."""

import json
import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import pytest

from histocli.atomic import write_json
from histocli.errors import HistoError
from histocli.metrics import Clusters, compare_aucs, estimate_uncertainty, evaluate
from histocli.metrics.groups import GroupMetrics
from histocli.metrics.registry import PER_GROUP
from histocli.reports.balance import read_balance_report
from histocli.reports.comparison import ComparedEvaluation, ComparisonReport
from histocli.reports.evaluation import EvaluatedCheckpoint, EvaluationReport, read_evaluation
from histocli.reports.repeats import RepeatedRun, RepeatsReport, read_repeats
from histocli.reports.slides import read_slide_evaluation
from histocli.schema import Count, Fraction, from_json, to_json
from histocli.workspace import Workspace

LABELS, PROBS = [0, 1] * 20, [0.1, 0.8, 0.4, 0.3] * 10
CODES = [i // 4 for i in range(40)]


def read_back(report):
    """Return the report after writing and reading it."""
    return json.loads(json.dumps(to_json(report), allow_nan=False))


def evaluation(n_checkpoints=1):
    import numpy as np

    measured = evaluate(LABELS, PROBS)
    checkpoint = EvaluatedCheckpoint("a", "histonet", 3, 1.2, "/a/best.pt", "0" * 64, "torch", "")
    return EvaluationReport(
        run="a",
        data="mine",
        split="val",
        checkpoints=(checkpoint,) * n_checkpoints,
        manifest_sha256="1" * 64,
        tta=False,
        is_calibrated=True,
        skipped={"unreadable": 2},
        packed="mine",
        n_in_training=0,
        n_in_validation=40,
        calibration_mismatch=True,
        scores="a-mine-val.csv",
        measured=measured,
        before_calibration={"ece": 0.5},
        uncertainty=estimate_uncertainty(
            LABELS, PROBS, measured.metrics, clusters=Clusters("slide", np.array(CODES), 10)
        ),
        slides=[GroupMetrics("s1", 4, 2, dict.fromkeys(PER_GROUP) | {"accuracy": 0.5})],
        hospitals=[],
    )


@pytest.mark.parametrize("n_checkpoints", [1, 2])
def test_an_evaluation_is_read_as_it_was_written(n_checkpoints):
    report = evaluation(n_checkpoints)
    assert EvaluationReport.from_json(json.loads(json.dumps(report.to_json())), "x.json") == report


@pytest.mark.parametrize(
    ("read", "name", "hint"),
    [
        (read_evaluation, "a-mine-val.json", "histo eval writes it again"),
        (read_evaluation, "a-mine-out-of-fold.json", "histo train --folds with --resume writes it again"),
        (
            read_balance_report,
            "balance.json",
            "draw the subset again with histo balance and its options, or remove the file",
        ),
        (
            lambda path: read_repeats(Workspace(path.parent.parent), "a"),
            "a-folds.json",
            "histo train --folds or --seeds with --resume writes it again",
        ),
        (
            lambda path: read_slide_evaluation(Workspace(path.parent.parent), Path("maps")),
            "slides-maps.json",
            "histo eval --maps maps writes it again",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) and value.endswith(".json") else "",
)
def test_a_metrics_file_of_version_0_1_0_is_one_error_with_the_command_that_writes_it_again(tmp_path, read, name, hint):
    path = tmp_path / "metrics" / name
    values = {"run": "a", "data": "mine", "split": "out-of-fold" if "out-of-fold" in name else "val", "scores": "a.csv"}
    values |= {"arch": "histonet", "tta": False, "metrics": {}, "curves": {}, "folder": str(Path("maps").resolve())}
    write_json(path, values)
    with pytest.raises(HistoError) as caught:
        read(path)
    assert re.fullmatch(rf"{re.escape(str(path))}: the field \S+ is missing", str(caught.value))
    assert caught.value.hint == hint


def test_an_evaluation_without_a_metric_is_refused():
    for key, at in ((("metrics", "mcc"), "its content"), (("slides", 0, "accuracy"), "the field slides[0]")):
        values = json.loads(json.dumps(evaluation().to_json()))
        place = values
        for part in key[:-1]:
            place = place[part]
        del place[key[-1]]
        with pytest.raises(HistoError) as caught:
            EvaluationReport.from_json(values, "x.json")
        assert str(caught.value) == f"x.json: {at} does not have the metric {key[-1]}"


def test_a_negative_number_of_expected_patches_is_refused():
    """The warning takes its square root."""
    values = json.loads(json.dumps(evaluation().to_json()))
    values["likeness"] = {"measured": 60, "beyond": 1, "expected": -1.0, "focus": 0.0}
    with pytest.raises(HistoError, match=r"x\.json: the field likeness\.expected is -1\.0, not at least 0"):
        EvaluationReport.from_json(values, "x.json")


def test_metrics_of_the_packaged_network_say_which_patches_it_was_trained_on():
    unknown = replace(evaluation(), n_in_training=None)
    assert "it is not known whether the network was trained on these patches" in unknown.list_caveats()[0].text
    packaged = replace(unknown, checkpoints=(replace(unknown.checkpoints[0], run="histonet-pcam"),))
    caveat = packaged.list_caveats()[0]
    assert caveat.is_serious
    assert "if these patches are from PCam's or Kaggle's training set, the metrics are too good" in caveat.text
    pcam = replace(packaged, data_source="pcam", split="all")
    for splits, is_named in ((("test",), False), (("test", "train"), True)):
        assert ("PCam" in " ".join(c.text for c in replace(pcam, splits=splits).list_caveats())) == is_named


def test_metrics_of_a_network_that_started_from_weights_of_pcam_say_so():
    note = "histonet-pcam was trained on 31,157 training patches of PCam"
    checkpoint = replace(evaluation().checkpoints[0], weights_note=note)
    report = replace(evaluation(), checkpoints=(checkpoint,))
    for source, is_serious in (("kaggle", True), ("pcam", True), ("folder", False)):
        (caveat,) = (c for c in replace(report, data_source=source).list_caveats() if note in c.text)
        assert caveat.is_serious == is_serious
    assert not any(note in c.text for c in replace(report, data_source="pcam", splits=("test",)).list_caveats())


def test_only_a_prevalence_that_is_far_from_the_measured_one_is_a_caveat():
    for assumed, is_far in ((0.5, False), (0.42, False), (0.3, True), (0.7, True), (0.01, True)):
        report = replace(evaluation(), assumed_prevalence=assumed)
        assert any("--prevalence" in caveat.text for caveat in report.list_caveats()) == is_far


def test_other_reports_are_read_as_they_were_written():
    import numpy as np

    paired = compare_aucs(LABELS, PROBS, PROBS[::-1], Clusters("slide", np.array(CODES), 10))
    side = ComparedEvaluation("a.json", "a", "mine", "val", False, None, 3, 0.9, [])
    comparison = ComparisonReport(side, side, 40, (0, 3), paired)
    assert from_json(ComparisonReport, read_back(comparison), "x.json") == comparison
    run = RepeatedRun("a-fold1", 1, 3, 40, 0.5, {"auc": 0.9, "mcc": None})
    repeats = RepeatsReport("a", "folds", "slide", [run], {"auc": 0.9, "mcc": None}, {"auc": 0.0, "mcc": None})
    assert from_json(RepeatsReport, read_back(repeats), "x.json") == repeats


@dataclass(frozen=True)
class Inner:
    count: Count
    share: Fraction | None = None


@dataclass(frozen=True)
class Outer:
    kind: Literal["a", "b"]
    inner: Inner
    rows: list[Inner] = field(default_factory=list)
    pair: tuple[float, float] = (0.0, 1.0)
    names: dict[str, str] = field(default_factory=dict)
    option: bool | int | str | None = None


NO_TEXT = "is not a text of at most 10,000 characters that UTF-8 can write"


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ([], "its content is [], not an object"),
        ({"kind": "a"}, "the field inner is missing"),
        ({"kind": "c", "inner": {"count": 1}}, "the field kind is 'c', not 'a' or 'b'"),
        ({"kind": "a", "inner": {"count": 1.5}}, "the field inner.count is 1.5, not a whole number"),
        ({"kind": "a", "inner": {"count": True}}, "the field inner.count is True, not a whole number"),
        (
            {"kind": "a", "inner": {"count": 1, "share": 2}},
            "the field inner.share is 2.0, not at least 0 and at most 1",
        ),
        ({"kind": "a", "inner": {"count": 1, "share": float("nan")}}, "the field inner.share is nan, not a number"),
        (
            {"kind": "a", "inner": {"count": 1}, "rows": [{"count": -1}]},
            "the field rows[0].count is -1, not at least 0",
        ),
        ({"kind": "a", "inner": {"count": 1}, "pair": [1]}, "the field pair is a list of 1, not of 2"),
        ({"kind": "a", "inner": {"count": 1}, "names": {"x": 1}}, "the field names.x is 1, not a text"),
        ({"kind": "a", "inner": {"count": 1}, "option": []}, "the field option is [], not a text"),
        (
            {"kind": "a", "inner": {"count": 1 << 64}},
            "the field inner.count is a very large number, not a whole number",
        ),
        ({"kind": "a", "inner": {"count": 1, "share": True}}, "the field inner.share is True, not a number"),
        ({"kind": "a", "inner": {"count": 1}, "pair": [1, math.inf]}, "the field pair[1] is inf, not a number"),
        ({"kind": "a", "inner": {"count": 1}, "names": {"x": "\ud800"}}, f"the field names.x {NO_TEXT}"),
        ({"kind": "a", "inner": {"count": 1}, "names": {"x": "a\0"}}, f"the field names.x {NO_TEXT}"),
        ({"kind": "a", "inner": {"count": 1}, "names": {"x": "a" * 10_001}}, f"the field names.x {NO_TEXT}"),
        ({"kind": "a", "inner": {"count": 1}, "names": {"\ud800": "x"}}, f"the field names: a key {NO_TEXT}"),
        (
            {"kind": "a", "inner": {"count": 1}, "names": {"x" * 10_000: 1}},
            f"the field names.{'x' * 100} is 1, not a text",
        ),
    ],
)
def test_a_field_of_another_type_or_range_is_named(value, problem):
    with pytest.raises(HistoError) as caught:
        from_json(Outer, value, "x.json", "write it again")
    assert str(caught.value) == f"x.json: {problem}"
    assert caught.value.hint == "write it again"


def test_keys_of_a_newer_version_are_ignored():
    value = {"kind": "a", "inner": {"count": 1, "new": 3}, "pair": [1, 2], "option": 5, "new": []}
    assert from_json(Outer, value, "x.json") == Outer("a", Inner(1), pair=(1.0, 2.0), option=5)
