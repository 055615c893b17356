"""`histo train --folds` and `--seeds`: train several runs, and measure their mean and spread."""

from collections.abc import Collection
from dataclasses import replace
from functools import partial

from histocli.commands.train import train_run
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
    listener: Listener | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> RepeatsReport:
    """Train one run per fold of a cross-validation of the subset, or one run per seed, one after another.

    With `config.resume`, finished runs are left as they are, and the others are continued or started; if all are
    finished, a larger number of epochs extends each of them. The mean and the spread of their metrics are written to
    `metrics/` and returned.

    Raises:
        HistoError: as `train`; or the subset cannot be split into this many folds, or it has changed since the first
            run was started.
        Stopped: a signal came; the state is saved and `--resume` continues from it.
    """
    ranks.on_all_ranks(lambda: check_values(config))
    agents = gather_torchrun_agents(ranks)
    repeats, started = ranks.on_rank0(lambda: _plan(workspace, config, given, agents))
    for member in repeats.members:
        is_started, member_config = member.name in started, member.config
        if is_started:
            if ranks.on_rank0(partial(is_complete, workspace, member)):
                continue
            member_config = ranks.on_rank0(partial(_load_member_config, workspace, repeats, member))
        try:
            report = train_run(
                workspace,
                member_config,
                member.name,
                resume=is_started,
                can_halve_batch=config.can_halve_batch,
                is_repeat=True,
                listener=listener or Listener(),
                ranks=ranks,
            )
        except Stopped as stopped:
            if not str(stopped):  # nothing is saved yet
                raise
            raise Stopped(stopped.exit_code - 128, repeats.resume_command) from stopped
        release_memory()
        number = ranks.all_max(report.signal or 0)
        if number and member is not repeats.members[-1]:
            raise Stopped(number, repeats.resume_command)
    return ranks.on_rank0(lambda: summarise(workspace, repeats))


def _plan(
    workspace: Workspace, config: TrainConfig, given: Collection[str], agents: set[str]
) -> tuple[Repeats, set[str]]:
    """Return the runs to train, and the names of those that were started before; write the manifests of new folds."""
    restarted = find_interrupted_run(workspace, agents)
    resume, name = config.resume or restarted is not None, config.name
    if resume and not name:
        run = restarted or find_newest_run(workspace, "folds" if config.folds else "seeds")
        name = find_repeats_name(run) if run else None
    run_config = _make_run_config(workspace, config, given, name if resume else None)
    repeats = plan_repeats(workspace, run_config, name, config.folds or 0, config.seeds or 0)
    started = _find_started(workspace, [member.name for member in repeats.members], resume=resume)
    if config.folds:
        write_folds(workspace, run_config.data, repeats, resume=resume)
    elif started:
        _check_manifest(workspace, run_config.data, min(started))
    return repeats, started


def _find_started(workspace: Workspace, names: list[str], *, resume: bool) -> set[str]:
    """Return the runs that were started; raise `HistoError` if there are some without `--resume`, or none with it."""
    started = {run for run in names if workspace.run_dir(run).exists()}
    if resume and not started:
        raise HistoError(f"there is no run {names[0]!r} to resume", "give the --name of the runs to continue")
    if started and not resume:
        raise make_name_taken_error(min(started))
    return started


def _make_run_config(
    workspace: Workspace, config: TrainConfig, given: Collection[str], resumed: str | None
) -> RunConfig:
    """Return the options that all runs share: those that the runs named `resumed` were started with, if there are.

    If the runs of the first seeds were removed, `--seed` says which seed is the first.
    """
    kind = "folds" if config.folds else "seeds"
    if resumed and (first := find_first_run(workspace, resumed, kind)):
        stored = load_run_options(workspace, first)
        if config.folds:
            stored = replace(stored, data=config.data)  # each fold has its own manifest
        elif "seed" in given:
            stored = replace(stored, seed=min(config.seed, stored.seed))
        if "epochs" in given and config.epochs > stored.epochs:
            repeats = plan_repeats(workspace, stored, resumed, config.folds or 0, config.seeds or 0)
            _check_finished(workspace, repeats, config.epochs)
            stored = replace(stored, epochs=config.epochs)
        run_config = apply_given_options(stored, config, given)
    else:
        run_config = complete_config(config.run, given)
    check_run_options(run_config, given)
    return run_config


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


def _load_member_config(workspace: Workspace, repeats: Repeats, member: PlannedRun) -> RunConfig:
    """Return the options with which a run that was started before is continued, or extended to more epochs."""
    stored = _load_member(workspace, repeats, member)
    config = stored.config
    if config.epochs < member.config.epochs:
        config = extend_config(stored, member.config.epochs)
    return replace(config, device=member.config.device)
