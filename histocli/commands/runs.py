"""`histo runs`: list the training runs, and remove some."""

import filecmp
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from histocli.config import CHECKPOINT
from histocli.enums import RunSort
from histocli.errors import HistoError, UsageError
from histocli.fs import measure_folder
from histocli.locks import is_held
from histocli.models.checkpoint import load_checkpoint
from histocli.reports.run import (
    Epoch,
    RunRecord,
    list_members,
    make_epoch_key,
    make_history_hint,
    read_history,
    read_run,
)
from histocli.schema import Count
from histocli.temporary import remove_folder
from histocli.training.provenance import lock_run
from histocli.workspace import Workspace

FINISHED, TRAINING, STOPPED, DAMAGED = "finished", "training", "stopped", "damaged"


@dataclass(frozen=True)
class RunSummary:
    """A training run: what it was trained on, how far it is, and its best epoch.

    Attributes:
        run: its name.
        state: finished, training, stopped (`--resume` continues it) or damaged (a file of it cannot be read).
        arch: the architecture.
        data: the data set.
        subset: the subset of the data set.
        epochs_trained: how many epochs are trained and validated.
        epochs: how many there are to train.
        best_epoch: the epoch of `best.pt`; None before the first validation.
        val_auc: the validation AUC of this epoch; None if it is undefined.
        seconds: the time that the epochs took.
        updated: when the last file of the run was written, in UTC, as ISO 8601.
        bytes: the size of its folder.
        is_default: whether `--ckpt best.pt` is the checkpoint of this run.
        problem: why it is damaged; "" if it is not.
        fix: what to do about this.
    """

    run: str
    state: str
    arch: str
    data: str
    subset: str
    epochs_trained: Count
    epochs: Count
    best_epoch: Count | None
    val_auc: float | None
    seconds: float
    updated: str
    bytes: Count
    is_default: bool
    problem: str = ""
    fix: str = ""


class RemovedRuns(NamedTuple):
    """The removed runs, the freed bytes, and whether `--ckpt best.pt` is the checkpoint of one of them."""

    runs: list[str]
    bytes: int
    has_default: bool


def list_runs(workspace: Workspace, sort: RunSort) -> list[RunSummary]:
    """Return all runs: the newest first, or that with the highest validation AUC, or by name."""
    runs = [_summarise(workspace, run) for run in reversed(workspace.list_runs())]
    if sort is RunSort.AUC:
        return sorted(runs, key=lambda run: -1.0 if run.val_auc is None else run.val_auc, reverse=True)
    return sorted(runs, key=lambda run: run.run) if sort is RunSort.NAME else runs


def remove_runs(workspace: Workspace, names: Sequence[str]) -> RemovedRuns:
    """Remove the folders of runs; none if one of them cannot be removed because it is not there or in use.

    Their evaluations in `metrics/` and the copy of a checkpoint in `checkpoints/` stay.

    Raises:
        UsageError: no name is given.
        HistoError: a run does not exist, or is being trained.
    """
    if not names:
        raise UsageError("histo runs rm needs the name of a run", "histo runs lists them")
    names = list(dict.fromkeys(names))
    known = sorted({path.name for path in workspace.runs_dir.glob("[!.]*") if path.is_dir()})
    for name in names:
        if name not in known:
            if members := list_members(workspace, name):
                hint = f"histo runs rm {' '.join(members)}"
                raise HistoError(f"{name!r} is the common name of {len(members)} runs", hint)
            raise HistoError(f"there is no run {name!r}", f"runs: {', '.join(known) or 'none'}")
    with ExitStack() as held:
        for name in names:
            held.enter_context(lock_run(workspace, name))
        folders = [workspace.run_dir(name) for name in names]
        removed = RemovedRuns(
            names, sum(map(measure_folder, folders)), any(_is_published(workspace, name) for name in names)
        )
        for folder in folders:
            remove_folder(folder)
    return removed


def describe_default(workspace: Workspace, runs: Sequence[RunSummary]) -> str:
    """Return a sentence that says which checkpoint `--ckpt best.pt` is; "" if there is none."""
    path = workspace.checkpoints_dir / CHECKPOINT
    for run in runs:
        if run.is_default:
            epoch = load_checkpoint(path).epoch if run.best_epoch is None else run.best_epoch
            return f"--ckpt {CHECKPOINT} is epoch {epoch} of {run.run}"
    if not path.is_file():
        finished = next((run.run for run in runs if run.state == FINISHED), None)
        reason = f"there is no {CHECKPOINT}: folds and seeds are not copied to it"
        return f"{reason}; --ckpt {finished} uses that run" if finished else ""
    checkpoint = load_checkpoint(path)
    return f"--ckpt {CHECKPOINT} is epoch {checkpoint.epoch} of {checkpoint.run}, a run that was removed or replaced"


def _summarise(workspace: Workspace, run: str) -> RunSummary:
    """Return the summary of a run; if it cannot be read, its `problem` is the error, and its `fix` the hint."""
    folder = workspace.run_dir(run)
    problem = fix = ""
    record, history = RunRecord(run, "", 0), list[Epoch]()
    try:
        record = read_run(folder)
        history = read_history(folder / "history.jsonl")
    except HistoError as error:
        problem, fix = str(error), error.hint
    except FileNotFoundError as error:
        problem, fix = f"there is no file {error.filename}", make_history_hint(folder)
    best = max(history, key=make_epoch_key, default=None)
    epochs = int(record.options.get("epochs") or 0)
    return RunSummary(
        run=run,
        state=DAMAGED if problem else _find_state(workspace, run, len(history), epochs),
        arch=str(record.options.get("arch", "")),
        data=record.data,
        subset=str(record.options.get("data", "")),
        epochs_trained=len(history),
        epochs=epochs,
        best_epoch=best.epoch if best else None,
        val_auc=best.val_auc if best else None,
        seconds=sum(row.seconds for row in history),
        updated=datetime.fromtimestamp(_find_last_write(folder), UTC).isoformat(timespec="seconds"),
        bytes=measure_folder(folder),
        is_default=_is_published(workspace, run),
        problem=problem,
        fix=fix,
    )


def _find_state(workspace: Workspace, run: str, trained: int, epochs: int) -> str:
    """Return whether a run is being trained, is finished, or was stopped."""
    if is_held(workspace.run_lock_path(run)):
        return TRAINING
    return FINISHED if trained >= epochs else STOPPED


def _find_last_write(folder: Path) -> float:
    """Return when the newest checkpoint or history was written; an evaluation changes only the model card."""
    written = [folder / name for name in ("last.pt", "best.pt", "history.jsonl", "config.json")]
    return max((path.stat().st_mtime for path in written if path.is_file()), default=0.0)


def _is_published(workspace: Workspace, run: str) -> bool:
    """Return whether the best.pt in the workspace's checkpoints/ is a copy of the run's."""
    own, published = workspace.run_dir(run) / CHECKPOINT, workspace.checkpoints_dir / CHECKPOINT
    return own.is_file() and published.is_file() and filecmp.cmp(own, published, shallow=False)
