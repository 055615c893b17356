"""An open whole slide: the class that each reader of slides implements."""

from abc import ABC, abstractmethod
from pathlib import Path
from typing import NamedTuple

from histocli.sources import Pixels

INSTALL = "pip install 'histocli[slides]'"
PLAUSIBLE_MPP = (0.05, 10.0)  # micrometres per pixel; 72 dpi, which many programs write, would be 353
MICROMETRES = {2: 25_400.0, 3: 10_000.0, "inch": 25_400.0, "centimeter": 10_000.0}  # one of TIFF's units


class Level(NamedTuple):
    """A level of a slide's pyramid: its size in pixels, the level-0 pixels along one of its pixels, its tiles."""

    width: int
    height: int
    downsample: float
    tile_width: int
    tile_height: int


class Slide(ABC):
    """An open slide. Any number of threads may call `read`.

    `mpp` is the number of micrometres per level-0 pixel (x, y) that the file gives, None if it gives none; then
    `mpp_remark` says why.
    """

    path: Path
    levels: list[Level]
    mpp: tuple[float, float] | None = None
    mpp_remark: str = ""

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

    @abstractmethod
    def close(self) -> None:
        """Close the file."""

    def __enter__(self) -> "Slide":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_mpp(x: float | None, y: float | None) -> tuple[tuple[float, float] | None, str]:
    """Return the micrometres per pixel if both are possible for a slide, else None and the reason."""
    if x is None or y is None:
        return None, "the file does not say how many micrometres a pixel has"
    low, high = PLAUSIBLE_MPP
    if low <= x <= high and low <= y <= high:
        return (x, y), ""
    return None, f"the file says {x:.4g} micrometres per pixel, which no microscope has"
