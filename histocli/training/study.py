"""A study of `histo tune`: its SQLite file, which several processes may use at once, and its trials.

The process that trains a trial has locked it. A trial that is running in the file, but not locked, belongs to a process
that has ended: the next process that asks for a trial continues it.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histocli.config import TuneConfig
from histocli.errors import HistoError, read_first_line
from histocli.locks import hold, is_held
from histocli.reports.tune import TrialReport
from histocli.schema import from_json
from histocli.temporary import remove_strays
from histocli.training.repeats import PlannedRun, plan_repeats
from histocli.training.search_space import NAMES, find_default_point, make_base_config, round_lr, suggest_parameters
from histocli.training.study_check import HINT, check_manifest, connect, find_trial_problem
from histocli.workspace import Workspace, check_name

if TYPE_CHECKING:
    import optuna

_SEED_STRIDE = 0x9E3779B1  # between the seeds of two trials
_MIN_FINISHED = 5  # finished trials before one is pruned: the median of fewer is chance


@dataclass(frozen=True)
class StudyWorkspace(Workspace):
    """A workspace whose runs are those of a study: they are in its folder until they are measured."""

    study: str = ""

    @property
    def study_dir(self) -> Path:
        """The folder of the study."""
        return self.tuning_dir / check_name(self.study, "study")

    @property
    def runs_dir(self) -> Path:
        """The runs of the trials that are not finished."""
        return self.study_dir / "runs"

    def lock(self) -> AbstractContextManager[None]:
        """Wait for the lock of the study, and hold it in a block: for a moment, never during a training."""
        return hold(self.tuning_dir / f".{check_name(self.study, 'study')}.lock", f"study {self.study!r}", wait=True)


class ClaimedTrial:
    """A trial that this process trains: its number, its parameters, and the AUC of each fold that is trained."""

    def __init__(self, study: "Study", trial: "optuna.Trial") -> None:
        self.study, self.trial, self.number = study, trial, trial.number
        self.parameters = suggest_parameters(trial, study.config)
        self.auc: list[float] = list(trial.user_attrs.get("auc", []))

    def record_fold(self, auc: float, seconds: float) -> None:
        """Store the AUC of the fold that has ended, and add the time that it took."""
        self.auc.append(auc)
        with self.study.explain_file_errors():
            # First the AUC: a process that is killed between the two loses the time, but never counts it twice.
            self.trial.set_user_attr("auc", self.auc)
            self.trial.set_user_attr("seconds", self.trial.user_attrs.get("seconds", 0.0) + seconds)

    def should_prune(self) -> bool:
        """Return whether the mean AUC so far is below the median of the finished trials after as many folds.

        With fewer than five finished trials it is not. Optuna's `MedianPruner` would compare the highest mean that this
        trial had after any fold.
        """
        from optuna.trial import TrialState

        step = len(self.auc)
        if not step:
            return False
        mean = float(np.mean(self.auc))
        with self.study.explain_file_errors():
            trials = self.trial.study.get_trials(deepcopy=False)
            (stored,) = [trial for trial in trials if trial.number == self.number]
            if step not in stored.intermediate_values:
                self.trial.report(mean, step)
        finished = [trial.intermediate_values for trial in trials if trial.state is TrialState.COMPLETE]
        means = [values[step] for values in finished if step in values]
        return len(means) >= _MIN_FINISHED and mean < float(np.median(means))

    def finish(self) -> None:
        """Mark the trial as finished: its value is the mean AUC."""
        with self.study.explain_file_errors():
            self.trial.study.tell(self.trial, float(np.mean(self.auc)))

    def prune(self, problem: str = "") -> None:
        """Mark the trial as stopped before its last fold; with `problem`, as one that could not be trained.

        The sampler then avoids its parameters. It would ignore a trial that is marked as failed.
        """
        from optuna.trial import TrialState

        with self.study.explain_file_errors():
            if problem:
                self.trial.set_user_attr("problem", problem)
            self.trial.study.tell(self.trial, state=TrialState.PRUNED)


class Study:
    """The trials of a study, in the workspace's `tuning/NAME/study.db`.

    Attributes:
        workspace: where its runs are trained.
        config: the options that it was started with, and when to stop.
        split_by: what its folds keep together: slide, overlap group, hospital or patch.
        manifests: the SHA-256 of the manifests of the subset and of the folds, by name, when it was started.
    """

    def __init__(
        self, workspace: StudyWorkspace, config: TuneConfig, split_by: str, manifests: Mapping[str, str]
    ) -> None:
        from optuna.storages import RDBStorage
        from sqlalchemy.pool import NullPool

        self.workspace, self.config = workspace, config
        self.split_by, self.manifests = split_by, manifests
        self.path = workspace.study_dir / "study.db"
        engine = {"creator": partial(connect, self.path), "poolclass": NullPool}  # a URL cannot have every path
        with self.explain_file_errors(RuntimeError):  # Optuna raises it for a file of another version
            self.storage = RDBStorage("sqlite://", engine_kwargs=engine)

    def check(self) -> None:
        """Read all trials once.

        Raises:
            HistoError: the file is damaged: one of them cannot have been written by `histo tune`.
        """
        with self.explain_file_errors(Exception):  # of any kind, for values that Optuna did not write
            study = self._load()
            trials, directions = study.get_trials(deepcopy=False), [direction.name for direction in study.directions]
        if directions != ["MAXIMIZE"]:
            raise HistoError(f"cannot use {self.path}: the study does not maximize one value", HINT)
        for i, trial in enumerate(trials):
            report = _describe(trial, str(self.path)) if trial.params.keys() >= NAMES else None
            if problem := find_trial_problem(trial, report, self.config):
                raise HistoError(f"cannot use {self.path}: trial {i} {problem}", HINT)

    @property
    def fold_runs(self) -> list[PlannedRun]:
        """A run for each fold, with the options that all trials share."""
        config = self.config
        return plan_repeats(self.workspace, make_base_config(config), config.name, config.folds, 0).members

    def check_fold(self, fold: PlannedRun) -> None:
        """Raise `HistoError` if the manifest of a fold has changed since the study was started."""
        name = fold.config.data
        check_manifest(self.workspace.manifest_path(name), self.manifests.get(name, ""), self.config.name)

    def add_default_point(self, batch_size: int) -> None:
        """Make the defaults of `histo train` the first trial of a new study; `batch_size` is one of them."""
        with self.explain_file_errors():
            self._load().enqueue_trial(dict(find_default_point(self.config, batch_size)), skip_if_exists=True)

    def _load(self, number: int = 0) -> "optuna.Study":
        """Return Optuna's study; it draws the parameters of trial `number` from the seed and from the other trials."""
        import optuna

        return optuna.create_study(
            storage=self.storage,
            study_name=self.config.name,
            direction="maximize",
            sampler=optuna.samplers.TPESampler(seed=(self.config.seed + number * _SEED_STRIDE) % (1 << 32)),
            pruner=optuna.pruners.NopPruner(),  # `ClaimedTrial.should_prune` decides
            load_if_exists=True,
        )

    @contextmanager
    def claim(self) -> Iterator[ClaimedTrial | None]:
        """Start a trial, or continue one whose process has ended, and lock it in this block.

        Yields None if the study has `config.trials` trials and none is to be continued.
        """
        with ExitStack() as held:
            claimed = None
            with self.workspace.lock(), self.explain_file_errors():
                if (trial := self._next_trial()) is not None:
                    held.enter_context(hold(self._lock_path(trial.number), f"trial {trial.number}"))
                    claimed = ClaimedTrial(self, trial)
            yield claimed

    def _next_trial(self) -> "optuna.Trial | None":
        import optuna
        from optuna.trial import TrialState

        study = self._load(len(self._load().get_trials(deepcopy=False)))
        # This study reads them, and not an earlier one: Optuna writes a parameter only of trials that the study knows.
        trials = study.get_trials(deepcopy=False)
        for trial in trials:
            if trial.state is TrialState.RUNNING and not is_held(self._lock_path(trial.number)):
                study_id = self.storage.get_study_id_from_name(self.config.name)
                trial_id = self.storage.get_trial_id_from_study_id_trial_number(study_id, trial.number)
                # Its process may have finished it, and then released the lock, since the trials were read.
                if self.storage.get_trial(trial_id).state is TrialState.RUNNING:
                    return optuna.Trial(study, trial_id)
        started = sum(trial.state is not TrialState.WAITING for trial in trials)
        is_complete = self.config.trials is not None and started >= self.config.trials
        return None if is_complete else study.ask()

    def list_trials(self) -> list[TrialReport]:
        """Return all trials that were started, in their order."""
        from optuna.trial import TrialState

        with self.explain_file_errors():
            trials = self._load().get_trials(deepcopy=False)
        return [
            _describe(trial, str(self.path))
            for trial in trials
            if trial.state is not TrialState.WAITING and trial.params.keys() >= NAMES
        ]

    def compute_importance(self) -> dict[str, float]:
        """Return the share of each parameter in the variance of the AUC of the finished trials, the highest first.

        Parameters with one value are absent; all are if no parameter separates the trials by their AUC. Method:
        fANOVA (Hutter et al. 2014).
        """
        from optuna.importance import FanovaImportanceEvaluator, get_param_importances
        from optuna.trial import TrialState

        with self.explain_file_errors():
            study = self._load()
            finished = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            if len({trial.value for trial in finished}) < 2:
                return {}
            varied = [name for name, values in finished[0].distributions.items() if not values.single()]
            evaluator = FanovaImportanceEvaluator(seed=self.config.seed)
            try:
                shares = get_param_importances(study, evaluator=evaluator, params=varied) if varied else {}
            except RuntimeError:  # of Optuna: no parameter separates the trials
                return {}
            return {name: float(share) for name, share in shares.items()}

    def tidy(self) -> None:
        """Remove the temporary files of killed processes."""
        remove_strays(self.workspace.study_dir)
        self.workspace.tidy()

    @contextmanager
    def explain_file_errors(self, *more: type[Exception]) -> Iterator[None]:
        """Turn errors of the SQLite file, and exceptions of the types `more`, into a `HistoError` that names it."""
        from optuna.exceptions import StorageInternalError
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except HistoError:
            raise
        except (SQLAlchemyError, StorageInternalError, sqlite3.Error, *more) as error:
            cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
            reason = read_first_line(getattr(cause, "orig", None) or cause)
            raise HistoError(f"cannot use {self.path}: {reason}", HINT) from error

    def _lock_path(self, number: int) -> Path:
        return self.workspace.study_dir / f".trial{number}.lock"


def _describe(trial: "optuna.trial.FrozenTrial", file: str) -> TrialReport:
    """Return the report on a trial; raise `HistoError` if a value has another type, or one out of its range."""
    states = {"COMPLETE": "finished", "PRUNED": "pruned", "RUNNING": "running"}
    problem = trial.user_attrs.get("problem", "")
    values = {
        "number": trial.number,
        "state": "failed" if problem else states.get(trial.state.name, "failed"),
        "parameters": trial.params,
        "auc": trial.user_attrs.get("auc", []),
        "seconds": trial.user_attrs.get("seconds", 0.0),
        "problem": problem,
    }
    report = from_json(TrialReport, values, f"cannot use {file}: trial {trial.number}", HINT)
    return replace(report, parameters=replace(report.parameters, lr=round_lr(report.parameters.lr)))
