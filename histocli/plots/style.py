"""The style of all plots, and a function that writes them; the same input gives the same bytes."""

import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import matplotlib.style
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from histocli.atomic import write_atomically
from histocli.config import PAGE_WIDTH, PlotConfig
from histocli.enums import PlotFormat

# Okabe & Ito (2008): colours that differ under every common colour blindness: https://jfly.uni-koeln.de/color/
NORMAL, TUMOUR = "#0072B2", "#D55E00"
GREEN, ORANGE, PURPLE, GREY = "#009E73", "#E69F00", "#CC79A7", "#666666"
CLASS_NAMES = ("normal", "tumour")
CLASS_COLOURS = (NORMAL, TUMOUR)
REFERENCE: dict[str, Any] = {"color": GREY, "linestyle": ":", "linewidth": 0.9}  # lines to compare curves with

COLUMN = 3.5  # inches: one column of a paper; sheets of patches take two
PAGE = PAGE_WIDTH
DPI = PlotConfig.dpi
_TITLE_CHARACTERS = 14  # how many characters of a title fit in an inch

_STYLE: dict[str, Any] = {
    "axes.grid": True,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 9,
    "figure.dpi": DPI,
    "figure.titlesize": 9,
    "font.family": "DejaVu Sans",  # part of Matplotlib, so that every machine draws the same
    "font.size": 8,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "legend.fontsize": 8,
    "legend.edgecolor": "none",
    "legend.facecolor": "white",  # text over a curve or over the diagonal stays readable
    "legend.framealpha": 0.8,
    "legend.handlelength": 1.4,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.5,
    "pdf.fonttype": 42,
    "savefig.dpi": DPI,
    "svg.hashsalt": "histo",
    "text.parse_math": False,  # a name may have a dollar sign
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
}
_METADATA: dict[PlotFormat, dict[str, Any]] = {
    PlotFormat.PNG: {"Software": None},
    PlotFormat.SVG: {"Date": None},
    PlotFormat.PDF: {"CreationDate": None},
}


class PlotStyle(NamedTuple):
    """How plots are written: in which format, with which resolution, how wide in inches, and whether with a title."""

    format: PlotFormat = PlotFormat.PNG
    dpi: int = DPI
    width: float | None = None
    has_title: bool = True


def save(path: Path, style: PlotStyle, width: float, height: float, draw: Callable[[Figure], None]) -> Path:
    """Draw a figure of `width` by `height` inches with `draw`, and write it to `path` atomically.

    If `style` has a width, the figure has this width, and its height is scaled in proportion.

    Raises:
        HistoError: it cannot be written.
    """
    with write_atomically(path) as temporary:
        render(temporary, style, width, height, draw)
    return path


def render(
    target: Path | BinaryIO, style: PlotStyle, width: float, height: float, draw: Callable[[Figure], None]
) -> None:
    """Draw a figure as `save` does, and write it to an open file or a path."""
    with matplotlib.style.context(["default", _STYLE]):
        scale = style.width / width if style.width else 1.0
        figure = Figure(figsize=(width * scale, height * scale), layout="constrained")
        draw(figure)
        if not style.has_title:
            figure.suptitle("").set_in_layout(False)
        if figure.legends:
            figure.draw_without_rendering()  # the layout knows the size of a legend only after it was drawn once
        figure.savefig(target, format=style.format.value, dpi=style.dpi, metadata=_METADATA[style.format])


def set_title(figure: Figure, heading: str, *facts: str) -> None:
    """Set the figure's title: the heading, then a line for each fact, wrapped to the figure's width."""
    width = int(figure.get_figwidth() * _TITLE_CHARACTERS)
    lines = [line for text in (heading, *facts) for line in textwrap.wrap(text, width)]
    figure.suptitle("\n".join(lines))


def label_thousands(axis: Axis) -> None:
    """Label an axis of counts with a few whole numbers with thousands separators."""
    axis.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
