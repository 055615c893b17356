"""Write the scores of a slide: as a table, for QuPath, and as a pyramidal TIFF."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, UUID, uuid5

import numpy as np

from histocli.atomic import write_atomically
from histocli.files.tables import make_table_writer
from histocli.inference.writers import DIGITS
from histocli.slides.grid import Grid
from histocli.slides.measures import Map, find_regions

TUMOUR_CLASS = {"name": "Tumor", "color": [200, 0, 0]}  # a class, and its colour, of every QuPath project
COLUMNS = ("x", "y", "width", "height", "probability")
_TILE = 256


def write_scores(path: Path, scores: Map, grid: Grid) -> None:
    """Write `x,y,width,height,probability` of each scored square; the first four are level-0 pixels."""
    with write_atomically(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = make_table_writer(file)
        writer.writerow(COLUMNS)
        for row, column in np.argwhere(np.isfinite(scores)).tolist():
            writer.writerow((*grid.find_box(row, column), f"{scores[row, column]:.{DIGITS}f}"))


def write_geojson(path: Path, slide: str, scores: Map, grid: Grid, threshold: float) -> None:
    """Write a GeoJSON file that QuPath opens: tiles with their probability, and the regions of tumour as annotations.

    `slide` is the name of the slide: equal slides and squares get equal ids. The coordinates begin at the origin of the
    slide, as QuPath's do.
    """
    with write_atomically(path) as temporary, temporary.open("w", encoding="utf-8", newline="\n") as file:
        file.write('{"type": "FeatureCollection", "features": [')
        separator = "\n"
        for feature in _make_features(slide, scores, grid, threshold):
            file.write(separator + json.dumps(feature))
            separator = ",\n"
        file.write("\n]}\n")


def _make_features(slide: str, scores: Map, grid: Grid, threshold: float) -> Iterator[dict[str, Any]]:
    namespace = uuid5(NAMESPACE_URL, f"histo:{slide}")
    for number, region in enumerate(find_regions(scores, threshold), start=1):
        measurements = {
            "maximum probability": round(region.maximum, DIGITS),
            "mean probability": round(region.mean, DIGITS),
            "squares": region.squares,
        }
        rings = [[_compute_corner(grid, *corner) for corner in ring] for ring in region.rings]
        properties = {"name": f"tumour {number}", "classification": TUMOUR_CLASS, "measurements": measurements}
        yield _make_feature(uuid5(namespace, f"region {number}"), rings, "annotation", properties)
    for row, column in np.argwhere(np.isfinite(scores)).tolist():
        x, y, width, height = grid.find_box(row, column)
        key = uuid5(namespace, f"{x},{y}")
        x, y = x - grid.origin[0], y - grid.origin[1]
        ring = [[x, y], [x + width, y], [x + width, y + height], [x, y + height], [x, y]]
        probability = round(float(scores[row, column]), DIGITS)
        yield _make_feature(key, [ring], "tile", {"measurements": {"probability of tumour": probability}})


def _compute_corner(grid: Grid, column: int, row: int) -> list[int]:
    """Return a corner of the grid in level-0 pixels from the slide's origin, moved into the slide."""
    edges = (int(grid.xs[column]), grid.size[0]), (int(grid.ys[row]), grid.size[1])
    corner = (min(round(edge * grid.downsample), size) for edge, size in edges)
    return [value - start for value, start in zip(corner, grid.origin, strict=True)]


def _make_feature(key: UUID, rings: list[Any], kind: str, properties: dict[str, Any]) -> dict[str, Any]:
    geometry = {"type": "Polygon", "coordinates": rings}
    return {"type": "Feature", "id": str(key), "geometry": geometry, "properties": {"objectType": kind, **properties}}


def write_heatmap(path: Path, scores: Map, grid: Grid) -> None:
    """Write the map as a pyramidal TIFF of the whole slide: 0 to 255 is the probability; other squares are 0.

    A pixel is a square of the grid. The file has the resolution: viewers can show the map over the slide.
    """
    import tifffile

    values = np.round(np.nan_to_num(scores) * 255).astype(np.uint8)
    with write_atomically(path) as temporary, tifffile.TiffWriter(temporary) as file:
        spacing = grid.step * grid.mpp
        while True:
            file.write(
                values,
                tile=(_TILE, _TILE),
                photometric="minisblack",
                compression="zlib",
                resolution=(1e4 / spacing, 1e4 / spacing),
                resolutionunit="CENTIMETER",
                subfiletype=0 if spacing == grid.step * grid.mpp else 1,
                description=None,
                metadata=None,
                software="histo",
            )
            if max(values.shape) <= _TILE:
                return
            values, spacing = _halve(values), spacing * 2


def _halve(values: "np.ndarray[Any, np.dtype[np.uint8]]") -> "np.ndarray[Any, np.dtype[np.uint8]]":
    """Return the maximum of each four pixels: a small region stays visible in a small picture of the map."""
    even = np.pad(values, [(0, size % 2) for size in values.shape])
    halved: np.ndarray[Any, np.dtype[np.uint8]] = even.reshape(len(even) // 2, 2, -1, 2).max((1, 3))
    return halved
