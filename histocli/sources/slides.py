"""Annotated whole slides as a source of patches; the hospitals of Camelyon16's slides, and PCam's table of slides."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from histocli.errors import HistoError, UsageError
from histocli.sources import SourceContext, SourceOptions, SourceType
from histocli.sources.options import FROM, Option

if TYPE_CHECKING:
    from histocli.slides.source import SlidesSource

ANNOTATIONS = Option(
    "--annotations",
    "Folder with the tumour of each slide, in a file of the slide's name: ASAP's XML, QuPath's GeoJSON, or a mask.",
)
NEAR_TUMOUR = Option(
    "--near-tumour", "Share of the patches without tumour to draw within 0.5 mm of tumour, where they are hard."
)
MPP = Option(
    "--mpp",
    "Micrometres per pixel of slides whose files do not say it, or a table slide,mpp.",
    metavar="NUMBER|CSV",
)
DEFAULT_N = 10_000

_SLIDE = re.compile(r"(?:^|_)(normal|tumor)_(\d+)$")
_RUMC_UP_TO = {"normal": 100, "tumor": 70}
_TRUTHS = {"0": 0, "1": 1, "false": 0, "true": 1, "0.0": 0, "1.0": 1}


def hospital_of(slide: str) -> str:
    """Return the hospital of a Camelyon16 training slide, RUMC or UMCU, or "" for another slide.

    Normal slides 1 to 100 and tumour slides 1 to 70 are from Radboud, the others from Utrecht. The name of a test
    slide does not show its hospital.
    """
    match = _SLIDE.search(slide)
    if match is None:
        return ""
    return "RUMC" if int(match[2]) <= _RUMC_UP_TO[match[1]] else "UMCU"


def read_meta(path: Path) -> tuple[list[str], list[int | None]]:
    """Read the columns `wsi` and, if it exists, `center_tumor_patch` of PCam's meta table.

    Raises:
        HistoError: the file is not such a table; the message names file, line and column.
    """
    slides: list[str] = []
    centres: list[int | None] = []
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = csv.DictReader(stream)
            if "wsi" not in (rows.fieldnames or ()):
                raise HistoError(f"{path}, line 1: there is no column 'wsi'", "give the meta table of PCam")
            for row in rows:
                slides.append((row["wsi"] or "").strip())
                centres.append(_truth(path, rows.line_num, row.get("center_tumor_patch")))
    except (UnicodeDecodeError, csv.Error) as error:
        raise HistoError(f"{path} is not a CSV table: {error}", "download it again with --force") from error
    return slides, centres


def _truth(path: Path, line: int, value: str | None) -> int | None:
    """Parse a cell of the column `center_tumor_patch`."""
    if value is None:
        return None
    if value.strip().lower() not in _TRUTHS:
        raise HistoError(f"{path}, line {line}, column center_tumor_patch: {value!r} is neither true nor false")
    return _TRUTHS[value.strip().lower()]


@dataclass(frozen=True)
class SlidesOptions(SourceOptions):
    """The options of a `SlidesSource`."""

    locations: Annotated[tuple[str, ...], FROM] = ()
    annotations: Annotated[Path | None, ANNOTATIONS] = None
    mpp: Annotated[str | None, MPP] = None
    near_tumour: Annotated[float, NEAR_TUMOUR] = 0.0
    n: int = DEFAULT_N
    seed: int = 0


def open_slides(options: SlidesOptions, context: SourceContext) -> "SlidesSource":
    """Find the slides and their annotations, without reading pixels."""
    from histocli.slides.source import SlidesSource

    if not options.locations or options.annotations is None:
        raise UsageError("--source slides needs --from DIR and --annotations DIR", "--from may be repeated")
    if not 0 <= options.near_tumour <= 1:
        raise UsageError(f"--near-tumour {options.near_tumour:g} is not possible", "give a share from 0 to 1")
    return SlidesSource.open(
        options.locations, options.annotations, options.mpp, options.n, options.seed, options.near_tumour
    )


SOURCE = SourceType(SlidesOptions, open_slides, files_may_change=True)
