"""`histo plot`: draw the reports that other commands wrote."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from histocli.config import SUBSET, PlotConfig
from histocli.data.manifest import UNLABELLED, read_manifest
from histocli.errors import HistoError
from histocli.inference.score_table import read_scores
from histocli.reports.balance import read_balance
from histocli.reports.evaluation import EvaluationReport, read_evaluations
from histocli.reports.plots import Kind, shorten
from histocli.reports.run import read_history, read_run
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    from histocli.reports.plots.sheets import Group
    from histocli.sources import Pixels

    Rows = np.ndarray[Any, np.dtype[np.int64]]

_HEIGHTS = {Kind.ROC: 3.8, Kind.PR: 3.8, Kind.CONFUSION: 3.6, Kind.CALIBRATION: 4.2, Kind.SCORES: 2.9}


class MissingInputError(HistoError):
    """The file that a kind of plot is drawn from does not exist."""


class Plot(NamedTuple):
    """A plot to draw: its file name without extension, its size in inches, and the function that draws it."""

    stem: str
    width: float
    height: float
    draw: "Callable[[Figure], None]"


def plot(workspace: Workspace, config: PlotConfig) -> list[Path]:
    """Draw plots of a run into the workspace's `plots/`, and return the files.

    Each evaluation of the run has its own plots. `Kind.ALL` draws all kinds for which there is input.

    Raises:
        HistoError: the run does not exist, there is no input for one of the kinds, or an input cannot be read.

    """
    from histocli.reports.plots.style import save

    run, kinds, format = _choose_run(workspace, config.run), config.kind, config.format
    plots: list[Plot] = []
    for kind in [kind for kind in Kind if kind is not Kind.ALL and (kind in kinds or Kind.ALL in kinds)]:
        try:
            plots += _plan_plots(workspace, run, kind)
        except MissingInputError:
            if Kind.ALL not in kinds:
                raise
    if not plots:
        raise MissingInputError(f"there is nothing to draw in {workspace.root}", "histo train makes a run")
    return [save(workspace.plots_dir / f"{p.stem}.{format.value}", format, p.width, p.height, p.draw) for p in plots]


def _choose_run(workspace: Workspace, run: str | None) -> str | None:
    """Return the run to draw: `run` if it exists, else the newest run; None if there are no runs."""
    names = workspace.run_names()
    if run is None:
        return names[-1] if names else None
    if not workspace.run_dir(run).is_dir() and not read_evaluations(workspace, run):
        raise HistoError(
            f"there is no run {run!r}",
            f"histo train --name {run} makes it; runs: {', '.join(names) or 'none'}",
        )
    return run


def _plan_plots(workspace: Workspace, run: str | None, kind: Kind) -> list[Plot]:
    """Return the plots of one kind.

    Raises:
        MissingInputError: the files that the plots are drawn from do not exist.

    """
    if kind is Kind.BALANCE:
        return _plan_balance(workspace)
    if kind is Kind.SAMPLES:
        return _plan_samples(workspace)
    if run is None:
        raise MissingInputError("there is no training run yet", "histo train makes one")
    if kind is Kind.CURVES:
        return [_plan_curves(workspace, run)]
    evaluations = read_evaluations(workspace, run)
    if not evaluations:
        newest = run == (workspace.run_names() or [run])[-1]
        raise MissingInputError(
            f"the run {run!r} has not been evaluated", f"histo eval --ckpt {'best.pt' if newest else run}"
        )
    if kind is Kind.ERRORS:
        return _plan_errors(workspace, evaluations)
    return [_plan_evaluation(path, report, kind) for path, report in evaluations.items()]


def _plan_evaluation(path: Path, report: EvaluationReport, kind: Kind) -> Plot:
    from histocli.reports.plots import evaluation
    from histocli.reports.plots.style import COLUMN

    drawings = {
        Kind.ROC: evaluation.draw_roc,
        Kind.PR: evaluation.draw_pr,
        Kind.CONFUSION: evaluation.draw_confusion,
        Kind.CALIBRATION: evaluation.draw_calibration,
        Kind.SCORES: evaluation.draw_scores,
    }
    return Plot(f"{path.stem}-{kind}", COLUMN, _HEIGHTS[kind], partial(drawings[kind], report=report))


def _plan_curves(workspace: Workspace, run: str) -> Plot:
    from histocli.reports.plots.style import COLUMN
    from histocli.reports.plots.training import draw_curves

    folder = workspace.run_dir(run)
    try:
        history = read_history(folder / "history.jsonl")
    except FileNotFoundError:
        raise MissingInputError(f"the run {run!r} has no history", f"histo train --name {run}") from None
    if not history:
        raise MissingInputError(f"the run {run!r} has not finished an epoch", f"histo train --resume --name {run}")
    return Plot(f"{run}-{Kind.CURVES}", COLUMN, 4.6, partial(draw_curves, run=read_run(folder), history=history))


def _plan_balance(workspace: Workspace) -> list[Plot]:
    """Return a plot of each balanced subset."""
    from histocli.reports.plots.style import COLUMN
    from histocli.reports.plots.subset import draw_balance

    reports = {path: read_balance(path) for path in workspace.balance_paths()}
    if not reports:
        raise MissingInputError("there is no balanced subset yet", "histo balance draws one")
    return [
        Plot(
            f"{report.data}-{Kind.BALANCE}" if path == workspace.balance_path(SUBSET) else path.stem,
            COLUMN,
            4.4 if report.slides else 2.4,
            partial(draw_balance, report=report),
        )
        for path, report in reports.items()
    ]


def _plan_samples(workspace: Workspace) -> list[Plot]:
    """Return a sheet of samples of each packed data set."""
    names = workspace.dataset_names()
    if not names:
        raise MissingInputError("there are no packed patches yet", "histo download packs them")
    return [_plan_sample_sheet(workspace, name) for name in names]


def _plan_sample_sheet(workspace: Workspace, name: str) -> Plot:
    """Return a sheet of random patches of each class, the same at each call; without labels there is one group."""
    import numpy as np

    from histocli.reports.plots.sheets import PER_GROUP, Group
    from histocli.reports.plots.style import CLASS_NAMES

    labels = read_manifest(workspace.manifest_path(name))["label"].to_numpy()
    rng = np.random.default_rng(0)
    groups = []
    for label, heading in ((0, CLASS_NAMES[0]), (1, CLASS_NAMES[1]), (UNLABELLED, "without label")):
        rows = np.flatnonzero(labels == label)
        if not len(rows) and (label == UNLABELLED or (labels == UNLABELLED).all()):
            continue
        sample = np.sort(rng.choice(rows, min(PER_GROUP, len(rows)), replace=False))
        groups.append(Group(f"{heading} (n = {len(rows):,})", _read_patches(workspace, name, sample)))
    counts = f"n = {len(labels):,}; label 1: tumour within the marked central 32x32 pixels"
    return _plan_sheet(f"{name}-{Kind.SAMPLES}", groups, f"Samples of {name}", counts)


def _plan_errors(workspace: Workspace, evaluations: dict[Path, EvaluationReport]) -> list[Plot]:
    """Return a sheet of errors for each evaluation of packed patches; an evaluation of a folder has none."""
    plots, missing = [], []
    for path, report in evaluations.items():
        table = path.with_name(report.scores)
        if not table.is_file():
            missing.append(table)
            continue
        scores = read_scores(table)
        if all(name and workspace.patches_path(name).is_file() for name in scores["data"].unique()):
            plots.append(_plan_error_sheet(workspace, path.stem, report, scores))
    if not plots and missing:
        raise MissingInputError(f"there is no {missing[0]}", "histo eval writes it again")
    if not plots:
        raise MissingInputError(
            "the scored patches are not packed in this workspace",
            "pack them with histo download, and score them with histo eval --data NAME",
        )
    return plots


def _plan_error_sheet(workspace: Workspace, stem: str, report: EvaluationReport, scores: "pd.DataFrame") -> Plot:
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
        groups.append(Group(f"{name}: {shown}", _read_scored_patches(workspace, errors), captions))
    key_line = f"under each patch: its probability of tumour (threshold {threshold:.3g}) and its id"
    heading = f"Most confident errors: {report.run}"
    return _plan_sheet(f"{stem}-{Kind.ERRORS}", groups, heading, ", ".join(facts(report)), key_line)


def _plan_sheet(stem: str, groups: "list[Group]", heading: str, *facts: str) -> Plot:
    from histocli.reports.plots.sheets import draw_sheet, sheet_size

    def draw(figure: "Figure") -> None:
        draw_sheet(figure, groups, heading, *facts)

    return Plot(stem, *sheet_size(groups), draw)


def _read_scored_patches(workspace: Workspace, scores: "pd.DataFrame") -> "Pixels":
    """Read patches (N,96,96,3) uint8, of one or several data sets, in the order of `scores`.

    Raises:
        HistoError: they are not the pixels that were scored.

    """
    from hashlib import sha1

    import numpy as np

    rows = scores["index"].to_numpy(np.int64)
    patches = np.empty((len(rows), 96, 96, 3), np.uint8)
    for name in scores["data"].unique():
        is_here = (scores["data"] == name).to_numpy()
        patches[is_here] = _read_patches(workspace, name, rows[is_here])
    for patch, digest, key in zip(patches, scores["sha1"], scores["id"], strict=True):
        if digest and sha1(patch.data, usedforsecurity=False).hexdigest() != digest:
            raise HistoError(
                f"the patch {key!r} was scored with other pixels",
                "its data set was packed again: run histo eval again",
            )
    return patches


def _read_patches(workspace: Workspace, name: str, rows: "Rows") -> "Pixels":
    """Read rows of the data set `name`.

    Raises:
        HistoError: it has been packed again with fewer patches, or cannot be read.

    """
    import numpy as np

    from histocli.data.store import open_store

    store = open_store(workspace.patches_path(name))
    if len(rows) and rows.max() >= len(store):
        raise HistoError(
            f"{name} has {len(store):,} patches, but the scores name row {rows.max():,}",
            "it was packed again: run histo balance and histo eval again",
        )
    return np.asarray(store[rows])
