"""The records of scored slides, and the table of slides."""

import math
from dataclasses import dataclass, fields
from pathlib import Path

from histocli.data.tables import make_table_writer
from histocli.errors import HistoError
from histocli.schema import from_json, to_json
from histocli.workspace import atomic_path, read_json, write_json

FILE = "slide.json"  # in a slide's folder, written last: a slide with this file is finished
TABLE = "slides.csv"
SCORED, NO_TISSUE, FAILED = "scored", "no tissue", "failed"
OWN_MASK = "own mask"  # the flag of a slide whose tissue is from the user's mask


@dataclass(frozen=True)
class SlideRecord:
    """A row of slides.csv. `squares` is the number of scored squares; the measures are None if it is 0."""

    slide: str
    status: str
    mpp: float | None = None
    squares: int = 0
    tissue_mm2: float | None = None
    tumour_mm2: float | None = None
    largest_region_mm: float | None = None
    maximum: float | None = None
    percentile_99: float | None = None
    flags: str = ""
    error: str = ""


@dataclass(frozen=True)
class FinishedSlide:
    """The content of a slide's `slide.json`: its file, its options, and its record.

    `made_of` is a SHA-256 of everything that the scores depend on. `step` is the side of its squares in pixels of 0.972
    micrometres; `width` and `height` are those of level 0.
    """

    path: str
    made_of: str
    threshold: float
    step: int
    width: int
    height: int
    record: SlideRecord


def write_finished(folder: Path, finished: FinishedSlide) -> None:
    """Mark a slide as finished."""
    write_json(folder / FILE, to_json(finished))


def read_finished(folder: Path) -> FinishedSlide | None:
    """Return the content of a slide's `slide.json`, None if the slide is not finished."""
    path = folder / FILE
    return from_json(FinishedSlide, read_json(path), str(path)) if path.is_file() else None


def read_folder(out: Path) -> list[tuple[Path, FinishedSlide]]:
    """Return the folder and the record of each finished slide; raise `HistoError` if their options differ."""
    found = [(path.parent, read_finished(path.parent)) for path in sorted(out.rglob(FILE))]
    finished = [(folder, one) for folder, one in found if one is not None]
    if not finished:
        raise HistoError(f"there are no maps of slides in {out}", "histo predict SLIDES --out DIR writes them")
    if len({(one.threshold, one.step) for _, one in finished}) > 1:
        raise HistoError(
            f"the slides in {out} were scored with different options", "score them again with one histo predict"
        )
    return finished


def write_table(out: Path, records: list[SlideRecord]) -> None:
    """Write slides.csv."""
    with atomic_path(out / TABLE) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = make_table_writer(file)
        writer.writerow([field.name for field in fields(SlideRecord)])
        for record in records:
            writer.writerow([_format_value(getattr(record, field.name)) for field in fields(SlideRecord)])


def _format_value(value: object) -> object:
    if isinstance(value, float):
        return f"{value:.6f}" if math.isfinite(value) else ""
    return "" if value is None else value
