"""The records of scored slides, and the table of slides."""

import math
import re
from collections import Counter
from dataclasses import dataclass, fields
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import numpy as np

from histocli.atomic import read_json, write_atomically, write_json
from histocli.config import PATCH_MPP
from histocli.errors import HistoError, describe_value
from histocli.files.tables import make_table_writer, read_columns
from histocli.fs import make_write_error
from histocli.schema import Count, Fraction, Range, from_json, to_json
from histocli.slides.slide import MAX_LENGTH, PLAUSIBLE_MPP
from histocli.unchanged import State

if TYPE_CHECKING:
    from histocli.slides.measures import Map

RECORD_FILE = "slide.json"  # in a slide's folder, written last: a slide with this file is finished
SCORES = "scores.csv"  # in a slide's folder: the scored squares
GEOJSON, HEATMAP, HEATMAP_PICTURE, TISSUE = "slide.geojson", "heatmap.tif", "heatmap.png", "tissue.png"
TABLE = "slides.csv"
_MAX_SQUARES, _MAX_AREA_MM2 = 1 << 24, 4000  # of a slide: the largest glass has 50 x 75 mm
_WHOLE_NUMBER = re.compile(r"[0-9]{1,9}")
SCORED, NO_TISSUE, FAILED = "scored", "no tissue", "failed"
OWN_MASK = "own mask"  # the flag of a slide whose tissue is from the user's mask
Resolution = Annotated[float, Range(*PLAUSIBLE_MPP)]  # micrometres per pixel
Size = Annotated[float, Range(0, math.inf)]
Coordinate = Annotated[int, Range(0, MAX_LENGTH)]


@dataclass(frozen=True)
class SlideRecord:
    """A row of slides.csv. `squares` is the number of scored squares; the measures are None if it is 0.

    `tumour_mm2` and `largest_region_mm` are of the squares at or above `threshold`, which is None if the slide failed.
    `checkpoint` has the runs of the networks that scored the slide, separated by "; ". `path` is the file of a slide
    that failed: in a later call it can have another name.
    """

    slide: str
    status: str
    mpp: Resolution | None = None
    squares: Count = 0
    tissue_mm2: Size | None = None
    threshold: Fraction | None = None
    tumour_mm2: Size | None = None
    largest_region_mm: Size | None = None
    maximum: Fraction | None = None
    percentile_99: Fraction | None = None
    flags: str = ""
    error: str = ""
    checkpoint: str = ""
    path: str = ""


@dataclass(frozen=True)
class FinishedSlide:
    """The content of a slide's `slide.json`: its file, its options, and its record.

    `fingerprint` is a SHA-256 of everything that the scores depend on. `scored_with` is a SHA-256 of the networks and
    options that must be equal if the scores of two slides are to be compared. `step` is the side of its squares in
    pixels of 0.972 micrometres; `width` and `height` are those of level 0, and `mpp_y` is the height of its pixels in
    micrometres, None if it is the width. `origin` is that of the slide (`Slide.origin`).
    `file_state` is the size and time of its file. `manifests` has the SHA-256 of the manifest of each run in
    `record.checkpoint`, separated by "; ".
    """

    path: str
    fingerprint: str
    threshold: Fraction
    step: Annotated[int, Range(1, MAX_LENGTH)]
    width: Annotated[int, Range(1, MAX_LENGTH)]
    height: Annotated[int, Range(1, MAX_LENGTH)]
    record: SlideRecord
    mpp_y: Resolution | None
    scored_with: str
    origin: tuple[Coordinate, Coordinate]
    file_state: State
    manifests: str

    @property
    def mpp(self) -> tuple[float, float]:
        """The micrometres per level-0 pixel (x, y)."""
        width = self.record.mpp or PATCH_MPP
        return width, self.mpp_y or width

    @property
    def square_size(self) -> tuple[float, float]:
        """The width and height of a square in level-0 pixels."""
        return self.step * PATCH_MPP / self.mpp[0], self.step * PATCH_MPP / self.mpp[1]

    @property
    def map_shape(self) -> tuple[int, int]:
        """The most rows and columns that a map of the slide can have."""
        width, height = self.square_size
        return int(self.height / height) + 2, int(self.width / width) + 2


def write_finished(folder: Path, finished: FinishedSlide) -> None:
    """Mark a slide as finished."""
    write_json(folder / RECORD_FILE, to_json(finished))


def remove_finished(folder: Path) -> None:
    """Remove the `slide.json` of a slide, so that its map is not valid any more.

    Raises:
        HistoError: it cannot be removed.
    """
    path = folder / RECORD_FILE
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise make_write_error(path, error) from error


def read_finished(folder: Path) -> FinishedSlide | None:
    """Return the content of a slide's `slide.json`, None if the slide is not finished.

    Raises:
        HistoError: it is damaged, describes a slide that is larger than any, or one in another folder.
    """
    path = folder / RECORD_FILE
    if not path.is_file():
        return None
    hint = _explain_repair(folder)
    finished = from_json(FinishedSlide, read_json(path), str(path), hint)
    name = PurePosixPath(finished.record.slide)
    if name.is_absolute() or ".." in name.parts:
        raise HistoError(f"{path} names the slide {describe_value(str(name))}, which is in another folder", hint)
    area = finished.width * finished.height * math.prod(finished.mpp) / 1e6
    if area > _MAX_AREA_MM2 or math.prod(finished.map_shape) > _MAX_SQUARES:  # its maps are read into memory
        raise HistoError(f"{path} has a slide of {area:,.0f} mm2, and no slide is so large", hint)
    return finished


def is_complete(folder: Path) -> bool:
    """Return whether no file of a slide's map was removed."""
    return all((folder / name).is_file() for name in (RECORD_FILE, SCORES, GEOJSON, HEATMAP, HEATMAP_PICTURE, TISSUE))


def _explain_repair(folder: Path) -> str:
    return f"remove the folder {folder} and run histo predict again"


def read_finished_slides(out: Path) -> list[tuple[Path, FinishedSlide]]:
    """Return the folder and the record of each finished slide; raise `HistoError` if their options differ."""
    found = [(path.parent, read_finished(path.parent)) for path in sorted(out.rglob(RECORD_FILE))]
    finished = [(folder, slide) for folder, slide in found if slide is not None]
    if not finished:
        raise HistoError(f"there are no maps of slides in {out}", "histo predict SLIDES --out DIR writes them")
    for name, count in Counter(slide.record.slide for _, slide in finished).items():
        if count > 1:
            raise HistoError(f"{count} folders in {out} have the scores of the slide {name}", "remove all but one")
    by_path: dict[str, Path] = {}
    for folder, slide in finished:
        if (first := by_path.setdefault(slide.path, folder)) != folder:
            raise HistoError(
                f"{first} and {folder} are maps of the same slide, {slide.path}",
                "run histo predict again with all slides, or remove one of the two folders",
            )
    options = Counter((slide.threshold, slide.step, slide.scored_with) for _, slide in finished)
    if len(options) > 1:
        raise HistoError(
            f"the slides in {out} were scored with {len(options)} different sets of checkpoints and options",
            f"run histo predict again with all slides; {TABLE} shows what differs: see checkpoint, threshold and flags",
        )
    return finished


def read_map(folder: Path, finished: FinishedSlide) -> "Map":
    """Return the map (rows, columns) of a slide's table of scores, which is NaN where no square was scored.

    Raises:
        HistoError: the table is missing or damaged, has a square outside the slide, or one twice, a score that is no
            probability, or another number of squares than the slide's record.
    """
    path, hint = folder / SCORES, _explain_repair(folder)
    columns = _read_table(path, ("x", "y", "probability"), hint)
    squares = finished.record.squares
    if len(columns["x"]) != squares:
        raise HistoError(f"{path} has {len(columns['x']):,} squares, and {folder / RECORD_FILE} says {squares:,}", hint)
    scores = np.full(finished.map_shape, np.nan)
    width, height = finished.square_size
    for x, y, text in zip(columns["x"], columns["y"], columns["probability"], strict=True):
        if not (_WHOLE_NUMBER.fullmatch(x) and _WHOLE_NUMBER.fullmatch(y)):
            raise HistoError(f"{path}: the square {describe_value(x)}, {describe_value(y)} has no position", hint)
        at = round(int(y) / height), round(int(x) / width)
        if not (at[0] < scores.shape[0] and at[1] < scores.shape[1]):
            raise HistoError(f"{path}: the square at x {x}, y {y} lies outside the slide", hint)
        if not np.isnan(scores[at]):
            raise HistoError(f"{path}: the square at x {x}, y {y} occurs twice", hint)
        scores[at] = _parse_probability(text, path, hint)
    return scores


def _parse_probability(text: str, path: Path, hint: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise HistoError(f"{path}: the probability {describe_value(text)} is not a number from 0 to 1", hint)
    return value


def read_failed_slides(out: Path) -> list[SlideRecord]:
    """Return the records of slides.csv of the slides that could not be scored in the last call.

    Raises:
        HistoError: the table is damaged.
    """
    path = out / TABLE
    if not path.is_file():
        return []
    names = ("slide", "status", "error", "path")
    columns = _read_table(path, names, f"remove {path} and run histo predict again")
    rows = zip(*(columns[name] for name in names), strict=True)
    return [
        SlideRecord(slide, FAILED, error=error, path=path) for slide, status, error, path in rows if status == FAILED
    ]


def _read_table(path: Path, required: tuple[str, ...], hint: str) -> dict[str, list[str]]:
    """Return the columns of a table; raise `HistoError` if one of `required` is missing."""
    if not path.is_file():
        raise HistoError(f"there is no table {path}", hint)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            columns = read_columns(file, str(path))
    except OSError as error:
        raise HistoError(f"cannot read {path}: {error.strerror}") from error
    if missing := [name for name in required if name not in columns]:
        raise HistoError(f"{path}, line 1: there is no column {missing[0]!r}", hint)
    return columns


def write_table(out: Path, records: list[SlideRecord]) -> None:
    """Write slides.csv."""
    with write_atomically(out / TABLE) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = make_table_writer(file)
        writer.writerow([field.name for field in fields(SlideRecord)])
        for record in records:
            writer.writerow([_format_value(getattr(record, field.name)) for field in fields(SlideRecord)])


def _format_value(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6f}" if math.isfinite(value) else ""
    return "" if value is None else value
