"""The slides in the HTML report: the heat maps that `histo predict` wrote, and how well they find tumour."""

from dataclasses import dataclass, field
from pathlib import Path

from histocli.errors import HistoError
from histocli.pages.charts import Axis, Chart, Line, make_rate_axis
from histocli.pages.maps import MapGallery, make_folder_maps
from histocli.reports.slides import MAXIMUM, SlideEvaluation, find_slide_evaluation_path, read_slide_evaluation
from histocli.slides.lesions import FALSE_POSITIVES
from histocli.slides.records import FinishedSlide, read_finished_slides
from histocli.text import format_metric
from histocli.workspace import Workspace

_ROUNDING = 1e-5  # the table that `histo eval --maps` reads has the probabilities with six decimals


@dataclass(frozen=True)
class SlideSection:
    """The maps in a folder, and their evaluation, None if there is none; `problem` says why it is not shown."""

    maps: MapGallery
    evaluation: SlideEvaluation | None = None
    file: str = ""
    charts: list[Chart] = field(default_factory=list)
    problem: str = ""


def make_slide_section(workspace: Workspace, folder: Path, max_bytes: int) -> SlideSection:
    """Return what the page shows of the maps in a folder, with pictures of at most `max_bytes`.

    Raises:
        HistoError: the folder has no maps, or a file cannot be read.
    """
    finished = read_finished_slides(folder)
    maps = make_folder_maps(finished, max_bytes)
    try:
        evaluation = read_slide_evaluation(workspace, folder)
    except HistoError as error:
        return SlideSection(maps, problem=f"{error} ({error.hint})")
    if evaluation is None:
        return SlideSection(maps)
    file = find_slide_evaluation_path(workspace, folder).name
    if not _is_of_these_maps(evaluation, finished):
        problem = f"{file} was computed from other maps: histo eval --maps {folder.name} measures them again"
        return SlideSection(maps, problem=problem)
    return SlideSection(maps, evaluation, file, make_slide_charts(evaluation))


def _is_of_these_maps(evaluation: SlideEvaluation, finished: list[tuple[Path, FinishedSlide]]) -> bool:
    """Return whether the evaluated slides are those in the folder, with the same highest probabilities."""
    highest = {slide.record.slide: slide.record.maximum or 0.0 for _, slide in finished}
    return {*evaluation.scores, *evaluation.without_truth} == set(highest) and all(
        abs(scores[MAXIMUM] - highest[slide]) <= _ROUNDING for slide, scores in evaluation.scores.items()
    )


def make_slide_charts(report: SlideEvaluation) -> list[Chart]:
    """Return the ROC curves of slides and the FROC curve of lesions; a curve that is not defined is left out."""
    charts = []
    curves = [
        Line(f"{name}: AUC {format_metric(auc.value)}", tuple(report.compute_roc(name)), str(style))
        for style, (name, auc) in enumerate(report.auc.items())
        if auc.value is not None
    ]
    if curves:
        charts.append(
            Chart(
                "ROC curves of slides",
                f"Sensitivity against 1 - specificity for slides: {'; '.join(curve.label for curve in curves)}.",
                make_rate_axis("1 - specificity"),
                make_rate_axis("sensitivity"),
                (Line("chance", ((0, 0), (1, 1)), "reference"), *curves),
            )
        )
    if report.sensitivity:
        score = format_metric(report.froc.value)
        charts.append(
            Chart(
                "FROC curve of lesions",
                f"Sensitivity for lesions against false positives per slide; the FROC score is {score}.",
                Axis("false positives per slide", 0, FALSE_POSITIVES[-1], tuple((x, f"{x}") for x in range(0, 9, 2))),
                make_rate_axis("sensitivity for lesions"),
                (Line(f"FROC score {score}", _cut_froc(report)),),
            )
        )
    return charts


def _cut_froc(report: SlideEvaluation) -> tuple[tuple[float, float], ...]:
    """Return the points of the FROC curve up to the end of the axis, where the curve is cut or continued."""
    end = FALSE_POSITIVES[-1]
    points = list(zip(report.false_positives, report.sensitivity, strict=True))
    inside = [point for point in points if point[0] <= end]
    last, after = inside[-1], next((point for point in points if point[0] > end), None)
    slope = (after[1] - last[1]) / (after[0] - last[0]) if after else 0.0
    return (*inside, (end, last[1] + slope * (end - last[0])))
