"""Open whole slides and read rectangles of their levels, with OpenSlide or, where it cannot, with tifffile."""

from abc import ABC, abstractmethod
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from histocli.errors import HistoError
from histocli.sources import Pixels

INSTALL = "pip install 'histocli[slides]'"
_TILE = 512  # pixels: the side of what is read at once where a level has no tiles
_PLAUSIBLE_MPP = (0.05, 10.0)  # micrometres per pixel; 72 dpi, which many programs write, would be 353
MICROMETRES = {2: 25_400.0, 3: 10_000.0, "inch": 25_400.0, "centimeter": 10_000.0}  # of TIFF's units of resolution


class Level(NamedTuple):
    """A level of a slide's pyramid: its size in pixels, how many level-0 pixels one of its pixels spans, its tiles."""

    width: int
    height: int
    downsample: float
    tile_width: int
    tile_height: int


class Slide(ABC):
    """An open slide. Any number of threads may call `read`.

    `mpp` is the number of micrometres per level-0 pixel (x, y) that the file gives, None if it gives none; then
    `mpp_remark` may say what the file has in its place.
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


def require_packages() -> None:
    """Raise `HistoError` if a package of the extra `slides` is not installed."""
    for name in ("openslide", "tifffile"):
        try:
            import_module(name)
        except ModuleNotFoundError:
            raise HistoError(f"whole slides need the package {name}", INSTALL) from None


def open_slide(path: Path) -> Slide:
    """Open a slide with OpenSlide; a TIFF that OpenSlide does not know, such as OME-TIFF, with tifffile.

    Raises:
        HistoError: the file is no slide or is damaged, or the extra `slides` is not installed.
    """
    require_packages()
    import openslide

    try:
        if openslide.OpenSlide.detect_format(path) is not None:
            slide = OpenSlideReader(path)
            if not slide.is_ome:  # OpenSlide sees neither the levels nor the resolution of an OME-TIFF
                return slide
            slide.close()
    except (openslide.OpenSlideError, OSError) as error:
        raise _damaged(path, error) from error
    with path.open("rb") as file:
        if file.read(2) not in (b"II", b"MM"):
            raise HistoError(f"{path}: neither OpenSlide nor tifffile can read this file", "copy the slide again")
    from histocli.slides.tiff import TiffReader

    return TiffReader(path)


class OpenSlideReader(Slide):
    """A slide that OpenSlide reads."""

    def __init__(self, path: Path) -> None:
        import openslide

        self.path = path
        self._slide = openslide.OpenSlide(path)
        self._error = openslide.OpenSlideError
        properties = self._slide.properties
        sizes = zip(self._slide.level_dimensions, self._slide.level_downsamples, strict=True)
        self.is_ome = "<OME" in properties.get("tiff.ImageDescription", "")
        self.levels = []
        for number, ((width, height), downsample) in enumerate(sizes):
            tile = [_whole(properties.get(f"openslide.level[{number}].tile-{side}")) for side in ("width", "height")]
            nearest = round(downsample)  # sizes are rounded, so a downsample of 4 may read as 4.0002
            exact = float(nearest) if abs(downsample / nearest - 1) < 0.005 else downsample
            self.levels.append(Level(width, height, exact, tile[0] or _TILE, tile[1] or _TILE))
        found = [_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
        if found == [None, None] and (unit := properties.get("tiff.ResolutionUnit")) in MICROMETRES:
            found = [_inverse(properties.get(f"tiff.{axis}Resolution"), unit) for axis in "XY"]
        self.mpp, self.mpp_remark = plausible_mpp(*found)
        if power := properties.get("openslide.objective-power"):
            self.mpp_remark += f" (it was scanned with a {power}x objective)" if self.mpp is None else ""

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle of a level."""
        downsample = self._slide.level_downsamples[level]  # OpenSlide divides by it, so it must be its own
        corner = (round(x * downsample), round(y * downsample))
        try:
            image = np.asarray(self._slide.read_region(corner, level, (width, height)))
        except self._error as error:
            raise _damaged(self.path, error) from error
        rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGBA2RGB), np.uint8)  # ten times faster than a copy by NumPy
        if int(image[..., 3].min()) < 255:  # there is no tile, or OpenSlide could not read one
            rgb[image[..., 3] == 0] = 255
        return rgb

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


def plausible_mpp(x: float | None, y: float | None) -> tuple[tuple[float, float] | None, str]:
    """Return the micrometres per pixel if both are possible for a slide, else None and why not."""
    if x is None or y is None:
        return None, "the file does not say how many micrometres a pixel has"
    low, high = _PLAUSIBLE_MPP
    if low <= x <= high and low <= y <= high:
        return (x, y), ""
    return None, f"the file says {x:.4g} micrometres per pixel, which no microscope has"


def _damaged(path: Path, error: Exception) -> HistoError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return HistoError(f"{path}: the slide is damaged: {reason}", "copy or scan it again")


def _number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _whole(text: Any) -> int:
    return int(_number(text) or 0)


def _inverse(text: Any, unit: Any) -> float | None:
    """Return the micrometres per pixel of a TIFF's pixels per unit."""
    value = _number(text)
    return MICROMETRES[unit] / value if value else None
