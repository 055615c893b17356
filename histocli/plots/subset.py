"""Plot a balanced subset: the patches of each class by split and by slide."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from histocli.enums import Split
from histocli.plots.style import CLASS_COLOURS, CLASS_NAMES, label_thousands, set_title
from histocli.reports.balance import BalanceReport, SlideCounts, SplitCounts
from histocli.text import shorten_to_length

_KEYS = ("negative", "positive")
_NAMED_SLIDES = 16  # more names would overlap
_GAPPED_SLIDES = 60  # more bars would be thinner than the gaps between them


def draw_balance(figure: Figure, report: BalanceReport) -> None:
    """Draw the number of patches of each class by split and, if slides are known, by slide."""
    if report.slides:
        splits, slides = figure.subplots(2, 1, height_ratios=(1, 1.25))
        _draw_slides(slides, report.slides)
    else:
        splits = figure.subplots()
    _draw_splits(splits, report.counts)
    handles, labels = splits.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    known = f"{len(report.slides)} slides, " if report.slides else "slides not known, "
    split = "split at random" if report.split == Split.RANDOM else f"split by {report.split}"
    if report.can_leak:
        split += ": one slide may be in train and in val"
    dropped = ", ".join(f"{reason} ({count:,})" for reason, count in report.dropped.list_reasons().items())
    set_title(
        figure,
        f"Balanced subset of {report.data}, n = {report.n:,}",
        known + split,
        *([f"dropped patches: {dropped}"] if dropped else []),
    )


def _draw_splits(axes: Axes, counts: dict[str, SplitCounts]) -> None:
    """Draw a pair of bars with their counts for each split."""
    for offset, label in ((-0.2, 0), (0.2, 1)):
        values = [getattr(split, _KEYS[label]) for split in counts.values()]
        y = np.arange(len(counts)) + offset
        bars = axes.barh(y, values, 0.4, color=CLASS_COLOURS[label], edgecolor="white", label=CLASS_NAMES[label])
        axes.bar_label(bars, [f"{value:,}" for value in values], padding=2)
    axes.set_yticks(range(len(counts)), list(counts))
    axes.invert_yaxis()
    axes.margins(x=0.2)
    axes.grid(False, axis="y")
    label_thousands(axes.xaxis)
    axes.set(xlabel="patches")


def _draw_slides(axes: Axes, slides: list[SlideCounts]) -> None:
    """Draw a stacked bar for each slide, sorted by split and size; every second split has a grey background."""
    rows = sorted(slides, key=lambda row: (row.split, -row.negative - row.positive, row.slide))
    x = np.arange(len(rows))
    width = 0.9 if len(rows) <= _GAPPED_SLIDES else 1.0
    bottom = np.zeros(len(rows))
    for key, colour in zip(_KEYS, CLASS_COLOURS, strict=True):
        heights = np.array([getattr(row, key) for row in rows])
        axes.bar(x, heights, width, bottom, color=colour)
        bottom += heights
    splits = [row.split for row in rows]
    for i, split in enumerate(sorted(set(splits))):
        first, count = splits.index(split), splits.count(split)
        if i % 2:
            axes.axvspan(first - 0.5, first + count - 0.5, color="#EEEEEE", zorder=0)
        middle = first + (count - 1) / 2
        axes.text(middle, 1.01, split, ha="center", va="bottom", transform=axes.get_xaxis_transform())
    axes.set_xlim(-0.5, len(rows) - 0.5)
    axes.set_ylim(0, 1.05 * bottom.max())
    axes.grid(False, axis="x")
    label_thousands(axes.yaxis)
    axes.set(ylabel="patches")
    if len(rows) <= _NAMED_SLIDES:
        axes.set_xticks(x, [shorten_to_length(row.slide, 16) for row in rows], rotation=90 if len(rows) > 2 else 0)
    else:
        axes.set_xticks([])
        axes.set(xlabel="slides, the largest of each split first")
