"""Metric files in, pictures out: one module per kind of input, one shared style."""

from enum import StrEnum


class Kind(StrEnum):
    """What to draw; `ALL` is every kind whose file is there."""

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
    OPTIMISM = "optimism"


class Format(StrEnum):
    """The file formats of a picture, by their extension."""

    PNG = "png"
    SVG = "svg"
    PDF = "pdf"


def shorten(name: str, length: int) -> str:
    """A name of at most `length` characters: a longer one loses its middle, for what tells names apart is at an end."""
    head = (length - 1) // 2
    return name if len(name) <= length else f"{name[:head]}…{name[head + 1 - length :]}"
