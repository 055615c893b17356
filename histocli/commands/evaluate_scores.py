"""`histo eval --scores`: measure scores that were written before, without scoring patches again."""

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from histocli.commands.evaluate import Evaluation, format_threshold
from histocli.config import STORED_THRESHOLD
from histocli.errors import HistoError, UsageError
from histocli.inference.score_table import measure_groups, measure_scores, read_scores
from histocli.listeners import SILENT, CommandListener
from histocli.metrics import Measurement
from histocli.metrics.thresholds import parse_threshold
from histocli.reports.evaluation import EvaluationReport, read_evaluation, write_evaluation
from histocli.text import join_first
from histocli.workspace import Workspace, is_path

if TYPE_CHECKING:
    import pandas as pd

_MAX_LISTED = 5  # names in a hint
_TOLERANCE = 1e-6  # relative: another version or processor may compute other last digits


def evaluate_scores(
    workspace: Workspace, name: str, threshold: str = STORED_THRESHOLD, *, listener: CommandListener = SILENT
) -> Evaluation:
    """Return the evaluation of scores that were written before, at their own threshold or at another number.

    If `name` is a `.csv` file, the metrics are computed from its scores. The run and the threshold are read from the
    `.json` file of the same name, which must be in the same folder. If `name` is a `.json` file, its metrics are
    returned as they were written. With another threshold, the evaluation is written to a new file, which has the
    threshold in its name.

    Args:
        workspace: where the scores are.
        name: a file in `metrics/`, or a path with a separator: the `.csv` or the `.json` file that `histo eval` or
            `histo train --folds` wrote.
        threshold: a number, or `stored`.
        listener: gets a warning if the scores were changed after they were written.

    Raises:
        HistoError: the file is missing, or is not such a file.
        UsageError: the threshold is a rule, which needs the validation patches of a checkpoint.
    """
    value = None if threshold == STORED_THRESHOLD else parse_threshold(threshold)
    if threshold != STORED_THRESHOLD and value is None:
        raise UsageError(
            f"--threshold {threshold} cannot be chosen on the scores that it is applied to", "give a number"
        )
    try:
        path = _find_file(workspace, name)
        is_table = path.suffix.lower() == ".csv"
        table = read_scores(path, hint="") if is_table else None
        report = _read_report(path.with_suffix(".json") if is_table else path, path)
    except HistoError as error:
        if error.hint:
            raise
        raise type(error)(str(error), _make_hint(workspace)) from error
    if table is None and value is None:
        return Evaluation(path, report)
    table_path = path if is_table else path.with_name(report.scores)
    if table is None:
        table = read_scores(table_path)
    at = report.measured.threshold if value is None else value
    evaluation = replace(_measure(report, table, at, table_path, listener), scores=table_path.name)
    if value is None:
        return Evaluation(path, evaluation)
    target = path.with_name(f"{table_path.stem}-{format_threshold(threshold)}.json")
    evaluation = replace(evaluation, threshold_rule=threshold)
    write_evaluation(target, evaluation)
    return Evaluation(target, evaluation)


def _measure(
    report: EvaluationReport, table: "pd.DataFrame", threshold: float, path: Path, listener: CommandListener
) -> EvaluationReport:
    """Return the report with the metrics of the scores in `table`, which were read from `path`."""
    measured, _, intervals = measure_scores(table.assign(raw=table["prob"]), threshold)
    changes = _list_changes(report.measured, measured)
    if changes:
        listener.on_warning(
            f"{path} was changed after it was evaluated ({', '.join(changes)}): the metrics are of the changed scores; "
            "the notes below are still about the scores before the change"
        )
    return replace(
        report,
        measured=measured,
        before_calibration={} if changes else report.before_calibration,
        uncertainty=intervals,
        slides=measure_groups("slide", table, threshold),
        hospitals=measure_groups("hospital", table, threshold),
    )


def _find_file(workspace: Workspace, name: str) -> Path:
    """Return the file with this name in `metrics/`, or at this path; raise `HistoError` if it cannot be scores."""
    path = Path(name) if is_path(name) else workspace.metrics_dir / name
    if path.is_dir():
        raise HistoError(f"{path} is a folder, and --scores needs a file of scores")
    if not path.exists():
        is_here = not is_path(name) and Path(name).is_file()
        hint = f"to use the file in the current directory, write ./{name}" if is_here else ""
        raise HistoError(f"there is no file {path}", hint)
    if path.suffix.lower() not in (".csv", ".json"):
        raise HistoError(f"{path} is not a file of scores: its name does not end in .csv or .json")
    if path.is_file() and not path.stat().st_size:
        raise HistoError(f"{path} is empty")
    return path


def _make_hint(workspace: Workspace) -> str:
    """Return a hint: which files of scores there are, or how to make one."""
    folder = workspace.metrics_dir
    names = sorted(path.name for path in folder.glob("*.csv") if path.with_suffix(".json").is_file())
    if not names:
        return f"histo eval and histo train --folds write files of scores to {folder}"
    return f"histo eval and histo train --folds write such files; in {folder}: {join_first(names, _MAX_LISTED)}"


def _read_report(path: Path, given: Path) -> EvaluationReport:
    """Return the evaluation in the file `path`, which the user gave, or which is beside the scores `given`."""
    if path != given and not path.is_file():
        raise HistoError(
            f"there is no file {path.name} beside {given}: it has the run and the threshold of these scores",
            "copy both files; histo eval writes them together",
        )
    return read_evaluation(path)


def _list_changes(before: Measurement, now: Measurement) -> list[str]:
    """Describe the differences in the counts, the AUC and the Brier score, which do not depend on a threshold."""
    counts = [("patches", before.n, now.n), ("tumour patches", before.positives, now.positives)]
    changes = [f"{name} from {a:,} to {b:,}" for name, a, b in counts if a != b]
    for name, key in (("AUC", "auc"), ("Brier score", "brier")):
        a, b = before.metrics[key], now.metrics[key]
        if a is not None and b is not None and not math.isclose(a, b, rel_tol=_TOLERANCE):
            digits = 4 if f"{a:.4f}" != f"{b:.4f}" else 10
            changes.append(f"{name} from {a:.{digits}f} to {b:.{digits}f}")
    return changes
