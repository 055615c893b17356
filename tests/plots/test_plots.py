"""The plots: the text in them, inputs that are drawn without a warning, and equal bytes for equal inputs."""

import io
import xml.etree.ElementTree as ET
from dataclasses import replace
from functools import partial

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.figure import Figure

from histocli.enums import PlotFormat
from histocli.errors import HistoError
from histocli.metrics import estimate_uncertainty, evaluate
from histocli.plots import evaluation, overlay
from histocli.plots.sheets import PER_GROUP, Group, draw_sheet, find_sheet_size, select_confident_errors
from histocli.plots.style import PlotStyle, render, save
from histocli.plots.subset import draw_balance
from histocli.plots.training import draw_curves
from histocli.reports.audit import AuditReport, Contradictions
from histocli.reports.balance import BalanceReport
from histocli.reports.evaluation import EvaluationReport
from histocli.reports.run import Epoch, RunRecord
from histocli.schema import from_json, to_json

NAMES = {
    "run": "histonet-7",
    "data": "pcam_valid",
    "split": "test",
    "tta": False,
    "is_calibrated": True,
    "scores": "x.csv",
}
DRAWINGS = {
    "roc": evaluation.draw_roc,
    "pr": evaluation.draw_pr,
    "confusion": evaluation.draw_confusion,
    "calibration": evaluation.draw_calibration,
    "scores": evaluation.draw_scores,
}
OVERLAYS = {
    "roc": overlay.draw_roc_of_runs,
    "pr": overlay.draw_pr_of_runs,
    "calibration": overlay.draw_calibration_of_runs,
}


def make_report(n=300, separation=2.0, threshold=0.5, **names):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 2, n)
    probs = 1 / (1 + np.exp(-separation * (2 * labels - 1) - rng.normal(size=n)))
    return report(evaluate(labels, probs, threshold), **names)


def report(measured, **names):
    uncertainty = estimate_uncertainty([0, 1], [0.2, 0.8], measured.metrics)  # no interval: there are two patches
    uncertainty = replace(uncertainty, delong=None)
    return EvaluationReport(
        checkpoints=(), measured=measured, before_calibration={}, uncertainty=uncertainty, **NAMES | names
    )


def history(epochs, auc=0.9):
    row = {"train_loss": 0.5, "val_loss": 0.6, "val_auc": auc, "val_accuracy": 0.8, "lr": 0.001}
    return [Epoch(epoch=epoch, **row) for epoch in range(1, epochs + 1)]


def subset(slides, leaks=False):
    counts = {name: {"negative": 80, "positive": 75, "slides": slides} for name in ("train", "val")}
    values = {
        "data": "kaggle",
        "name": "balanced",
        "n": 310,
        "seed": 0,
        "split": "random" if leaks else "slide",
        "can_leak": leaks,
        "val_fraction": 0.1,
        "available": {"negative": 160, "positive": 150},
        "audit": to_json(AuditReport("kaggle", [], 0, Contradictions(0, []), [], None, [])),
        "manifest_sha256": "0" * 64,
        **dict.fromkeys(("sharing_pixels", "hospitals", "appearance")),
        "dropped": {"held_out": 0, "unlabelled": 0, "outliers": 3, "duplicates": 17},
        "counts": counts,
        "slides": [
            {"slide": f"a_slide_{i:04}", "split": "train" if i % 3 else "val", "negative": i, "positive": i % 5 + 1}
            for i in range(slides)
        ]
        or None,
    }
    return from_json(BalanceReport, values, "balance.json")


def texts(tmp_path, draw, width=3.5, height=3.5):
    """Return the texts in a figure; its SVG has each text as a comment next to the glyphs."""
    path = save(tmp_path / "figure.svg", PlotStyle(PlotFormat.SVG), width, height, draw)
    parser = ET.XMLParser(target=ET.TreeBuilder(insert_comments=True))
    root = ET.parse(path, parser).getroot()
    return " | ".join(node.text.strip() for node in root.iter(ET.Comment))


@pytest.mark.parametrize("kind", DRAWINGS)
def test_titles_have_run_data_split_count_and_result(tmp_path, kind):
    metrics = make_report()
    shown = texts(tmp_path, partial(DRAWINGS[kind], report=metrics))
    result = ("accuracy", "accuracy") if kind == "confusion" else ("AUC", "auc")
    assert "histonet-7" in shown
    assert "pcam_valid test" in shown
    assert f"n = 300, {result[0]} {metrics.measured.metrics[result[1]]:.3f}" in shown
    assert "views averaged" not in shown


def test_titles_mention_test_time_augmentation():
    assert "8 views averaged" in evaluation.make_subtitles(make_report(tta=True))[0]


@pytest.mark.parametrize("kind", DRAWINGS)
@pytest.mark.parametrize(("labels", "probs"), [([1], [1.0]), ([0] * 9, [0.1] * 9)])
def test_few_patches_and_one_class_are_drawn_too(tmp_path, kind, labels, probs):
    metrics = report(evaluate(labels, probs))
    shown = texts(tmp_path, partial(DRAWINGS[kind], report=metrics))
    if kind == "roc" and len(set(labels)) == 1:
        assert "it needs patches of both classes" in shown
    assert f"n = {len(labels)}" in shown
    if kind in OVERLAYS:
        shown = texts(tmp_path, partial(OVERLAYS[kind], reports=[replace(metrics, run=run) for run in "ab"]))
        assert f"n = {len(labels)}" in shown
        assert shown.count("undefined") == (2 if kind == "roc" or (kind == "pr" and 1 not in labels) else 0)


def test_the_confusion_matrix_shows_counts_and_shares(tmp_path):
    metrics = report(evaluate([0] * 5 + [1] * 4, [0.1, 0.1, 0.1, 0.1, 0.9, 0.2, 0.8, 0.8, 0.8]))
    shown = texts(tmp_path, partial(evaluation.draw_confusion, report=metrics))
    for text in ("4 | 80.0% of normal", "1 | 20.0%", "1 | 25.0%", "3 | 75.0% of tumour", "per row"):
        assert text in shown


@pytest.mark.parametrize("epochs", [1, 60])
def test_learning_curves_name_the_best_epoch(tmp_path, epochs):
    rows = history(epochs)
    rows[0] = replace(rows[0], val_auc=0.95)  # an equal AUC: then the loss decides, as for best.pt
    rows[epochs // 2] = replace(rows[epochs // 2], val_auc=0.95, val_loss=0.59)
    run = RunRecord("histonet-7", "pcam", 2907)
    shown = texts(tmp_path, partial(draw_curves, run=run, history=rows))
    assert f"best AUC 0.950 at epoch {epochs // 2 + 1} of {epochs}" in shown
    assert "pcam val, n = 2,907" in shown


def test_learning_curves_are_drawn_without_an_auc(tmp_path):
    run = RunRecord("r", "pcam", 5)
    shown = texts(tmp_path, partial(draw_curves, run=run, history=history(2, auc=None)))
    assert "AUC undefined; lowest loss at epoch 1 of 2" in shown
    assert "validation AUC" not in shown


@pytest.mark.parametrize(("slides", "named"), [(2, True), (200, False)])
def test_slides_are_named_if_there_is_space(tmp_path, slides, named):
    shown = texts(tmp_path, partial(draw_balance, report=subset(slides)), height=4.4)
    assert ("a_slide_0001" in shown) is named
    assert f"{slides} slides, split by slide" in shown
    assert "dropped patches: without tissue (3), duplicates of another patch (17)" in shown.replace(
        "duplicates | of", "duplicates of"
    )


def test_the_plot_says_that_a_random_split_leaks(tmp_path):
    shown = texts(tmp_path, partial(draw_balance, report=subset(0, leaks=True)), height=2.4)
    assert "split at random: one slide may be in train and in val" in shown.replace(" | ", " ")
    assert "slides not known" in shown


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.tuples(st.integers(0, 1), st.sampled_from([k / 8 for k in range(9)])), min_size=1, max_size=60),
    st.floats(0, 1),
    st.integers(1, 6),
)
def test_the_most_confident_errors_are_shown(cases, threshold, count):
    labels, probs = (np.array(column) for column in zip(*cases, strict=True))
    for rows, truth, sign in zip(
        select_confident_errors(labels, probs, threshold, count), (0, 1), (1, -1), strict=True
    ):
        wrong = np.flatnonzero((labels == truth) & ((probs >= threshold) != truth))
        assert set(rows) <= set(wrong)
        assert len(rows) == len(set(rows)) == min(count, len(wrong))
        assert list(sign * probs[rows]) == sorted(sign * probs[wrong], reverse=True)[:count]


def test_equal_scores_keep_their_order():
    false_positives, false_negatives = select_confident_errors([0] * 20 + [1] * 20, [0.9] * 20 + [0.1] * 20, 0.5)
    assert list(false_positives) == list(range(PER_GROUP))
    assert list(false_negatives) == list(range(20, 20 + PER_GROUP))


def test_a_sheet_shows_the_pixels_with_the_centre_marked(tmp_path):
    colours = np.array([[200, 30, 90], [30, 200, 90], [90, 30, 200]], np.uint8)
    pixels = np.broadcast_to(colours[:, None, None], (3, 96, 96, 3))
    groups = [
        Group("first", pixels[:2], ["0.9\na", "0.8\nb"]),
        Group("none here", pixels[:0]),
        Group("last", pixels[2:]),
    ]
    path = save(
        tmp_path / "sheet.png",
        PlotStyle(),
        *find_sheet_size(groups),
        lambda figure: draw_sheet(figure, groups, "Title"),
    )
    image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    for colour in colours:
        inside = (np.abs(image.astype(int) - colour) < 8).all(axis=2)
        rows, columns = np.flatnonzero(inside.any(axis=1)), np.flatnonzero(inside.any(axis=0))
        side = columns[-1] - columns[0] + 1
        assert rows[-1] - rows[0] + 1 == pytest.approx(side, abs=2)
        line = image[(rows[0] + rows[-1]) // 2, columns[0] : columns[-1] + 1].astype(int).mean(axis=1)
        marks = np.flatnonzero(line < 60)  # the dark rim on either side of the central third
        assert marks[0] / side == pytest.approx(1 / 3, abs=0.03)
        assert marks[-1] / side == pytest.approx(2 / 3, abs=0.03)


@pytest.mark.parametrize("format", PlotFormat)
def test_the_same_input_gives_the_same_bytes(tmp_path, format):
    draw = partial(evaluation.draw_scores, report=make_report())
    first = save(tmp_path / "first", PlotStyle(format), 3.5, 2.9, draw).read_bytes()
    assert save(tmp_path / "second", PlotStyle(format), 3.5, 2.9, draw).read_bytes() == first


def test_matplotlib_settings_of_the_user_are_ignored(tmp_path):
    import matplotlib

    draw = partial(evaluation.draw_roc, report=make_report())
    expected = save(tmp_path / "plain.png", PlotStyle(), 3.5, 3.8, draw).read_bytes()
    with matplotlib.rc_context({"font.size": 20, "axes.facecolor": "black", "lines.linewidth": 9}):
        assert save(tmp_path / "styled.png", PlotStyle(), 3.5, 3.8, draw).read_bytes() == expected
        assert matplotlib.rcParams["font.size"] == 20


def test_a_failed_drawing_keeps_the_old_file(tmp_path):
    path = tmp_path / "picture.png"
    path.write_bytes(b"old")

    def fail(figure: Figure) -> None:
        raise HistoError("no")

    with pytest.raises(HistoError, match="no"):
        save(path, PlotStyle(), 3, 3, fail)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", OVERLAYS)
@pytest.mark.parametrize("runs", [2, 5])
def test_the_legend_of_several_runs_does_not_cover_the_label_of_the_axis(name, runs):
    reports = [make_report(run=f"run {i}") for i in range(runs)]
    figures = []

    def draw(figure):
        figures.append(figure)
        OVERLAYS[name](figure, reports)

    render(io.BytesIO(), PlotStyle(), 3.5, 4 + 0.32 * runs, draw)
    [figure] = figures
    label = figure.axes[0].xaxis.label.get_window_extent()
    assert figure.legends[0].get_window_extent().y1 < label.y0


def test_the_precision_recall_curve_begins_with_what_was_measured():
    """The point (0, 1) is a convention, and normal patches with the highest scores have recall 0."""
    made = evaluate([0, 0, 1, 1, 0], [0.99, 0.95, 0.9, 0.5, 0.1])
    curve = made.curves.pr
    assert (curve.recall[0], curve.precision[0]) == (0, 1)
    points = [(0, 1 / 3), (0.5, 1 / 3), (1, 1 / 2), (1, 2 / 5)]
    assert curve.find_drawn_points() == [pytest.approx(point) for point in points]


def test_the_reliability_diagram_has_the_count_of_each_bin(tmp_path):
    made = report(evaluate([0] * 1234 + [1] * 21, [0.1] * 1234 + [0.9] * 21))
    shown = texts(tmp_path, partial(evaluation.draw_calibration, report=made))
    assert "1,234" in shown
    assert "21" in shown


def test_intervals_are_next_to_their_metrics(tmp_path):
    made = make_report()
    uncertainty = estimate_uncertainty([0, 1] * 50, [0.2, 0.8] * 50, made.measured.metrics)
    intervals = uncertainty.intervals | {"auc": (0.912, 0.987), "average_precision": None, "ece": (0.011, 0.099)}
    made = replace(made, uncertainty=replace(uncertainty, intervals=intervals))
    assert "(0.912 to 0.987)" in texts(tmp_path, partial(evaluation.draw_roc, report=made))
    assert "(0.011 to 0.099)" in texts(tmp_path, partial(evaluation.draw_calibration, report=made))
    assert " to " not in texts(tmp_path, partial(evaluation.draw_pr, report=made))
    delong = estimate_uncertainty([0, 1] * 50, [0.2, 0.8, 0.6, 0.4] * 25, made.measured.metrics).delong
    made = replace(made, uncertainty=replace(uncertainty, intervals=intervals | {"auc": None}, delong=delong))
    assert "(DeLong: " in texts(tmp_path, partial(evaluation.draw_roc, report=made))
