"""`histo train --folds` and `--seeds`: train several runs, and measure their mean and spread."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

from histocli.commands.train import TrainReport, train_run
from histocli.compute.ddp import SINGLE_PROCESS, Ranks, gather_torchrun_agents
from histocli.compute.memory import release_memory
from histocli.config import RunConfig, TrainConfig
from histocli.data.manifest import hash_file
from histocli.errors import HistoError, UsageError
from histocli.reports.repeats import RepeatsReport
from histocli.reports.run import read_run
from histocli.signals import Stopped
from histocli.training.listeners import Listener
from histocli.training.options import check_run_options, check_values, complete_config
from histocli.training.provenance import find_interrupted_run, make_name_taken_error
from histocli.training.repeats import (
    PlannedRun,
    Repeats,
    explain_damaged_member,
    find_first_run,
    find_newest_run,
    find_repeats_name,
    is_complete,
    plan_repeats,
    summarise,
    write_folds,
)
from histocli.training.resume import (
    StoredRun,
    apply_given_options,
    extend_config,
    load_run_config,
    load_run_options,
)
from histocli.workspace import Workspace


def train_repeats(
    workspace: Workspace,
    config: TrainConfig,
    *,
    given: Collection[str] = (),
    listen: Callable[[], AbstractContextManager[Listener]] = lambda: nullcontext(Listener()),
    ranks: Ranks = SINGLE_PROCESS,
) -> RepeatsReport:
    """Train one run per fold of a cross-validation of the subset, or one run per seed, one after another.

    With `config.resume`, finished runs are left as they are, and the others are continued or started; if all are
    finished, a larger number of epochs extends each of them. Each run has its own listener. The mean and the
    spread of their metrics are written to `metrics/` and returned.

    Raises:
        HistoError: as `train`; or the subset cannot be split into this many folds, or it has changed since the first
            run was started.
        Stopped: a signal came; the state is saved and `--resume` continues from it.
    """
    check_values(config)
    agents = gather_torchrun_agents(ranks)
    restarted = ranks.on_rank0(lambda: find_interrupted_run(workspace, agents))
    resume, name = config.resume or restarted is not None, config.name
    if resume and not name:
        kind = "folds" if config.folds else "seeds"
        run = restarted or ranks.on_rank0(lambda: find_newest_run(workspace, kind))
        name = find_repeats_name(run) if run else None
    run_config = _make_run_config(workspace, config, given, name if resume else None, ranks)
    repeats = ranks.on_rank0(lambda: plan_repeats(workspace, run_config, name, config.folds or 0, config.seeds or 0))
    names = [member.name for member in repeats.members]
    started = ranks.on_rank0(lambda: _find_started(workspace, names, resume=resume))
    if config.folds:
        ranks.on_rank0(lambda: write_folds(workspace, run_config.data, repeats, resume=resume))
    elif started:
        ranks.on_rank0(lambda: _check_manifest(workspace, run_config.data, min(started)))
    _train_members(workspace, repeats, started, config.can_halve_batch, listen, ranks)
    return ranks.on_rank0(lambda: summarise(workspace, repeats))


def _train_members(
    workspace: Workspace,
    repeats: Repeats,
    started: Collection[str],
    can_halve_batch: bool,
    listen: Callable[[], AbstractContextManager[Listener]],
    ranks: Ranks,
) -> None:
    """Train the runs of all folds or seeds, one after another; leave out those that are complete.

    Raises:
        Stopped: a signal came; the message is the command that continues.
    """
    for member in repeats.members:
        is_started = member.name in started
        if is_started and ranks.on_rank0(partial(is_complete, workspace, member)):
            continue
        try:
            report = _train_member(workspace, repeats, member, is_started, can_halve_batch, listen, ranks)
        except Stopped as stopped:
            if not str(stopped):  # nothing is saved yet
                raise
            raise Stopped(stopped.exit_code - 128, repeats.resume_command) from stopped
        release_memory()
        number = ranks.all_max(report.signal or 0)
        if number and member is not repeats.members[-1]:
            raise Stopped(number, repeats.resume_command)


def _find_started(workspace: Workspace, names: list[str], *, resume: bool) -> set[str]:
    """Return the runs that were started; raise `HistoError` if there are some without `--resume`, or none with it."""
    started = {run for run in names if workspace.run_dir(run).exists()}
    if resume and not started:
        raise HistoError(f"there is no run {names[0]!r} to resume", "give the --name of the runs to continue")
    if started and not resume:
        raise make_name_taken_error(min(started))
    return started


def _make_run_config(
    workspace: Workspace, config: TrainConfig, given: Collection[str], resumed: str | None, ranks: Ranks
) -> RunConfig:
    """Return the options that all runs share: those that the runs named `resumed` were started with, if there are.

    If the runs of the first seeds were removed, `--seed` says which seed is the first.
    """
    run_config = config.run
    kind = "folds" if config.folds else "seeds"
    if resumed and (first := ranks.on_rank0(lambda: find_first_run(workspace, resumed, kind))):
        stored = ranks.on_rank0(lambda: load_run_options(workspace, first))
        if config.folds:
            stored = replace(stored, data=config.data)  # each fold has its own manifest
        elif "seed" in given:
            stored = replace(stored, seed=min(config.seed, stored.seed))
        if "epochs" in given and config.epochs > stored.epochs:
            folds, seeds = config.folds or 0, config.seeds or 0
            plan = partial(plan_repeats, workspace, stored, resumed, folds, seeds)
            ranks.on_rank0(lambda: _check_finished(workspace, plan(), config.epochs))
            stored = replace(stored, epochs=config.epochs)
        run_config = apply_given_options(stored, config, given)
    else:
        run_config = complete_config(run_config, given)
    check_run_options(run_config, given)
    return run_config


def _train_member(
    workspace: Workspace,
    repeats: Repeats,
    member: PlannedRun,
    is_started: bool,
    can_halve_batch: bool,
    listen: Callable[[], AbstractContextManager[Listener]],
    ranks: Ranks,
) -> TrainReport:
    """Train the run of one fold or seed, or continue it with the options that it was started with."""
    member_config = member.config
    if is_started:
        stored = ranks.on_rank0(lambda: _load_member(workspace, repeats, member))
        member_config = stored.config
        if member_config.epochs < member.config.epochs:
            member_config = ranks.on_rank0(lambda: extend_config(stored, member.config.epochs))
        member_config = replace(member_config, device=member.config.device)
    with listen() as listener:
        return train_run(
            workspace,
            member_config,
            member.name,
            resume=is_started,
            can_halve_batch=can_halve_batch,
            is_repeat=True,
            listener=listener,
            ranks=ranks,
        )


def _check_manifest(workspace: Workspace, data: str, first: str) -> None:
    """Raise an error if the subset has changed since the first of several seeds was started."""
    manifest, copy = workspace.manifest_path(data), workspace.run_dir(first) / "manifest.csv"
    if not manifest.is_file() or hash_file(manifest) != hash_file(copy):
        raise HistoError(f"{manifest} has changed since {first} was started", f"restore it: cp {copy} {manifest}")


def _check_finished(workspace: Workspace, repeats: Repeats, epochs: int) -> None:
    """Raise `UsageError` if one of the runs has not all its epochs, so that the runs cannot be extended to `epochs`."""
    for member in repeats.members:
        is_started = workspace.run_dir(member.name).exists()
        trained = _load_member(workspace, repeats, member).epochs_trained if is_started else 0
        if trained < member.config.epochs:
            raise UsageError(
                f"--epochs {epochs}: only finished runs can be extended; {member.name} has trained {trained} of "
                f"{member.config.epochs} epochs",
                f"finish the runs first: {repeats.resume_command}",
            )


def _load_member(workspace: Workspace, repeats: Repeats, member: PlannedRun) -> StoredRun:
    """Return a started run as its last.pt has it; if a file of it is damaged, the hint says what to do."""
    with explain_damaged_member(workspace, repeats, member):
        read_run(workspace.run_dir(member.name))  # resuming needs it too, after other runs were trained
        return load_run_config(workspace, member.name)
