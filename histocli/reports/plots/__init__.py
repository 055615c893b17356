"""Metric files in, pictures out: one module per kind of input, one shared style."""

from histocli.config import PlotFormat as Format
from histocli.config import PlotKind as Kind

__all__ = ["Format", "Kind", "shorten"]


def shorten(name: str, length: int) -> str:
    """A name of at most `length` characters: a longer one loses its middle, for what tells names apart is at an end."""
    head = (length - 1) // 2
    return name if len(name) <= length else f"{name[:head]}…{name[head + 1 - length :]}"
