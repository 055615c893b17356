"""The report of `histo train --folds` and `--seeds`: validation metrics of several runs, their mean and spread."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from histocli.schema import Count, Fraction, to_json
from histocli.workspace import write_json


@dataclass(frozen=True)
class RepeatedRun:
    """One of the runs: its fold (from 1) or seed as `number`, and the validation metrics of its best epoch."""

    run: str
    number: Count
    epoch: Count
    n: Count
    threshold: Fraction
    metrics: dict[str, float | None]


@dataclass(frozen=True)
class RepeatsReport:
    """Runs that differ only in the fold or in the seed, with mean and standard deviation of each metric.

    `split_by` is what the split keeps together: slide, overlap group or patch. The mean and standard deviation of a
    metric are None if the metric is undefined for any run.
    """

    name: str
    kind: Literal["folds", "seeds"]
    split_by: str = field(metadata={"old": "parted_by"})
    runs: list[RepeatedRun]
    mean: dict[str, float | None]
    standard_deviation: dict[str, float | None]


def write_repeats(path: Path, report: RepeatsReport) -> None:
    """Write the report of several runs atomically."""
    write_json(path, to_json(report))
