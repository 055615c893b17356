"""Polygons on a slide, in level-0 pixels: what a file of annotations has, and the masks of them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from histocli.errors import HistoError, describe_value
from histocli.patch import Pixels
from histocli.slides.grid import Mask
from histocli.slides.qupath import ANNOTATION
from histocli.slides.slide import MAX_LENGTH

Ring = np.ndarray[Any, np.dtype[np.float64]]
FixedPoint = np.ndarray[Any, np.dtype[np.int32]]
_FRACTION_BITS = 4  # bits of the fraction of a coordinate, for OpenCV
# OpenCV sorts the edges that a line of pixels meets in quadratic time, and cannot be interrupted. These limits are some
# 15 seconds of its work: an outline of a large slide that each line meets 600 times, and 100 areas of a whole slide.
_MAX_SORTING, _MAX_AREA = 1 << 35, 1 << 40
_GRID = 1024  # largest side of the grid on which the turns of an outline are counted
_EDGES = 4096  # edges that are drawn on it at a time


class Polygon(NamedTuple):
    """An area: its outline (N,2) as x and y in level-0 pixels, its holes, and its class, or "".

    `kind` is `ANNOTATION`, or which of QuPath's other objects it is, such as "tiles".
    """

    outline: Ring
    holes: list[Ring]
    name: str = ""
    kind: str = ANNOTATION


class AnnotatedAreas(NamedTuple):
    """The areas of the annotations in a file.

    `left_out` counts its shapes that are no areas of annotations, such as tiles and points.
    """

    polygons: list[Polygon]
    left_out: Counter[str]


def parse_ring(points: Any) -> Ring:
    """Return the points of a ring of JSON as an array (N,2).

    Raises:
        ValueError: there are fewer than three, or a coordinate lies far outside any slide.
        TypeError: a coordinate is no number.
    """
    values = [value for point in points for value in (point[0], point[1])]
    if set(map(type, values)) - {int, float}:
        wrong = next(value for value in values if type(value) not in (int, float))
        raise TypeError(f"a coordinate is {describe_value(wrong)}, not a number")
    return make_ring(values)


def make_ring(values: Sequence[float]) -> Ring:
    """Return a ring (N,2) of the coordinates x and y of its points, one after the other.

    Raises:
        ValueError: there are fewer than three points, or a coordinate is not finite or lies far outside any slide.
    """
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
        HistoError: an outline goes up and down too often, too many large areas overlap, or a hole is not
            in its area.
    """
    sorting = area = 0.0
    for polygon in polygons:
        width, height = (polygon.outline.max(0) - polygon.outline.min(0) + 1).tolist()
        rings = (polygon.outline, *polygon.holes)
        low, high = polygon.outline.min(0) - 1, polygon.outline.max(0) + 1
        if any((hole < low).any() or (hole > high).any() for hole in polygon.holes):
            raise HistoError(f"{path} has an area with a hole that lies outside it", "export it again from QuPath")
        length = sum(float(np.abs(np.diff(ring[:, 1], append=ring[0, 1])).sum()) for ring in rings)
        sorting += length * length / height  # the edges that a line meets on average, squared, for each line
        area += width * height
    if sorting > _MAX_SORTING or area > _MAX_AREA:
        what = "outlines that go up and down too often" if sorting > _MAX_SORTING else "too many large areas"
        raise HistoError(f"{path} has {what} to be filled", "draw simpler areas that do not overlap")


def measure_crossings(polygons: list[Polygon]) -> tuple[int, float]:
    """Return how many outlines cross themselves so that they enclose a part twice, and the share of these parts.

    Such a part is not filled. The share is that of the area that these outlines enclose.
    """
    twice, enclosed = (
        zip(*(_measure_turns(polygon.outline) for polygon in polygons), strict=True) if polygons else ((), ())
    )
    crossed = [i for i, area in enumerate(twice) if area]
    return len(crossed), sum(twice[i] for i in crossed) / (sum(enclosed[i] for i in crossed) or 1.0)


def _measure_turns(ring: Ring) -> tuple[float, float]:
    """Return the area where the winding number of a ring is even but not 0, and the area where it is not 0.

    The areas are measured on a grid of at most `_GRID` x `_GRID` pixels.
    """
    if len(ring) < 5:  # it cannot turn round anything twice
        return 0.0, 0.0
    low, size = ring.min(0), np.ptp(ring, 0)
    scale = max(1.0, float(size.max()) / _GRID)
    points = (ring - low) / scale
    width, height = (np.ceil(size / scale).astype(int) + 1).tolist()
    turns = np.zeros((height, width + 1), np.int32)
    ends = np.roll(points, -1, 0)
    for first in range(0, len(ring), _EDGES):
        (x0, y0), (x1, y1) = points[first : first + _EDGES].T, ends[first : first + _EDGES].T
        top, bottom = (np.ceil(choose(y0, y1) - 0.5).astype(int) for choose in (np.minimum, np.maximum))
        counts = bottom - top  # of the lines of pixel centres that each edge crosses
        rows = np.arange(counts.sum()) + np.repeat(top - np.cumsum(counts) + counts, counts)
        slopes = np.divide(x1 - x0, y1 - y0, out=np.zeros(len(x0)), where=y1 != y0)
        x = np.repeat(x0 - slopes * y0, counts) + (rows + 0.5) * np.repeat(slopes, counts)
        columns = np.ceil(x - 0.5).astype(int).clip(0, width)
        np.add.at(turns, (rows, columns), np.repeat(np.sign(y1 - y0).astype(np.int32), counts))
    turns = turns.cumsum(1)
    return float(((turns != 0) & (turns % 2 == 0)).sum()) * scale**2, float((turns != 0).sum()) * scale**2


def shift_polygons(polygons: list[Polygon], x: float, y: float) -> list[Polygon]:
    """Return polygons whose coordinates are larger by `x` and `y`."""
    by = np.array([x, y])
    return [
        polygon._replace(outline=polygon.outline + by, holes=[hole + by for hole in polygon.holes])
        for polygon in polygons
    ]


def count_outside(polygons: list[Polygon], size: tuple[int, int]) -> int:
    """Return how many areas lie wholly outside a slide of `size` (width, height) pixels."""
    low = np.array([polygon.outline.min(0) for polygon in polygons]).reshape(-1, 2)
    high = np.array([polygon.outline.max(0) for polygon in polygons]).reshape(-1, 2)
    return int(((low >= size) | (high <= 0)).any(1).sum())


def describe_shapes(counts: Mapping[str, int]) -> str:
    """Return numbers of shapes as text, such as "1,204 tiles and 1 line"."""
    return " and ".join(f"{number:,} {name if number != 1 else name[:-1]}" for name, number in sorted(counts.items()))


def fill_polygons(polygons: list[Polygon], shape: tuple[int, int], scale: tuple[float, float]) -> Mask:
    """Return the mask (H,W) of polygons, where a pixel spans `scale` (x, y) level-0 pixels.

    A pixel belongs to the mask if its centre is in a polygon; the pixels of the outline do too.
    """
    mask = np.zeros(shape, np.uint8)
    for polygon in polygons:
        # The coordinates of OpenCV are those of pixel centres: the centre of the first pixel is 0.
        pixels = [(ring / scale - 0.5) * (1 << _FRACTION_BITS) for ring in (polygon.outline, *polygon.holes)]
        rings = [np.round(ring).astype(np.int32) for ring in pixels]
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
        filled = np.zeros(window.shape, np.uint8)
        origin = np.array([left, top], np.int32) << _FRACTION_BITS
        cv2.fillPoly(filled, [ring - origin for ring in rings], 1, shift=_FRACTION_BITS)
        window |= filled
