"""The options of a run that is resumed, or extended to more epochs."""

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import fields, replace
from typing import NamedTuple

from histocli.config import RunConfig, TrainConfig
from histocli.errors import DamagedError, HistoError, UsageError
from histocli.locks import is_held
from histocli.models.checkpoint import load_checkpoint
from histocli.models.encoders import find_short_name
from histocli.reports.run import read_history, read_run
from histocli.schema import from_json
from histocli.workspace import Workspace

NEW_RUN_HINT = "start a new run with another --name"


class StoredRun(NamedTuple):
    """A run as its last.pt has it: its name, its options, and how many epochs it has trained and validated."""

    name: str
    config: RunConfig
    epochs_trained: int


def load_run_config(workspace: Workspace, name: str | None) -> StoredRun:
    """Return the run to resume: `name`, or the newest run that no other process is training.

    Raises:
        HistoError: there is no such run, or its last.pt cannot be read.
    """
    runs = [run for run in workspace.list_runs() if (workspace.run_dir(run) / "last.pt").is_file()]
    if name and name not in runs and name in workspace.list_runs():
        raise DamagedError(
            f"{workspace.run_dir(name) / 'last.pt'} is missing, or is not a file: {name!r} cannot be resumed",
            NEW_RUN_HINT,
        )
    if not runs or (name and name not in runs):
        raise HistoError(
            f"there is no run {name!r} to resume" if name else "there is no run to resume",
            f"runs that can be resumed: {', '.join(runs)}"
            if runs
            else "no run here can be resumed; histo train starts one",
        )
    idle = [run for run in runs if not is_held(workspace.run_lock_path(run))]
    run = name or (idle or runs)[-1]
    last = workspace.run_dir(run) / "last.pt"
    try:
        checkpoint = load_checkpoint(last)
    except HistoError as error:
        has_best = (workspace.run_dir(run) / "best.pt").is_file()
        hint = f"{NEW_RUN_HINT}; --ckpt {run} still uses the run's best epoch" if has_best else NEW_RUN_HINT
        raise type(error)(str(error), hint) from error
    return StoredRun(run, _parse_options(checkpoint.config, f"{last}, options"), checkpoint.epoch)


def _parse_options(values: Mapping[str, object], file: str) -> RunConfig:
    """Return the options of a run that a file of it has; raise `HistoError` if they cannot be used."""
    if unknown := values.keys() - {field.name for field in fields(RunConfig)}:
        raise HistoError(f"{file}: it has options that this version does not know: {min(unknown)}", NEW_RUN_HINT)
    return from_json(RunConfig, values, file, NEW_RUN_HINT)


def load_run_options(workspace: Workspace, run: str) -> RunConfig:
    """Return the options of a run: those in its last.pt, or in its config.json if last.pt was removed or is damaged.

    Raises:
        HistoError: neither can be read or has options, or the options cannot be used.
    """
    folder = workspace.run_dir(run)
    try:
        options, file = load_checkpoint(folder / "last.pt").config, folder / "last.pt"
    except HistoError:
        options, file = read_run(folder).options, folder / "config.json"
    if not options:  # those that are not stored would be the defaults
        raise HistoError(
            f"the options of {run} are not known: {file} has none"
            + ("" if file.name == "last.pt" else f", and {folder / 'last.pt'} cannot be read"),
            f"restore {folder / 'last.pt'} from a copy, or {NEW_RUN_HINT}",
        )
    return _parse_options(options, f"{file}, options")


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
    config = replace(config, arch=find_short_name(config.arch))  # as a new run stores it
    for key, value in vars(stored).items():
        new = getattr(config, key)
        is_auto = key == "batch_size" and config.can_halve_batch
        if key in given and key != "device" and not is_auto and new != value:
            flag = "--" + key.replace("_", "-")
            if isinstance(value, bool):
                fact = "was started with it" if value else "was started without it"
                raise UsageError(f"{flag}: the run {fact}", f"start a new run to change {flag}")
            used = "the default" if value is None else value
            fact = f"has {used} epochs" if key == "epochs" else f"was started with {used}"
            raise UsageError(f"{flag} {new}: the run {fact}", f"leave {flag} out, or start a new run")
    return replace(stored, device=config.device) if "device" in given else stored


def count_epochs(workspace: Workspace, run: str) -> int:
    """Return the number of epochs that a run has trained and validated.

    It is that of last.pt; if this was removed or is damaged, the number of epochs in the history. It is 0 if neither
    can be read.
    """
    folder = workspace.run_dir(run)
    with suppress(HistoError):
        return load_checkpoint(folder / "last.pt").epoch
    with suppress(HistoError, FileNotFoundError):
        return len(read_history(folder / "history.jsonl"))
    return 0
