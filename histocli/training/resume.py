"""The options of a run that is resumed, or extended to more epochs."""

from collections.abc import Collection
from dataclasses import fields, replace
from typing import NamedTuple

from histocli.config import RunConfig, TrainConfig
from histocli.errors import HistoError, UsageError
from histocli.models.checkpoint import load_checkpoint
from histocli.schema import from_json
from histocli.workspace import Workspace


class StoredRun(NamedTuple):
    """A run as its last.pt has it: its name, its options, and how many epochs it has trained and validated."""

    name: str
    config: RunConfig
    epochs_trained: int


def load_run_config(workspace: Workspace, name: str | None) -> StoredRun:
    """Return the run to resume: `name`, or the newest run.

    Raises:
        HistoError: there is no such run.
    """
    runs = [run for run in workspace.list_runs() if (workspace.run_dir(run) / "last.pt").is_file()]
    if name and name not in runs and name in workspace.list_runs():
        raise HistoError(
            f"{workspace.run_dir(name) / 'last.pt'} is missing, or is not a file: {name!r} cannot be resumed",
            "start a new run with another --name",
        )
    if not runs or (name and name not in runs):
        raise HistoError(
            f"there is no run {name!r} to resume" if name else "there is no run to resume",
            f"runs that can be resumed: {', '.join(runs)}"
            if runs
            else "no run here can be resumed; histo train starts one",
        )
    run = name or runs[-1]
    last = workspace.run_dir(run) / "last.pt"
    checkpoint = load_checkpoint(last)
    if unknown := checkpoint.config.keys() - {field.name for field in fields(RunConfig)}:
        raise HistoError(f"{last} has options that this version does not know: {min(unknown)}", "start a new run")
    config = from_json(RunConfig, checkpoint.config, f"{last}, config", "start a new run")
    return StoredRun(run, config, checkpoint.epoch)


def extend_config(run: StoredRun, epochs: int) -> RunConfig:
    """Return the options of a finished run with more epochs, which get a learning-rate cycle of their own.

    Raises:
        UsageError: the run is not finished.
    """
    if run.epochs_trained < run.config.epochs:
        raise UsageError(
            f"--epochs {epochs}: only a finished run can be extended; this one has trained {run.epochs_trained} of "
            f"{run.config.epochs} epochs",
            f"finish it first: histo train --resume --name {run.name}",
        )
    return replace(run.config, epochs=epochs, extended_after=run.config.epochs)


def apply_given_options(stored: RunConfig, config: TrainConfig, given: Collection[str]) -> RunConfig:
    """Return the options of the run to resume, on the device that was given.

    Raises:
        UsageError: another option was given that differs from what the run was started with.
    """
    for key, value in vars(stored).items():
        new = getattr(config, key)
        is_auto = key == "batch_size" and config.can_halve_batch
        if key in given and key != "device" and not is_auto and new != value:
            flag = "--" + key.replace("_", "-")
            used = "the default" if value is None else value
            fact = f"has {used} epochs" if key == "epochs" else f"was started with {used}"
            raise UsageError(f"{flag} {new}: the run {fact}", f"leave {flag} out, or start a new run")
    return replace(stored, device=config.device) if "device" in given else stored


def count_epochs(workspace: Workspace, run: str) -> int:
    """Return the number of epochs that a run has trained and validated.

    It is that of last.pt; if this was removed, the number of lines of the history.
    """
    folder = workspace.run_dir(run)
    if (last := folder / "last.pt").is_file():
        return load_checkpoint(last).epoch
    history = folder / "history.jsonl"
    return history.read_bytes().count(b"\n") if history.is_file() else 0
