"""The data that trackers get about a run, and `trackers.json`, the record of what was sent."""

from dataclasses import dataclass
from pathlib import Path

from histocli.atomic import read_json, write_json
from histocli.data.manifest import read_manifest
from histocli.enums import Track
from histocli.errors import HistoError
from histocli.inference.validation import evaluate_best
from histocli.models.checkpoint import load_checkpoint
from histocli.reports.evaluation import EvaluationReport
from histocli.reports.run import Epoch, read_run
from histocli.schema import Count, from_json, to_json
from histocli.trackers.base import TrackedRun
from histocli.training.repeats import find_repeats_name
from histocli.workspace import Workspace

_STATE = "trackers.json"


@dataclass(frozen=True)
class TrackerState:
    """A run's id in a tracker, and how many of its epochs the tracker has."""

    id: str
    epochs: Count = 0


def read_state(folder: Path) -> dict[Track, TrackerState]:
    """Return what each tracker has of the run in this folder; a tracker that it was never sent to is absent."""
    path = folder / _STATE
    values = read_json(path) if path.is_file() else {}
    if not isinstance(values, dict) or values.keys() - {kind.value for kind in Track}:
        raise HistoError(f"{path} is damaged", "remove it: the run is then sent again, as a new one")
    return {Track(kind): from_json(TrackerState, value, str(path)) for kind, value in values.items()}


def write_state(folder: Path, kind: Track, id: str, epochs: int | None) -> None:
    """Store a run's id in a tracker, and how many epochs it has; None leaves their number as it is."""
    states = read_state(folder)
    before = states[kind].epochs if kind in states else 0
    states[kind] = TrackerState(id, before if epochs is None else epochs)
    write_json(folder / _STATE, {tracker.value: to_json(state) for tracker, state in states.items()})


def make_tracked_run(workspace: Workspace, folder: Path, id: str) -> TrackedRun:
    """Return the run in a folder as trackers see it; `id` is the tracker's own id of it, or "".

    Its configuration has what `config.json` says, without the options that are not set. Its tags are the values by
    which a user finds runs: the network, its first weights, the subset and its data set.
    """
    record = read_run(folder)
    values = {
        **record.options,
        "learning_rate": record.learning_rate,
        "packed_data": record.data,
        "train_patches": record.train_patches,
        "val_patches": record.val_patches,
        "manifest_sha256": record.manifest_sha256,
        "computed_on": record.device,
        "checkpoint": str((folder / "best.pt").absolute()),
        "git_commit": record.git_commit,
        **{f"version_{name}": version for name, version in record.versions.items()},
    }
    config = {name: value for name, value in values.items() if value is not None}
    names = {"arch": "arch", "weights": "weights", "subset": "data", "data": "packed_data"}
    tags = {"tool": f"histo {config['version_histo']}"} | {tag: str(config[name]) for tag, name in names.items()}
    group = find_repeats_name(folder.name) if record.is_repeat else ""
    return TrackedRun(folder.name, group, folder, workspace.root, config, tags, id)


def make_epoch_metrics(epoch: Epoch) -> dict[str, float]:
    """Return the metrics of an epoch under the names `train/loss`, `val/auc`, ...; an undefined AUC is absent."""
    names = {
        "train/loss": epoch.train_loss,
        "train/lr": epoch.lr,
        "train/patches_per_second": epoch.patches_per_second,
        "train/seconds": epoch.seconds,
        "val/loss": epoch.val_loss,
        "val/auc": epoch.val_auc,
        "val/accuracy": epoch.val_accuracy,
        "epoch": epoch.epoch,
    }
    return {name: float(value) for name, value in names.items() if value is not None}


def evaluate_best_of_run(folder: Path) -> EvaluationReport:
    """Return the evaluation of the best.pt of the run in a folder, as in the run's model card."""
    path = folder / "best.pt"
    manifest = read_manifest(folder / "manifest.csv", ("id", "label", "slide", "split"))
    return evaluate_best(path, load_checkpoint(path), manifest, read_run(folder).data)


def make_best_metrics(report: EvaluationReport) -> dict[str, float]:
    """Return the metrics of a run's best epoch and their 95% intervals: `best/auc`, `best/auc_low`, ...

    An undefined metric or interval is absent.
    """
    (best,) = report.checkpoints
    values = {"best/epoch": float(best.epoch), "best/temperature": best.temperature}
    return values | make_measured_values(report, "best/")


def make_measured_values(report: EvaluationReport, prefix: str) -> dict[str, float]:
    """Return the metrics of an evaluation, their intervals and the threshold, by names that begin with `prefix`.

    An undefined metric or interval is absent.
    """
    values = {f"{prefix}threshold": report.measured.threshold}
    for name, value in report.measured.metrics.items():
        if value is None:
            continue
        values[prefix + name] = value
        interval = report.uncertainty.find_interval(name)
        if interval is not None:
            values[f"{prefix}{name}_low"], values[f"{prefix}{name}_high"] = interval
    return values
