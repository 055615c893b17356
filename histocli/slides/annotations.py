"""Read the tumour of a slide from an annotation (ASAP's XML, QuPath's GeoJSON) or a mask, and label squares by it."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from histocli.errors import HistoError, describe_value
from histocli.slides.asap import read_asap
from histocli.slides.classes import EXCLUDED_CLASSES, TUMOUR_CLASSES, normalise_class
from histocli.slides.geojson import read_geojson
from histocli.slides.grid import Grid, Mask
from histocli.slides.masks import TumourMask, read_mask
from histocli.slides.polygons import (
    Polygon,
    Ring,
    count_outside,
    describe_shapes,
    fill_polygons,
    measure_crossings,
    shift_polygons,
)
from histocli.text import format_count

MASK_SUFFIXES = (".tif", ".tiff", ".png")
_BAND_PIXELS = 1 << 25  # pixels of a slide that are filled at a time


class TumourAreas(NamedTuple):
    """The areas of tumour in a slide, and the areas to exclude from them, as polygons; or the tumour as a mask.

    `left_out` counts the shapes of a file that are no areas of annotations, such as tiles and points.
    """

    tumour: list[Polygon]
    excluded: list[Polygon]
    mask: TumourMask | None = None
    left_out: Mapping[str, int] = MappingProxyType({})

    @property
    def has_tumour(self) -> bool:
        """Whether there is any area of tumour."""
        return bool(self.tumour) or (self.mask is not None and self.mask.value > 0)

    def describe_problems(self, path: Path) -> list[str]:
        """Return a sentence about the shapes of the file `path` that were left out, and one about crossed outlines."""
        notes = []
        if self.left_out:
            notes.append(f"{path}: left out {describe_shapes(self.left_out)}: only areas of annotations count")
        crossed, share = measure_crossings(self.tumour + self.excluded)
        if crossed:
            notes.append(
                f"{path}: the {'outlines' if crossed > 1 else 'outline'} of {format_count(crossed, 'area')} "
                f"{'cross themselves' if crossed > 1 else 'crosses itself'}: the parts that "
                f"{'they enclose' if crossed > 1 else 'it encloses'} twice ({max(share, 0.0001):.2%} of the area) "
                "are treated as not annotated"
            )
        return notes


def read_tumour(path: Path, origin: tuple[int, int] = (0, 0)) -> TumourAreas:
    """Read an annotation (.xml, .geojson or .json) and sort its areas by their classes; or open a mask (.tif, .png).

    The coordinates in GeoJSON begin at the `origin` of the slide, those of ASAP and of masks at its upper left corner.

    Raises:
        HistoError: the file cannot be read, has objects but no annotation, or a class is not known.
    """
    if path.suffix.lower() in MASK_SUFFIXES:
        return TumourAreas([], [], read_mask(path))
    is_xml = path.suffix.lower() == ".xml"
    annotations, left_out = read_asap(path) if is_xml else read_geojson(path, origin)
    areas = TumourAreas([], [], left_out=left_out)
    for polygon in annotations:
        name = normalise_class(polygon.name)
        if name in TUMOUR_CLASSES:
            areas.tumour.append(polygon)
        elif name in EXCLUDED_CLASSES:
            areas.excluded.append(polygon)
        else:
            raise HistoError(
                f"{path}: the class {describe_value(polygon.name)} is not known",
                f"name tumour {', '.join(sorted(TUMOUR_CLASSES - {''}))}; "
                f"name other areas {', '.join(sorted(EXCLUDED_CLASSES))}",
            )
    return areas


def check_inside(areas: TumourAreas, path: Path, slide: Path, size: tuple[int, int]) -> None:
    """Raise `HistoError` if an area lies wholly outside a slide of `size` (width, height) level-0 pixels."""
    polygons = areas.tumour + areas.excluded
    if count := count_outside(polygons, size):
        raise HistoError(
            f"{path}: {count:,} of {format_count(len(polygons), 'area')} "
            f"{'lie' if count > 1 else 'lies'} outside the slide {slide}, which has {size[0]}x{size[1]} pixels",
            "give the annotation of this slide; coordinates are pixels of the largest level, "
            "in GeoJSON from the corner that QuPath shows",
        )


def label_squares(areas: TumourAreas, grid: Grid) -> Mask:
    """Return which squares (rows, columns) of a grid have any pixel of tumour: PCam's rule for squares of 32."""
    if areas.mask is not None:
        return areas.mask.label_squares(grid)
    labels = np.zeros(grid.shape, np.bool_)
    rows, columns = grid.shape
    scale = (grid.scale[0] * grid.downsample, grid.scale[1] * grid.downsample)
    side = grid.step * scale[1]
    extents = [_find_extents(polygons) for polygons in (areas.tumour, areas.excluded)]
    most = max(1, _BAND_PIXELS // (columns * grid.step**2))  # rows of squares that are filled at a time
    for first in range(0, rows, most):
        count = min(most, rows - first)
        top, bottom = first * side, (first + count) * side
        tumour, excluded = (
            shift_polygons([polygons[i] for i in np.flatnonzero((low <= bottom) & (high >= top))], 0, -top)
            for polygons, (low, high) in zip((areas.tumour, areas.excluded), extents, strict=True)
        )
        if not tumour:
            continue
        shape = count * grid.step, columns * grid.step
        pixels = fill_polygons(tumour, shape, scale)
        pixels &= ~fill_polygons(excluded, shape, scale)
        squares = pixels.reshape(count, grid.step, columns, grid.step)
        labels[first : first + count] = squares.any((1, 3))
    return labels


def _find_extents(polygons: list[Polygon]) -> tuple[Ring, Ring]:
    """Return the lowest and the highest y coordinate of the outline of each polygon."""
    ys = [polygon.outline[:, 1] for polygon in polygons]
    return np.array([y.min() for y in ys]), np.array([y.max() for y in ys])
