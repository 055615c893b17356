"""Synthetic whole slides with annotations: drawn as files, which `histo predict` reads, and cut into patches."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from histocli.errors import UsageError
from histocli.sources import SourceContext, SourceOptions, SourceType
from histocli.sources.options import Option

if TYPE_CHECKING:
    from histocli.slides.source import SyntheticSlidesSource

COUNT = Option("--slide-count", "Number of synthetic slides; every second one has tumour.")
SIDE = Option("--slide-side", "Width and height of synthetic slides in pixels of 0.243 micrometres.")
_MIN_SIDE = 2_000


@dataclass(frozen=True)
class SyntheticSlidesOptions(SourceOptions):
    """The options of a `SyntheticSlidesSource`."""

    slide_count: Annotated[int, COUNT] = 6
    slide_side: Annotated[int, SIDE] = 8_000
    n: int = 3_000
    seed: int = 0


def open_synthetic_slides(options: SyntheticSlidesOptions, context: SourceContext) -> "SyntheticSlidesSource":
    """Plan the slides, without drawing them."""
    from histocli.slides.source import SyntheticSlidesSource

    if options.slide_count < 1:
        raise UsageError(f"--slide-count {options.slide_count}: at least 1 is needed")
    if options.slide_side < _MIN_SIDE:
        raise UsageError(f"--slide-side {options.slide_side}: at least {_MIN_SIDE:,} pixels are needed")
    return SyntheticSlidesSource(options, context)


SOURCE = SourceType(SyntheticSlidesOptions, open_synthetic_slides)
