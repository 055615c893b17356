"""Read pyramidal TIFF files that OpenSlide does not know, such as OME-TIFF, with tifffile."""

from pathlib import Path
from typing import Any

import numpy as np

from histocli.errors import HistoError
from histocli.slides.slide import INSTALL, MICROMETRES, Level, Slide, plausible_mpp
from histocli.sources import Pixels

_OME_UNITS = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}


class TiffReader(Slide):
    """The largest image of a TIFF file, with the levels of its pyramid."""

    def __init__(self, path: Path) -> None:
        import tifffile

        self.path = path
        try:
            self._file: Any = tifffile.TiffFile(path)
            series = max(self._file.series, key=lambda one: one.pages[0].imagewidth * one.pages[0].imagelength)
            self._pages = [level.pages[0] for level in series.levels]
            first = self._pages[0]
            self._check(first)
            self.levels = [
                Level(
                    page.imagewidth,
                    page.imagelength,
                    first.imagewidth / page.imagewidth,
                    page.tilewidth if page.is_tiled else page.imagewidth,
                    page.tilelength if page.is_tiled else page.rowsperstrip,
                )
                for page in self._pages
            ]
            self.mpp, self.mpp_remark = plausible_mpp(*_read_mpp(self._file, first))
        except (tifffile.TiffFileError, IndexError, KeyError, AttributeError, ValueError, OSError) as error:
            raise HistoError(f"{path}: the slide is damaged: {error}", "copy or export it again") from error

    def _check(self, page: Any) -> None:
        """Refuse pixels that are not 8-bit RGB."""
        if page.dtype != np.uint8 or page.samplesperpixel not in (3, 4) or page.planarconfig != 1:
            form = f"{page.dtype} with {page.samplesperpixel} channels"
            raise HistoError(f"{self.path}: the pixels are {form}, not 8-bit RGB", "export it as 8-bit RGB")

    def read(self, level: int, x: int, y: int, width: int, height: int) -> Pixels:
        """Read a rectangle of a level, from the tiles or strips that it touches."""
        page, size = self._pages[level], self.levels[level]
        across = -(-size.width // size.tile_width)
        image = np.full((height, width, 3), 255, np.uint8)
        for row in range(y // size.tile_height, (y + height - 1) // size.tile_height + 1):
            for column in range(x // size.tile_width, (x + width - 1) // size.tile_width + 1):
                self._paste(page, row * across + column, image, x, y)
        return image

    def _paste(self, page: Any, index: int, image: Pixels, x: int, y: int) -> None:
        """Decode one tile, and copy its part of the rectangle whose corner is (x, y)."""
        handle = page.parent.filehandle
        count = page.databytecounts[index]
        if not count:
            return
        try:
            with handle.lock:
                handle.seek(page.dataoffsets[index])
                data = handle.read(count)
            tables = {} if page.jpegtables is None else {"jpegtables": page.jpegtables}
            segment, position, shape = page.decode(data, index, **tables)
        except Exception as error:  # a damaged tile can make a decoder raise any kind of exception
            needs_codecs = "imagecodecs" in str(error)
            hint = INSTALL if needs_codecs else "copy or export it again"
            raise HistoError(f"{self.path}: tile {index} cannot be decoded: {error}", hint) from error
        if segment is None:
            return
        top, left = position[2], position[3]
        tile = segment[0, : shape[1], : shape[2], :3]
        rows = slice(max(top, y), min(top + tile.shape[0], y + image.shape[0]))
        columns = slice(max(left, x), min(left + tile.shape[1], x + image.shape[1]))
        if rows.start < rows.stop and columns.start < columns.stop:
            part = tile[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            image[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x] = part

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _read_mpp(file: Any, page: Any) -> tuple[float | None, float | None]:
    """Return the micrometres per pixel (x, y): of OME's metadata, else of the TIFF tags."""
    if file.is_ome and file.ome_metadata:
        from xml.etree import ElementTree

        try:
            root = ElementTree.fromstring(file.ome_metadata)  # noqa: S314 - expat of Python 3.11 limits entities
        except ElementTree.ParseError:
            root = None
        pixels = None if root is None else root.find(".//{*}Pixels")
        if pixels is not None and (size := pixels.get("PhysicalSizeX")):
            units = [_OME_UNITS.get(pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY"]
            if None not in units:
                return float(size) * units[0], float(pixels.get("PhysicalSizeY", size)) * units[1]  # type: ignore[operator]
    unit = page.tags.get("ResolutionUnit")
    scale = MICROMETRES.get(int(unit.value)) if unit is not None else None
    if scale is None:
        return None, None
    values = []
    for name in ("XResolution", "YResolution"):
        tag = page.tags.get(name)
        top, bottom = tag.value if tag is not None else (0, 1)
        values.append(scale * bottom / top if top else None)
    return values[0], values[1]
