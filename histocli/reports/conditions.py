"""What must be equal to compare evaluations of several runs."""

from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from histocli.config import STORED_THRESHOLD
from histocli.reports.evaluation import EvaluationReport


class Conditions(NamedTuple):
    """What must be equal to compare evaluations: the data, the split, and how the patches were scored.

    `threshold` is the value of `--threshold`, or "" if the threshold does not matter, as for a ROC curve.
    """

    data: str
    split: str
    variants: tuple[str, ...]
    folder: str
    threshold: str = ""

    @property
    def parts(self) -> list[str]:
        """What titles and the names of files show: all but the folder, and only options that are not the default."""
        threshold = [] if self.threshold in ("", STORED_THRESHOLD) else [f"threshold {self.threshold}"]
        return [part for part in (self.data, self.split, *self.variants, *threshold) if part]


def group_by_conditions(
    evaluations: dict[Path, EvaluationReport], *, by_threshold: bool = False
) -> dict[Conditions, EvaluationReport]:
    """Return the conditions that a run was evaluated in, with one evaluation for each.

    If several have the same conditions, it is one at the stored threshold, and of the run's best epoch if there is one.
    With `by_threshold`, evaluations at different thresholds have different conditions.
    """
    groups: dict[Conditions, list[tuple[Path, EvaluationReport]]] = defaultdict(list)
    for path, report in evaluations.items():
        threshold = _format_threshold(report.threshold_rule) if by_threshold else ""
        key = Conditions(report.data, report.split, tuple(report.variants), report.folder or "", threshold)
        groups[key].append((path, report))
    return {key: min(found, key=_rank_evaluation)[1] for key, found in groups.items()}


def have_same_patches(reports: Sequence[EvaluationReport]) -> bool:
    """Return whether evaluations in the same conditions scored the same patches, as far as the reports show it."""
    return len({(report.manifest_sha256, report.measured.n, report.measured.positives) for report in reports}) == 1


def _rank_evaluation(evaluation: tuple[Path, EvaluationReport]) -> tuple[bool, int]:
    """Return a sort key: of evaluations that differ only in threshold and epoch, that with the lowest key is used."""
    path, report = evaluation
    # The name has a hash, and is longer, if it is not the best epoch.
    return report.threshold_rule != STORED_THRESHOLD, len(path.name)


def _format_threshold(rule: str) -> str:
    """Return the value of `--threshold`, with the same text for the same number."""
    with suppress(ValueError):
        return repr(float(rule))
    return rule
