"""Annotated whole slides as a source of patches."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from histocli.sources import SourceContext, SourceOptions, SourceType
from histocli.sources.options import FROM, MPP, Option

if TYPE_CHECKING:
    from histocli.slides.source import SlidesSource

ANNOTATIONS = Option(
    "--annotations",
    "Folder with the annotations of tumour, one file for each slide and of its name: ASAP's XML, QuPath's GeoJSON, or "
    "a mask.",
)
NEAR_TUMOUR = Option(
    "--near-tumour",
    "Share of the patches without tumour to draw within 0.5 mm of tumour, where they are hard to classify.",
)
DEFAULT_N = 10_000


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

    return SlidesSource.open(options, context)


SOURCE = SourceType(SlidesOptions, open_slides, has_user_files=True)
