"""Check the file of a study before it is used.

Reading a prepared SQLite file can start a computation that never ends, and Optuna does not check the values that it
reads. So only tables that Optuna wrote are read, no value may be long, and each trial must be one that `histo tune` can
have written.
"""

import math
import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histocli.config import TuneConfig
from histocli.data.manifest import hash_file
from histocli.errors import HistoError
from histocli.reports.tune import FINISHED, TrialReport
from histocli.training.search_space import NAMES, is_in_space

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

HINT = "start another study with --name"
_LOCK_SECONDS = 120  # how long a process waits for another one to write to the file
_MAX_VALUE_BYTES = 1 << 20  # bytes of a value in the file
_TABLES = {
    *("alembic_version", "studies", "study_directions", "study_system_attributes", "study_user_attributes", "trials"),
    *("trial_intermediate_values", "trial_params", "trial_system_attributes", "trial_user_attributes", "trial_values"),
}
_SAME = 1e-9  # the relative difference of a mean, and of one computed before


def connect(path: Path) -> sqlite3.Connection:
    """Open a SQLite file; reading a value longer than `_MAX_VALUE_BYTES` is an error."""
    connection = sqlite3.connect(path, timeout=_LOCK_SECONDS, check_same_thread=False)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _MAX_VALUE_BYTES)
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection


def check_manifest(path: Path, sha256: str, name: str) -> None:
    """Raise `HistoError` unless a manifest of the study `name` has the SHA-256 that it had when the study started."""
    if not path.is_file() or hash_file(path) != sha256:
        raise HistoError(f"{path} has changed since the study {name!r} was started", HINT)


def check_study_file(path: Path, name: str) -> None:
    """Check that a SQLite file has Optuna's tables, and nothing that computes, and holds the study `name` alone.

    Raises:
        HistoError: it is another file, or a damaged one.
    """
    try:
        with closing(connect(path)) as connection:
            content = connection.execute("SELECT type, name, sql FROM sqlite_master").fetchall()
            for kind, its_name, sql in content:
                if kind not in ("table", "index") or str(sql).upper().startswith("CREATE VIRTUAL"):
                    raise HistoError(
                        f"cannot use {path}: it has a {kind} {str(its_name)[:40]!r}, not only tables", HINT
                    )
            if missing := _TABLES - {its_name for _, its_name, _ in content}:
                raise HistoError(f"cannot use {path}: it has no table {min(missing)}", HINT)
            studies = connection.execute("SELECT study_name FROM studies LIMIT 2").fetchall()
            numbers = "SELECT count(*), count(DISTINCT number), min(number), max(number) FROM trials"
            count, *found = connection.execute(numbers).fetchone()
    except sqlite3.Error as error:
        raise HistoError(f"cannot use {path}: {error}", HINT) from error
    if studies != [(name,)]:
        raise HistoError(f"cannot use {path}: it does not hold the study {name!r}", HINT)
    if count and found != [count, 0, count - 1]:
        raise HistoError(f"cannot use {path}: its trials are not numbered from 0 to {count - 1:,}", HINT)


def check_unstarted(path: Path) -> None:
    """Check that the file of a study without a record (`study.json`) holds no trial that was started.

    A process that ends before it writes the record leaves such a file. Trials mean that the record was lost: their
    options are not known.

    Raises:
        HistoError: it holds such a trial, or is not a database.
    """
    if not os.path.lexists(path):
        return
    if not path.is_file():
        raise HistoError(f"cannot use {path}: it is not a file", HINT)
    try:
        with closing(connect(path)) as connection:
            has_trials = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'trials'").fetchone()
            query = "SELECT 1 FROM trials WHERE state != 'WAITING'"
            is_started = has_trials and connection.execute(query).fetchone()
    except sqlite3.Error as error:
        raise HistoError(f"cannot use {path}: {error}", HINT) from error
    if is_started:
        raise HistoError(f"{path} has trials, but their record {path.with_name('study.json')} is gone", HINT)


def find_trial_problem(trial: "FrozenTrial", report: TrialReport | None, config: TuneConfig) -> str:
    """Return why `histo tune` cannot have written a trial with these options, or ""; `report` describes it."""
    if not is_in_space(config, trial.params) or not is_in_space(config, trial.system_attrs.get("fixed_params", {})):
        return "has parameters that the study does not search"
    if report is None:
        return "lacks parameters" if trial.state.is_finished() else ""
    if trial.params.keys() != NAMES:
        return "has other parameters than the study"
    if len(report.auc) > config.folds or (report.state == FINISHED and len(report.auc) != config.folds):
        return f"has the AUC of {len(report.auc):,} folds, not of {config.folds}"
    value = trial.value if isinstance(trial.value, float) else -1.0
    if report.state == FINISHED and not math.isclose(value, np.mean(report.auc), rel_tol=_SAME):
        return f"has the value {trial.value}, not its mean AUC {report.mean}"
    means = trial.intermediate_values
    if not all(1 <= step <= config.folds and 0 <= value <= 1 for step, value in means.items()):
        return "has a mean AUC of other folds, or outside 0 to 1"
    return ""
