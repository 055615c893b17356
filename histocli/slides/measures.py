"""Measure a map of scores: areas, regions and their outlines."""

from collections import defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

import cv2
import numpy as np

from histocli.slides.grid import Grid, Mask

Map = np.ndarray[Any, np.dtype[np.float64]]
Point = tuple[int, int]


class SlideMeasures(NamedTuple):
    """The measures of the scored squares: tumour area, diameter of the largest region, and highest scores.

    The values are None if no square was scored.
    """

    tumour_mm2: float | None
    largest_region_mm: float | None
    maximum: float | None
    percentile_99: float | None


class Region(NamedTuple):
    """Squares above the threshold that share sides.

    `rings` are its outlines in grid corners (column, row): the outer one, which is closed, then those of its holes.
    """

    rings: list[list[Point]]
    squares: int
    maximum: float
    mean: float


def measure_slide(scores: Map, tissue_share: Map, grid: Grid, threshold: float) -> SlideMeasures:
    """Measure a map of probabilities (rows, columns), which is NaN where no square was scored.

    The tumour area is that of the tissue in the squares at or above the threshold. `tissue_share` is the share of
    tissue in each whole square, also in one that is partly outside the slide.
    """
    scored = scores[np.isfinite(scores)]
    if not scored.size:
        return SlideMeasures(None, None, None, None)
    tumour = np.nan_to_num(scores, nan=-1.0) >= threshold
    mm2 = float(tissue_share[tumour].sum()) * (grid.step * grid.mpp / 1000) ** 2
    return SlideMeasures(
        mm2, _find_largest_diameter(tumour, grid), float(scored.max()), float(np.percentile(scored, 99))
    )


def _find_largest_diameter(tumour: Mask, grid: Grid) -> float:
    """Return the largest distance in mm between two corners of one region."""
    side = grid.step * grid.mpp / 1000
    largest = 0.0
    for _, mask in _iterate_regions(tumour):
        rows, columns = np.nonzero(mask)
        corners = np.concatenate([np.stack([columns + x, rows + y], 1) for x in (0, 1) for y in (0, 1)])
        hull = cv2.convexHull(corners.astype(np.int32))[:, 0].astype(np.float64)
        distances = np.linalg.norm(hull[:, None] - hull[None], axis=2)
        largest = max(largest, float(distances.max()) * side)
    return largest


def find_regions(scores: Map, threshold: float) -> list[Region]:
    """Return the regions of squares at or above the threshold, from the upper left to the lower right."""
    tumour = np.nan_to_num(scores, nan=-1.0) >= threshold
    regions = []
    for window, mask in _iterate_regions(tumour):
        top, left = window[0].start, window[1].start
        rings = [[(x + left, y + top) for x, y in ring] for ring in trace_outlines(mask)]
        values = scores[window][mask]
        regions.append(Region(rings, values.size, float(values.max()), float(values.mean())))
    return regions


def _iterate_regions(mask: Mask) -> Iterator[tuple[tuple[slice, slice], Mask]]:
    """Yield the window of the map that each region covers, and the mask of the region in it."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=4)
    for number in range(1, count):
        left, top, width, height, _ = stats[number].tolist()
        window = slice(top, top + height), slice(left, left + width)
        yield window, labels[window] == number


def trace_outlines(mask: Mask) -> list[list[Point]]:
    """Return the outlines of a connected mask along the sides of its pixels: the outer one first, then its holes.

    Each is closed: its last corner (x, y) is its first. The mask is to the right of the way along an outline.
    """
    following: dict[Point, list[Point]] = defaultdict(list)
    padded = np.pad(mask, 1)
    inner = padded[1:-1, 1:-1]
    for (dy, dx), start, stop in (
        ((-1, 0), (0, 0), (1, 0)),  # no neighbour above: along the upper side to the right
        ((0, 1), (1, 0), (1, 1)),
        ((1, 0), (1, 1), (0, 1)),
        ((0, -1), (0, 1), (0, 0)),
    ):
        neighbour = padded[1 + dy : len(padded) - 1 + dy, 1 + dx : padded.shape[1] - 1 + dx]
        for y, x in np.argwhere(inner & ~neighbour).tolist():
            following[(x + start[0], y + start[1])].append((x + stop[0], y + stop[1]))
    rings = []
    for start in sorted(following):  # a corner where two outlines meet occurs twice
        while start in following:
            rings.append(_take_outline(following, start))
    rings.sort(key=lambda ring: min(ring))  # the leftmost corner belongs to the outer outline
    return rings


def _take_outline(following: dict[Point, list[Point]], start: Point) -> list[Point]:
    """Remove one closed outline from the sides, and return its corners, without points on straight lines."""
    ring, at = [start], start
    direction: Point | None = None
    while True:
        choices = following[at]
        after = _choose_next_corner(at, choices, direction)
        choices.remove(after)
        if not choices:
            del following[at]
        step = (after[0] - at[0], after[1] - at[1])
        if step == direction:
            ring[-1] = after
        else:
            ring.append(after)
        direction, at = step, after
        if at == start:
            return ring


def _choose_next_corner(at: Point, choices: list[Point], direction: Point | None) -> Point:
    """Return the next corner; if squares touch only at a corner, turn left: then no outline touches itself."""
    if direction is None or len(choices) == 1:
        return choices[0]
    left = (at[0] + direction[1], at[1] - direction[0])
    return left if left in choices else choices[0]
