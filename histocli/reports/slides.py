"""The report of `histo eval --maps`: slide-level AUC, FROC and the recall of lesions."""

from dataclasses import dataclass

from histocli.schema import Count, Fraction

Interval = tuple[float, float]


@dataclass(frozen=True)
class Estimate:
    """A metric, and its 95% interval by slide; None where it has no value."""

    value: float | None
    interval: Interval | None = None


@dataclass(frozen=True)
class Recall:
    """How many lesions of a size were found at the threshold, and the share with its interval."""

    found: Count
    lesions: Count
    recall: Estimate


@dataclass(frozen=True)
class ChosenScore:
    """The way to make one score of a slide that has the highest AUC on training slides, and the AUC of each there."""

    name: str
    folder: str
    slides: Count
    auc: dict[str, float]


@dataclass(frozen=True)
class SlideEvaluation:
    """The evaluation of the maps in a folder.

    `auc` has the AUC of each way to make one score of a slide; `chosen` is one of them, None if none was chosen.
    `froc`, `false_positives` and `sensitivity` are the score and the curve of Camelyon16, `recall` is by size; without
    annotations they are empty.
    """

    folder: str
    truth: str
    threshold: Fraction
    slides: Count
    tumour_slides: Count
    without_truth: list[str]
    failed: list[str]
    auc: dict[str, Estimate]
    scores: dict[str, dict[str, float]]
    labels: dict[str, int]
    froc: Estimate
    false_positives: list[float]
    sensitivity: list[float]
    recall: dict[str, Recall]
    chosen: ChosenScore | None = None
