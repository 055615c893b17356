"""Check that the levels of a slide show the same picture."""

from typing import Any

import cv2
import numpy as np

from histocli.errors import HistoError
from histocli.patch import Pixels
from histocli.slides.slide import Slide

_BLOCK = 8  # pixels of the overview along a side of a compared place
_PLACES = 32
_MIN_CONTRAST = 40.0  # grey levels between the darkest and the brightest place: with less, nothing can be compared
_MIN_CORRELATION = 0.85  # of the brightness of the places in two levels: levels of one picture have more than 0.99


def check_levels(slide: Slide, overview: Pixels, level_numbers: set[int]) -> None:
    """Compare an overview (H,W,3) of the slide with other levels.

    The overview shows where the tissue is, another level is scored, and annotations are in pixels of level 0. A level
    that is mirrored, empty or of another slide would give a wrong map.

    Raises:
        HistoError: the brightness of the same places in two levels is not correlated.
    """
    rows, columns = (side // _BLOCK for side in overview.shape[:2])
    if not (rows and columns):
        return
    grey = cv2.cvtColor(overview[: rows * _BLOCK, : columns * _BLOCK], cv2.COLOR_RGB2GRAY)
    brightness = cv2.resize(grey, (columns, rows), interpolation=cv2.INTER_AREA).astype(np.float64)
    places = _choose_places(brightness)
    of_overview = brightness.flat[places]
    for number in sorted(level_numbers):
        level = slide.levels[number]
        scale = level.width / overview.shape[1], level.height / overview.shape[0]
        of_level = np.array([_read_brightness(slide, number, divmod(at, columns), scale) for at in places.tolist()])
        contrasts = np.ptp(of_overview), np.ptp(of_level)
        if max(contrasts) < _MIN_CONTRAST:
            continue
        if not all(contrasts) or np.corrcoef(of_overview, of_level)[0, 1] < _MIN_CORRELATION:
            size = f"{level.width}x{level.height} pixels"
            raise HistoError(
                f"{slide.path}: the level of {size} shows another picture than smaller ones",
                "a level is mirrored, empty or of another slide: export the slide again",
            )


def _choose_places(brightness: "np.ndarray[Any, np.dtype[np.float64]]") -> "np.ndarray[Any, np.dtype[np.int64]]":
    """Return the numbers of places whose brightness is spread evenly from the darkest to the brightest one."""
    values = brightness.ravel() + np.random.default_rng(0).uniform(0, 0.5, brightness.size)  # equal ones in any order
    wanted = np.linspace(values.min(), values.max(), _PLACES)
    return np.unique(np.abs(values[None] - wanted[:, None]).argmin(1))


def _read_brightness(slide: Slide, level: int, place: tuple[int, int], scale: tuple[float, float]) -> float:
    """Return the mean brightness, 0 to 255, of a place (row, column); `scale` is level pixels per overview pixel."""
    size = slide.levels[level]
    x, y = (min(int(at * _BLOCK * by), side - 1) for at, by, side in zip(place[::-1], scale, size[:2], strict=True))
    width, height = (max(1, round(_BLOCK * by)) for by in scale)
    pixels = slide.read(level, x, y, min(width, size.width - x), min(height, size.height - y))
    return float(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY).mean())
