"""Polygons on a slide, as ASAP (Camelyon) writes them in XML and QuPath in GeoJSON, and masks of them."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from histocli.errors import HistoError
from histocli.slides.grid import Mask

Ring = np.ndarray[Any, np.dtype[np.float64]]
_BITS = 4  # of a coordinate's fraction that OpenCV keeps


class Polygon(NamedTuple):
    """An area: its outline (N,2) as x and y in level-0 pixels, its holes, and its class, "" if it has none."""

    outline: Ring
    holes: list[Ring]
    name: str = ""


def read_geojson(path: Path) -> list[Polygon]:
    """Read the areas of a GeoJSON file: Polygon and MultiPolygon, alone or in features and collections.

    Raises:
        HistoError: it is not GeoJSON, or has no area.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        polygons = list(_polygons(content, ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise HistoError(f"{path} is not GeoJSON with polygons: {error}", "export it again from QuPath") from error
    if not polygons:
        raise HistoError(f"{path} has no polygon", "lines and points have no area: draw areas")
    return polygons


def _polygons(node: Any, name: str) -> list[Polygon]:
    if isinstance(node, list):
        return [polygon for one in node for polygon in _polygons(one, name)]
    kind = node["type"]
    if kind == "FeatureCollection":
        return _polygons(node["features"], name)
    if kind == "Feature":
        classification = (node.get("properties") or {}).get("classification") or {}
        return _polygons(node["geometry"], classification.get("name", "")) if node.get("geometry") else []
    if kind == "GeometryCollection":
        return _polygons(node["geometries"], name)
    rings = {"Polygon": lambda: [node["coordinates"]], "MultiPolygon": lambda: node["coordinates"]}.get(kind, list)()
    return [Polygon(_ring(one[0]), [_ring(hole) for hole in one[1:]], name) for one in rings if one]


def _ring(points: Any) -> Ring:
    ring = np.asarray([point[:2] for point in points], np.float64)
    if ring.ndim != 2 or len(ring) < 3 or not np.isfinite(ring).all():
        raise ValueError("a polygon needs three or more points with two coordinates")
    return ring


def fill_polygons(polygons: list[Polygon], shape: tuple[int, int], scale: tuple[float, float]) -> Mask:
    """Return the mask (H,W) of polygons, where a pixel spans `scale` (x, y) level-0 pixels.

    A pixel belongs to the mask if its centre is in a polygon; the pixels of the outline do too.
    """
    mask = np.zeros(shape, np.uint8)
    for polygon in polygons:
        rings = [_to_fixed_point(ring, scale) for ring in (polygon.outline, *polygon.holes)]
        one = np.zeros(shape, np.uint8) if polygon.holes else mask
        if polygon.holes:
            cv2.fillPoly(one, rings, 1, shift=_BITS)
            mask |= one
        else:
            cv2.fillPoly(mask, rings, 1, shift=_BITS)
    return mask.astype(np.bool_)


def _to_fixed_point(ring: Ring, scale: tuple[float, float]) -> "np.ndarray[Any, np.dtype[np.int32]]":
    # The coordinates of OpenCV are those of pixel centres: the centre of the first pixel is 0.
    limited = np.clip(ring / scale - 0.5, -(2**24), 2**24)
    return np.round(limited * (1 << _BITS)).astype(np.int32)
