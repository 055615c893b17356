"""`histo plot`: draw the reports that other commands wrote."""

import os
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from histocli.commands.plot_balance import plan_balance
from histocli.commands.plot_sheets import plan_error_sheets, plan_samples
from histocli.config import SUBSET, PlotConfig
from histocli.enums import PlotKind
from histocli.errors import ExplanationError, HistoError, UsageError
from histocli.inference.evaluations import EvaluationReader
from histocli.inference.score_table import find_clusters, read_scores
from histocli.listeners import SILENT, CommandListener
from histocli.plots import MissingInputError, Plot
from histocli.reports.conditions import group_by_conditions
from histocli.reports.evaluation import EvaluationReport, find_newest_name, read_evaluations
from histocli.reports.run import Epoch, list_members, make_history_hint, read_history, read_run
from histocli.slides.resolution import GivenResolutions, UnknownResolutionError, read_resolutions
from histocli.text import shorten_to_length
from histocli.workspace import Workspace

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WITHOUT_EVALUATION = {PlotKind.CURVES, PlotKind.BALANCE, PlotKind.SAMPLES}  # kinds that need no evaluation
_OVERLAID = (PlotKind.CURVES, PlotKind.ROC, PlotKind.PR, PlotKind.CALIBRATION)  # kinds that can show several runs


def plot(
    workspace: Workspace,
    config: PlotConfig,
    *,
    listener: CommandListener = SILENT,
) -> list[Path]:
    """Draw plots of a run into the workspace's `plots/`, and return the files.

    The default is the run that was trained or evaluated last.

    The plots show the run's learning curves, its data set and subset, and its evaluations. `config.data` selects some
    data sets or subsets. Curves of several runs are drawn into one plot if they can be compared. `PlotKind.ALL` draws
    all kinds for which there is input. The listener receives the checkpoints in use, changes or guesses in images, and
    a warning of each evaluation that is not drawn because its network is not the run's any more.

    Raises:
        UsageError: an option cannot be used.
        HistoError: the run does not exist, there is no input for one of the kinds, or an input cannot be read.
    """
    from histocli.plots.style import PlotStyle, save

    config.check()
    resolutions = read_resolutions(config.mpp)
    _refuse_kinds_of_one_run(config)
    check_runs(workspace, config.run)
    can_be_without_run = not set(config.kind) <= _WITHOUT_EVALUATION
    runs = list(dict.fromkeys(config.run)) or list_newest_run(workspace, can_be_without_run=can_be_without_run)
    check_data(workspace, config.data, runs)
    reader = EvaluationReader(workspace, lambda warning, _: listener.on_warning(warning))
    plan = _plan_overlay if len(runs) > 1 else _plan_plots
    plots: list[Plot] = []
    possible = _OVERLAID if len(runs) > 1 else [kind for kind in PlotKind if kind is not PlotKind.ALL]
    for kind in [kind for kind in possible if kind in config.kind or PlotKind.ALL in config.kind]:
        try:
            if kind is PlotKind.EXPLAIN and (config.files or config.ids):
                from histocli.commands.plot_explanations import plan_chosen_patches  # imports torch

                plots += plan_chosen_patches(workspace, config, listener)
            elif kind is PlotKind.MAP:
                plots += _plan_maps(workspace, reader, runs, config, resolutions, listener)
            else:
                plots += plan(workspace, reader, runs, kind, config.data)
        except (MissingInputError, ExplanationError, UnknownResolutionError) as error:
            if PlotKind.ALL not in config.kind:
                raise
            if isinstance(error, UnknownResolutionError) or kind is PlotKind.ROC:  # the other kinds lack the same
                missing = "ROC curve, calibration or other plot of scores" if kind is PlotKind.ROC else "maps"
                listener.on_note(f"no {missing}: {error}; {error.hint}")
    if not plots:
        raise MissingInputError(f"there is nothing to draw in {workspace.root}", "histo train makes a run")
    style = PlotStyle(config.format, config.dpi, config.width, config.title)
    paths = [workspace.plots_dir / f"{p.file_stem}.{config.format.value}" for p in plots]
    return [save(path, style, p.width, p.height, p.draw) for path, p in zip(paths, plots, strict=True)]


def _refuse_kinds_of_one_run(config: PlotConfig) -> None:
    """Raise `UsageError` for several runs with a kind that shows one; `PlotKind.ALL` leaves such kinds out."""
    if len(set(config.run)) > 1 and PlotKind.ALL not in config.kind:
        for kind in config.kind:
            if kind not in _OVERLAID:
                raise UsageError(f"--kind {kind} shows one run", f"with several --run, choose {', '.join(_OVERLAID)}")


def check_runs(workspace: Workspace, runs: Sequence[str]) -> None:
    """Check that each run exists, or that there is an evaluation of a network of this name.

    Raises:
        HistoError: one of them is not known.
    """
    for run in runs:
        if not workspace.run_dir(run).is_dir() and not read_evaluations(workspace, run):
            if members := list_members(workspace, run):
                options = " ".join(f"--run {name}" for name in members)
                raise HistoError(
                    f"{run!r} is the common name of {len(members)} runs, and has no evaluation",
                    f"for the curves of the runs: {options}",
                )
            raise HistoError(
                f"there is no run {run!r}",
                f"histo train --name {run} makes it; runs: {', '.join(workspace.list_runs()) or 'none'}",
            )


def list_newest_run(workspace: Workspace, *, can_be_without_run: bool = True) -> list[str]:
    """Return a list with the run that was trained or evaluated last; it is empty if there is none.

    With `can_be_without_run`, it may be an evaluated network without a run, such as the packaged one.
    """
    newest, runs = find_newest_name(workspace), workspace.list_runs()
    if newest in runs or can_be_without_run:
        return [newest] if newest else []
    return runs[-1:]


def check_data(workspace: Workspace, data: Sequence[str], runs: Sequence[str]) -> None:
    """Check that the data sets are in the workspace, or that one of the runs was evaluated on them.

    Raises:
        HistoError: one of them is not known.
    """
    evaluated = {report.data for run in runs for report in read_evaluations(workspace, run).values()} if data else set()
    known = {*workspace.list_datasets(), *workspace.list_subsets(), *evaluated}
    for name in data:
        if name not in known:
            workspace.check_complete(name)
            raise HistoError(f"there is no data set {name!r}", f"choose from {', '.join(sorted(known))}")


def _plan_plots(
    workspace: Workspace, reader: EvaluationReader, runs: Sequence[str], kind: PlotKind, data: Sequence[str]
) -> list[Plot]:
    """Return the plots of one kind.

    Raises:
        MissingInputError: the files that the plots are drawn from do not exist.
    """
    run = runs[0] if runs else None
    if kind is PlotKind.BALANCE:
        return plan_balance(workspace, run, data)
    if kind is PlotKind.SAMPLES:
        return plan_samples(workspace, run, data)
    if run is None:
        raise MissingInputError("there is no training run yet", "histo train makes one")
    if kind is PlotKind.CURVES:
        return [_plan_curves(workspace, run, data)]
    evaluations = _find_evaluations(reader, run, data)
    if kind is PlotKind.ERRORS:
        return plan_error_sheets(workspace, evaluations)
    if kind is PlotKind.EXPLAIN:
        from histocli.commands.plot_explanations import plan_explanations  # imports torch

        return plan_explanations(workspace, evaluations)
    return [_plan_evaluation(path, report, kind) for path, report in evaluations.items()]


def _plan_maps(
    workspace: Workspace,
    reader: EvaluationReader,
    runs: Sequence[str],
    config: PlotConfig,
    given: GivenResolutions,
    listener: CommandListener,
) -> list[Plot]:
    """Return the maps of the slides of a run's evaluations, or of the tables `config.files`."""
    from histocli.commands.plot_maps import plan_evaluation_maps, plan_prediction_maps

    if config.files:
        return plan_prediction_maps(workspace, config, given, listener)
    if not runs:
        raise MissingInputError("there is no training run yet", "histo train makes one")
    return plan_evaluation_maps(workspace, _find_evaluations(reader, runs[0], config.data), given, listener)


def _find_evaluations(reader: EvaluationReader, run: str, data: Sequence[str]) -> dict[Path, EvaluationReport]:
    """Return the evaluations of a run, or only those on the data sets `data`; raise `MissingInputError` if none is."""
    evaluations = reader.read(run, data)
    if not evaluations:
        on = f" on {', '.join(data)}" if data else ""
        option = f" --data {data[0]}" if data else ""
        raise MissingInputError(f"the run {run!r} has not been evaluated{on}", f"histo eval --ckpt {run}{option}")
    return evaluations


def _plan_overlay(
    workspace: Workspace, reader: EvaluationReader, runs: Sequence[str], kind: PlotKind, data: Sequence[str]
) -> list[Plot]:
    """Return the plots of one kind that show all runs: one for each data set and split on which all were evaluated."""
    from histocli.plots import overlay
    from histocli.plots.style import COLUMN

    stem, more = "-vs-".join(runs), 0.32 * len(runs)  # inches for the legend
    if kind is PlotKind.CURVES:
        histories = [_read_history(workspace, run) for run in runs]
        curves = [(read_run(workspace.run_dir(run)), rows) for run, rows in zip(runs, histories, strict=True)]
        draw_curves = partial(overlay.draw_curves_of_runs, runs=curves)
        return [Plot(f"{shorten_to_length(stem, 100)}-{kind}", COLUMN, 3.8 + more / 2, draw_curves)]
    draw = {
        PlotKind.ROC: overlay.draw_roc_of_runs,
        PlotKind.PR: overlay.draw_pr_of_runs,
        PlotKind.CALIBRATION: overlay.draw_calibration_of_runs,
    }[kind]
    by_run = [group_by_conditions(_find_evaluations(reader, run, data)) for run in runs]
    common = [key for key in by_run[0] if all(key in evaluations for evaluations in by_run)]
    if not common:
        raise MissingInputError(
            f"{', '.join(runs)} have no evaluation on the same data and with the same options in common",
            f"histo eval --ckpt {runs[0]}, and the same for the others, with the same --data and other options",
        )
    plots, suffixes = [], ["-".join(key.parts) for key in common]
    for key, suffix in zip(common, suffixes, strict=True):
        if suffixes.count(suffix) > 1:  # folders with the same name
            suffix += f"-{sha256(os.fsencode(key.folder)).hexdigest()[:8]}"
        reports = [evaluations[key] for evaluations in by_run]
        file_stem = f"{shorten_to_length(stem, 100)}-{suffix}-{kind}"
        plots.append(Plot(file_stem, COLUMN, 4.0 + more, partial(draw, reports=reports)))
    return plots


def _plan_evaluation(path: Path, report: EvaluationReport, kind: PlotKind) -> Plot:
    """Return the plot of one kind for an evaluation; it is drawn later."""
    from histocli.plots import evaluation
    from histocli.plots.style import COLUMN

    drawings: dict[PlotKind, tuple[float, Callable[..., None]]] = {
        PlotKind.ROC: (3.8, partial(_draw_roc, path=path)),
        PlotKind.PR: (3.8, evaluation.draw_pr),
        PlotKind.CONFUSION: (3.8, evaluation.draw_confusion),
        PlotKind.CALIBRATION: (4.2, evaluation.draw_calibration),
        PlotKind.SCORES: (2.9, evaluation.draw_scores),
    }
    height, draw = drawings[kind]
    return Plot(f"{path.stem}-{kind}", COLUMN, height, partial(draw, report=report))


def _draw_roc(figure: "Figure", report: EvaluationReport, path: Path) -> None:
    """Draw the ROC curve, with a band if the scores are there and the bootstrap has enough slides."""
    import numpy as np

    from histocli.metrics.bands import compute_roc_band
    from histocli.plots.evaluation import draw_roc

    table, band, by = path.with_name(report.scores), None, ""
    if table.is_file():
        scores = read_scores(table)
        clusters = find_clusters(scores)
        band = compute_roc_band(scores["label"].to_numpy(np.int64), scores["prob"].to_numpy(np.float64), clusters)
        by = clusters.by
    draw_roc(figure, report, band, by)


def _plan_curves(workspace: Workspace, run: str, data: Sequence[str]) -> Plot:
    """Return the plot of a run's learning curves; raise `MissingInputError` if it was not trained on `data`."""
    from histocli.plots.style import COLUMN
    from histocli.plots.training import draw_curves

    history = _read_history(workspace, run)
    record = read_run(workspace.run_dir(run))
    if data and {record.data, str(record.options.get("data", SUBSET))}.isdisjoint(data):
        raise MissingInputError(f"{run!r} was not trained on {', '.join(data)}", f"it was trained on {record.data}")
    return Plot(f"{run}-{PlotKind.CURVES}", COLUMN, 4.6, partial(draw_curves, run=record, history=history))


def _read_history(workspace: Workspace, run: str) -> list[Epoch]:
    """Read the epochs of a run; raise `MissingInputError` if there are none."""
    folder = workspace.run_dir(run)
    try:
        history = read_history(folder / "history.jsonl")
    except FileNotFoundError:
        hint = make_history_hint(folder) if folder.is_dir() else ""
        raise MissingInputError(f"the run {run!r} has no history", hint) from None
    if not history:
        raise MissingInputError(f"the run {run!r} has not finished an epoch", f"histo train --resume --name {run}")
    return history
