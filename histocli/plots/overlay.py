"""Plots that lay several runs over one another: ROC, precision-recall, calibration and learning curves."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from histocli.plots.evaluation import (
    add_pr_axes,
    add_rate_axes,
    add_roc_axes,
    describe_scored,
    draw_steps,
    format_with_interval,
)
from histocli.plots.style import GREEN, NORMAL, ORANGE, PURPLE, REFERENCE, TUMOUR, set_title
from histocli.reports.conditions import have_same_patches
from histocli.reports.evaluation import EvaluationReport
from histocli.reports.run import Epoch, RunRecord

_COLOURS = (NORMAL, TUMOUR, GREEN, PURPLE, ORANGE)
_LINES = ("-", "--", "-.")


def draw_roc_of_runs(figure: Figure, reports: Sequence[EvaluationReport]) -> None:
    """Draw the ROC curve of each run."""
    axes = add_roc_axes(figure)
    for i, report in enumerate(reports):
        curve = report.measured.curves.roc
        label = f"{report.run}\nAUC {format_with_interval(report, 'auc')}"
        axes.plot(curve.fpr, curve.tpr, **_style(i), clip_on=False, label=label)
    _finish(figure, "ROC", reports)


def draw_pr_of_runs(figure: Figure, reports: Sequence[EvaluationReport]) -> None:
    """Draw precision against recall for each run."""
    axes = add_pr_axes(figure, reports[0].measured.prevalence)
    for i, report in enumerate(reports):
        label = f"{report.run}\naverage precision {format_with_interval(report, 'average_precision')}"
        draw_steps(axes, report.measured.curves.pr, **_style(i), label=label)
    _finish(figure, "Precision and recall", reports)


def draw_calibration_of_runs(figure: Figure, reports: Sequence[EvaluationReport]) -> None:
    """Draw the reliability diagram of each run."""
    axes = add_rate_axes(figure, "predicted probability of tumour", "fraction that is tumour")
    axes.plot([0, 1], [0, 1], **REFERENCE, label="perfect calibration")
    for i, report in enumerate(reports):
        bins = report.measured.calibration
        points = [b.mean_probability for b in bins], [b.fraction_positive for b in bins]
        label = f"{report.run}\nECE {format_with_interval(report, 'ece')}"
        axes.plot(*points, marker="o", **_style(i), clip_on=False, label=label)
    _finish(figure, "Calibration", reports)


def draw_curves_of_runs(figure: Figure, runs: Sequence[tuple[RunRecord, list[Epoch]]]) -> None:
    """Draw the validation loss and the validation AUC of each run by epoch."""
    loss, auc = figure.subplots(2, 1, sharex=True)
    for i, (run, history) in enumerate(runs):
        _draw_column(loss, history, "val_loss", i, run.run)
        _draw_column(auc, history, "val_auc", i, run.run)
    loss.set(ylabel="validation loss")
    auc.set(xlabel="epoch", ylabel="validation AUC")
    auc.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    figure.align_ylabels()
    handles, labels = loss.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=1)
    validated = {(run.manifest_sha256, run.val_patches) for run, _ in runs}
    patches = f"n = {runs[0][0].val_patches:,}" if len(validated) == 1 else "the runs have different validation patches"
    set_title(figure, "Learning curves", ", ".join(dict.fromkeys(f"{run.data} val" for run, _ in runs)), patches)


def _draw_column(axes: Axes, history: list[Epoch], key: str, i: int, label: str) -> None:
    points = [(row.epoch, value) for row in history if (value := getattr(row, key)) is not None]
    if points:
        axes.plot(*zip(*points, strict=True), marker="o", **_style(i), label=label)


def _style(i: int) -> dict[str, Any]:
    """Return the colour and the line of the run number `i`; together they differ for fifteen runs."""
    return {"color": _COLOURS[i % len(_COLOURS)], "linestyle": _LINES[i // len(_COLOURS) % len(_LINES)]}


def _finish(figure: Figure, heading: str, reports: Sequence[EvaluationReport]) -> None:
    """Add the legend below the axes, and the title with the data; the legend says which runs scored other patches."""
    figure.legend(loc="outside lower center", ncols=1)
    patches = f"n = {reports[0].measured.n:,}" if have_same_patches(reports) else "the runs scored different patches"
    set_title(figure, heading, describe_scored(reports[0]), patches)
