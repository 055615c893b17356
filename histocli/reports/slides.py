"""The report of `histo eval --maps`: slide-level AUC, FROC and the recall of lesions."""

import os
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from histocli.atomic import read_json
from histocli.enums import Weights
from histocli.metrics.curves import compute_roc, rank_scores
from histocli.metrics.intervals import FEW_CLUSTERS
from histocli.reports.caveats import Caveat
from histocli.reports.evaluation import is_of_other_data
from histocli.schema import Count, Fraction, from_json
from histocli.text import format_count, join_first
from histocli.workspace import Workspace, make_name

Interval = tuple[float, float]
MAXIMUM = "maximum"  # the score of a slide that is its highest probability
_MAX_LISTED = 3  # names of slides in a caveat
_TITLES = {"auc": "the AUC and the ROC curve of slides", "froc": "the FROC curve and the recall of lesions"}


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
    """The aggregation with the highest AUC on the training slides, and the AUC of each aggregation there."""

    name: str
    folder: str
    slides: Count
    auc: dict[str, float]


@dataclass(frozen=True)
class SlideEvaluation:
    """The evaluation of the maps in a folder.

    `auc` has the AUC of each aggregation, which is a way to make one score of a slide, such as the maximum; `chosen` is
    one of them, None if none was chosen. `froc`, `false_positives` and `sensitivity` are the score and the curve of
    Camelyon16, `recall` is by size; without annotations they are empty. `undefined` says why a metric has no value.

    `checkpoints` are the runs of the networks that made the maps, `unknown_checkpoints` those whose slides are not
    known. `in_training` and `in_validation` are the measured slides that the known checkpoints were trained and
    validated on. `weights_notes` are what a user must know of the weights that training started from.
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
    chosen: ChosenScore | None
    checkpoints: list[str]
    unknown_checkpoints: list[str]
    in_training: list[str]
    in_validation: list[str]
    weights_notes: list[str]
    undefined: dict[str, str]

    def __post_init__(self) -> None:
        """Check that fields fit each other: the file may come from someone else."""
        is_scored = all(scores.keys() == self.auc.keys() for scores in self.scores.values())
        if not is_scored or self.scores.keys() != self.labels.keys():
            raise ValueError("does not have a label and each kind of score for each slide")
        if MAXIMUM not in self.auc or set(self.labels.values()) - {0, 1}:
            raise ValueError(f"has no AUC of the {MAXIMUM}, or a label that is not 0 or 1")
        curve = self.false_positives
        if len(curve) != len(self.sensitivity) or curve[:1] not in ([], [0]) or curve != sorted(curve):
            raise ValueError("has a FROC curve that does not begin at 0 and rise")

    def list_caveats(self) -> list[Caveat]:
        """Return why metrics have no value, may be better than on new slides, or have intervals that are too narrow."""
        caveats = [
            Caveat(f"{title} cannot be computed: {self.undefined[name]}", is_serious=True)
            for name, title in _TITLES.items()
            if name in self.undefined
        ]
        if used := sorted({*self.in_training, *self.in_validation}):
            names = join_first(used, _MAX_LISTED)
            were = f"{format_count(self.slides, 'slide')} {'was' if len(used) == 1 else 'were'}"
            text = f"{len(used):,} of {were} used to train or validate the checkpoint ({names})"
            caveats.append(Caveat(f"{text}: the metrics are too good", is_serious=True))
        # The note on the packaged network says what it was trained on.
        if unknown := [name for name in self.unknown_checkpoints if name != Weights.HISTONET_PCAM]:
            names = " and ".join(unknown)
            text = "the slides of its training patches are not in the workspace"
            caveats.append(Caveat(f"it is not known whether {names} was trained on these slides: {text}"))
        caveats += [Caveat(f"PCam's slides are those of Camelyon16: {note}") for note in self.weights_notes]
        if min(self.tumour_slides, self.slides - self.tumour_slides) < FEW_CLUSTERS:
            caveats.append(Caveat(f"with fewer than {FEW_CLUSTERS} slides of a class, the intervals are too narrow"))
        return caveats

    def compute_roc(self, name: str) -> list[tuple[float, float]]:
        """Return the ROC curve of slides by one of their scores: 1 - specificity and sensitivity, from (0, 0) on.

        It is empty if there are no slides with tumour, or none without.
        """
        scores = np.array([self.scores[slide][name] for slide in self.labels])
        curve = compute_roc(rank_scores(np.array(list(self.labels.values())), scores))
        return list(zip(curve.fpr, curve.tpr, strict=True))


def find_slide_evaluation_path(workspace: Workspace, folder: Path) -> Path:
    """Return where `histo eval --maps` writes the evaluation of the maps in a folder.

    The file is named after the folder. If that file is of another folder with this name, a hash of the path is added.
    """
    place = folder.resolve()
    name = f"slides-{place.name}"
    first, other = (
        workspace.metrics_dir / f"{make_name(text)}.json"
        for text in (name, f"{name}-{sha256(os.fsencode(place)).hexdigest()[:8]}")
    )
    return other if other.is_file() or is_of_other_data(first, {"folder": str(place)}) else first


def read_slide_evaluation(workspace: Workspace, folder: Path) -> SlideEvaluation | None:
    """Return the evaluation of the maps in a folder; None if they were not evaluated.

    Raises:
        HistoError: the file of the evaluation cannot be read.
    """
    path = find_slide_evaluation_path(workspace, folder)
    if not path.is_file():
        return None
    found = from_json(SlideEvaluation, read_json(path), str(path), f"histo eval --maps {folder} writes it again")
    return found if found.folder == str(folder.resolve()) else None
