"""Read the areas of GeoJSON files, such as those of QuPath."""

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from histocli.errors import HistoError, describe_value
from histocli.slides.polygons import (
    AnnotatedAreas,
    Polygon,
    check_polygons,
    describe_shapes,
    parse_ring,
    shift_polygons,
)
from histocli.slides.qupath import ANNOTATION, parse_class, parse_object_kind

_MAX_POINTS = 2_000_000  # of one shape: until it is an array, each point takes some 200 bytes of memory
_SHORTEST_POINT = len("[0,0],")
_MAX_BYTES, _MAX_VALUES = 1 << 29, 20_000_000
# Coordinates that end the object that they are in, or that only its type follows.
_CLOSED_COORDINATES = re.compile(r'"coordinates"\s*:\s*([][\d\s.,eE+-]*+)(?:"type"\s*:\s*"\w*"\s*)?}')
_WITHOUT_AREA = {"Point": "points", "MultiPoint": "points", "LineString": "lines", "MultiLineString": "lines"}


def read_geojson(path: Path, origin: tuple[int, int] = (0, 0)) -> AnnotatedAreas:
    """Read the areas of a GeoJSON file: Polygon and MultiPolygon, alone or in features and collections.

    Of QuPath's objects only the annotations count: the tiles of a map were not drawn by anyone. The coordinates in the
    file begin at the `origin` of the slide; those of the result begin at the slide's upper left corner.

    Raises:
        HistoError: it is not GeoJSON, or has shapes but no area of an annotation.
    """
    shapes = _read_shapes(path)
    areas = [polygon for polygon in shapes.polygons if polygon.kind == ANNOTATION]
    check_polygons(areas, path)
    left_out = shapes.left_out + Counter(polygon.kind for polygon in shapes.polygons if polygon.kind != ANNOTATION)
    if left_out and not areas:
        raise HistoError(
            f"{path} has {describe_shapes(left_out)}, and no annotation with an area",
            "export the annotations from QuPath; where there is nothing to mark, write an empty list of features",
        )
    return AnnotatedAreas(shift_polygons(areas, *origin) if any(origin) else areas, left_out)


def _read_shapes(path: Path) -> AnnotatedAreas:
    """Read the areas of all objects, also of those that are no annotations; only points and lines are left out."""
    shapes = AnnotatedAreas([], Counter())
    try:
        content = json.loads(_read_text(path), object_hook=_parse_areas)
        _add_shapes(shapes, content, "", ANNOTATION)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise HistoError(f"{path} is not GeoJSON with polygons: {error}", "export it again from QuPath") from error
    is_empty = content == [] or (isinstance(content, dict) and content.get("features") == [])
    if not shapes.polygons and not is_empty:
        raise HistoError(f"{path} has no polygon", "lines and points have no area: draw areas")
    return shapes


def _read_text(path: Path) -> str:
    """Return the text of a file; raise `ValueError` if it has too many points in a shape, or too many other values.

    The coordinates of a shape become arrays at its closing brace. All other values stay in memory until the end.
    """
    if (size := path.stat().st_size) > _MAX_BYTES:
        raise ValueError(f"it has {size >> 20:,} MiB, more than {_MAX_BYTES >> 20}; export only the annotations")
    text = path.read_text(encoding="utf-8-sig")
    if len(text) < _MAX_POINTS * _SHORTEST_POINT:
        return text
    values = sum(map(text.count, "{[,"))
    for match in _CLOSED_COORDINATES.finditer(text):
        brackets, commas = (text.count(mark, *match.span(1)) for mark in "[,")
        if (points := max(brackets, commas // 4)) > _MAX_POINTS:
            raise ValueError(f"a shape has about {points:,} points, more than {_MAX_POINTS:,}; simplify it")
        values -= brackets + commas
    if values > _MAX_VALUES:
        raise ValueError(f"it has about {values:,} values that are no coordinates, more than {_MAX_VALUES:,}")
    return text


def _parse_areas(node: dict[str, Any]) -> dict[str, Any]:
    """Replace the rings of an area by arrays as soon as it is read: as lists, they take ten times as much memory.

    The coordinates of other shapes are dropped.
    """
    kind, areas = node.get("type"), node.get("coordinates")
    if kind == "Polygon" and areas:
        return node | {"coordinates": [parse_ring(ring) for ring in areas]}
    if kind == "MultiPolygon" and areas:
        return node | {"coordinates": [[parse_ring(ring) for ring in rings] for rings in areas]}
    return node | {"coordinates": None} if "coordinates" in node else node


def _add_shapes(shapes: AnnotatedAreas, node: Any, name: str, object_kind: str) -> None:
    """Add the shapes of a GeoJSON object, or of a list of objects, to `shapes`.

    `name` is the class, and `object_kind` QuPath's type, of the feature that contains them.
    """
    if isinstance(node, list):
        for child in node:
            _add_shapes(shapes, child, name, object_kind)
        return
    kind = node["type"]
    if kind == "FeatureCollection":
        _add_shapes(shapes, node["features"], name, object_kind)
    elif kind == "Feature":
        properties = node.get("properties") or {}
        if geometry := node.get("geometry"):
            name = parse_class(properties.get("classification"))
            _add_shapes(shapes, geometry, name, parse_object_kind(node, properties))
        children = properties.get("childObjects", properties.get("children"))  # QuPath reads both names
        _add_shapes(shapes, children or [], "", ANNOTATION)
    elif kind == "GeometryCollection":
        _add_shapes(shapes, node["geometries"], name, object_kind)
    elif kind in ("Polygon", "MultiPolygon"):
        areas = node["coordinates"] if kind == "MultiPolygon" else [node["coordinates"]]
        for rings in (area for area in areas if area):
            shapes.polygons.append(Polygon(rings[0], rings[1:], name, object_kind))
    elif kind in _WITHOUT_AREA:
        shapes.left_out[_WITHOUT_AREA[kind]] += 1
    else:
        raise ValueError(f"the type {describe_value(kind)} is not one of GeoJSON")
