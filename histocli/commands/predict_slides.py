"""`histo predict` on whole slides: score the tissue of each slide, and write maps, tables and files for QuPath."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import NamedTuple

import histocli
from histocli.commands.slide_options import check_slide_options
from histocli.compute.ddp import SINGLE_PROCESS, Ranks
from histocli.compute.device import apply_compute_settings
from histocli.config import PredictConfig
from histocli.data.manifest import hash_file
from histocli.enums import OnError
from histocli.errors import HistoError
from histocli.inference.checkpoints import STORED, CheckpointPredictor, load_from_config
from histocli.locks import hold
from histocli.plots.slides import write_heatmap_picture, write_tissue
from histocli.slides.detection import SlideFile
from histocli.slides.listener import SlideListener
from histocli.slides.measures import Map, measure_slide
from histocli.slides.reading import open_slide
from histocli.slides.records import (
    FAILED,
    FILE,
    GEOJSON,
    HEATMAP,
    HEATMAP_PICTURE,
    NO_TISSUE,
    SCORED,
    SCORES,
    TABLE,
    TISSUE,
    FinishedSlide,
    SlideRecord,
    is_complete,
    read_failed_slides,
    read_finished,
    write_finished,
    write_table,
)
from histocli.slides.resolution import GivenResolutions, read_resolutions
from histocli.slides.scoring import SlidePlan, plan_slide, score_squares
from histocli.slides.slide import Slide
from histocli.slides.slide_files import find_tissue_mask
from histocli.slides.writers import write_geojson, write_heatmap, write_scores
from histocli.unchanged import find_state
from histocli.workspace import Workspace


class SlidePrediction(NamedTuple):
    """The record of each slide, in the order of the inputs, and how many were finished before."""

    records: list[SlideRecord]
    finished_before: int


class _Job(NamedTuple):
    """The options, networks and resources that all slides of a call share."""

    config: PredictConfig
    out: Path
    predictor: CheckpointPredictor
    threshold: float
    resolutions: GivenResolutions


@apply_compute_settings()
def predict_slides(
    workspace: Workspace,
    config: PredictConfig,
    slides: list[SlideFile],
    *,
    listener: SlideListener,
    ranks: Ranks = SINGLE_PROCESS,
) -> SlidePrediction:
    """Score slides, and write a folder for each and `slides.csv` to the folder `config.out`.

    A slide that cannot be read is recorded as failed, and the other slides are scored. A slide that was finished by an
    earlier call with the same options is not scored again. Several processes (`ranks`) share the slides.

    Raises:
        HistoError: an option, a checkpoint or the device cannot be used; or, with `errors` `fail`, a slide cannot be
            read.
    """
    out = check_slide_options(config, len(slides))
    resolutions = read_resolutions(config.mpp)
    for note in resolutions.describe_unknown(slides):
        listener.on_note(note)
    predictor = ranks.on_all_ranks(lambda: load_from_config(workspace, config))
    for member in predictor.members:
        listener.on_note(member.checkpoint.describe())
    listener.on_note(predictor.reason)
    threshold = predictor.find_threshold(config.threshold or STORED)
    with ExitStack() as stack:
        ranks.on_rank0(lambda: stack.enter_context(hold(out / ".lock", str(out))))
        job = _Job(config, out, predictor, threshold, resolutions)
        finished_records = ranks.on_rank0(lambda: [_find_finished(job, slide) for slide in slides])
        todo = [number for number, record in enumerate(finished_records) if record is None]
        # The largest slides come first, so that all processes end at about the same time.
        todo.sort(key=lambda number: (-_find_file_size(slides[number].path), number))
        share = sorted(todo[ranks.rank :: ranks.size])
        new_records = {}
        for count, number in enumerate(share, start=1):
            listener.on_slide_start(slides[number], count, len(share))
            new_records[number] = _predict_or_record_failure(job, slides[number], listener)
            listener.on_slide_end(new_records[number])
        for others in ranks.all_gather(new_records):
            new_records |= others
        records = [new_records[number] if found is None else found for number, found in enumerate(finished_records)]
        ranks.on_rank0(lambda: write_table(out, _add_earlier_slides(out, records, listener)))
    return SlidePrediction(records, len(slides) - len(todo))


def _predict_or_record_failure(job: _Job, slide: SlideFile, listener: SlideListener) -> SlideRecord:
    """Score a slide; return a failed record if it cannot be read, unless `--errors fail` is given."""
    try:
        return _predict_slide(job, slide, listener)
    except HistoError as error:
        if job.config.errors is OnError.FAIL:
            raise
        text = f"{error}; {error.hint}" if error.hint else str(error)
        return SlideRecord(slide.name, FAILED, error=text)


def _predict_slide(job: _Job, slide: SlideFile, listener: SlideListener) -> SlideRecord:
    """Score one slide and write its folder; `slide.json` is removed first and written last."""
    folder = job.out / slide.name
    made_of = _compute_fingerprint(job, slide)
    with _open(slide.path) as opened:
        mpp, remark = job.resolutions.find(opened, slide)
        mask = _find_mask(job.config, slide)
        plan = plan_slide(opened, mpp, job.config.step, mask, not job.config.no_mask)
        total = int(plan.needed.sum())
        chunk_size = job.predictor.choose_chunk_size(job.config.batch_size)
        listener.on_total(total)
        listener.on_progress(0)
        scores = score_squares(opened, plan.grid, plan.needed, job.predictor, chunk_size, listener.on_progress)
    measures = measure_slide(scores, plan.tissue_share, plan.grid, mpp, job.threshold)
    flags = [*plan.flags, *([remark] if remark else [])]
    status = SCORED if total else NO_TISSUE
    runs = "; ".join(member.checkpoint.run for member in job.predictor.members)
    record = SlideRecord(
        slide.name, status, mpp[0], total, plan.tissue_mm2, *measures, "; ".join(flags), checkpoint=runs
    )
    if _compute_fingerprint(job, slide) != made_of:
        raise HistoError(f"{slide.path} was changed while it was read", "start again when the file is complete")
    (folder / FILE).unlink(missing_ok=True)
    _write_folder(folder, slide.name, plan, scores, job.threshold)
    size = plan.grid.size
    path, options = str(slide.path.absolute()), _hash_options(job)
    write_finished(folder, FinishedSlide(path, made_of, job.threshold, job.config.step, *size, record, mpp[1], options))
    return record


def _write_folder(folder: Path, name: str, plan: SlidePlan, scores: Map, threshold: float) -> None:
    write_tissue(folder / TISSUE, plan.overview, plan.tissue)
    write_scores(folder / SCORES, scores, plan.grid)
    write_geojson(folder / GEOJSON, name, scores, plan.grid, threshold)
    write_heatmap(folder / HEATMAP, scores, plan.grid)
    write_heatmap_picture(
        folder / HEATMAP_PICTURE, name, plan.overview, plan.overview_mpp, scores, plan.grid, threshold
    )


@contextmanager
def _open(path: Path) -> Iterator[Slide]:
    """Open a slide in this block; errors of the operating system become those of histo."""
    try:
        with open_slide(path) as slide:
            yield slide
    except OSError as error:
        raise HistoError(f"cannot read {path}: {error.strerror or error}", "copy the slide again") from error


def _find_mask(config: PredictConfig, slide: SlideFile) -> Path | None:
    """Return the user's mask of a slide: the file itself, or in a folder that of the slide's name.

    Raises:
        HistoError: the folder has none for this slide.
    """
    if config.mask is None or config.mask.is_file():
        return config.mask
    return find_tissue_mask(slide, config.mask)


def _add_earlier_slides(out: Path, records: list[SlideRecord], listener: SlideListener) -> list[SlideRecord]:
    """Return the records with those of other slides that earlier calls wrote to the same folder, or could not score.

    A damaged file of an earlier call is named in a warning, and left out.
    """
    earlier: dict[str, SlideRecord] = {}
    try:
        earlier |= {record.slide: record for record in read_failed_slides(out)}
    except HistoError as error:
        listener.on_warning(f"{error}: the new {TABLE} leaves out the slides that failed before")
    for path in sorted(out.rglob(FILE)):
        try:
            finished = read_finished(path.parent)
        except HistoError as error:
            listener.on_warning(f"{error}: the new {TABLE} leaves out this slide")
            continue
        if finished is not None:
            earlier[finished.record.slide] = finished.record
    names = {record.slide for record in records}
    return records + [record for name, record in earlier.items() if name not in names]


def _find_finished(job: _Job, slide: SlideFile) -> SlideRecord | None:
    """Return the record of a slide that an earlier call finished with the same options; None if there is none.

    Raises:
        HistoError: the folder has the scores of another slide.
    """
    try:
        finished = read_finished(job.out / slide.name)
    except HistoError:
        return None  # an older version wrote it, or it is damaged: the slide is scored again
    if finished is None:
        return None
    if finished.path != str(slide.path.absolute()):
        raise HistoError(
            f"{job.out / slide.name} has the scores of another slide, {finished.path}", "give another folder: --out DIR"
        )
    try:
        is_current = finished.made_of == _compute_fingerprint(job, slide)
    except HistoError:
        return None  # it or its mask is missing: the slide is then recorded as failed, and the others are scored
    return finished.record if is_current and is_complete(job.out / slide.name) else None


def _compute_fingerprint(job: _Job, slide: SlideFile) -> str:
    """Return a SHA-256 of everything that a slide's files depend on.

    Raises:
        HistoError: the slide or its mask is missing.
    """
    try:
        size, time = find_state(slide.path)
    except OSError as error:
        raise HistoError(f"cannot read {slide.path}: {error.strerror}", "copy the slide again") from error
    config = job.config
    values = {
        "scored_with": _hash_options(job),
        "threshold": job.threshold,
        "histo": histocli.__version__,
        "compute": job.predictor.kind,
        "no_mask": config.no_mask,
        "size": size,
        "time": time,
        "mpp": [job.resolutions.for_all, job.resolutions.by_slide],
    }
    if config.mask is not None:
        values["mask"] = hash_file(_find_mask(config, slide) or config.mask)
    return _compute_hash(values)


def _hash_options(job: _Job) -> str:
    """Return a SHA-256 of the checkpoints and options that are the same for scores that can be compared."""
    values = {name: getattr(job.config, name) for name in ("tta", "uncalibrated", "prevalence", "step")}
    return _compute_hash(values | {"checkpoints": [member.sha256 for member in job.predictor.members]})


def _compute_hash(values: dict[str, object]) -> str:
    return sha256(dumps(values, sort_keys=True).encode()).hexdigest()


def _find_file_size(path: Path) -> int:
    return os.stat(path).st_size if path.exists() else 0  # noqa: PTH116
