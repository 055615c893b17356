"""Polygons on a slide, as ASAP (Camelyon) writes them in XML and QuPath in GeoJSON; and what is tumour."""

import json
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import cv2
import numpy as np

from histocli.errors import HistoError
from histocli.slides.grid import Grid, Mask
from histocli.slides.masks import TumourMask, read_mask

MASK_SUFFIXES = (".tif", ".tiff", ".png")
Ring = np.ndarray[Any, np.dtype[np.float64]]
_BITS = 4  # how many bits of a coordinate's fraction OpenCV keeps
# Names of classes, in small letters: of Camelyon16 and 17, of QuPath, and without a class.
_TUMOUR = frozenset({"", "_0", "_1", "tumor", "tumour", "metastases", "metastasis", "positive", "carcinoma", "cancer"})
_EXCLUDED = frozenset({"_2", "exclusion", "normal", "negative", "ignore", "none", "other", "stroma", "necrosis"})


class Polygon(NamedTuple):
    """An area: its outline (N,2) as x and y in level-0 pixels, its holes, and its class, "" if it has none."""

    outline: Ring
    holes: list[Ring]
    name: str = ""


def read_geojson(path: Path) -> list[Polygon]:
    """Read the areas of a GeoJSON file: Polygon and MultiPolygon, alone or in features and collections.

    Raises:
        HistoError: it is not GeoJSON, or has shapes but no area.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
        polygons = list(_polygons(content, ""))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise HistoError(f"{path} is not GeoJSON with polygons: {error}", "export it again from QuPath") from error
    if not polygons and not (isinstance(content, dict) and content.get("features") == []):
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


def read_asap(path: Path) -> list[Polygon]:
    """Read the polygons of ASAP's XML, as Camelyon has them; the class is the annotation's group.

    Raises:
        HistoError: it is not such a file.
    """
    try:
        root = ElementTree.fromstring(path.read_bytes())  # noqa: S314 - expat limits the expansion of entities
        annotations = list(root.iter("Annotation"))
        polygons = [
            Polygon(_ring([(float(one.attrib["X"]), float(one.attrib["Y"])) for one in points]), [], group)
            for annotation in annotations
            if len(points := list(annotation.iter("Coordinate"))) > 2
            for group in [annotation.get("PartOfGroup", "")]
        ]
    except (OSError, ElementTree.ParseError, KeyError, ValueError) as error:
        raise HistoError(f"{path} is not an annotation of ASAP: {error}", "export it again from ASAP") from error
    if root.tag != "ASAP_Annotations":
        raise HistoError(f"{path} is not an annotation of ASAP: it begins with <{root.tag}>", "export it from ASAP")
    return polygons


class TumourAreas(NamedTuple):
    """The areas of tumour in a slide and those to leave out of them, as polygons; or the tumour as a mask."""

    tumour: list[Polygon]
    excluded: list[Polygon]
    mask: TumourMask | None = None

    @property
    def has_tumour(self) -> bool:
        """Whether there is any area of tumour."""
        return bool(self.tumour) or (self.mask is not None and self.mask.value > 0)


def read_tumour(path: Path) -> TumourAreas:
    """Read an annotation (.xml, .geojson or .json) and sort its areas by their classes; or open a mask (.tif, .png).

    Raises:
        HistoError: the file cannot be read, or a class is not known.
    """
    if path.suffix.lower() in MASK_SUFFIXES:
        return TumourAreas([], [], read_mask(path))
    polygons = read_asap(path) if path.suffix.lower() == ".xml" else read_geojson(path)
    areas = TumourAreas([], [])
    for polygon in polygons:
        name = polygon.name.strip().lower().rstrip("*")
        if name in _TUMOUR:
            areas.tumour.append(polygon)
        elif name in _EXCLUDED:
            areas.excluded.append(polygon)
        else:
            raise HistoError(
                f"{path}: the class {polygon.name!r} is not known",
                f"name tumour {', '.join(sorted(_TUMOUR - {''}))}; and what is none {', '.join(sorted(_EXCLUDED))}",
            )
    return areas


def label_squares(areas: TumourAreas, grid: Grid) -> Mask:
    """Return which squares (rows, columns) of a grid hold any pixel of tumour: PCam's rule for squares of 32."""
    if areas.mask is not None:
        return areas.mask.label_squares(grid)
    labels = np.zeros(grid.shape, np.bool_)
    scale = (grid.scale[0] * grid.downsample, grid.scale[1] * grid.downsample)
    side = grid.step * scale[1]
    for row in range(grid.shape[0]):
        top, bottom = row * side, (row + 1) * side
        tumour = _shift([one for one in areas.tumour if _reaches(one, top, bottom)], top)
        if not tumour:
            continue
        shape = grid.step, grid.shape[1] * grid.step
        pixels = fill_polygons(tumour, shape, scale)
        excluded = _shift([one for one in areas.excluded if _reaches(one, top, bottom)], top)
        pixels &= ~fill_polygons(excluded, shape, scale)
        labels[row] = pixels.reshape(grid.step, grid.shape[1], grid.step).any((0, 2))
    return labels


def _reaches(polygon: Polygon, top: float, bottom: float) -> bool:
    y = polygon.outline[:, 1]
    return bool(y.max() >= top and y.min() <= bottom)


def _shift(polygons: list[Polygon], top: float) -> list[Polygon]:
    by = np.array([0.0, top])
    return [Polygon(one.outline - by, [hole - by for hole in one.holes], one.name) for one in polygons]


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
