"""`histo eval --maps`: measure the maps that `histo predict` wrote against annotations or labels of slides."""

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from histocli.atomic import write_json
from histocli.commands.slide_leakage import UsedSlides, find_used_slides
from histocli.commands.slide_truth import SlideAnnotations, SlideLabels
from histocli.config import PATCH_MPP, SlideEvalConfig
from histocli.errors import HistoError, UsageError
from histocli.metrics import compute_auc
from histocli.metrics.intervals import MIN_DEFINED_SHARE
from histocli.plots.slides import write_slide_curves
from histocli.reports.slides import MAXIMUM, ChosenScore, Estimate, Recall, SlideEvaluation, find_slide_evaluation_path
from histocli.schema import to_json
from histocli.slides.annotations import TumourAreas
from histocli.slides.detection import SlideFile
from histocli.slides.lesions import (
    MatchedDetections,
    compute_froc,
    count_found_lesions,
    find_detections,
    find_lesions,
    match_detections,
)
from histocli.slides.records import FinishedSlide, read_failed_slides, read_finished_slides, read_map
from histocli.workspace import Workspace

_N_HIGHEST = 10  # squares whose mean is one of the scores of a slide
_RESAMPLES = 1000
AGGREGATIONS = (MAXIMUM, f"mean of the {_N_HIGHEST} highest", "area of tumour squares in mm2")


class EvaluatedSlide(NamedTuple):
    """A slide with known truth: its scores by aggregation, its label, and its lesions (None without annotations)."""

    name: str
    scores: dict[str, float]
    label: int
    matched: MatchedDetections | None


class WrittenSlideEvaluation(NamedTuple):
    """The report, its file, the plots, and remarks on the annotations."""

    report: SlideEvaluation
    path: Path
    plots: list[Path]
    notes: list[str]


def evaluate_slides(workspace: Workspace, config: SlideEvalConfig) -> WrittenSlideEvaluation:
    """Evaluate the maps in a folder, and write `metrics/slides-FOLDER.json` and plots.

    If this file is of another folder with the same name, the name of the new file has a hash of the folder's path.

    The scores of a slide are fixed in advance, or one is chosen on the training slides of `config.choose_on`: nothing
    is chosen on the slides that are measured. Intervals are from a bootstrap that draws slides. A slide that has
    no label or annotation is not measured, and the report lists it.

    Raises:
        HistoError: the folder has no maps, no slide in it has a label or an annotation, or a training slide is in it.
    """
    if (config.labels is None) == (config.annotations is None):
        raise UsageError("--maps needs --annotations DIR or --labels FILE", "give one of them")
    finished = read_finished_slides(config.maps)
    threshold = finished[0][1].threshold if config.threshold is None else config.threshold
    training = [] if config.choose_on is None else read_finished_slides(config.choose_on)
    files = _find_slide_files([slide for _, slide in finished + training])
    truth = _open_truth(config, files)
    slides, without_truth = _evaluate_slides(finished, truth, threshold)
    if not slides:
        raise HistoError(
            f"no slide in {config.maps} has a label or an annotation", f"slides: {', '.join(without_truth)}"
        )
    chosen = None
    if config.choose_on is not None:
        _check_comparable(finished, training)
        chosen = _choose_score(config.choose_on, _evaluate_slides(training, truth, threshold)[0])
    measured = [slide for _, slide in finished if slide.record.slide not in without_truth]
    used = find_used_slides(workspace, measured, files)
    report = _compute_report(config, slides, without_truth, threshold, chosen, used)
    path = find_slide_evaluation_path(workspace, config.maps)
    write_json(path, to_json(report))
    plots = write_slide_curves(workspace.plots_dir, path.stem, report)
    return WrittenSlideEvaluation(report, path, plots, truth.notes)


def _open_truth(config: SlideEvalConfig, files: dict[str, SlideFile]) -> SlideAnnotations | SlideLabels:
    """Return the annotations or the labels that the options name."""
    if config.annotations is not None:
        return SlideAnnotations(config.annotations, files)
    assert config.labels is not None
    return SlideLabels(config.labels, files)


def _evaluate_slides(
    finished: list[tuple[Path, FinishedSlide]], truth: SlideAnnotations | SlideLabels, threshold: float
) -> tuple[list[EvaluatedSlide], list[str]]:
    """Return the measured slides, and the names of those without a label or annotation."""
    slides, without_truth = [], []
    for folder, slide in finished:
        found = truth.find(slide)
        if found is None:
            without_truth.append(slide.record.slide)
        else:
            slides.append(_evaluate_slide(folder, slide, found, threshold))
    return slides, without_truth


def _check_comparable(finished: list[tuple[Path, FinishedSlide]], training: list[tuple[Path, FinishedSlide]]) -> None:
    """Refuse to choose on slides that are measured, or that were scored with other checkpoints or options."""
    if training[0][1].scored_with != finished[0][1].scored_with:
        raise HistoError(
            "the slides of --choose-on and of --maps were scored with different checkpoints or options",
            "score both with the same options of histo predict",
        )
    measured = {slide.path for _, slide in finished} | {slide.record.slide for _, slide in finished}
    for _, slide in training:
        if slide.path in measured or slide.record.slide in measured:
            raise HistoError(
                f"the slide {slide.record.slide} is in --choose-on and in --maps",
                "choose on the slides that the network was trained on, and measure on others",
            )


def _choose_score(folder: Path, slides: list[EvaluatedSlide]) -> ChosenScore:
    """Return the aggregation (such as the maximum) with the highest AUC; the first one if several are equal."""
    values = {name: _compute_auc(slides, name) if slides else None for name in AGGREGATIONS}
    known = {name: value for name, value in values.items() if value is not None}
    if not known:
        raise HistoError(
            f"--choose-on {folder} needs slides with and without tumour that have a label or annotation",
            "leave --choose-on out, or give the labels or annotations of these slides too",
        )
    return ChosenScore(max(known, key=lambda name: known[name]), str(folder.resolve()), len(slides), known)


def _find_slide_files(finished: list[FinishedSlide]) -> dict[str, SlideFile]:
    """Return the file of each slide, by its path."""
    stems = Counter(Path(path).stem for path in {slide.path for slide in finished})
    return {
        slide.path: SlideFile(Path(slide.path), slide.record.slide, stems[Path(slide.path).stem] == 1)
        for slide in finished
    }


def _evaluate_slide(
    folder: Path, finished: FinishedSlide, truth: TumourAreas | int, threshold: float
) -> EvaluatedSlide:
    """Compute the scores of a slide, and the detections in its lesions if its tumour is annotated."""
    scores = read_map(folder, finished)
    values = np.sort(scores[np.isfinite(scores)])[::-1]
    side = finished.step * PATCH_MPP
    aggregated = dict.fromkeys(AGGREGATIONS, 0.0)
    if values.size:
        area = float((values >= threshold).sum()) * (side / 1000) ** 2
        aggregated = dict(zip(AGGREGATIONS, (float(values[0]), float(values[:_N_HIGHEST].mean()), area), strict=True))
    if isinstance(truth, int):
        return EvaluatedSlide(finished.record.slide, aggregated, truth, None)
    lesions = find_lesions(truth, (finished.width, finished.height), finished.mpp)
    matched = match_detections(find_detections(scores, side), lesions)
    return EvaluatedSlide(finished.record.slide, aggregated, int(truth.has_tumour), matched)


def _compute_report(
    config: SlideEvalConfig,
    slides: list[EvaluatedSlide],
    without_truth: list[str],
    threshold: float,
    chosen: ChosenScore | None,
    used: UsedSlides,
) -> SlideEvaluation:
    """Compute the metrics of all slides and their intervals by bootstrap."""
    draws = np.random.default_rng(0).integers(0, len(slides), (_RESAMPLES, len(slides)))

    def estimate(metric: Callable[[list[EvaluatedSlide]], float | None]) -> Estimate:
        values = [metric([slides[i] for i in draw]) for draw in draws.tolist()]
        known = [value for value in values if value is not None]
        if len(known) < MIN_DEFINED_SHARE * _RESAMPLES or min(known) == max(known):  # its error is not known
            return Estimate(metric(slides))
        low, high = np.percentile(known, [2.5, 97.5]).tolist()
        return Estimate(metric(slides), (low, high))

    curve = compute_froc(_collect_matches(slides))
    recall = {}
    for size, (found, count) in count_found_lesions(_collect_matches(slides), threshold).items():
        recall[size] = Recall(found, count, estimate(partial(_compute_recall, threshold=threshold, size=size)))
    measured = {slide.name for slide in slides}  # a map is kept if its slide or mask could not be found in a later call
    failed = [record.slide for record in read_failed_slides(config.maps) if record.slide not in measured]
    return SlideEvaluation(
        folder=str(config.maps.resolve()),
        truth=str((config.annotations or config.labels or Path()).resolve()),
        threshold=threshold,
        slides=len(slides),
        tumour_slides=sum(slide.label for slide in slides),
        without_truth=without_truth,
        failed=failed,
        auc={name: estimate(partial(_compute_auc, name=name)) for name in AGGREGATIONS},
        scores={slide.name: slide.scores for slide in slides},
        labels={slide.name: slide.label for slide in slides},
        froc=estimate(lambda drawn: compute_froc(_collect_matches(drawn)).score),
        false_positives=curve.false_positives,
        sensitivity=curve.sensitivity,
        recall=recall if curve.sensitivity else {},
        chosen=chosen,
        undefined=_explain_undefined(slides),
        **used._asdict(),
    )


def _explain_undefined(slides: list[EvaluatedSlide]) -> dict[str, str]:
    """Return why the AUC of slides, or the FROC curve of annotated slides, cannot be computed."""
    reasons = {}
    counts = Counter(slide.label for slide in slides)
    if len(counts) < 2:
        reasons["auc"] = f"slides of both classes are needed ({counts[1]:,} with tumour, {counts[0]:,} without)"
    matches = _collect_matches(slides)
    if matches and not any(match.lesion_sizes for match in matches):
        reasons["froc"] = "no annotated lesion is larger than isolated tumour cells"
    return reasons


def _collect_matches(slides: list[EvaluatedSlide]) -> list[MatchedDetections]:
    return [slide.matched for slide in slides if slide.matched is not None]


def _compute_auc(slides: list[EvaluatedSlide], name: str) -> float | None:
    scores = np.array([slide.scores[name] for slide in slides])
    labels = [slide.label for slide in slides]
    # An area is no probability. The AUC depends only on the order of the scores, so ranks give the same AUC.
    ranks = np.unique(scores, return_inverse=True)[1] / max(len(scores), 1)
    return compute_auc(labels, ranks)


def _compute_recall(slides: list[EvaluatedSlide], threshold: float, size: str) -> float | None:
    found, count = count_found_lesions(_collect_matches(slides), threshold)[size]
    return found / count if count else None
