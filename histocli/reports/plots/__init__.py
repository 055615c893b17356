"""Plots of reports: one module per kind of report, one shared style."""

from enum import StrEnum


class Kind(StrEnum):
    """What to draw; `ALL` is every kind whose input exists."""

    ALL = "all"
    CURVES = "curves"
    ROC = "roc"
    PR = "pr"
    CONFUSION = "confusion"
    CALIBRATION = "calibration"
    SCORES = "scores"
    BALANCE = "balance"
    SAMPLES = "samples"
    ERRORS = "errors"


class Format(StrEnum):
    """The file formats of a plot, by their extension."""

    PNG = "png"
    SVG = "svg"
    PDF = "pdf"


def shorten(name: str, length: int) -> str:
    """Shorten a name to `length` characters by its middle, because names mostly differ at their ends."""
    head = (length - 1) // 2
    return name if len(name) <= length else f"{name[:head]}…{name[head + 1 - length :]}"
