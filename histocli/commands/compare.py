"""`histo eval --compare`: compare two evaluations on the patches that both scored."""

from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from histocli.atomic import write_json
from histocli.commands.evaluate import evaluate
from histocli.compute.ddp import SINGLE_PROCESS, Ranks
from histocli.config import EvalConfig
from histocli.errors import HistoError, UsageError
from histocli.inference.comparison import compare_evaluations
from histocli.listeners import SILENT, CommandListener
from histocli.reports.comparison import ComparisonReport
from histocli.reports.evaluation import OUT_OF_FOLD, read_evaluations
from histocli.schema import to_json
from histocli.workspace import Workspace, is_path, make_name


class Comparison(NamedTuple):
    """A comparison of two evaluations, and the file that it is written to."""

    path: Path
    report: ComparisonReport


def compare(
    workspace: Workspace,
    config: EvalConfig,
    names: tuple[str, str],
    *,
    listener: CommandListener = SILENT,
    ranks: Ranks = SINGLE_PROCESS,
) -> Comparison:
    """Compare two evaluations on the patches that both scored, and write the comparison to `metrics/`.

    A name is that of a metrics file (`.json`), or of a checkpoint, which is first evaluated with the options of
    `config`.

    Raises:
        HistoError: as `evaluate`, or the two evaluations have no patch in common.
    """

    def find_or_evaluate(name: str) -> Path:
        if not name.endswith(".json"):
            _refuse_folds(workspace, name)
            single = replace(config, ckpt=(name,))
            return evaluate(workspace, single, listener=listener, ranks=ranks).path
        return Path(name) if is_path(name) else workspace.metrics_dir / name

    def write() -> Comparison:
        if first == second and names[0] != names[1]:
            raise UsageError(f"{names[0]} and {names[1]} are the same evaluation", "give two different ones")
        report = compare_evaluations(first, second)
        stem = f"{first.stem}-vs-{second.stem}"
        folders = [path.parent.resolve() for path in (first, second)]
        if set(folders) != {workspace.metrics_dir.resolve()}:  # other folders may have files of the same names
            stem += f"-{sha256(repr(folders).encode()).hexdigest()[:8]}"
        path = workspace.metrics_dir / f"{make_name(stem)}.json"
        write_json(path, to_json(report))
        return Comparison(path, report)

    first, second = map(find_or_evaluate, names)
    return ranks.on_rank0(write)


def _refuse_folds(workspace: Workspace, name: str) -> None:
    """Raise `HistoError` if a name is that of a cross-validation; the hint names its out-of-fold scores."""
    if is_path(name) or workspace.run_dir(name).exists():
        return
    scores = [path.name for path, one in read_evaluations(workspace, name).items() if one.split == OUT_OF_FOLD]
    if scores:
        raise HistoError(f"{name} is a cross-validation and not a run", f"compare its out-of-fold scores: {scores[0]}")
