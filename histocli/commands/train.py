"""`histo train`: a network from the balanced subset, validated each epoch."""

import gc
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from histocli.compute.device import deterministic
from histocli.compute.memory import explained, is_out_of_memory, memory_is_full
from histocli.compute.world import ALONE, World
from histocli.config import Augment, Device, Precision, Rotate, Weights
from histocli.data.manifest import file_sha256
from histocli.errors import HistoError, UsageError
from histocli.models.checkpoint import load_checkpoint
from histocli.reports.model_card import write_card
from histocli.reports.repeats import RepeatsReport
from histocli.signals import Stopped, stop_request
from histocli.training.config import TrainConfig
from histocli.training.progress import Listener
from histocli.training.provenance import at_work_on, claimed, name_taken
from histocli.training.repeats import Member, plan_repeats, summarise, write_folds
from histocli.training.run import Run
from histocli.workspace import Workspace


class Result(NamedTuple):
    """What training came to: the run's folder, the best epoch's row, and how many steps were taken now.

    `signal` came too late to stop it.
    """

    run: str
    run_dir: Path
    best: dict[str, Any]
    seconds: float
    steps: int
    signal: int | None


def train(
    workspace: Workspace,
    config: TrainConfig,
    *,
    name: str | None = None,
    resume: bool = False,
    halve: bool = False,
    listener: Listener | None = None,
    world: World = ALONE,
) -> Result:
    """Train a new run, or go on with one; `name` defaults to the next number, or the newest run to resume.

    With `halve`, the batch of a new run is halved until it fits the memory. Every process of a `world` calls this with
    the same values.

    Raises:
        HistoError: the data, the device or the options cannot be used, or the loss is not finite.
        Stopped: a signal came; the state is saved and `--resume` goes on from it.
    """
    listener = listener or Listener()
    began = time.monotonic()
    with ExitStack() as held:
        held.enter_context(deterministic(config.deterministic))
        if resume:
            going_on = name or stored_config(workspace, None)[0]
            world.lead(lambda: held.enter_context(at_work_on(workspace, going_on)))
            run = world.each(lambda: Run(workspace, config, going_on, world))
            run.resume()
        elif name and world.lead(workspace.run_dir(name).exists):
            raise name_taken(name)
        else:
            if halve:
                config = _fitted(workspace, config, world)
            run = world.each(lambda: Run(workspace, config, "", world))
        held.enter_context(explained(config.batch_size))
        with stop_request() as stop:
            if not resume:
                run.begin(world.lead(lambda: held.enter_context(claimed(workspace, name, config.arch))))
            resumed_at = run.trainer.step
            if not run.finished:
                listener.started(run, resumed_at)
                run.fit(listener, stop)
        world.lead(lambda: write_card(workspace, run.name))
    steps = run.trainer.step - resumed_at
    return Result(run.name, run.dir, run.best or {}, time.monotonic() - began, steps, stop.signal)


def _fitted(workspace: Workspace, config: TrainConfig, world: World) -> TrainConfig:
    """The options with the batch halved as often as it takes for a step to fit the memory."""
    if world.size > 1:
        raise UsageError("--batch-size auto is for one process", "give a number")
    while True:
        try:
            Run(workspace, config).try_step()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            if config.batch_size < 4:
                raise memory_is_full(config.batch_size) from error
        else:
            return config
        gc.collect()  # the run that did not fit holds on to itself in circles
        config = replace(config, batch_size=config.batch_size // 2)


def stored_config(workspace: Workspace, name: str | None) -> tuple[str, TrainConfig]:
    """The name and options of the run to resume: `name`, or the newest.

    Raises:
        HistoError: there is no such run.
    """
    runs = [run for run in workspace.run_names() if (workspace.run_dir(run) / "last.pt").is_file()]
    if not runs or (name and name not in runs):
        raise HistoError(
            f"there is no run {name!r} to resume" if name else "there is no run to resume",
            f"runs with a last.pt: {', '.join(runs) or 'none'}",
        )
    run = name or runs[-1]
    saved = load_checkpoint(workspace.run_dir(run) / "last.pt").config
    kinds: dict[str, Callable[[str], Any]] = {
        "weights": Weights,
        "precision": Precision,
        "device": Device,
        "augment": Augment,
        "rotate": Rotate,
    }
    try:
        options = {key: kinds[key](value) if key in kinds else value for key, value in saved.items()}
        return run, TrainConfig(**options)
    except (TypeError, ValueError) as error:
        last = workspace.run_dir(run) / "last.pt"
        raise HistoError(f"{last} has options that this histo does not know: {error}", "train anew") from error


def train_repeats(
    workspace: Workspace,
    config: TrainConfig,
    *,
    folds: int = 0,
    seeds: int = 0,
    name: str | None = None,
    resume: bool = False,
    halve: bool = False,
    listen: Callable[[], AbstractContextManager[Listener]] = lambda: nullcontext(Listener()),
    world: World = ALONE,
) -> RepeatsReport:
    """Train each fold of a cross-validation of the manifest, or each of several seeds, one run after another.

    With `resume` finished runs are left as they are, and those begun or not yet begun are trained; `config` is what
    they were begun with, but for the device. Each run has a listener of its own. The mean and the spread are written
    to `metrics/` and returned.

    Raises:
        HistoError: as `train`, or the manifest does not part into so many folds, or is not what the first was begun
            with.
        Stopped: a signal came; the state is saved and `--resume` goes on from it.
    """
    config.check()
    repeats = world.lead(lambda: plan_repeats(workspace, config, name, folds, seeds))
    names = [member.name for member in repeats.members]
    begun = world.lead(lambda: {run for run in names if workspace.run_dir(run).exists()})
    if resume and not begun:
        raise HistoError(f"there is no run {names[0]!r} to resume", "give the --name of those to go on with")
    if begun and not resume:
        raise name_taken(min(begun))
    if folds:
        world.lead(lambda: write_folds(workspace, config.data, repeats, again=resume))
    elif begun:
        world.lead(lambda: _check_manifest(workspace, config.data, min(begun)))
    again = f"histo train --{repeats.kind} {len(repeats.members)} --name {repeats.name} --resume"
    for member in repeats.members:
        there = member.name in begun
        if there and world.lead(partial(_is_finished, workspace, member)):
            continue
        own = replace(stored_config(workspace, member.name)[1], device=config.device) if there else member.config
        try:
            with listen() as listener:
                done = train(
                    workspace, own, name=member.name, resume=there, halve=halve, listener=listener, world=world
                )
        except Stopped as stopped:
            if not str(stopped):  # nothing is saved yet
                raise
            raise Stopped(stopped.exit_code - 128, again) from stopped
        (number,) = world.largest(done.signal or 0)
        if number and member is not repeats.members[-1]:
            raise Stopped(number, again)
    return world.lead(lambda: summarise(workspace, repeats))


def _check_manifest(workspace: Workspace, data: str, first: str) -> None:
    """Refuse to train other seeds on another manifest than the first was trained on."""
    manifest, copy = workspace.manifest_path(data), workspace.run_dir(first) / "manifest.csv"
    if not manifest.is_file() or file_sha256(manifest) != file_sha256(copy):
        raise HistoError(f"{manifest} is not what {first} was begun with", f"cp {copy} {manifest}")


def _is_finished(workspace: Workspace, member: Member) -> bool:
    """Whether a run has all its epochs."""
    history = workspace.run_dir(member.name) / "history.jsonl"
    return history.is_file() and len(history.read_text(encoding="utf-8").splitlines()) >= member.config.epochs
