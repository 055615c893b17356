"""`histo predict` on whole slides: score the tissue of each slide, and write maps, tables and files for QuPath."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from histocli.commands.slide_job import (
    SlideJob,
    compute_fingerprint,
    find_finished,
    find_mask,
    find_slide_state,
    hash_options,
    read_earlier_records,
    refuse_another_slide,
    remove_other_records,
    remove_stale_record,
)
from histocli.commands.slide_options import check_slide_options
from histocli.compute.ddp import SINGLE_PROCESS, Ranks
from histocli.compute.device import apply_compute_settings
from histocli.config import STORED_THRESHOLD, PredictConfig
from histocli.enums import OnError
from histocli.errors import DiskError, HistoError
from histocli.inference.checkpoints import load_from_config
from histocli.locks import hold
from histocli.plots.slides import write_heatmap_picture, write_tissue
from histocli.slides.detection import SlideFile
from histocli.slides.listener import SlideListener
from histocli.slides.measures import Map, measure_slide
from histocli.slides.reading import open_slide
from histocli.slides.records import (
    FAILED,
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
    remove_finished,
    write_finished,
    write_table,
)
from histocli.slides.resolution import read_resolutions
from histocli.slides.scoring import SlidePlan, plan_slide, score_squares
from histocli.slides.slide import Slide
from histocli.slides.writers import write_geojson, write_heatmap, write_scores
from histocli.workspace import Workspace


class SlidePrediction(NamedTuple):
    """The record of each slide, in the order of the inputs, and the rows of `slides.csv`.

    `finished_before` is how many slides an earlier call had finished, and `scored` how many were scored now.
    """

    records: list[SlideRecord]
    finished_before: int
    scored: int
    table: list[SlideRecord]


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
    earlier call with the same options is not scored again. `slides.csv` is written again after each slide. Several
    processes (`ranks`) share the slides.

    Raises:
        HistoError: an option, a checkpoint or the device cannot be used; the disk to write to is full or read-only;
            or, with `errors` `fail`, a slide cannot be read.
    """
    out = check_slide_options(config, slides)
    resolutions = read_resolutions(config.mpp)
    for note in resolutions.describe_unknown(slides):
        listener.on_note(note)
    predictor = ranks.on_all_ranks(lambda: load_from_config(workspace, config))
    for checkpoint in predictor.checkpoints:
        listener.on_note(checkpoint.describe())
    predictor.report_device(listener)
    threshold = predictor.find_threshold(config.threshold or STORED_THRESHOLD)
    with ExitStack() as stack:
        ranks.on_rank0(lambda: stack.enter_context(hold(out / ".lock", str(out))))
        job = SlideJob(config, out, predictor, threshold, resolutions)
        finished = ranks.on_rank0(lambda: [find_finished(job, slide) for slide in slides])
        earlier = ranks.on_rank0(lambda: read_earlier_records(out, slides, listener))
        records = {slide.name: record for slide, record in zip(slides, finished, strict=True) if record is not None}
        unfinished = [number for number, record in enumerate(finished) if record is None]
        # The largest slides come first, so that all processes end at about the same time.
        unfinished.sort(key=lambda number: (-_find_file_size(slides[number].path), number))
        assigned = sorted(unfinished[ranks.rank :: ranks.size])  # to this process
        for count, number in enumerate(assigned, start=1):
            slide = slides[number]
            listener.on_slide_start(slide, count, len(assigned))
            try:
                _predict_and_record(job, slide, records, listener)
            finally:
                if ranks.is_rank0:
                    _write_table_so_far(out, records | earlier, listener)
            listener.on_slide_end(records[slide.name])
        for records_of_process in ranks.all_gather(records):
            records |= records_of_process
        # `earlier` comes last: if it has the name of a slide of this call, it is another slide, whose map was kept.
        table = ranks.on_rank0(lambda: _write_last_table(out, slides, records | earlier, listener))
    scored = sum(records[slides[number].name].status == SCORED for number in unfinished)
    return SlidePrediction([records[slide.name] for slide in slides], len(slides) - len(unfinished), scored, table)


def _write_table(out: Path, records: dict[str, SlideRecord]) -> list[SlideRecord]:
    """Write `slides.csv`, sorted by name, and return its rows."""
    rows = [records[name] for name in sorted(records)]
    write_table(out, rows)
    return rows


def _write_table_so_far(out: Path, records: dict[str, SlideRecord], listener: SlideListener) -> None:
    """Write `slides.csv` while slides are still being scored.

    If this fails, only warn: it is written again at the end. An error here would hide that of a slide, and other
    processes would wait for this one.
    """
    try:
        _write_table(out, records)
    except (HistoError, OSError) as error:
        listener.on_warning(f"{TABLE} cannot be written yet: {error}")


def _write_last_table(
    out: Path, slides: list[SlideFile], records: dict[str, SlideRecord], listener: SlideListener
) -> list[SlideRecord]:
    """Write `slides.csv` when all slides are finished, without earlier maps of the same slides; return its rows."""
    for name in remove_other_records(out, slides, listener):
        records.pop(name, None)
    return _write_table(out, records)


def _predict_and_record(
    job: SlideJob, slide: SlideFile, records: dict[str, SlideRecord], listener: SlideListener
) -> None:
    """Score a slide, and add its record; if it cannot be read, its record says so.

    Raises:
        HistoError: it cannot be read, and `--errors fail` is given; or the disk to write to is full or read-only.
    """
    try:
        records[slide.name] = _predict_slide(job, slide, listener)
    except DiskError:
        raise  # nothing is wrong with the slide, and the next one could not be written either
    except HistoError as error:
        remove_stale_record(job, slide)
        text = f"{error}; {error.hint}" if error.hint else str(error)
        records[slide.name] = SlideRecord(slide.name, FAILED, error=text, path=slide.full_path)
        if job.config.errors is OnError.FAIL:
            raise


def _predict_slide(job: SlideJob, slide: SlideFile, listener: SlideListener) -> SlideRecord:
    """Score one slide and write its folder, `slide.json` last."""
    folder = job.out / slide.name
    state = find_slide_state(job.config, slide)
    refuse_another_slide(job, slide)
    with _open(slide.path) as opened:
        mpp, remark = job.resolutions.find(opened, slide)
        mask = find_mask(job.config, slide)
        plan = plan_slide(opened, mpp, job.config.step, mask, not job.config.no_mask)
        remove_finished(folder)  # the earlier map is not valid from now on
        total = int(plan.needed.sum())
        chunk_size = job.predictor.choose_chunk_size(job.config.batch_size)
        listener.on_total(total)
        listener.on_progress(0)
        scores = score_squares(opened, plan.grid, plan.needed, job.predictor, chunk_size, listener.on_progress)
    measures = measure_slide(scores, plan.tissue_share, plan.grid, job.threshold)
    flags = [*plan.flags, *([remark] if remark else [])]
    status = SCORED if total else NO_TISSUE
    runs = "; ".join(job.predictor.runs)
    record = SlideRecord(
        slide.name,
        status,
        mpp[0],
        total,
        plan.tissue_mm2,
        job.threshold,
        *measures,
        flags="; ".join(flags),
        checkpoint=runs,
    )
    if find_slide_state(job.config, slide) != state:
        what = f"{slide.path} or its mask" if mask else str(slide.path)
        raise HistoError(f"{what} was changed while it was read", "start again when the file is complete")
    _write_folder(folder, slide.name, plan, scores, job.threshold)
    finished = FinishedSlide(
        path=slide.full_path,
        fingerprint=compute_fingerprint(job, state, job.resolutions.list_possible(slide)[0] if remark else None),
        threshold=job.threshold,
        step=job.config.step,
        width=plan.grid.size[0],
        height=plan.grid.size[1],
        record=record,
        mpp_y=mpp[1],
        scored_with=hash_options(job),
        origin=plan.grid.origin,
        file_state=state.file,
        manifests="; ".join(checkpoint.manifest_sha256 for checkpoint in job.predictor.checkpoints),
    )
    write_finished(folder, finished)
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


def _find_file_size(path: Path) -> int:
    return os.stat(path).st_size if path.exists() else 0  # noqa: PTH116
