"""Plots of reports: one module per kind of report, one shared style."""

from histocli.config import PlotFormat as Format
from histocli.config import PlotKind as Kind

__all__ = ["Format", "Kind", "shorten"]


def shorten(name: str, length: int) -> str:
    """Shorten a name to `length` characters; its middle is removed, because names mostly differ at their ends."""
    head = (length - 1) // 2
    return name if len(name) <= length else f"{name[:head]}…{name[head + 1 - length :]}"
