"""What the slides of a call of `histo predict` have in common, and the maps that earlier calls left in its folder."""

import os
from collections.abc import Iterator
from dataclasses import replace
from hashlib import sha256
from json import dumps
from pathlib import Path
from typing import NamedTuple

import histocli
from histocli.config import PredictConfig
from histocli.data.manifest import hash_file
from histocli.errors import HistoError
from histocli.fs import is_same_file
from histocli.inference.checkpoints import CheckpointPredictor
from histocli.slides.detection import SlideFile
from histocli.slides.listener import SlideListener
from histocli.slides.records import (
    RECORD_FILE,
    TABLE,
    FinishedSlide,
    SlideRecord,
    is_complete,
    read_failed_slides,
    read_finished,
    remove_finished,
    write_finished,
)
from histocli.slides.resolution import GivenResolutions
from histocli.slides.slide_files import find_tissue_mask
from histocli.unchanged import State, find_state


class SlideJob(NamedTuple):
    """The options, networks and resources that all slides of a call share."""

    config: PredictConfig
    out: Path
    predictor: CheckpointPredictor
    threshold: float
    resolutions: GivenResolutions


class SlideState(NamedTuple):
    """The state of a slide's file, and the SHA-256 of its mask, None without `--mask`."""

    file: State
    mask: str | None


def find_slide_state(config: PredictConfig, slide: SlideFile) -> SlideState:
    """Return the state of the files that the map of a slide is made from.

    Raises:
        HistoError: the slide or its mask is missing, or may not be read.
    """
    try:
        state = find_state(slide.path)
    except OSError as error:
        raise HistoError(f"cannot read {slide.path}: {error.strerror}", "copy the slide again") from error
    mask = find_mask(config, slide)
    try:
        return SlideState(state, None if mask is None else hash_file(mask))
    except OSError as error:
        raise HistoError(f"cannot read {mask}: {error.strerror}", "copy the mask again") from error


def find_mask(config: PredictConfig, slide: SlideFile) -> Path | None:
    """Return the user's mask of a slide: the file itself, or in a folder that of the slide's name.

    Raises:
        HistoError: the folder has none for this slide.
    """
    if config.mask is None or config.mask.is_file():
        return config.mask
    return find_tissue_mask(slide, config.mask)


def compute_fingerprint(job: SlideJob, state: SlideState, mpp: float | None) -> str:
    """Return a SHA-256 of everything that a slide's files depend on.

    `mpp` is the resolution that the user gave, None if that of the file is used.
    """
    values = {
        "scored_with": hash_options(job),
        "threshold": job.threshold,
        "histo": histocli.__version__,
        "compute": job.predictor.kind,
        "state": state,
        "mpp": mpp,
    }
    return _compute_hash(values)


def hash_options(job: SlideJob) -> str:
    """Return a SHA-256 of the checkpoints and options that must be equal if the scores of two slides are compared.

    Such options are `--no-mask`, and `--mask` with a folder. `--mask` with a file is not one: it is for one slide.
    """
    config = job.config
    values = {name: getattr(config, name) for name in ("tta", "uncalibrated", "prevalence", "step", "no_mask")}
    values["checkpoints"] = job.predictor.digests
    values["masks"] = config.mask is not None and config.mask.is_dir()
    return _compute_hash(values)


def _compute_hash(values: dict[str, object]) -> str:
    return sha256(dumps(values, sort_keys=True).encode()).hexdigest()


def find_finished(job: SlideJob, slide: SlideFile) -> SlideRecord | None:
    """Return the record of a slide that an earlier call finished with the same options; None if there is none.

    If the file of the slide was moved, its new path is written to the record.
    """
    folder, path = job.out / slide.name, slide.full_path
    finished = _read_map(folder)
    if finished is None or _is_of_another_slide(slide, finished):
        return None
    if not _is_current(job, slide, finished) or not is_complete(folder):
        return None
    if finished.path != path:
        write_finished(folder, replace(finished, path=path))
    return finished.record


def refuse_another_slide(job: SlideJob, slide: SlideFile) -> None:
    """Check that the folder of a slide does not have the scores of another one, which would be lost.

    Raises:
        HistoError: it has.
    """
    folder = job.out / slide.name
    finished = _read_map(folder)
    if finished is not None and _is_of_another_slide(slide, finished):
        raise HistoError(f"{folder} has the scores of another slide, {finished.path}", "give another folder: --out DIR")


def _read_map(folder: Path) -> FinishedSlide | None:
    """Return the content of a slide's `slide.json`; None if there is none, or it is damaged."""
    try:
        return read_finished(folder)
    except HistoError:
        return None  # the slide is scored again


def _is_of_another_slide(slide: SlideFile, finished: FinishedSlide) -> bool:
    """Return whether a map is of another slide; one that was moved, or has another path through a link, is the same."""
    if finished.path == slide.full_path:
        return False
    if os.path.exists(finished.path):  # noqa: PTH110 - Path.exists raises if it is too long
        return not is_same_file(finished.path, slide.path)
    return finished.file_state != _find_state(slide)


def _is_current(job: SlideJob, slide: SlideFile, finished: FinishedSlide) -> bool:
    """Return whether a map was made from the slide and the mask as they are now, with the options of this call."""
    try:
        state = find_slide_state(job.config, slide)
    except HistoError:
        return False  # one of the files is missing: the slide is then recorded as failed, and the others are scored
    possible = job.resolutions.list_possible(slide)
    return finished.fingerprint in [compute_fingerprint(job, state, mpp) for mpp in possible]


def remove_stale_record(job: SlideJob, slide: SlideFile) -> None:
    """Remove the record of an earlier map of a slide that could not be scored now, unless the map may still be valid.

    It may be if the slide cannot be found, for example because a disk is not mounted; or if its mask cannot be read,
    and its file, the options and the checkpoints are the same. A map of another slide in the same folder stays too.

    Raises:
        HistoError: it cannot be removed.
    """
    folder, state = job.out / slide.name, _find_state(slide)
    if state is None:
        return
    finished = _read_map(folder)
    if finished is not None and (
        _is_of_another_slide(slide, finished)
        or _is_current(job, slide, finished)
        or _lacks_only_mask(job, slide, finished, state)
    ):
        return
    remove_finished(folder)


def _lacks_only_mask(job: SlideJob, slide: SlideFile, finished: FinishedSlide, state: State) -> bool:
    """Return whether the mask of a slide cannot be read, and nothing else has changed since its map was made."""
    try:
        find_slide_state(job.config, slide)
    except HistoError:
        made_with = (finished.file_state, finished.threshold, finished.scored_with)
        return made_with == (state, job.threshold, hash_options(job))
    return False


def _find_state(slide: SlideFile) -> State | None:
    try:
        return find_state(slide.path)
    except OSError:
        return None


def read_earlier_records(out: Path, slides: list[SlideFile], listener: SlideListener) -> dict[str, SlideRecord]:
    """Return the records of other slides, by name, that earlier calls scored to the folder `out`, or could not score.

    The `slides` of this call are left out, even if they had other names. A record of another slide with the same name
    as one of `slides` is returned, because its map stays valid. A damaged record is left out. A warning names it,
    unless it is in the folder of one of `slides`.
    """
    by_name = {slide.name: slide for slide in slides}
    paths = {slide.full_path for slide in slides}
    found: dict[str, SlideRecord] = {}
    try:
        failed = [record for record in read_failed_slides(out) if record.path not in paths]
        found |= {record.slide: record for record in failed if record.slide not in by_name}
    except HistoError as error:
        listener.on_warning(f"{error}: the new {TABLE} leaves out the slides that failed before")
    folders_of_this_call = {out / slide.name for slide in slides}
    for folder, finished in _iterate_maps(out):
        if isinstance(finished, FinishedSlide):
            slide = by_name.get(finished.record.slide)
            if slide is None or _is_of_another_slide(slide, finished):
                found[finished.record.slide] = finished.record
        elif folder not in folders_of_this_call:
            listener.on_warning(f"{finished}: the new {TABLE} leaves out this slide")
    return found


def _iterate_maps(out: Path) -> Iterator[tuple[Path, FinishedSlide | HistoError]]:
    """Yield each folder of a finished slide, and its record or the error if it is damaged.

    A copied folder, or another `--out` inside this one, is left out.
    """
    for path in sorted(out.rglob(RECORD_FILE)):
        try:
            finished = read_finished(path.parent)
        except HistoError as error:
            yield path.parent, error
        else:
            if finished is not None and path.parent == out / finished.record.slide:
                yield path.parent, finished


def remove_other_records(out: Path, slides: list[SlideFile], listener: SlideListener) -> list[str]:
    """Remove the records of maps of the same slides under other names, and return these names.

    The name of a slide depends on the other inputs of the call: it is longer if another slide has the same file name.
    A file that was moved or renamed has the same size, time of last change, width and height. With two records, the
    slide would count twice.
    """
    names = {slide.name for slide in slides}
    by_path = {slide.full_path: slide for slide in slides}
    by_state = {_find_state(slide): slide for slide in slides}
    removed = []
    for folder, finished in _iterate_maps(out):
        if isinstance(finished, HistoError) or finished.record.slide in names:
            continue
        slide, is_renamed = by_path.get(finished.path), False
        if slide is None and not os.path.exists(finished.path):  # noqa: PTH110
            slide, is_renamed = by_state.get(finished.file_state), True
        new = None if slide is None else _read_map(out / slide.name)
        if slide is None or new is None or (is_renamed and not _can_be_same_slide(finished, new)):
            continue
        if not folder.samefile(out / slide.name):
            remove_finished(folder)
            removed.append(finished.record.slide)
            listener.on_warning(
                f"{folder} is an earlier map of {slide.path}, which is now named {slide.name}: "
                f"its {RECORD_FILE} was removed, so that the slide does not count twice"
            )
    return removed


def _can_be_same_slide(earlier: FinishedSlide, new: FinishedSlide) -> bool:
    """Return whether two maps of files with the same size and time can be of the same slide.

    If the options are the same too, so are the tissue and the squares.
    """
    if (earlier.width, earlier.height) != (new.width, new.height):
        return False
    measures = [(finished.record.squares, finished.record.tissue_mm2) for finished in (earlier, new)]
    return earlier.fingerprint != new.fingerprint or measures[0] == measures[1]
