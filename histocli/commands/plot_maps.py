"""The maps that `histo plot` draws: the scored patches of each slide, at their positions."""

from functools import partial
from pathlib import Path

from histocli.config import PlotConfig
from histocli.data.manifest import hash_file
from histocli.enums import PlotKind
from histocli.inference.score_table import read_scores
from histocli.listeners import CommandListener
from histocli.plots import MissingInputError, Plot
from histocli.plots.evaluation import make_subtitles
from histocli.plots.maps import draw_map, find_map_size
from histocli.reports.evaluation import EvaluationReport
from histocli.slides.patch_maps import PatchMap, PlacedPatches, make_patch_maps, place_evaluation, place_predictions
from histocli.slides.resolution import GivenResolutions
from histocli.workspace import Workspace, make_name

_HINT = "histo download --source slides packs patches with positions; or use ids such as SLIDE_x2176_y512"


def plan_evaluation_maps(
    workspace: Workspace,
    evaluations: dict[Path, EvaluationReport],
    given: GivenResolutions,
    listener: CommandListener,
) -> list[Plot]:
    """Return a map of each slide of each evaluation whose patches have positions.

    Raises:
        MissingInputError: none of the patches has a position.
        HistoError: the scores or a manifest cannot be read, or the resolution of a slide is not known.
    """
    plots = []
    for path, report in evaluations.items():
        table = path.with_name(report.scores)
        if not table.is_file():
            continue
        placed = place_evaluation(workspace, read_scores(table))
        _note_unplaced(placed, path.stem, listener)
        plots += [
            _plan_map(
                path.stem, patch_map, ", ".join([report.run, *make_subtitles(report)[:1]]), report.measured.threshold
            )
            for patch_map in make_patch_maps(placed, given)
        ]
    if not plots:
        names = ", ".join(sorted({report.data for report in evaluations.values()}))
        raise MissingInputError(f"no scored patch of {names} has a known position", _HINT)
    return plots


def plan_prediction_maps(
    workspace: Workspace, config: PlotConfig, given: GivenResolutions, listener: CommandListener
) -> list[Plot]:
    """Return a map of each slide of each table `config.files` of `histo predict`.

    Raises:
        MissingInputError: none of the patches of a table has a position.
        HistoError: a table cannot be read, or the resolution of a slide is not known.
    """
    plots = []
    for name in config.files:
        path = Path(name)
        placed = place_predictions(workspace, path, config.data)
        if not len(placed.table):
            raise MissingInputError(f"{path}: none of its {placed.n_unplaced:,} patches has a known position", _HINT)
        _note_unplaced(placed, str(path), listener)
        stem = f"{path.stem}-{hash_file(path)[:8]}"  # many tables have the same name, such as scores.csv
        plots += [_plan_map(stem, patch_map, path.name, None) for patch_map in make_patch_maps(placed, given)]
    return plots


def _note_unplaced(placed: PlacedPatches, name: str, listener: CommandListener) -> None:
    if placed.n_unplaced and len(placed.table):
        total = placed.n_unplaced + len(placed.table)
        verbs = "has no position, and is" if placed.n_unplaced == 1 else "have no position, and are"
        listener.on_note(f"{name}: {placed.n_unplaced:,} of {total:,} patches {verbs} not drawn")


def _plan_map(stem: str, shown: PatchMap, source: str, threshold: float | None) -> Plot:
    draw = partial(draw_map, shown=shown, source=source, threshold=threshold)
    return Plot(make_name(f"{stem}-{PlotKind.MAP}-{shown.slide}"), *find_map_size(shown), draw)
