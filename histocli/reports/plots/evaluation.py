"""Pictures of one evaluation, from its metric file: ROC, precision-recall, confusion, calibration, scores."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histocli.reports.plots.style import CLASS_COLOURS, CLASS_NAMES, GREY, NORMAL, TUMOUR, number, thousands, title


def draw_roc(figure: Figure, metrics: dict[str, Any]) -> None:
    """Draw the ROC curve, with the point of the threshold in use."""
    curve, values = metrics["curves"]["roc"], metrics["metrics"]
    axes = _square(figure, "1 − specificity", "sensitivity")
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=0.9, label="chance")
    if curve["fpr"]:
        axes.plot(curve["fpr"], curve["tpr"], color=NORMAL, clip_on=False, label=f"AUC {_sure(metrics, 'auc')}")
        point = (1 - values["specificity"], values["sensitivity"])
        axes.plot(*point, "o", color=TUMOUR, label=f"threshold {metrics['threshold']:.3g}", clip_on=False)
        axes.legend(loc="lower right")
    else:
        _nothing(axes, metrics["undefined"]["auc"])
    title(figure, f"ROC: {metrics['run']}", *facts(metrics))


def draw_pr(figure: Figure, metrics: dict[str, Any]) -> None:
    """Draw precision against recall, with the prevalence that chance would reach."""
    curve, values = metrics["curves"]["pr"], metrics["metrics"]
    axes = _square(figure, "recall (sensitivity)", "precision (PPV)")
    prevalence = metrics["prevalence"]
    axes.axhline(prevalence, color=GREY, linestyle=":", linewidth=0.9, label=f"prevalence {prevalence:.3f}")
    if curve["recall"]:
        label = f"average precision {_sure(metrics, 'average_precision')}"
        axes.step(curve["recall"], curve["precision"], color=NORMAL, clip_on=False, label=label)
        if values["ppv"] is not None:
            point = (values["sensitivity"], values["ppv"])
            axes.plot(*point, "o", color=TUMOUR, label=f"threshold {metrics['threshold']:.3g}", clip_on=False)
        axes.legend(loc="lower left")
    else:
        _nothing(axes, metrics["undefined"]["average_precision"])
    title(figure, f"Precision and recall: {metrics['run']}", *facts(metrics))


def draw_confusion(figure: Figure, metrics: dict[str, Any]) -> None:
    """Draw the confusion matrix: counts, and each as a share of its true class."""
    c = metrics["confusion"]
    counts = np.array([[c["tn"], c["fp"]], [c["fn"], c["tp"]]])
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axes = figure.add_subplot()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        text = f"{counts[row, column]:,}\n{share:.1%}"
        axes.text(column, row, text, ha="center", va="center", color="white" if share > 0.5 else "black", fontsize=9)
    axes.set_xticks([0, 1], CLASS_NAMES)
    axes.set_yticks([0, 1], CLASS_NAMES, rotation=90, va="center")
    axes.set(xlabel=f"called, at threshold {metrics['threshold']:.3g}", ylabel="label")
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    accuracy = f"accuracy {number(metrics['metrics']['accuracy'])}"
    title(figure, f"Confusion matrix: {metrics['run']}", *facts(metrics, accuracy))


def draw_calibration(figure: Figure, metrics: dict[str, Any]) -> None:
    """Draw the reliability diagram, and how many patches stand in each bin."""
    bins = metrics["calibration"]
    diagram, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    diagram.plot([0, 1], [0, 1], color=GREY, linestyle=":", linewidth=0.9, label="perfect calibration")
    probability = [b["mean_probability"] for b in bins]
    observed = [b["fraction_positive"] for b in bins]
    ece = f"ECE {_sure(metrics, 'ece')}"
    diagram.plot(probability, observed, "o-", color=NORMAL, label=ece, clip_on=False)
    diagram.set(ylabel="fraction that is tumour", xlim=(0, 1), ylim=(0, 1))
    diagram.legend(loc="best")
    low = [b["low"] for b in bins]
    width = [b["high"] - b["low"] for b in bins]
    counts.bar(low, [b["count"] for b in bins], width, align="edge", color=NORMAL, edgecolor="white", linewidth=0.4)
    counts.set(xlabel="predicted probability of tumour", ylabel="patches")
    thousands(counts.yaxis)
    figure.align_ylabels()
    title(figure, f"Calibration: {metrics['run']}", *facts(metrics))


def draw_scores(figure: Figure, metrics: dict[str, Any]) -> None:
    """Draw the histogram of the scores of each class, and the threshold."""
    histogram = metrics["histogram"]
    axes = figure.add_subplot()
    for name, colour, key in zip(CLASS_NAMES, CLASS_COLOURS, ("negative", "positive"), strict=True):
        count = sum(histogram[key])
        label = f"{name} (n = {count:,})"
        axes.stairs(histogram[key], histogram["edges"], fill=True, color=colour, alpha=0.35)
        axes.stairs(histogram[key], histogram["edges"], color=colour, label=label)
    axes.axvline(
        metrics["threshold"],
        color="black",
        linestyle="--",
        linewidth=0.9,
        label=f"threshold {metrics['threshold']:.3g}",
    )
    axes.set(xlabel="predicted probability of tumour", ylabel="patches", xlim=(0, 1))
    thousands(axes.yaxis)
    figure.legend(loc="outside lower center", ncols=2)
    title(figure, f"Scores by class: {metrics['run']}", *facts(metrics))


def facts(metrics: dict[str, Any], result: str = "") -> tuple[str, ...]:
    """Give the lines under a title: the data and how many patches, and what it came to (the AUC by default)."""
    how = ", 8 orientations averaged" * metrics["tta"] + ", uncalibrated" * metrics["raw"]
    result = result or f"AUC {number(metrics['metrics']['auc'])}"
    return f"{metrics['data']} {metrics['split']}{how}", f"n = {metrics['n']:,}, {result}"


def _sure(metrics: dict[str, Any], name: str) -> str:
    """Write a figure with its 95 % interval, where it has one."""
    interval = metrics.get("intervals", {}).get(name)
    return number(metrics["metrics"][name]) + (f" ({interval[0]:.3f} to {interval[1]:.3f})" if interval else "")


def _square(figure: Figure, xlabel: str, ylabel: str) -> Axes:
    axes = figure.add_subplot()
    axes.set(xlabel=xlabel, ylabel=ylabel, xlim=(0, 1), ylim=(0, 1), aspect="equal")
    return axes


def _nothing(axes: Axes, reason: str) -> None:
    """Say in empty axes why they are empty."""
    axes.text(0.5, 0.5, reason, ha="center", va="center", transform=axes.transAxes, color=GREY, wrap=True)
