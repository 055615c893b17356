"""The options of a run that is resumed, or extended to more epochs."""

from collections.abc import Collection
from dataclasses import fields, replace

from histocli.config import RunConfig, TrainConfig
from histocli.errors import HistoError, UsageError
from histocli.models.checkpoint import load_checkpoint
from histocli.schema import from_json
from histocli.workspace import Workspace


def load_run_config(workspace: Workspace, name: str | None) -> tuple[str, RunConfig]:
    """Return the name and the options of the run to resume: `name`, or the newest run.

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
    saved = load_checkpoint(last).config
    if unknown := saved.keys() - {field.name for field in fields(RunConfig)}:
        raise HistoError(f"{last} has options that this version does not know: {min(unknown)}", "start a new run")
    return run, from_json(RunConfig, saved, f"{last}, config", "start a new run")


def extend_config(workspace: Workspace, name: str, stored: RunConfig, epochs: int) -> RunConfig:
    """Return the options of a finished run with more epochs, which get a learning-rate cycle of their own.

    Raises:
        UsageError: the run is not finished.
    """
    trained = count_epochs(workspace, name)
    if trained < stored.epochs:
        raise UsageError(
            f"--epochs {epochs}: the run has {stored.epochs}, of which {trained} are trained",
            f"finish it first: histo train --resume --name {name}",
        )
    return replace(stored, epochs=epochs, extended_after=stored.epochs)


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
            raise UsageError(f"{flag} {new}: the run has {used}", f"leave {flag} out, or start a new run")
    return replace(stored, device=config.device) if "device" in given else stored


def count_epochs(workspace: Workspace, run: str) -> int:
    """Return the number of epochs that a run has trained and validated."""
    history = workspace.run_dir(run) / "history.jsonl"
    return history.read_bytes().count(b"\n") if history.is_file() else 0
