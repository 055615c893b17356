"""The report of `histo train --folds` and `--seeds`: validation metrics of several runs, their mean and spread."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from histocli.atomic import read_json, write_json
from histocli.schema import Count, Fraction, from_json, to_json
from histocli.workspace import Workspace


@dataclass(frozen=True)
class RepeatedRun:
    """One of the runs: its fold (from 1) or seed as `number`, and the validation metrics of its best epoch.

    `hospitals` are those of its validation patches, if the fold leaves out whole hospitals.
    """

    run: str
    number: Count
    epoch: Count
    n: Count
    threshold: Fraction
    metrics: dict[str, float | None]
    hospitals: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class RepeatsReport:
    """Runs that differ only in the fold or in the seed, with mean and standard deviation of each metric.

    `split_by` is what the split keeps together: slide, overlap group or patch. The mean and standard deviation of a
    metric are None if the metric is undefined for any run.
    """

    name: str
    kind: Literal["folds", "seeds"]
    split_by: str
    runs: list[RepeatedRun]
    mean: dict[str, float | None]
    standard_deviation: dict[str, float | None]


def make_repeats_path(workspace: Workspace, name: str, kind: str) -> Path:
    """Return the file of the report on the folds or seeds (`kind`: folds, seeds) with the common name `name`."""
    return workspace.metrics_dir / f"{name}-{kind}.json"


def write_repeats(workspace: Workspace, report: RepeatsReport) -> None:
    """Write the report of several runs atomically."""
    write_json(make_repeats_path(workspace, report.name, report.kind), to_json(report))


def read_repeats(workspace: Workspace, name: str) -> list[RepeatsReport]:
    """Read the reports of the folds and of the seeds with a common name; none if there are none.

    Raises:
        HistoError: a file cannot be read, or a field is missing or has a wrong type or value.
    """
    paths = [make_repeats_path(workspace, name, kind) for kind in ("folds", "seeds")]
    hint = "histo train --folds or --seeds with --resume writes it again"
    return [from_json(RepeatsReport, read_json(path), str(path), hint) for path in paths if path.is_file()]
