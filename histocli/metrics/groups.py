"""The metrics of each slide, or of each hospital."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from histocli.metrics.curves import Floats, Ints
from histocli.metrics.registry import PER_GROUP, compute_metric_values
from histocli.metrics.weighted import SortedScores
from histocli.schema import Count


@dataclass(frozen=True)
class GroupMetrics:
    """The metrics of the patches of one slide or hospital; None where undefined."""

    name: str
    n: Count
    positives: Count
    metrics: dict[str, float | None]

    def __post_init__(self) -> None:
        """Check that no metric is missing, because tables look for all of them."""
        if missing := set(PER_GROUP) - self.metrics.keys():
            raise ValueError(f"does not have the metric {min(missing)}")


def sort_by_accuracy(groups: Iterable[GroupMetrics]) -> list[GroupMetrics]:
    """Return the groups with the lowest accuracy first; if it is equal, those with more patches."""
    return sorted(groups, key=lambda group: (group.metrics["accuracy"] or 0, -group.n))


def compute_group_metrics(
    groups: npt.NDArray[np.str_], labels: Ints, probs: Floats, threshold: float
) -> list[GroupMetrics]:
    """Compute the metrics of each group, sorted by name; patches with the group "" are not counted.

    `groups`, `labels` and `probs` are (N,), with one value for each patch.
    """
    order = np.argsort(groups, kind="stable")
    names, starts = np.unique(groups[order], return_index=True)
    rows = []
    for name, part in zip(names.tolist(), np.split(order, starts[1:]), strict=True):
        if name:
            values = compute_metric_values(SortedScores(labels[part], probs[part], threshold))
            shown = {metric: values[metric] for metric in PER_GROUP}
            rows.append(GroupMetrics(name, len(part), int(labels[part].sum()), shown))
    return rows
