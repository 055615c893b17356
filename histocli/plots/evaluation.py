"""Plots of one evaluation: ROC, precision-recall, confusion matrix, calibration, scores."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histocli.metrics import Measurement
from histocli.metrics.bands import Band
from histocli.metrics.curves import PrecisionRecallCurve
from histocli.plots.style import (
    CLASS_COLOURS,
    CLASS_NAMES,
    GREY,
    NORMAL,
    REFERENCE,
    TUMOUR,
    label_thousands,
    set_title,
)
from histocli.reports.evaluation import EvaluationReport, format_interval
from histocli.text import format_metric


def draw_roc(figure: Figure, report: EvaluationReport, band: Band | None = None, by: str = "") -> None:
    """Draw the ROC curve, with its 95% band and the point of the threshold in use; `by` is what the bootstrap drew."""
    measured, curve, values = report.measured, report.measured.curves.roc, report.measured.metrics
    axes = add_roc_axes(figure)
    if band:
        label = f"95% band by {by}, pointwise"
        axes.fill_between(band.fpr, band.low, band.high, color=NORMAL, alpha=0.18, linewidth=0, label=label)
    sensitivity, specificity = values["sensitivity"], values["specificity"]
    if curve.fpr and sensitivity is not None and specificity is not None:
        axes.plot(curve.fpr, curve.tpr, color=NORMAL, clip_on=False, label=f"AUC {format_with_interval(report, 'auc')}")
        axes.plot(
            1 - specificity, sensitivity, "o", color=TUMOUR, label=f"threshold {measured.threshold:.3g}", clip_on=False
        )
        axes.legend(loc="lower right")
    else:
        _show_reason(axes, measured, "auc")
    set_title(figure, f"ROC: {report.run}", *make_subtitles(report))


def draw_pr(figure: Figure, report: EvaluationReport) -> None:
    """Draw precision against recall, and the prevalence, which is the precision of random scores."""
    measured, curve, values = report.measured, report.measured.curves.pr, report.measured.metrics
    axes = add_pr_axes(figure, measured.prevalence)
    if curve.recall:
        label = f"average precision {format_with_interval(report, 'average_precision')}"
        draw_steps(axes, curve, color=NORMAL, label=label)
        sensitivity, ppv = values["sensitivity"], values["ppv"]
        if sensitivity is not None and ppv is not None:
            axes.plot(sensitivity, ppv, "o", color=TUMOUR, label=f"threshold {measured.threshold:.3g}", clip_on=False)
        axes.legend(loc="lower left")
    else:
        _show_reason(axes, measured, "average_precision")
    set_title(figure, f"Precision and recall: {report.run}", *make_subtitles(report))


def draw_confusion(figure: Figure, report: EvaluationReport) -> None:
    """Draw the confusion matrix, with counts and their shares of the row."""
    confusion = report.measured.confusion
    counts = np.array([[confusion.tn, confusion.fp], [confusion.fn, confusion.tp]])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        text = f"{counts[row, column]:,}\n{share:.1%} of {CLASS_NAMES[row]}"
        axes.text(column, row, text, ha="center", va="center", color="white" if share > 0.65 else "black", fontsize=9)
    axes.set_xticks([0, 1], CLASS_NAMES)
    axes.set_yticks([0, 1], CLASS_NAMES, rotation=90, va="center")
    axes.set(xlabel=f"predicted, at threshold {report.measured.threshold:.3g}", ylabel="label")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    accuracy = f"accuracy {format_metric(report.measured.metrics['accuracy'], 3)}"
    set_title(
        figure,
        f"Confusion matrix: {report.run}",
        *make_subtitles(report, accuracy),
        "percentages and colours are per row",
    )


def draw_calibration(figure: Figure, report: EvaluationReport) -> None:
    """Draw the reliability diagram, and the number of patches in each bin."""
    bins = report.measured.calibration
    diagram, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    diagram.plot([0, 1], [0, 1], **REFERENCE, label="perfect calibration")
    probability = [b.mean_probability for b in bins]
    observed = [b.fraction_positive for b in bins]
    ece = f"ECE {format_with_interval(report, 'ece')}"
    diagram.plot(probability, observed, "o-", color=NORMAL, label=ece, clip_on=False)
    diagram.set(ylabel="fraction that is tumour", xlim=(0, 1), ylim=(0, 1))
    diagram.legend(loc="best")
    low = [b.low for b in bins]
    width = [b.high - b.low for b in bins]
    bars = counts.bar(low, [b.count for b in bins], width, align="edge", color=NORMAL, edgecolor="white", linewidth=0.4)
    counts.bar_label(bars, [f"{b.count:,}" for b in bins], rotation=90, padding=2, fontsize=5.5)
    counts.margins(y=0.45)  # room for the numbers above the bars
    counts.set(xlabel="predicted probability of tumour", ylabel="patches")
    label_thousands(counts.yaxis)
    figure.align_ylabels()
    set_title(figure, f"Calibration: {report.run}", *make_subtitles(report))


def draw_scores(figure: Figure, report: EvaluationReport) -> None:
    """Draw the histogram of the scores of each class, and the threshold."""
    histogram, threshold = report.measured.histogram, report.measured.threshold
    axes = figure.add_subplot()
    counts = (histogram.negative, histogram.positive)
    for name, colour, values in zip(CLASS_NAMES, CLASS_COLOURS, counts, strict=True):
        axes.stairs(values, histogram.edges, fill=True, color=colour, alpha=0.35)
        axes.stairs(values, histogram.edges, color=colour, label=f"{name} (n = {sum(values):,})")
    label = f"threshold {threshold:.3g}"
    axes.axvline(threshold, color="black", linestyle="--", linewidth=0.9, label=label)
    axes.set(xlabel="predicted probability of tumour", ylabel="patches", xlim=(0, 1))
    label_thousands(axes.yaxis)
    figure.legend(loc="outside lower center", ncols=2)
    set_title(figure, f"Scores by class: {report.run}", *make_subtitles(report))


def make_subtitles(report: EvaluationReport, result: str = "") -> tuple[str, ...]:
    """Return the lines under a title: the data, the number of patches, and the result (by default the AUC)."""
    result = result or f"AUC {format_metric(report.measured.metrics['auc'], 3)}"
    return describe_scored(report), f"n = {report.measured.n:,}, {result}"


def describe_scored(report: EvaluationReport) -> str:
    """Return the data and the split of an evaluation, and how its patches were scored if that is unusual."""
    how = "".join(f", {variant}" for variant in report.variants)
    return f"{report.data} {report.split}{how}"


def format_with_interval(report: EvaluationReport, name: str) -> str:
    """Format a metric with its 95% interval, if it has one."""
    value, interval = format_metric(report.measured.metrics[name], 3), format_interval(report.uncertainty, name, 3)
    return f"{value} ({interval})" if interval else value


def draw_steps(axes: Axes, curve: PrecisionRecallCurve, **style: Any) -> None:
    """Draw a precision-recall curve as steps; an empty curve has only its label in the legend."""
    points = curve.find_drawn_points()
    recall, precision = [x for x, _ in points], [y for _, y in points]
    axes.step(recall, precision, clip_on=False, **style)


def add_roc_axes(figure: Figure) -> Axes:
    """Return axes for ROC curves, with that of random scores."""
    axes = add_rate_axes(figure, "1 − specificity", "sensitivity")
    axes.plot([0, 1], [0, 1], **REFERENCE, label="chance")
    return axes


def add_pr_axes(figure: Figure, prevalence: float) -> Axes:
    """Return axes for precision against recall, with the precision of random scores."""
    axes = add_rate_axes(figure, "recall (sensitivity)", "precision (PPV)")
    axes.axhline(prevalence, **REFERENCE, label=f"prevalence {prevalence:.3f}")
    return axes


def add_rate_axes(figure: Figure, xlabel: str, ylabel: str) -> Axes:
    """Return square axes from 0 to 1."""
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1), aspect="equal")
    return axes


def _show_reason(axes: Axes, measured: Measurement, name: str) -> None:
    """Write into empty axes why a metric is undefined; a file that was changed by hand may have no reason."""
    reason = measured.undefined.get(name, "not in the metrics file")
    axes.text(0.5, 0.5, reason, ha="center", va="center", transform=axes.transAxes, color=GREY, wrap=True)
