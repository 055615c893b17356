"""Open whole slides and read rectangles of their levels, with OpenSlide, or else with tifffile."""

from importlib import import_module
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from histocli.errors import HistoError
from histocli.slides.slide import INSTALL, MICROMETRES, Level, Slide, check_mpp
from histocli.slides.tiff import TiffReader
from histocli.sources import Pixels

_TILE = 512  # pixels: the side of the squares that are read at once if a level has no tiles


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
        HistoError: the file is not a slide or is damaged, or the extra `slides` is not installed.
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
        raise _damage_error(path, error) from error
    with path.open("rb") as file:
        if file.read(2) not in (b"II", b"MM"):
            raise HistoError(f"{path}: neither OpenSlide nor tifffile can read this file", "copy the slide again")
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
            tile = [
                _parse_whole_number(properties.get(f"openslide.level[{number}].tile-{side}"))
                for side in ("width", "height")
            ]
            nearest = round(downsample)  # sizes are rounded, so a downsample of 4 may read as 4.0002
            exact = float(nearest) if abs(downsample / nearest - 1) < 0.005 else downsample
            self.levels.append(Level(width, height, exact, tile[0] or _TILE, tile[1] or _TILE))
        found = [_parse_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
        if found == [None, None] and (unit := properties.get("tiff.ResolutionUnit")) in MICROMETRES:
            found = [_convert_resolution(properties.get(f"tiff.{axis}Resolution"), unit) for axis in "XY"]
        self.mpp, self.mpp_remark = check_mpp(*found)
        if power := properties.get("openslide.objective-power"):
            self.mpp_remark += f" (it was scanned with a {power}x objective)" if self.mpp is None else ""

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle of a level."""
        downsample = self._slide.level_downsamples[level]  # OpenSlide divides by its own value
        corner = (round(x * downsample), round(y * downsample))
        try:
            image = np.asarray(self._slide.read_region(corner, level, (width, height)))
        except self._error as error:
            raise _damage_error(self.path, error) from error
        rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGBA2RGB), np.uint8)  # ten times faster than a copy by NumPy
        if int(image[..., 3].min()) < 255:  # there is no tile, or OpenSlide could not read one
            rgb[image[..., 3] == 0] = 255
        return rgb

    def close(self) -> None:
        """Close the file."""
        self._slide.close()


def _damage_error(path: Path, error: Exception) -> HistoError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return HistoError(f"{path}: the slide is damaged: {reason}", "copy or scan it again")


def _parse_number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _parse_whole_number(text: Any) -> int:
    return int(_parse_number(text) or 0)


def _convert_resolution(text: Any, unit: Any) -> float | None:
    """Return the micrometres per pixel of a TIFF's pixels per unit."""
    value = _parse_number(text)
    return MICROMETRES[unit] / value if value else None
