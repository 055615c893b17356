"""Polygons on a slide, in level-0 pixels: what a file of annotations has, and the masks of them."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from histocli.errors import HistoError, describe_value
from histocli.slides.grid import Mask
from histocli.slides.qupath import ANNOTATION
from histocli.slides.slide import MAX_LENGTH
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


class AnnotatedAreas(NamedTuple):
    """The areas of the annotations in a GeoJSON file.

    `left_out` counts its shapes that are no areas of annotations, such as tiles and points.
    """

    polygons: list[Polygon]
    left_out: Counter[str]


def parse_ring(points: Any) -> Ring:
    """Return the points of a ring (N,2).

    Raises:
        ValueError: there are fewer than three, or a coordinate is no number or lies far outside any slide.
    """
    values = [value for point in points for value in (point[0], point[1])]
    if set(map(type, values)) - {int, float}:
        wrong = next(value for value in values if type(value) not in (int, float))
        raise TypeError(f"a coordinate is {describe_value(wrong)}, not a number")
    for value in (min(values, default=0), max(values, default=0)):
        if not -MAX_LENGTH <= value <= MAX_LENGTH:  # also where the first one is NaN
            raise ValueError(f"a coordinate is {describe_value(value)}, which is far outside any slide")
    if len(values) < 6:
        raise ValueError("a polygon needs three or more points")
    ring = np.array(values, np.float64).reshape(-1, 2)
    if np.isnan(ring).any():
        raise ValueError("a coordinate is nan, which is far outside any slide")
    return ring


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


def count_outside(polygons: list[Polygon], size: tuple[int, int]) -> int:
    """Return how many areas lie wholly outside a slide of `size` (width, height) pixels."""
    low = np.array([one.outline.min(0) for one in polygons]).reshape(-1, 2)
    high = np.array([one.outline.max(0) for one in polygons]).reshape(-1, 2)
    return int(((low >= size) | (high <= 0)).any(1).sum())


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return numbers of shapes as text, such as "1,204 tiles and 1 line"."""
    return " and ".join(f"{number:,} {name if number != 1 else name[:-1]}" for name, number in sorted(counts.items()))


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
