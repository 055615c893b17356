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


class Format(StrEnum):
    """The file formats of a picture, by their extension."""

    PNG = "png"
    SVG = "svg"
    PDF = "pdf"
