"""Find the tissue of a slide: on a low-resolution picture, or from the user's mask."""

from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from histocli.errors import HistoError
from histocli.patch import Pixels
from histocli.slides.classes import NO_TISSUE_CLASSES, normalise_class
from histocli.slides.geojson import read_geojson
from histocli.slides.grid import Mask
from histocli.slides.masks import read_tissue_png
from histocli.slides.measures import Map
from histocli.slides.polygons import Polygon, count_outside, describe_shapes, fill_polygons
from histocli.slides.records import OWN_MASK
from histocli.text import format_count

OVERVIEW_FACTOR = 8  # grid pixels per pixel of the overview; the sides of squares are multiples of it
MIN_TISSUE_SHARE = 0.1  # a square is scored if at least this share of it is tissue
_SATURATION_LIMITS = (12, 38)  # limits of Otsu's threshold, 0 to 255, for slides that are all glass or all tissue
_MIN_BRIGHTNESS = 50  # 0 to 255: darker pixels are a border of the scan, or black ink
_INK_LEVELS = 12  # grey levels by which green exceeds red in ink; in H&E, green is the darkest channel
_MIN_CONTRAST, _MAX_GREY_COLOUR = 40, 4  # grey levels: of a picture with tissue, and between the channels of grey
_SPECK_MM2, _HOLE_MM2 = 0.02, 0.05  # smaller islands are dirt; smaller holes are filled
_FLAGGED_MM2 = 0.25  # larger areas of ink, black or small islands are reported
_ASPECT_TOLERANCE = 0.02  # relative difference between the shapes of a mask and of its slide


class Tissue(NamedTuple):
    """The tissue of a slide: a mask (H,W) of the overview, and flags: where it is from, and what was left out."""

    mask: Mask
    flags: list[str]


def find_tissue(overview: Pixels, mpp: float) -> Tissue:
    """Find the tissue in an overview (H,W,3) with `mpp` micrometres per pixel.

    A pixel is tissue if its saturation is above Otsu's threshold, and it is neither ink nor black. Small islands are
    removed, and small holes filled.
    """
    smooth = cv2.medianBlur(overview, 5)
    red, green, blue = (channel.astype(np.int16) for channel in cv2.split(smooth))
    saturation = np.asarray(cv2.cvtColor(smooth, cv2.COLOR_RGB2HSV)[..., 1], np.uint8)
    dark = np.maximum(np.maximum(red, green), blue) < _MIN_BRIGHTNESS
    strong = saturation > 4 * _SATURATION_LIMITS[0]
    green_area = (strong & (green > red + _INK_LEVELS) & ~dark).astype(np.uint8)
    opened = cv2.morphologyEx(green_area, cv2.MORPH_OPEN, _make_disc(1))  # coloured fringes of an edge are thinner
    ink = np.asarray(cv2.dilate(opened, _make_disc(3)), np.bool_)
    usable = ~dark & ~ink
    threshold = _find_saturation_threshold(saturation[usable])
    mask = (saturation > threshold) & usable
    pixel_mm2 = (mpp / 1000) ** 2
    closed = cv2.morphologyEx(mask.astype(np.uint8), cv2.MORPH_CLOSE, _make_disc(2)).astype(np.bool_) & usable
    mask = _remove_small(closed, _SPECK_MM2 / pixel_mm2)
    islands = closed & ~mask
    mask = ~_remove_small(~mask, _HOLE_MM2 / pixel_mm2) & usable
    areas = {"ink": ink, "black": dark, "small islands": islands}
    return Tissue(mask, [name for name, area in areas.items() if area.sum() * pixel_mm2 > _FLAGGED_MM2])


def is_grey(picture: Pixels) -> bool:
    """Return whether a picture has contrast, but no colour."""
    colour = np.ptp(picture, axis=2)
    return bool(np.ptp(picture) > _MIN_CONTRAST and np.percentile(colour, 99) <= _MAX_GREY_COLOUR)


def _find_saturation_threshold(saturation: "np.ndarray[Any, np.dtype[np.uint8]]") -> float:
    """Return Otsu's threshold of the saturation, within `_SATURATION_LIMITS`."""
    if saturation.size == 0:
        return _SATURATION_LIMITS[1]
    threshold, _ = cv2.threshold(saturation.reshape(1, -1), 0, 255, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return float(np.clip(threshold, *_SATURATION_LIMITS))


def _remove_small(mask: Mask, smallest: float) -> Mask:
    """Remove the connected parts of a mask that have fewer than `smallest` pixels."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask.astype(np.uint8), connectivity=8)
    is_kept = stats[:, cv2.CC_STAT_AREA] >= smallest
    is_kept[0] = False
    kept: Mask = is_kept[labels]
    return kept


def _make_disc(radius: int) -> Pixels:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2), np.uint8)


def load_mask(
    path: Path, shape: tuple[int, int], size: tuple[float, float], origin: tuple[int, int] = (0, 0)
) -> Tissue:
    """Read the user's mask of the tissue, for an overview of `shape` (H,W).

    In a GeoJSON file the areas of annotations are tissue, in level-0 pixels, without those of the classes Exclusion and
    Ignore; in an image every pixel that is neither black nor transparent is tissue. `size` is the width and height in
    level-0 pixels that the overview covers; for an image, only its shape is checked. The coordinates in a GeoJSON file
    begin at the `origin` of the slide.

    Raises:
        HistoError: the file is neither, no area lies in the slide, or an image does not have the shape of the slide.
    """
    if path.suffix.lower() not in (".geojson", ".json"):
        return Tissue(_load_image(path, shape), [OWN_MASK])
    areas = read_geojson(path, origin)
    scale = (size[0] / shape[1], size[1] / shape[0])
    tissue: list[Polygon] = []
    removed: list[Polygon] = []
    for polygon in areas.polygons:
        (removed if normalise_class(polygon.name) in NO_TISSUE_CLASSES else tissue).append(polygon)
    if removed and not tissue:
        raise HistoError(f"{path} has areas to exclude, and none of tissue", "draw the tissue too, without a class")
    mask = fill_polygons(tissue, shape, scale)
    if areas.polygons and not mask.any():
        raise HistoError(
            f"{path}: no area of the mask lies in the slide, which has {size[0]:,.0f}x{size[1]:,.0f} pixels",
            "coordinates are pixels of the largest level, from the corner that QuPath shows",
        )
    mask &= ~fill_polygons(removed, shape, scale)
    flags = [f"{describe_shapes(areas.left_out)} of the mask left out"] if areas.left_out else []
    if count := count_outside(areas.polygons, (round(size[0]), round(size[1]))):
        flags.append(f"{format_count(count, 'area')} of the mask outside the slide")
    return Tissue(mask, [OWN_MASK, *flags])


def _load_image(path: Path, shape: tuple[int, int]) -> Mask:
    image = read_tissue_png(path)
    aspect = (image.shape[1] / image.shape[0]) / (shape[1] / shape[0])
    if abs(aspect - 1) > _ASPECT_TOLERANCE:
        raise HistoError(
            f"{path}: the mask has {image.shape[1]}x{image.shape[0]} pixels, which is not the shape of the slide",
            "draw it on a picture of the whole slide",
        )
    resized = cv2.resize(image.astype(np.float32), (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(resized >= 0.5, np.bool_)


def compute_tissue_share(mask: Mask, shape: tuple[int, int], side: int) -> Map:
    """Return the share of tissue (rows, columns) in squares of `side` overview pixels; outside the mask it is 0."""
    rows, columns = shape
    padded = np.zeros((rows * side, columns * side))
    height, width = min(len(mask), len(padded)), min(mask.shape[1], padded.shape[1])
    padded[:height, :width] = mask[:height, :width]
    shares: Map = padded.reshape(rows, side, columns, side).mean((1, 3))
    return shares
