"""Read polygons on a slide, from ASAP's XML (Camelyon) and QuPath's GeoJSON, and find the tumour among them."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from histocli.errors import HistoError, describe_value
from histocli.slides.grid import Grid, Mask
from histocli.slides.masks import TumourMask, read_mask
from histocli.slides.xml import read_elements

MASK_SUFFIXES = (".tif", ".tiff", ".png")
Ring = np.ndarray[Any, np.dtype[np.float64]]
_FRACTION_BITS = 4  # bits of the fraction of a coordinate, for OpenCV
_EXPORT_HINT = "export it again from ASAP"
_MAX_COORDINATE = 1 << 21  # pixels of level 0: no slide is larger
# Names of classes, in small letters: of Camelyon16 and 17, of QuPath, and without a class.
_TUMOUR_CLASSES = frozenset(
    {"", "_0", "_1", "tumor", "tumour", "metastases", "metastasis", "positive", "carcinoma", "cancer"}
)
_EXCLUDED_CLASSES = frozenset(
    {"_2", "exclusion", "normal", "negative", "ignore", "none", "other", "stroma", "necrosis"}
)


class Polygon(NamedTuple):
    """An area: its outline (N,2) as x and y in level-0 pixels, its holes, and its class, or ""."""

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
        polygons = list(_parse_polygons(content, ""))
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise HistoError(f"{path} is not GeoJSON with polygons: {error}", "export it again from QuPath") from error
    if not polygons and not (isinstance(content, dict) and content.get("features") == []):
        raise HistoError(f"{path} has no polygon", "lines and points have no area: draw areas")
    return polygons


def _parse_polygons(node: Any, name: str) -> list[Polygon]:
    if isinstance(node, list):
        return [polygon for one in node for polygon in _parse_polygons(one, name)]
    kind = node["type"]
    if kind == "FeatureCollection":
        return _parse_polygons(node["features"], name)
    if kind == "Feature":
        classification = (node.get("properties") or {}).get("classification") or {}
        name = classification.get("name") or ""
        if not isinstance(name, str):
            raise ValueError("the name of a class is not text")
        return _parse_polygons(node["geometry"], name) if node.get("geometry") else []
    if kind == "GeometryCollection":
        return _parse_polygons(node["geometries"], name)
    rings = {"Polygon": lambda: [node["coordinates"]], "MultiPolygon": lambda: node["coordinates"]}.get(kind, list)()
    return [Polygon(_parse_ring(one[0]), [_parse_ring(hole) for hole in one[1:]], name) for one in rings if one]


def _parse_ring(points: Any) -> Ring:
    """Return the points of a ring (N,2).

    Raises:
        ValueError: there are fewer than three, or a coordinate is no number or lies far outside any slide.
    """
    pairs = [(point[0], point[1]) for point in points]
    for value in (value for pair in pairs for value in pair):
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise TypeError(f"a coordinate is {describe_value(value)}, not a number")
        if not -_MAX_COORDINATE <= value <= _MAX_COORDINATE:  # also where it is not finite
            raise ValueError(f"a coordinate is {describe_value(value)}, which is far outside any slide")
    if len(pairs) < 3:
        raise ValueError("a polygon needs three or more points")
    return np.array(pairs, np.float64)


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
        if not names or name == "Annotation":
            names.append(attributes.get("PartOfGroup", ""))
            rings.append([])
        elif name == "Coordinate":
            rings[-1].append((_parse_number(attributes["X"]), _parse_number(attributes["Y"])))

    try:
        read_elements(path.read_bytes(), on_element)
        return [Polygon(_parse_ring(ring), [], name) for ring, name in zip(rings, names, strict=True) if len(ring) > 2]
    except KeyError as error:
        raise HistoError(f"{path} is not an annotation of ASAP: a point has no {error}", _EXPORT_HINT) from error
    except (OSError, ValueError) as error:
        raise HistoError(f"{path} is not an annotation of ASAP: {error}", _EXPORT_HINT) from error


def _parse_number(text: str) -> float:
    if "_" in text:  # Python reads 1_0 as 10
        raise ValueError(f"a coordinate is {text[:50]!r}, not a number")
    return float(text)


class TumourAreas(NamedTuple):
    """The areas of tumour in a slide, and the areas to exclude from them, as polygons; or the tumour as a mask."""

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


def label_squares(areas: TumourAreas, grid: Grid) -> Mask:
    """Return which squares (rows, columns) of a grid have any pixel of tumour: PCam's rule for squares of 32."""
    if areas.mask is not None:
        return areas.mask.label_squares(grid)
    labels = np.zeros(grid.shape, np.bool_)
    scale = (grid.scale[0] * grid.downsample, grid.scale[1] * grid.downsample)
    side = grid.step * scale[1]
    for row in range(grid.shape[0]):
        top, bottom = row * side, (row + 1) * side
        tumour = _shift([one for one in areas.tumour if _is_in_rows(one, top, bottom)], top)
        if not tumour:
            continue
        shape = grid.step, grid.shape[1] * grid.step
        pixels = fill_polygons(tumour, shape, scale)
        excluded = _shift([one for one in areas.excluded if _is_in_rows(one, top, bottom)], top)
        pixels &= ~fill_polygons(excluded, shape, scale)
        labels[row] = pixels.reshape(grid.step, grid.shape[1], grid.step).any((0, 2))
    return labels


def _is_in_rows(polygon: Polygon, top: float, bottom: float) -> bool:
    """Return whether the outline of a polygon has a point between two y coordinates, or passes them."""
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
            cv2.fillPoly(one, rings, 1, shift=_FRACTION_BITS)
            mask |= one
        else:
            cv2.fillPoly(mask, rings, 1, shift=_FRACTION_BITS)
    return mask.astype(np.bool_)


def _to_fixed_point(ring: Ring, scale: tuple[float, float]) -> "np.ndarray[Any, np.dtype[np.int32]]":
    # The coordinates of OpenCV are those of pixel centres: the centre of the first pixel is 0.
    return np.round((ring / scale - 0.5) * (1 << _FRACTION_BITS)).astype(np.int32)
