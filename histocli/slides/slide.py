"""An open whole slide: the class that each reader of slides implements."""

from abc import abstractmethod
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from histocli.errors import HistoError
from histocli.images import MAX_PIXELS
from histocli.patch import Pixels
from histocli.threads import count_threads

INSTALL = "pip install 'histocli[slides]'"
MIN_TILE_SIDE = 8  # pixels: TIFF's own minimum is 16; a slide in smaller tiles would take days to decode
_ASPECT_TOLERANCE = 0.01  # relative difference between the shapes of a level and of level 0, besides rounding
MAX_LENGTH = 1 << 21  # pixels of level 0: no slide is larger
PLAUSIBLE_MPP = (0.05, 10.0)  # micrometres per pixel; 72 dpi, which many programs write, would be 353
MICROMETRES = {2: 25_400.0, 3: 10_000.0, "inch": 25_400.0, "centimeter": 10_000.0}


class Level(NamedTuple):
    """A level of a slide's pyramid: its size in pixels, the level-0 pixels along one of its pixels, its tiles."""

    width: int
    height: int
    downsample: float
    tile_width: int
    tile_height: int


class Slide(AbstractContextManager["Slide"]):
    """An open slide. Any number of threads may call `read`.

    Attributes:
        path: the file.
        levels: the levels of the pyramid, the finest one first.
        mpp: the micrometres per level-0 pixel (x, y) that the file gives; None if it gives none that can be used.
        mpp_remark: the reason if `mpp` is None.
        origin: the upper left corner (x, y), in level-0 pixels, of the part of the slide that QuPath shows.
        flags: what is unusual in the file, in a few words each, such as a level that is not used.
    """

    path: Path
    levels: list[Level]
    mpp: tuple[float, float] | None = None
    mpp_remark: str = ""
    origin: tuple[int, int] = (0, 0)
    flags: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """The width of level 0 in pixels."""
        return self.levels[0].width

    @property
    def height(self) -> int:
        """The height of level 0 in pixels."""
        return self.levels[0].height

    @abstractmethod
    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle of a level, which must lie in it: uint8 (height,width,3) RGB; what is missing is white.

        Raises:
            HistoError: the file is damaged there.
        """

    @cached_property
    def threads(self) -> ThreadPoolExecutor:
        """The threads that read the slide and resample its pixels."""
        return ThreadPoolExecutor(count_threads(), "histo-slide")

    def close(self) -> None:
        """End the threads, then close the file."""
        if "threads" in vars(self):
            self.threads.shutdown(cancel_futures=True)
        self._close_file()

    @abstractmethod
    def _close_file(self) -> None:
        """Close the file."""

    def __exit__(self, *_: object) -> None:
        self.close()


def has_shape_of(width: int, height: int, level: Level) -> bool:
    """Return whether a picture of `width` x `height` pixels can show what a larger level shows."""
    if not (width and height and level.width):
        return False
    rounding = 1 / min(width, height)
    return abs(height / width / (level.height / level.width) - 1) < _ASPECT_TOLERANCE + rounding


def check_tile(path: Path, width: int, height: int, tile_width: int, tile_height: int) -> None:
    """Raise `HistoError` if a level has no pixels, or tiles or strips that take too much memory or time."""
    if not (width and height and 0 < tile_width * tile_height <= MAX_PIXELS):
        size = f"{width}x{height} pixels in tiles or strips of {tile_width * tile_height:,}"
        raise HistoError(f"{path}: the slide has {size}", "export it as a pyramid of tiles")
    if tile_width < min(MIN_TILE_SIDE, width):
        raise HistoError(
            f"{path}: the tiles have {tile_width}x{tile_height} pixels", "export it with tiles of 256x256 pixels"
        )


def keep_plausible_mpp(x: float | None, y: float | None) -> tuple[tuple[float, float] | None, str]:
    """Return the micrometres per pixel if both are possible for a slide, else None and the reason."""
    if x is None or y is None:
        return None, "the file does not say how many micrometres a pixel has"
    low, high = PLAUSIBLE_MPP
    if low <= x <= high and low <= y <= high:
        return (x, y), ""
    return None, f"the file says {x:.4g} micrometres per pixel, which no microscope has"
