"""Plots of reports: one module per kind of report, one shared style."""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from histocli.enums import PlotFormat as Format
from histocli.enums import PlotKind as Kind
from histocli.errors import HistoError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Format", "Kind", "MissingInputError", "Plot", "shorten"]


class MissingInputError(HistoError):
    """The file that a kind of plot is drawn from does not exist."""


class Plot(NamedTuple):
    """A plot to draw: its file name without extension, its size in inches, and the function that draws it."""

    stem: str
    width: float
    height: float
    draw: "Callable[[Figure], None]"


def shorten(name: str, length: int) -> str:
    """Shorten a name to `length` characters; its middle is removed, because names mostly differ at their ends."""
    head = (length - 1) // 2
    return name if len(name) <= length else f"{name[:head]}…{name[head + 1 - length :]}"
