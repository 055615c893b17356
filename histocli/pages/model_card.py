"""Write `model_card.md`: the training data of a run, its metrics with intervals, its intended use and its limits.

The sections follow Mitchell et al., "Model Cards for Model Reporting" (2019). The text is in
`templates/model_card.md.j2`.
"""

import re
from functools import cache
from typing import TYPE_CHECKING

from histocli.atomic import write_atomically, write_text
from histocli.data.dataset import read_dataset
from histocli.data.groups import explain_weak_validation, find_split_unit
from histocli.data.manifest import UNLABELLED, read_manifest
from histocli.inference.validation import evaluate_best
from histocli.metrics import Uncertainty
from histocli.metrics.registry import find_metric_title
from histocli.models import describe_weights
from histocli.models.checkpoint import load_checkpoint
from histocli.pages.markdown import escape_markdown, make_code_span
from histocli.reports.audit import SPLIT_SENTENCES
from histocli.reports.balance import SplitCounts, count_patches
from histocli.reports.evaluation import EvaluationReport, format_interval, read_evaluations
from histocli.reports.run import read_run, select_used_rows
from histocli.text import format_metric, pluralise
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    from jinja2 import Environment

_CARD = "model_card.md"
_EVALUATIONS = "## Evaluations\n"
_HEADING = re.compile(rb"^## Evaluations\r?$", re.MULTILINE)  # an editor on Windows ends lines with \r\n


def write_card(workspace: Workspace, run: str) -> EvaluationReport:
    """Write the model card of a finished run; return the evaluation of its best epoch, which is in the card.

    It is made from the best.pt of the run and from other files in its folder and the workspace.

    Raises:
        HistoError: one of these files cannot be read.
    """
    folder = workspace.run_dir(run)
    record = read_run(folder)
    manifest = read_manifest(folder / "manifest.csv", ("id", "label", "slide", "split"))
    best = load_checkpoint(folder / "best.pt")
    validation = evaluate_best(folder / "best.pt", best, manifest, record.data)
    sha256 = validation.checkpoints[0].checkpoint_sha256
    text = (
        _make_environment()
        .get_template("model_card.md.j2")
        .render(
            run=record,
            best=best,
            best_sha256=sha256,
            n_weights=sum(tensor.numel() for tensor in best.model.values()),
            dataset=read_dataset(workspace, record.data),
            splits=count_labelled_patches(select_used_rows(manifest, record.shots)),
            split_by=find_split_unit(manifest),
            weakness=explain_weak_validation([manifest]),
            weights_note=describe_weights(best.arch, record.options.get("weights")),
            options=[
                (name, value)
                for name, value in record.options.items()
                if value is not None and (name, value) != ("extended_after", 0)
            ],
            validation=validation,
            threshold_rule=best.config.get("threshold", "0.5"),
        )
    )
    evaluations = _render_evaluations(workspace, run, sha256)
    write_text(folder / _CARD, f"{text.rstrip()}\n\n{_EVALUATIONS}\n{evaluations}")
    return validation


def has_card(workspace: Workspace, run: str) -> bool:
    """Return whether a run has its model card, which is the last file that its training writes."""
    return (workspace.run_dir(run) / _CARD).is_file()


def add_evaluations(workspace: Workspace, run: str, best_sha256: str) -> None:
    """Write the evaluations of a run's `best.pt` (with this SHA-256) into the run's model card, if it has one.

    What stands before them stays as it is, in whatever encoding an editor has saved it.

    Raises:
        HistoError: an evaluation cannot be read.
    """
    if not has_card(workspace, run):
        return
    path = workspace.run_dir(run) / _CARD
    evaluations = f"{_EVALUATIONS}\n{_render_evaluations(workspace, run, best_sha256)}"
    before = _HEADING.split(path.read_bytes(), maxsplit=1)[0]
    with write_atomically(path) as temporary:
        temporary.write_bytes(before + evaluations.encode())


def _render_evaluations(workspace: Workspace, run: str, best_sha256: str) -> str:
    """Return the evaluations of a run's `best.pt` as Markdown."""
    evaluations = [
        report
        for report in read_evaluations(workspace, run).values()
        if [checkpoint.checkpoint_sha256 for checkpoint in report.checkpoints] == [best_sha256]
    ]
    text = _make_environment().get_template("evaluations.md.j2").render(evaluations=evaluations)
    return f"{text.rstrip()}\n"


def count_labelled_patches(manifest: "pd.DataFrame") -> dict[str, SplitCounts]:
    """Count the labelled patches and the known slides of the splits train and val of a manifest."""
    counts = count_patches(manifest[manifest["label"] != UNLABELLED])
    return {name: counts[name] for name in ("train", "val") if name in counts}


@cache
def _make_environment() -> "Environment":
    """Return a Jinja environment with the templates of this package and filters that format numbers."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - `escape_markdown` escapes HTML too
        loader=PackageLoader("histocli.pages"), undefined=StrictUndefined, trim_blocks=True, finalize=escape_markdown
    )
    environment.filters |= {
        "number": _format_metric,
        "known": _format_count,
        "code": make_code_span,
        "metric": find_metric_title,
        "plural": pluralise,
    }
    environment.filters["split_sentence"] = SPLIT_SENTENCES.__getitem__
    return environment


def _format_metric(value: float | None, uncertainty: Uncertainty | None = None, name: str = "") -> str:
    """Format a metric with four decimals, and its interval in parentheses; DeLong's interval is marked as such."""
    interval = format_interval(uncertainty, name) if uncertainty else ""
    return f"{format_metric(value)} ({interval})" if interval else format_metric(value)


def _format_count(count: int | None) -> str:
    return "not known" if count is None else f"{count:,}"
