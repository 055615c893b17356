"""`histo tune`: search the options of `histo train` by cross-validation within the training and validation patches."""

import time
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

from histocli.atomic import write_json
from histocli.compute.device import apply_compute_settings
from histocli.compute.memory import is_out_of_memory, make_memory_error, release_memory
from histocli.compute.rendezvous import is_distributed
from histocli.config import BATCH_SIZE, PACKAGED_ARCH, RunConfig, TuneConfig
from histocli.errors import HistoError, UsageError
from histocli.models.encoders import find_short_name
from histocli.packages import require_packages
from histocli.reports.tune import FINISHED, TrialReport, TuneReport, compare_trials
from histocli.schema import to_json
from histocli.signals import Stopped, StopRequest, catch_signals
from histocli.temporary import remove_folder
from histocli.training.listeners import Listener
from histocli.training.options import uses_packaged_arch
from histocli.training.run import Run
from histocli.training.search_space import format_train_command, make_base_config, make_trial_config
from histocli.training.study import ClaimedTrial, Study, StudyWorkspace
from histocli.training.study_start import open_study
from histocli.training.trainer import NotFiniteError
from histocli.workspace import Workspace


class TuneListener(Listener):
    """Receives the progress of a study, and that of each training run in it; this base class ignores it."""

    def on_study(self, study: Study, trials: list[TrialReport]) -> None:
        """Called when a study is opened: with its trials so far."""

    def on_fold_start(self, trial: ClaimedTrial, fold: int) -> None:
        """Called before a fold (from 0) of a trial is trained."""

    def on_trial_end(self, trial: TrialReport) -> None:
        """Called when a trial is finished, pruned or has failed."""


@dataclass(frozen=True)
class TuneResult:
    """The report on a study, its file, and how many trials this call has ended."""

    report: TuneReport
    path: Path
    trials: int


def tune(
    workspace: Workspace,
    config: TuneConfig,
    *,
    given: Collection[str] = (),
    listener: TuneListener | None = None,
) -> TuneResult:
    """Train trials until the study has `config.trials`, or this call has taken `config.hours`.

    Each trial is one choice of the options of `histo train`, measured by its mean validation AUC over the folds of the
    subset. Several processes may call this with the same study at once. The report is written after each trial.

    `given` names the options that the user gave: an existing study refuses those that differ from its own.

    Raises:
        HistoError: Optuna is not installed, or the subset or the file of the study cannot be used.
        UsageError: an option cannot be used, or differs from that of the study.
        Stopped: a signal came; the same command continues the study.
    """
    if is_distributed():
        raise UsageError("histo tune cannot run under torchrun", "start histo tune several times: they share the study")
    require_packages("histo tune", "optuna", extra="tune")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    start, ended, listener = time.monotonic(), 0, listener or TuneListener()
    is_packaged = uses_packaged_arch(config, given)
    config = replace(config, arch=(PACKAGED_ARCH,) if is_packaged else tuple(map(find_short_name, config.arch)))
    config.check()
    with catch_signals(listener.on_signal) as stop, apply_compute_settings():
        study = open_study(workspace, config, given)
        path = workspace.metrics_dir / f"{config.name}-study.json"
        listener.on_study(study, study.list_trials())
        while config.hours is None or time.monotonic() - start < config.hours * 3600:
            with study.claim() as trial:
                if trial is None:
                    break
                _train_trial(study, trial, listener, stop)
            ended += 1
            report = write_report(study, path)
            listener.on_trial_end(next(tested for tested in report.trials if tested.number == trial.number))
            _raise_if_stopped(stop, study.config)
        return TuneResult(write_report(study, path), path, ended)


def write_report(study: Study, path: Path) -> TuneReport:
    """Write and return the report on a study."""
    config = study.config
    with study.workspace.lock():  # so that no older report replaces a newer one
        trials = study.list_trials()
        finished = [trial for trial in trials if trial.state == FINISHED]
        best = max(finished, key=lambda trial: trial.mean or 0, default=None)
        report = TuneReport(
            name=config.name,
            data=config.data,
            split_by=study.split_by,
            folds=config.folds,
            seed=config.seed,
            manifest_sha256=study.manifests[config.data],
            trials=trials,
            best=best.number if best else None,
            above_defaults=compare_trials(best, trials[0]) if best else None,
            importance=study.compute_importance(),
            command=format_train_command(make_trial_config(make_base_config(config), best.parameters)) if best else "",
        )
        write_json(path, to_json(report))
    return report


def _train_trial(study: Study, trial: ClaimedTrial, listener: TuneListener, stop: StopRequest) -> None:
    """Train the folds of a trial that are not trained yet, and mark it as finished, pruned or failed.

    Raises:
        HistoError: the manifest of a fold has changed since the study was started.
        Stopped: a signal came; the trial can be continued.
    """
    for member in study.fold_runs[: len(trial.auc)]:  # a process that was killed just after a fold left its run
        _remove_run(study.workspace, f"trial{trial.number}-fold{member.number}")
    for member in study.fold_runs[len(trial.auc) :]:
        start, name = time.monotonic(), f"trial{trial.number}-fold{member.number}"
        if trial.should_prune():
            _remove_run(study.workspace, name)  # a process that was stopped may have begun it
            trial.prune()
            return
        study.check_fold(member)
        listener.on_fold_start(trial, len(trial.auc))
        try:
            auc = _train_fold(study.workspace, make_trial_config(member.config, trial.parameters), name, listener, stop)
        except Stopped as stopped:
            raise Stopped(stopped.exit_code - 128, format_continue_command(study.config)) from stopped
        except _CannotTrainError as error:
            _remove_run(study.workspace, name)
            trial.prune(str(error))
            return
        finally:
            release_memory()
        trial.record_fold(auc, time.monotonic() - start)
        _remove_run(study.workspace, name)
        if len(trial.auc) < study.config.folds:
            _raise_if_stopped(stop, study.config)
    trial.finish()


def _remove_run(workspace: StudyWorkspace, name: str) -> None:
    if (folder := workspace.run_dir(name)).exists():
        remove_folder(folder)


class _CannotTrainError(HistoError):
    """A network cannot be trained with the parameters of a trial; with other parameters it may be possible."""


def _train_fold(
    workspace: StudyWorkspace, config: RunConfig, name: str, listener: Listener, stop: StopRequest
) -> float:
    """Train a fold, from where a stopped process left it, and return the validation AUC of its best epoch.

    Raises:
        _CannotTrainError: the loss is not finite, or the memory is full.
    """
    try:
        if workspace.run_dir(name).is_dir():
            run = Run(workspace, config, resumed=name)
            run.resume()
        else:
            run = Run(workspace, config)
            run.create(name, is_repeat=True)
        listener.on_start(run, run.trainer.step)
        run.fit(listener, stop)
    except NotFiniteError as error:
        raise _CannotTrainError(str(error)) from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # Without the error, which refers to the network: its memory is needed for the next trial.
        raise _CannotTrainError(str(make_memory_error(config.batch_size or BATCH_SIZE, error))) from None
    assert run.best is not None
    assert run.best.val_auc is not None  # each fold has both classes
    return run.best.val_auc


def _raise_if_stopped(stop: StopRequest, config: TuneConfig) -> None:
    if stop.signal is not None:
        raise Stopped(stop.signal, format_continue_command(config))


def format_continue_command(config: TuneConfig) -> str:
    """Return the command that continues a study."""
    until = f"--trials {config.trials}" if config.trials is not None else f"--hours {config.hours:g}"
    return f"histo tune --name {config.name} {until}"
