"""Read the evaluations of runs, without those of a network that a run does not have any more."""

from collections.abc import Callable, Collection
from functools import cache
from pathlib import Path

from histocli.config import EvalConfig
from histocli.data.manifest import hash_file
from histocli.enums import SplitName
from histocli.reports.evaluation import EvaluationReport, read_evaluations
from histocli.workspace import Workspace


class EvaluationReader:
    """Reads evaluations for one command, and hashes each checkpoint at most once.

    An evaluation is left out if the run has a folder, and neither its `best.pt` nor its `last.pt` is the evaluated
    checkpoint: the run was trained longer, or another run has its name now. `on_outdated` receives a warning
    and the evaluation, once for each file.
    """

    def __init__(self, workspace: Workspace, on_outdated: Callable[[str, EvaluationReport], None]) -> None:
        self._workspace, self._on_outdated = workspace, on_outdated
        self._hash = cache(hash_file)
        self._outdated: set[Path] = set()

    def read(self, run: str, data: Collection[str] = ()) -> dict[Path, EvaluationReport]:
        """Return the evaluations of a run, sorted by file name: all, or those on the data sets `data`.

        Raises:
            HistoError: as `read_evaluations`.
        """
        found = read_evaluations(self._workspace, run, data)
        current = {path: report for path, report in found.items() if self._is_current(run, report)}
        for path in sorted(found.keys() - current.keys() - self._outdated):
            self._outdated.add(path)
            self._on_outdated(_describe_outdated(path, found[path]), found[path])
        return current

    def _is_current(self, run: str, report: EvaluationReport) -> bool:
        """Return whether the run still has the evaluated checkpoint; also true if this is not known.

        It is not known of ensembles and folds, of runs without a folder, and of a run whose best.pt was removed after
        its first epoch.
        """
        digests = [checkpoint.checkpoint_sha256 for checkpoint in report.checkpoints]
        if len(digests) != 1 or run not in self._workspace.list_runs():
            return True
        folder = self._workspace.runs_dir / run
        best, last, history = folder / "best.pt", folder / "last.pt", folder / "history.jsonl"
        if any(path.is_file() and self._hash(path) == digests[0] for path in (best, last)):
            return True
        return not best.is_file() and history.is_file() and history.stat().st_size > 0


def _describe_outdated(path: Path, report: EvaluationReport) -> str:
    """Return the warning that an evaluation is left out, with the command that evaluates the present network."""
    is_default = report.split == SplitName.VAL and report.data == report.packed and not report.variants
    is_default &= report.threshold_rule == EvalConfig.threshold
    return (
        f"{path.name} is not used: it is an evaluation of another network than best.pt and last.pt of the run "
        f"{report.run}, an earlier one or one of another run of this name; histo eval --ckpt {report.run}"
        f"{'' if is_default else ', with the same other options,'} evaluates the present one"
    )
