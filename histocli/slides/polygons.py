"""Polygons on a slide, and the masks of their pixels."""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from histocli.errors import HistoError
from histocli.slides.grid import Mask
from histocli.slides.qupath import ANNOTATION
from histocli.sources import Pixels

Ring = np.ndarray[Any, np.dtype[np.float64]]
FixedPoint = np.ndarray[Any, np.dtype[np.int32]]
_FRACTION_BITS = 4  # bits of the fraction of a coordinate, for OpenCV
# OpenCV sorts the edges that a line of pixels meets in quadratic time, and cannot be interrupted. These limits are some
# 15 seconds of its work: an outline of a large slide that each line meets 600 times, and 100 areas of a whole slide.
_MAX_SORTING, _MAX_AREA = 1 << 35, 1 << 40


class Polygon(NamedTuple):
    """An area: its outline (N,2) as x and y in level-0 pixels, its holes, and its class, or "".

    `kind` is `ANNOTATION`, or which of QuPath's other objects it is, such as "tiles".
    """

    outline: Ring
    holes: list[Ring]
    name: str = ""
    kind: str = ANNOTATION


def check_polygons(polygons: list[Polygon], path: Path) -> None:
    """Check that polygons of a file can be filled in seconds.

    Raises:
        HistoError: an outline goes up and down too often, or too many large areas lie above each other.
    """
    sorting = area = 0.0
    for polygon in polygons:
        width, height = (polygon.outline.max(0) - polygon.outline.min(0) + 1).tolist()
        rings = (polygon.outline, *polygon.holes)
        length = sum(float(np.abs(np.diff(ring[:, 1], append=ring[0, 1])).sum()) for ring in rings)
        sorting += length * length / height  # the edges that a line meets on average, squared, for each line
        area += width * height
    if sorting > _MAX_SORTING or area > _MAX_AREA:
        what = "outlines that go up and down too often" if sorting > _MAX_SORTING else "too many large areas"
        raise HistoError(f"{path} has {what} to be filled", "draw simpler areas that do not lie above each other")


def fill_polygons(polygons: list[Polygon], shape: tuple[int, int], scale: tuple[float, float]) -> Mask:
    """Return the mask (H,W) of polygons, where a pixel spans `scale` (x, y) level-0 pixels.

    A pixel belongs to the mask if its centre is in a polygon; the pixels of the outline do too.
    """
    mask = np.zeros(shape, np.uint8)
    for polygon in polygons:
        rings = [_to_fixed_point(ring, scale) for ring in (polygon.outline, *polygon.holes)]
        if polygon.holes:
            _fill_with_holes(mask, rings)
        else:
            cv2.fillPoly(mask, rings, 1, shift=_FRACTION_BITS)
    return mask.view(np.bool_)


def _fill_with_holes(mask: Pixels, rings: list[FixedPoint]) -> None:
    """Fill the rings of one polygon; its holes leave what other polygons have filled."""
    corners = [np.stack([ring.min(0), ring.max(0)]) >> _FRACTION_BITS for ring in rings]
    left, top = (np.min(corners, (0, 1)) - 1).clip(0).tolist()  # pixels of the outline may lie one further out
    right, bottom = (np.max(corners, (0, 1)) + 3).clip(0).tolist()
    window = mask[top:bottom, left:right]
    if window.size:
        one = np.zeros(window.shape, np.uint8)
        origin = np.array([left, top], np.int32) << _FRACTION_BITS
        cv2.fillPoly(one, [ring - origin for ring in rings], 1, shift=_FRACTION_BITS)
        window |= one


def _to_fixed_point(ring: Ring, scale: tuple[float, float]) -> FixedPoint:
    # The coordinates of OpenCV are those of pixel centres: the centre of the first pixel is 0.
    return np.round((ring / scale - 0.5) * (1 << _FRACTION_BITS)).astype(np.int32)
