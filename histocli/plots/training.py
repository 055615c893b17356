"""Learning curves, from a run's history."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from histocli.plots.style import GREEN, NORMAL, PURPLE, REFERENCE, TUMOUR, set_title
from histocli.reports.run import Epoch, RunRecord, make_epoch_key
from histocli.text import format_metric

_MARKED_EPOCHS = 30  # with more epochs the markers would overlap


def draw_curves(figure: Figure, run: RunRecord, history: list[Epoch]) -> None:
    """Draw loss, validation AUC and accuracy, and learning rate by epoch; the best epoch is marked."""
    loss, quality, rate = figure.subplots(3, 1, sharex=True, height_ratios=(3, 3, 1))
    _draw_line(loss, history, "train_loss", "training", TUMOUR)
    _draw_line(loss, history, "val_loss", "validation", NORMAL)
    _draw_line(quality, history, "val_auc", "validation AUC", NORMAL)
    _draw_line(quality, history, "val_accuracy", "validation accuracy", GREEN)
    _draw_line(rate, history, "lr", "", PURPLE)
    loss.set(ylabel="loss")
    quality.set(ylabel="AUC, accuracy")
    rate.set(xlabel="epoch", ylabel="lr")
    rate.margins(y=0.2)
    rate.yaxis.set_major_locator(MaxNLocator(2))
    rate.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    rate.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
    rate.set_xlim(history[0].epoch - 0.5, history[-1].epoch + 0.5)
    best = max(history, key=make_epoch_key)
    for axes in (loss, quality, rate):
        axes.axvline(best.epoch, **REFERENCE)
    loss.legend(loc="best")
    quality.legend(loc="best")
    figure.align_ylabels()
    has_auc = best.val_auc is not None
    measured = f"best AUC {format_metric(best.val_auc, 3)}" if has_auc else "AUC undefined; lowest loss"
    result = f"{measured} at epoch {best.epoch} of {history[-1].epoch}"
    set_title(figure, f"Learning curves: {run.run}", f"{run.data} val, n = {run.val_patches:,}", result)


def _draw_line(axes: Axes, history: list[Epoch], key: str, label: str, colour: str) -> None:
    values = [(row.epoch, getattr(row, key)) for row in history]
    points = [(epoch, value) for epoch, value in values if value is not None]
    marker = "o-" if len(points) <= _MARKED_EPOCHS else "-"
    if points:
        axes.plot(*zip(*points, strict=True), marker, color=colour, label=label)
