"""The report of `histo eval`: the metrics of checkpoints on labelled patches."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

from histocli.atomic import read_json, write_json
from histocli.config import STORED_THRESHOLD
from histocli.errors import HistoError
from histocli.metrics import Measurement, Uncertainty
from histocli.metrics.groups import GroupMetrics
from histocli.reports.caveats import Caveat, list_caveats
from histocli.reports.likeness import Likeness
from histocli.schema import Count, Json, from_json, to_json
from histocli.workspace import Workspace

OUT_OF_FOLD = "out-of-fold"  # the split of the evaluation of all folds
_GROUPS = {
    "slides": "slide",
    "hospitals": "hospital",
}  # fields with a list of groups, and the key of the group's name in JSON


@dataclass(frozen=True)
class EvaluatedCheckpoint:
    """A checkpoint that was evaluated: its run, epoch, file and SHA-256, and the engine that computed its scores.

    `weights_note` is what a user must know of the weights that training started from, or "".
    """

    run: str
    arch: str
    epoch: Count
    temperature: float
    checkpoint: str
    checkpoint_sha256: str
    engine: str
    weights_note: str


@dataclass(frozen=True, kw_only=True)
class EvaluationReport:
    """An evaluation of one checkpoint, or of an ensemble of several, on labelled patches.

    Attributes:
        run: the name of the run; for an ensemble, the names of all runs.
        data: the name of the data set or folder.
        split: the split of the data set.
        splits: the splits of the measured patches; empty for a folder.
        folder: the path of the folder or zip; None for a packed data set.
        checkpoints: the checkpoints that were evaluated.
        manifest_sha256: the SHA-256 of the manifest that lists the patches.
        tta: whether the eight flips and right-angle rotations were averaged.
        is_calibrated: whether each checkpoint's temperature was applied.
        assumed_prevalence: the share of tumour patches that the probabilities were adjusted to; None if they were not.
        skipped: the number of patches that were not scored, by reason.
        changed: the number of images of a folder that were changed or guessed, by what was done, such as cut.
        packed: the packed data set of the patches; None for a folder.
        data_source: where the packed data set came from, such as pcam; "" if it is not known.
        is_own: whether the patches are from the run's own subset (its train split, or all of it), not from the whole
            data set.
        n_in_training: the number of patches that a checkpoint was trained on; None if it is not known.
        n_in_validation: the number of patches with which the epoch, temperature and threshold were chosen.
        n_of_training_slides: the number of other patches whose slide has training patches; None if it is not known.
        n_of_validation_slides: the number of other patches whose slide has validation patches.
        n_unknown_checkpoints: the number of checkpoints that these four counts leave out, because the patches of their
            runs are not known.
        calibration_mismatch: whether several views or networks were averaged, although temperature and threshold were
            chosen for one view of one network.
        scores: the name of the CSV file of scores.
        likeness: how like the training patches they look; None for a run's own validation patches.
        resize: how images of a folder with another size became patches: crop or scale.
        mpp: the micrometres per pixel of these images, if they were rescaled.
        threshold_rule: the value of `--threshold`.
        measured: the metrics and curves.
        before_calibration: the metrics that depend on the temperature, computed without it.
        uncertainty: the intervals.
        slides: the metrics of each slide.
        hospitals: the metrics of each hospital.
    """

    run: str
    data: str
    split: str
    splits: tuple[str, ...] = ()
    folder: str | None = None
    checkpoints: tuple[EvaluatedCheckpoint, ...]
    manifest_sha256: str | None = None
    tta: bool
    is_calibrated: bool
    assumed_prevalence: float | None = None
    skipped: dict[str, Count] = field(default_factory=dict)
    changed: dict[str, Count] = field(default_factory=dict)
    packed: str | None = None
    data_source: str = ""
    is_own: bool = False
    n_in_training: Count | None = None
    n_in_validation: Count | None = None
    n_of_training_slides: Count | None = None
    n_of_validation_slides: Count | None = None
    n_unknown_checkpoints: Count = 0
    calibration_mismatch: bool = False
    scores: str
    likeness: Likeness | None = None
    resize: str = "crop"
    mpp: float | None = None
    threshold_rule: str = STORED_THRESHOLD
    measured: Measurement = field(metadata={"flat": True})
    before_calibration: dict[str, float | None]
    uncertainty: Uncertainty = field(metadata={"flat": True})
    slides: list[GroupMetrics] = field(default_factory=list)
    hospitals: list[GroupMetrics] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Check that the scores are in the report's folder, because the file may come from someone else."""
        if Path(self.scores).name != self.scores or self.scores in ("", ".."):
            raise ValueError("names scores that are not in its folder")

    @property
    def variants(self) -> list[str]:
        """What differs from the default in the patches, how they were read, and how probabilities were computed."""
        texts = {
            "the run's own subset": self.is_own,
            "8 views averaged": self.tta,
            "uncalibrated": not self.is_calibrated,
            f"prevalence {self.assumed_prevalence}": self.assumed_prevalence is not None,
            "scaled": self.resize != "crop",
            f"mpp {self.mpp}": self.mpp is not None,
        }
        return [text for text, is_so in texts.items() if is_so]

    @property
    def predictive_values(self) -> dict[str, float | None]:
        """PPV and NPV in data with the assumed prevalence, from sensitivity and specificity; empty without one."""
        if (share := self.assumed_prevalence) is None:
            return {}
        values: dict[str, float | None] = dict.fromkeys(("ppv", "npv"))
        sensitivity, specificity = self.measured.metrics["sensitivity"], self.measured.metrics["specificity"]
        if sensitivity is not None and specificity is not None:
            true_positive, false_positive = sensitivity * share, (1 - specificity) * (1 - share)
            true_negative, false_negative = specificity * (1 - share), (1 - sensitivity) * share
            for name, right, wrong in (("ppv", true_positive, false_positive), ("npv", true_negative, false_negative)):
                values[name] = right / (right + wrong) if right + wrong else None
        return values

    def list_caveats(self) -> list[Caveat]:
        """Return why the metrics may be better, or their intervals narrower, than on new slides."""
        return list_caveats(self)

    def to_json(self) -> Json:
        """Return the report as plain values.

        The fields of a single checkpoint are at the top level; several checkpoints are a list under `ensemble`.
        """
        values = to_json(self) | {"predictive_values": self.predictive_values}
        for key, name in _GROUPS.items():
            groups: list[GroupMetrics] = getattr(self, key)
            values[key] = [{name: g.name, "n": g.n, "positives": g.positives, **g.metrics} for g in groups]
        checkpoints = cast(list[Json], values.pop("checkpoints"))
        if len(checkpoints) == 1:
            return {"ensemble": []} | checkpoints[0] | values
        return {"ensemble": checkpoints} | values

    @classmethod
    def from_json(cls, value: object, file: str) -> "EvaluationReport":
        """Return the report of a metrics file.

        Raises:
            HistoError: a field is missing or has a wrong type or value.
        """
        hint = "histo eval writes it again"
        if not isinstance(value, dict):
            return from_json(cls, value, file, hint)
        if value.get("split") == OUT_OF_FOLD:
            hint = "histo train --folds with --resume writes it again"
        values = dict(value)
        values["checkpoints"] = values.get("ensemble") or [values]
        for key, name in _GROUPS.items():
            rows = values.get(key, [])
            values[key] = [_parse_group_row(row, name) for row in rows] if isinstance(rows, list) else rows
        return from_json(cls, values, file, hint)


def _parse_group_row(row: object, name: str) -> object:
    """Return the JSON row of a slide or hospital with the fields of `GroupMetrics`; another value as it is."""
    if not isinstance(row, dict):
        return row
    metrics = {key: value for key, value in row.items() if key not in (name, "n", "positives")}
    return {"name": row.get(name), "n": row.get("n"), "positives": row.get("positives"), "metrics": metrics}


def format_interval(uncertainty: Uncertainty, name: str, digits: int = 4) -> str:
    """Return the 95% interval of a metric as text, "" if it has none; one by DeLong is marked as such."""
    interval = uncertainty.find_interval(name)
    if interval is None:
        return ""
    method = "DeLong: " if uncertainty.has_delong_interval(name) else ""
    return f"{method}{interval[0]:.{digits}f} to {interval[1]:.{digits}f}"


def is_evaluation(value: object) -> bool:
    """Return whether the content of a JSON file in `metrics/` is an evaluation, and not another kind of report."""
    return isinstance(value, dict) and {"run", "data", "split", "scores", "metrics", "curves"} <= value.keys()


def is_of_other_data(path: Path, origin: Mapping[str, str | None]) -> bool:
    """Return whether a file in `metrics/` is something else than a report with these values of `origin`.

    A file that is missing or damaged is not: it may be written.
    """
    with suppress(HistoError):
        if path.is_file():
            content = read_json(path)
            return not isinstance(content, dict) or {name: content.get(name) for name in origin} != origin
    return False


def read_evaluations(workspace: Workspace, run: str, data: Collection[str] = ()) -> dict[Path, EvaluationReport]:
    """Read the evaluations of a run in the workspace, sorted by file name: all, or those on the data sets `data`.

    Raises:
        HistoError: a file cannot be read, or a field is missing or has a wrong type or value.
    """
    values = {path: read_json(path) for path in sorted(workspace.metrics_dir.glob(f"{run}-*.json"))}
    reports = {
        path: EvaluationReport.from_json(value, str(path))
        for path, value in values.items()
        if is_evaluation(value) and value["run"] == run
    }
    return {path: report for path, report in reports.items() if not data or report.data in data}


def find_newest_name(workspace: Workspace) -> str | None:
    """Return the run or other network, such as the packaged one, that was trained or evaluated last; None for none.

    An evaluation of folds does not count, nor does a file that is damaged.
    """
    run = next(reversed(workspace.list_runs()), None)
    trained = workspace.find_training_time(run) if run else 0
    times = {path: path.stat().st_mtime_ns for path in workspace.metrics_dir.glob("*.json")}
    for path in sorted((path for path, time in times.items() if time > trained), key=lambda path: -times[path]):
        with suppress(HistoError):  # the command that reads a damaged evaluation reports the error
            value = read_json(path)
            if is_evaluation(value) and value["split"] != OUT_OF_FOLD and isinstance(value["run"], str):
                return value["run"]
    return run


def read_evaluation(path: Path, hint: str = "") -> EvaluationReport:
    """Read an evaluation; `hint` is that of the error if the file is another kind of report.

    Raises:
        HistoError: the file cannot be read, or is not an evaluation; or a field has a wrong type or value.
    """
    value = read_json(path)
    if not is_evaluation(value):
        raise HistoError(f"{path} is not an evaluation of histo eval", hint)
    return EvaluationReport.from_json(value, str(path))


def write_evaluation(path: Path, report: EvaluationReport) -> None:
    """Write an evaluation atomically."""
    write_json(path, report.to_json())
