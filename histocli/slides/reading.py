"""Open whole slides and read rectangles of their levels, with OpenSlide, or else with tifffile."""

from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import cv2
import numpy as np

from histocli.errors import HistoError
from histocli.patch import Pixels
from histocli.slides.slide import INSTALL, MICROMETRES, Level, Slide, check_tile, has_shape_of, keep_plausible_mpp
from histocli.slides.tiff import TiffReader

_GENERIC_TIFF = "generic-tiff"  # OpenSlide's name of a TIFF that no scanner wrote
_TILE = 512  # pixels: the side of the squares that are read at once if a level has no tiles


def require_slide_packages() -> None:
    """Raise `HistoError` if a package of the extra `slides` is not installed."""
    for name in ("openslide", "tifffile"):
        try:
            import_module(name)
        except ModuleNotFoundError:  # openslide raises it too if its C library is missing
            raise HistoError(f"whole slides need the package {name}", INSTALL) from None


def open_slide(path: Path) -> Slide:
    """Open a slide with OpenSlide; a TIFF that OpenSlide does not know, such as OME-TIFF, with tifffile.

    Raises:
        HistoError: the file is not a slide or is damaged, or the extra `slides` is not installed.
    """
    require_slide_packages()
    import openslide

    try:
        vendor = openslide.OpenSlide.detect_format(path)
        if vendor not in (None, _GENERIC_TIFF):
            return OpenSlideReader(path)
        with path.open("rb") as file:
            is_tiff = file.read(2) in (b"II", b"MM")
        if not is_tiff:
            _refuse_unknown(path)
        tiff = TiffReader(path)  # also checks what OpenSlide does not: the kind of pixels, and other images in the file
        if vendor is None:
            return tiff
        slide = OpenSlideReader(path)
    except (openslide.OpenSlideError, OSError) as error:
        raise _make_damage_error(path, error) from error
    # OpenSlide sees neither the levels nor the resolution of an OME-TIFF, and takes the first image for the slide.
    is_same_image = (slide.width, slide.height) == (tiff.width, tiff.height)
    unused = tiff if is_same_image and not slide.is_ome else slide
    unused.close()
    if unused is slide:
        return tiff
    slide.flags += tiff.flags
    return slide


def _refuse_unknown(path: Path) -> NoReturn:
    if path.suffix.lower() == ".mrxs" and not path.with_suffix("").is_dir():
        raise HistoError(
            f"{path}: the folder {path.stem} with the data of this slide is missing", "copy it beside the .mrxs file"
        )
    if not path.stat().st_size:
        raise HistoError(f"{path}: the file is empty", "copy the slide again")
    raise HistoError(f"{path}: neither OpenSlide nor tifffile can read this file", "copy the slide again")


class OpenSlideReader(Slide):
    """A slide that OpenSlide reads."""

    def __init__(self, path: Path) -> None:
        import openslide

        self.path = path
        self._slide = openslide.OpenSlide(path)
        self._error = openslide.OpenSlideError
        properties = self._slide.properties
        # Read once: after a damaged tile, OpenSlide raises an error for this too, also in other threads.
        self._downsamples = self._slide.level_downsamples
        sizes = zip(self._slide.level_dimensions, self._downsamples, strict=True)
        self.is_ome = "<OME" in properties.get("tiff.ImageDescription", "")
        self.levels, self._numbers = [], []  # the levels that are used, and their numbers in OpenSlide
        for number, ((width, height), downsample) in enumerate(sizes):
            if self.levels and not has_shape_of(width, height, self.levels[0]):
                self.flags += (f"level of {width}x{height} pixels left out",)
                continue
            tile = [
                _parse_whole_number(properties.get(f"openslide.level[{number}].tile-{side}"))
                for side in ("width", "height")
            ]
            nearest = round(downsample)  # sizes are rounded, so a downsample of 4 may read as 4.0002
            exact = float(nearest) if abs(downsample / nearest - 1) < 0.005 else downsample
            if all(tile):
                check_tile(path, width, height, *tile)
            self.levels.append(Level(width, height, exact, tile[0] or _TILE, tile[1] or _TILE))
            self._numbers.append(number)
        found = [_parse_number(properties.get(f"openslide.mpp-{axis}")) for axis in "xy"]
        if found == [None, None] and (unit := properties.get("tiff.ResolutionUnit")) in MICROMETRES:
            per_unit = [_parse_number(properties.get(f"tiff.{axis}Resolution")) for axis in "XY"]
            found = [MICROMETRES[unit] / pixels if pixels else None for pixels in per_unit]
        self.mpp, self.mpp_remark = keep_plausible_mpp(*found)
        bounds = [properties.get(f"openslide.bounds-{name}") for name in ("x", "y", "width", "height")]
        if None not in bounds:  # QuPath crops the slide only if there are all four
            self.origin = _parse_whole_number(bounds[0]), _parse_whole_number(bounds[1])
        if power := properties.get("openslide.objective-power"):
            self.mpp_remark += f" (it was scanned with a {power}x objective)" if self.mpp is None else ""

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle of a level."""
        number = self._numbers[level]
        downsample = self._downsamples[number]  # OpenSlide divides by its own value
        corner = (round(x * downsample), round(y * downsample))
        try:
            image = np.asarray(self._slide.read_region(corner, number, (width, height)))
        except self._error as error:
            raise _make_damage_error(self.path, error) from error
        rgb = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGBA2RGB), np.uint8)  # ten times faster than a copy by NumPy
        if int(image[..., 3].min()) < 255:  # there is no tile, or OpenSlide could not read one
            rgb[image[..., 3] == 0] = 255
        return rgb

    def _close_file(self) -> None:
        self._slide.close()


def _make_damage_error(path: Path, error: Exception) -> HistoError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return HistoError(f"{path}: the slide is damaged: {reason}", "copy or scan it again")


def _parse_number(text: Any) -> float | None:
    try:
        return float(text)
    except (TypeError, ValueError):
        return None


def _parse_whole_number(text: Any) -> int:
    return int(_parse_number(text) or 0)
