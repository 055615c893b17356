"""`histo report`: write what the workspace knows about runs and their evaluations as one HTML page."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from histocli.commands.plot import check_data, check_runs, list_newest_run
from histocli.config import ReportConfig
from histocli.data.dataset import read_dataset
from histocli.data.groups import find_split_unit
from histocli.data.manifest import read_manifest
from histocli.errors import HistoError
from histocli.files.outputs import check_output, write_output
from histocli.inference.comparison import compare_evaluations
from histocli.inference.evaluations import EvaluationReader
from histocli.inference.score_table import read_scores
from histocli.listeners import SILENT, CommandListener
from histocli.models import describe_weights
from histocli.pages.charts import make_evaluation_charts, make_learning_curves, make_roc_chart
from histocli.pages.content import ComparisonSection, EvaluationSection, RunSection, render
from histocli.pages.gallery import make_error_galleries
from histocli.pages.maps import MapGallery, make_evaluation_maps
from histocli.pages.model_card import count_labelled_patches
from histocli.pages.operating import count_operating_points
from histocli.pages.slides import make_slide_section
from histocli.plots import MissingInputError
from histocli.reports.comparison import ComparisonReport
from histocli.reports.conditions import group_by_conditions, have_same_patches
from histocli.reports.evaluation import EvaluationReport
from histocli.reports.repeats import RepeatsReport, read_repeats
from histocli.reports.run import RunRecord, read_history, read_run, select_used_rows
from histocli.slides.resolution import GivenResolutions, read_resolutions
from histocli.text import format_count, shorten_to_length
from histocli.training.repeats import find_repeats_name
from histocli.workspace import Workspace, make_name

MAX_BYTES = 5_000_000  # a larger page gives a warning, because it may be too large for an e-mail
_TEXT_BYTES = 200_000  # about the largest size of an evaluation's charts, counts and tables
_OTHER_BYTES = 300_000  # about the size of the rest of the page
_MAP_SHARE = 0.4  # maps of slides take at most this share of the bytes for pictures, if there are evaluations

Evaluations = dict[Path, EvaluationReport]


class _Options(NamedTuple):
    """How an evaluation is shown.

    `pictures` is the largest number of false positives, and of false negatives; `bytes` is the largest size of all
    pictures. `resolutions`: the micrometres per pixel that the user gave, for slides whose data set has none.
    """

    pictures: int
    bytes: int
    resolutions: GivenResolutions


@dataclass(frozen=True)
class WrittenReport:
    """A page that was written: where, its size, and the number of runs, evaluations and heat maps in it."""

    path: Path
    bytes: int
    runs: int
    evaluations: int
    heat_maps: int


def report(
    workspace: Workspace,
    config: ReportConfig,
    *,
    listener: CommandListener = SILENT,
) -> WrittenReport:
    """Write an HTML page about runs and all of their evaluations, or those on `config.data`.

    With `config.maps` it also shows the maps of slides in this folder; they need no run.
    If something cannot be shown, such as patches that are not in the workspace any more, the page says so, and the
    listener receives a warning. It also receives a note before each step that takes long.

    Raises:
        UsageError: the page cannot be written to `config.out`.
        HistoError: a run does not exist, there is nothing to show, or a report cannot be read.
    """
    resolutions = read_resolutions(config.mpp)
    repeats = {run: found for run in config.run if (found := read_repeats(workspace, run))}
    runs = _choose_runs(workspace, config, repeats)
    path = config.out or workspace.plots_dir / f"{_make_page_name(runs, config.maps)}-report.html"
    check_output(path, workspace)
    problems: list[str] = []

    def warn_of_outdated(warning: str, evaluation: EvaluationReport) -> None:
        listener.on_warning(warning)
        problems.append(_remove_folders(warning, workspace, evaluation))

    reader = EvaluationReader(workspace, warn_of_outdated)
    evaluations = _read_evaluations(reader, runs, config.data)
    count = sum(map(len, evaluations.values()))
    picture_bytes = max(0, MAX_BYTES - _OTHER_BYTES - count * _TEXT_BYTES)
    map_bytes = round(picture_bytes * _MAP_SHARE) if count else picture_bytes
    slides = make_slide_section(workspace, config.maps, map_bytes) if config.maps else None
    if slides and slides.problem:
        listener.on_warning(slides.problem)
    picture_bytes -= slides.maps.bytes if slides else 0
    options = _Options(config.pictures, picture_bytes // max(1, count), resolutions)
    sections = [_make_run_section(workspace, run, evaluations[run], options, listener) for run in runs]
    comparisons = _make_comparison_sections(evaluations, listener)
    for problem in (missing := _find_missing_evaluations(evaluations, repeats, bool(comparisons))):
        listener.on_warning(problem)
    page = render(sections, comparisons, slides, [*problems, *missing]).encode()
    if len(page) > MAX_BYTES:
        listener.on_warning(
            f"the page has {len(page) / 1e6:.1f} MB, because it shows {count} evaluations; --data shows fewer"
        )
    with write_output(path, len(page)) as temporary:
        temporary.write_bytes(page)
    return WrittenReport(path, len(page), len(runs), count, len(slides.maps.pictures) if slides else 0)


def _choose_runs(workspace: Workspace, config: ReportConfig, repeats: Mapping[str, list[RepeatsReport]]) -> list[str]:
    """Return the runs to report on: those of the options, else the one trained or evaluated last; none with maps only.

    `repeats` has the common names of folds or seeds among `config.run`: there is no run of such a name.

    Raises:
        HistoError: a run or a data set does not exist, or there is nothing to show.
    """
    check_runs(workspace, [run for run in config.run if run not in repeats])
    runs = list(dict.fromkeys(config.run)) or list_newest_run(workspace)
    if not runs and (config.data or not config.maps):
        raise MissingInputError(
            "there is no training run to report on",
            "histo train makes one; without a run, --maps DIR shows the heat maps of histo predict",
        )
    check_data(workspace, config.data, runs)
    return runs


def _read_evaluations(reader: EvaluationReader, runs: Sequence[str], data: Sequence[str]) -> dict[str, Evaluations]:
    """Return the evaluations of each run, or those on `data`; raise `MissingInputError` if there are none on `data`."""
    evaluations = {run: reader.read(run, data) for run in runs}
    if data and not any(evaluations.values()):
        raise MissingInputError(
            f"{' and '.join(runs)} {'has' if len(runs) == 1 else 'have'} no evaluation on {', '.join(data)}",
            f"histo eval --ckpt {runs[0]} --data {data[0]}",
        )
    return evaluations


def _make_page_name(runs: Sequence[str], maps: Path | None) -> str:
    """Return the start of the page's file name: the runs, or without a run the folder of maps."""
    if not runs and maps:
        return f"{make_name(maps.absolute().name)}-maps"
    return make_name(shorten_to_length("-vs-".join(runs), 80))


def _find_missing_evaluations(
    evaluations: dict[str, Evaluations], repeats: dict[str, list[RepeatsReport]], is_compared: bool
) -> list[str]:
    """Return which runs have no evaluation to show, and whether several runs cannot be compared.

    `repeats` has the common names of folds or seeds: their report is shown even without an evaluation.
    """
    problems = [
        f"{run} has no evaluation to show: histo eval --ckpt {run} makes one"
        for run, found in evaluations.items()
        if not found and run not in repeats
    ]
    if len(evaluations) > 1 and not is_compared and not problems:
        names = " and ".join(evaluations)
        problems.append(f"{names} are not compared: no two were evaluated on the same data, split and options")
    return problems


def _make_run_section(
    workspace: Workspace, run: str, evaluations: Evaluations, options: _Options, listener: CommandListener
) -> RunSection:
    """Return what the page shows about a run and its evaluations."""
    folder = workspace.run_dir(run)
    record: RunRecord | None = read_run(folder) if folder.is_dir() else None
    history_path, manifest_path = folder / "history.jsonl", folder / "manifest.csv"
    history = read_history(history_path) if history_path.is_file() else []
    manifest = read_manifest(manifest_path, ("id", "label", "slide", "split")) if manifest_path.is_file() else None
    used = select_used_rows(manifest, record.shots) if record and manifest is not None else manifest
    trained_with = record.options if record else {}
    return RunSection(
        run=run,
        record=record,
        charts=make_learning_curves(history) if history else [],
        splits={} if used is None else count_labelled_patches(used),
        split_by="" if manifest is None else find_split_unit(manifest),
        dataset=read_dataset(workspace, record.data) if record and record.data else None,
        repeats=_find_repeats(workspace, run),
        weights_note=describe_weights(trained_with.get("arch"), trained_with.get("weights")),
        evaluations=[
            _make_evaluation_section(workspace, path, evaluation, options, listener)
            for path, evaluation in evaluations.items()
        ],
    )


def _find_repeats(workspace: Workspace, run: str) -> list[RepeatsReport]:
    """Return the reports of the folds or seeds that have this common name, or that the run is one of."""
    found = read_repeats(workspace, run)
    if (name := find_repeats_name(run)) != run:
        found += [report for report in read_repeats(workspace, name) if run in {member.run for member in report.runs}]
    return found


def _make_evaluation_section(
    workspace: Workspace,
    path: Path,
    evaluation: EvaluationReport,
    options: _Options,
    listener: CommandListener,
) -> EvaluationSection:
    """Return what the page shows about an evaluation; without its scores, the page says why parts are missing."""
    points, maps, galleries, problems = None, MapGallery(), [], []

    def add_problem(what: str, error: HistoError) -> None:
        reason = f"The {what}: {error} ({error.hint})"
        listener.on_warning(f"{path.name}: {reason}")
        problems.append(_remove_folders(reason, workspace, evaluation))

    try:
        scores = read_scores(path.with_name(evaluation.scores))
        points = count_operating_points(scores, evaluation.measured.threshold)
        try:
            maps = make_evaluation_maps(
                workspace, evaluation, scores, round(options.bytes * _MAP_SHARE), options.resolutions
            )
        except HistoError as error:
            add_problem("maps of slides are not shown", error)
        galleries = make_error_galleries(workspace, evaluation, scores, options.pictures, options.bytes - maps.bytes)
    except HistoError as error:
        add_problem(
            "patches are not shown" if points else "threshold cannot be moved, and its patches are not shown", error
        )
    charts = make_evaluation_charts(evaluation)
    return EvaluationSection(evaluation, path.name, charts, points, galleries, maps, problems)


def _remove_folders(text: str, workspace: Workspace, evaluation: EvaluationReport) -> str:
    """Return a message without the folders of this computer, because other people may read the page."""
    if evaluation.folder:
        text = text.replace(evaluation.folder, Path(evaluation.folder).name)
    return text.replace(f"{workspace.root}{os.sep}", "")


def _make_comparison_sections(
    evaluations: dict[str, Evaluations], listener: CommandListener
) -> list[ComparisonSection]:
    """Return a section for each data set on which several of the runs were evaluated in the same way."""
    by_run = {run: group_by_conditions(found, by_threshold=True) for run, found in evaluations.items()}
    keys = list(dict.fromkeys(key for conditions in by_run.values() for key in conditions))
    sections = []
    for key in keys:
        reports = [conditions[key] for conditions in by_run.values() if key in conditions]
        if len(reports) > 1:
            paths = [next(path for path, found in evaluations[one.run].items() if found is one) for one in reports]
            sections.append(_make_comparison_section(", ".join(key.parts), paths, reports, listener))
    return sections


def _make_comparison_section(
    title: str, paths: Sequence[Path], reports: list[EvaluationReport], listener: CommandListener
) -> ComparisonSection:
    """Return a section on the evaluations of several runs; the listener is warned if they scored different patches."""
    counts = ", ".join(f"{one.run} ({format_count(one.measured.n, 'patch')})" for one in reports)
    listener.on_note(f"comparing on {title}: {counts}")
    differences, problems = _compare_with_first(paths, reports)
    are_left_out = any(sum(difference.left_out) for difference in differences)
    if are_left_out or (problems and not have_same_patches(reports)):  # without all scores, only the reports show it
        runs = ", ".join(one.run for one in reports)
        problems.append(f"{runs} scored different patches of {title}, which may be why their metrics and curves differ")
    for problem in problems:
        listener.on_warning(problem)
    curves = [(f"{one.run}: AUC {one.measured.metrics['auc']:.4f}", one) for one in reports if _has_roc(one)]
    return ComparisonSection(title, reports, make_roc_chart(curves) if curves else None, differences, problems)


def _has_roc(evaluation: EvaluationReport) -> bool:
    return bool(evaluation.measured.curves.roc.fpr) and evaluation.measured.metrics["auc"] is not None


def _compare_with_first(
    paths: Sequence[Path], reports: Sequence[EvaluationReport]
) -> tuple[list[ComparisonReport], list[str]]:
    """Return the difference of each run to the first one, and why a run has none."""
    differences, problems = [], []
    for path, other in zip(paths[1:], reports[1:], strict=True):
        try:
            differences.append(compare_evaluations(paths[0], path))
        except HistoError as error:
            problems.append(f"{reports[0].run} and {other.run} cannot be compared: {error} ({error.hint})")
    return differences, problems
