"""The sheets of patches that `histo plot` draws: samples of a data set, and the errors of an evaluation."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from histocli.data.manifest import UNLABELLED, read_manifest
from histocli.inference.score_table import read_scores
from histocli.reports.evaluation import EvaluationReport
from histocli.reports.plots import Kind, MissingInputError, Plot, shorten
from histocli.reports.run import read_run
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from histocli.reports.plots.sheets import Group


def plan_samples(workspace: Workspace, run: str | None, data: Sequence[str]) -> list[Plot]:
    """Return a sheet of samples of the run's data set, or of those that `data` names."""
    names = [name for name in workspace.dataset_names() if not data or name in data]
    if not data and run is not None:
        config = workspace.run_dir(run) / "config.json"
        own = read_run(config.parent).data if config.is_file() else ""
        names = [name for name in names if name == own]
    if not names:
        raise MissingInputError("there are no packed patches yet", "histo download packs them")
    return [_plan_sample_sheet(workspace, name) for name in names]


def _plan_sample_sheet(workspace: Workspace, name: str) -> Plot:
    """Return a sheet of random patches of each class, the same at each call; without labels there is one group."""
    import numpy as np

    from histocli.inference.scored_patches import read_packed
    from histocli.reports.plots.sheets import PER_GROUP, Group
    from histocli.reports.plots.style import CLASS_NAMES

    labels = read_manifest(workspace.manifest_path(name))["label"].to_numpy()
    rng = np.random.default_rng(0)
    groups = []
    for label, heading in ((0, CLASS_NAMES[0]), (1, CLASS_NAMES[1]), (UNLABELLED, "without label")):
        rows = np.flatnonzero(labels == label)
        if not len(rows) and (label == UNLABELLED or (labels == UNLABELLED).all()):
            continue
        drawn = np.sort(rng.choice(rows, min(PER_GROUP, len(rows)), replace=False))
        groups.append(Group(f"{heading} (n = {len(rows):,})", read_packed(workspace, name, drawn)))
    counts = f"n = {len(labels):,}; label 1: tumour within the marked central 32x32 pixels"
    return _plan_sheet(f"{name}-{Kind.SAMPLES}", groups, f"Samples of {name}", counts)


def plan_errors(workspace: Workspace, evaluations: dict[Path, EvaluationReport]) -> list[Plot]:
    """Return a sheet of errors for each evaluation whose patches can still be read."""
    from histocli.inference.scored_patches import can_read_scored

    plots, missing = [], []
    for path, report in evaluations.items():
        table = path.with_name(report.scores)
        if not table.is_file():
            missing.append(table)
            continue
        scores = read_scores(table)
        if can_read_scored(workspace, report, scores):
            plots.append(_plan_error_sheet(workspace, path.stem, report, scores))
    if not plots and missing:
        raise MissingInputError(f"there is no {missing[0]}", "histo eval writes it again")
    if not plots:
        raise MissingInputError(
            "the scored patches are not packed in this workspace, and their folder is not there any more",
            "pack them with histo download, and score them with histo eval --data NAME",
        )
    return plots


def _plan_error_sheet(workspace: Workspace, stem: str, report: EvaluationReport, scores: "pd.DataFrame") -> Plot:
    """Return the plot of the most confident errors of an evaluation; their patches are read now."""
    from histocli.inference.scored_patches import read_scored
    from histocli.reports.plots.evaluation import facts
    from histocli.reports.plots.sheets import Group, most_confident_errors

    threshold, confusion = report.measured.threshold, report.measured.confusion
    kinds = (("False positives", confusion.fp), ("False negatives", confusion.fn))
    groups = []
    for rows, (name, count) in zip(
        most_confident_errors(scores["label"], scores["prob"], threshold), kinds, strict=True
    ):
        errors = scores.iloc[rows]
        captions = [f"{prob:.3f}\n{shorten(id, 10)}" for id, prob in zip(errors["id"], errors["prob"], strict=True)]
        shown = f"{len(rows):,} of {count:,}, the most confident first" if len(rows) else "none"
        groups.append(Group(f"{name}: {shown}", read_scored(workspace, report, errors), captions))
    key_line = f"under each patch: its probability of tumour (threshold {threshold:.3g}) and its id"
    heading = f"Most confident errors: {report.run}"
    return _plan_sheet(f"{stem}-{Kind.ERRORS}", groups, heading, ", ".join(facts(report)), key_line)


def _plan_sheet(stem: str, groups: "list[Group]", heading: str, *facts: str) -> Plot:
    from histocli.reports.plots.sheets import draw_sheet, sheet_size

    def draw(figure: "Figure") -> None:
        draw_sheet(figure, groups, heading, *facts)

    return Plot(stem, *sheet_size(groups), draw)
