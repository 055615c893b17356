"""Read polygons on a slide, from ASAP's XML (Camelyon) and QuPath's GeoJSON, and find the tumour among them."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from histocli.errors import HistoError, describe_value
from histocli.slides.grid import Grid, Mask
from histocli.slides.masks import TumourMask, read_mask
from histocli.slides.polygons import Polygon, Ring, check_polygons, fill_polygons
from histocli.slides.qupath import ANNOTATION, parse_class, parse_object_kind
from histocli.slides.records import MAX_LENGTH
from histocli.slides.xml import read_elements

MASK_SUFFIXES = (".tif", ".tiff", ".png")
_BAND_PIXELS = 1 << 25  # pixels of a slide that are filled at a time
_EXPORT_HINT = "export it again from ASAP"
# Names of classes, in small letters: of Camelyon16 and 17, of QuPath, and without a class.
_TUMOUR_CLASSES = frozenset(
    {"", "_0", "_1", "tumor", "tumour", "metastases", "metastasis", "positive", "carcinoma", "cancer"}
)
_EXCLUDED_CLASSES = frozenset(
    {"_2", "exclusion", "normal", "negative", "ignore", "none", "other", "stroma", "necrosis"}
)
_WITHOUT_AREA = {"Point": "points", "MultiPoint": "points", "LineString": "lines", "MultiLineString": "lines"}


class AnnotatedAreas(NamedTuple):
    """The areas of the annotations in a GeoJSON file.

    `left_out` counts its shapes that are no areas of annotations, such as tiles and points.
    """

    polygons: list[Polygon]
    left_out: Counter[str]


def read_geojson(path: Path) -> AnnotatedAreas:
    """Read the areas of a GeoJSON file: Polygon and MultiPolygon, alone or in features and collections.

    Of QuPath's objects only the annotations count: the tiles of a map were not drawn by anyone.

    Raises:
        HistoError: it is not GeoJSON, or has shapes but no area of an annotation.
    """
    shapes = _read_shapes(path)
    areas = [one for one in shapes.polygons if one.kind == ANNOTATION]
    check_polygons(areas, path)
    left_out = shapes.without_area + Counter(one.kind for one in shapes.polygons if one.kind != ANNOTATION)
    if left_out and not areas:
        raise HistoError(
            f"{path} has {describe_counts(left_out)}, and no annotation with an area",
            "export the annotations from QuPath; where there is nothing to mark, write an empty list of features",
        )
    return AnnotatedAreas(areas, left_out)


@dataclass
class _Shapes:
    """The areas of a GeoJSON file, and how many points and lines it has."""

    polygons: list[Polygon] = field(default_factory=list)
    without_area: Counter[str] = field(default_factory=Counter)


def _read_shapes(path: Path) -> _Shapes:
    shapes = _Shapes()
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        _add_shapes(shapes, content, "", ANNOTATION)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise HistoError(f"{path} is not GeoJSON with polygons: {error}", "export it again from QuPath") from error
    is_empty = content == [] or (isinstance(content, dict) and content.get("features") == [])
    if not shapes.polygons and not is_empty:
        raise HistoError(f"{path} has no polygon", "lines and points have no area: draw areas")
    return shapes


def _add_shapes(shapes: _Shapes, node: Any, name: str, object_kind: str) -> None:
    """Add the shapes of a GeoJSON object, or of a list of them; `name` and `object_kind` are those of their feature."""
    if isinstance(node, list):
        for one in node:
            _add_shapes(shapes, one, name, object_kind)
        return
    kind = node["type"]
    if kind == "FeatureCollection":
        _add_shapes(shapes, node["features"], name, object_kind)
    elif kind == "Feature":
        properties = node.get("properties") or {}
        if geometry := node.get("geometry"):
            name = parse_class(properties.get("classification"))
            _add_shapes(shapes, geometry, name, parse_object_kind(node, properties))
        _add_shapes(shapes, properties.get("childObjects") or [], "", ANNOTATION)
    elif kind == "GeometryCollection":
        _add_shapes(shapes, node["geometries"], name, object_kind)
    elif kind in ("Polygon", "MultiPolygon"):
        areas = node["coordinates"] if kind == "MultiPolygon" else [node["coordinates"]]
        for rings in (one for one in areas if one):
            holes = [_parse_ring(hole) for hole in rings[1:]]
            shapes.polygons.append(Polygon(_parse_ring(rings[0]), holes, name, object_kind))
    elif kind in _WITHOUT_AREA:
        shapes.without_area[_WITHOUT_AREA[kind]] += 1
    else:
        raise ValueError(f"the type {describe_value(kind)} is not one of GeoJSON")


def _parse_ring(points: Any) -> Ring:
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


def read_asap(path: Path) -> list[Polygon]:
    """Read the polygons of ASAP's XML, as Camelyon has them; the class is the annotation's group.

    Raises:
        HistoError: it is not such a file.
    """
    names: list[str] = []  # "" for the root element, then the group of each annotation
    rings: list[list[tuple[float, float]]] = []

    def on_element(name: str, attributes: dict[str, str]) -> None:
        if not names and name != "ASAP_Annotations":
            raise ValueError(f"it begins with <{name[:50]}>")
        if not names or name == "Annotation":  # the root element has an entry too, which stays empty
            names.append(attributes.get("PartOfGroup", ""))
            rings.append([])
        elif name == "Coordinate":
            rings[-1].append((_parse_number(attributes["X"]), _parse_number(attributes["Y"])))

    try:
        read_elements(path.read_bytes(), on_element)
        areas = [Polygon(_parse_ring(ring), [], name) for ring, name in zip(rings, names, strict=True) if len(ring) > 2]
    except KeyError as error:
        raise HistoError(f"{path} is not an annotation of ASAP: a point has no {error}", _EXPORT_HINT) from error
    except (OSError, ValueError) as error:
        raise HistoError(f"{path} is not an annotation of ASAP: {error}", _EXPORT_HINT) from error
    check_polygons(areas, path)
    return areas


def _parse_number(text: str) -> float:
    if "_" in text:  # Python reads 1_0 as 10
        raise ValueError(f"a coordinate is {text[:50]!r}, not a number")
    return float(text)


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


def read_tumour(path: Path) -> TumourAreas:
    """Read an annotation (.xml, .geojson or .json) and sort its areas by their classes; or open a mask (.tif, .png).

    Raises:
        HistoError: the file cannot be read, has objects but no annotation, or a class is not known.
    """
    if path.suffix.lower() in MASK_SUFFIXES:
        return TumourAreas([], [], read_mask(path))
    is_xml = path.suffix.lower() == ".xml"
    annotations, left_out = AnnotatedAreas(read_asap(path), Counter()) if is_xml else read_geojson(path)
    areas = TumourAreas([], [], left_out=left_out)
    for polygon in annotations:
        name = polygon.name.strip().lower().rstrip("*")
        if name in _TUMOUR_CLASSES:
            areas.tumour.append(polygon)
        elif name in _EXCLUDED_CLASSES:
            areas.excluded.append(polygon)
        else:
            raise HistoError(
                f"{path}: the class {describe_value(polygon.name)} is not known",
                f"name tumour {', '.join(sorted(_TUMOUR_CLASSES - {''}))}; "
                f"name other areas {', '.join(sorted(_EXCLUDED_CLASSES))}",
            )
    return areas


def describe_counts(counts: Mapping[str, int]) -> str:
    """Return numbers of shapes as text, such as "1,204 tiles and 1 line"."""
    return " and ".join(f"{number:,} {name if number != 1 else name[:-1]}" for name, number in sorted(counts.items()))


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
            _shift([polygons[i] for i in np.flatnonzero((low <= bottom) & (high >= top))], top)
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
    ys = [one.outline[:, 1] for one in polygons]
    return np.array([y.min() for y in ys]), np.array([y.max() for y in ys])


def _shift(polygons: list[Polygon], top: float) -> list[Polygon]:
    by = np.array([0.0, top])
    return [Polygon(one.outline - by, [hole - by for hole in one.holes], one.name) for one in polygons]
