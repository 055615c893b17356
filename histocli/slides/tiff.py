"""Read pyramidal TIFF files that OpenSlide does not know, such as OME-TIFF, with tifffile.

The levels are found here: tifffile's `series` opens other files that OME's metadata names, and parses any XML.
"""

import struct
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from histocli.errors import HistoError, read_first_line
from histocli.patch import Pixels
from histocli.slides.slide import INSTALL, MICROMETRES, Level, Slide, check_tile, has_shape_of, keep_plausible_mpp
from histocli.slides.xml import read_elements
from histocli.text import format_count

_MAX_PAGES = 256
_LARGE_IMAGE = 16  # an image with this part of the slide's pixels is more than a label or an overview
_RGB, _YCBCR = 2, 6  # values of TIFF's tag PhotometricInterpretation
_COLOUR_MODELS = {0: "grey", 1: "grey", 3: "a palette", 5: "CMYK", 8: "CIE Lab"}
_JPEG = (6, 7, 34892)  # values of TIFF's tag Compression: the decoder turns YCbCr into RGB
_OME_UNITS = {"µm": 1.0, "um": 1.0, "nm": 1e-3, "mm": 1e3, "cm": 1e4}


class TiffReader(Slide):
    """The largest image of a TIFF file, with the levels of its pyramid.

    Raises:
        HistoError: the file is damaged or not complete, its pixels are not 8-bit RGB, or it has several such images,
            such as focal planes, points in time or channels.
    """

    def __init__(self, path: Path) -> None:
        import tifffile

        self.path = path
        with ExitStack() as stack:  # closes the file after an error
            try:
                self._file: Any = stack.enter_context(tifffile.TiffFile(path))
                pages = list(islice(self._file.pages, _MAX_PAGES))
                self._check_complete(pages)
                self._pages = _find_levels(pages)
                for page in self._pages:
                    self._check(page)
                first = self._pages[0]
                self._check_single(first, pages)
                self.flags = _describe_other_images(first, pages)
                self.levels = [
                    Level(page.imagewidth, page.imagelength, first.imagewidth / page.imagewidth, *find_tile_size(page))
                    for page in self._pages
                ]
                self.mpp, self.mpp_remark = keep_plausible_mpp(*_read_mpp(self._file, first))
            except HistoError:
                raise
            except Exception as error:  # a damaged file can make tifffile raise any kind of exception
                raise HistoError(
                    f"{path}: the slide is damaged: {read_first_line(error)}", "copy or export it again"
                ) from error
            stack.pop_all()

    def _check_complete(self, pages: list[Any]) -> None:
        """Refuse a file whose end is missing, as after a broken download: the metadata can be missing with it."""
        size = self.path.stat().st_size
        ends = [
            int(max(map(sum, zip(page.dataoffsets, page.databytecounts, strict=True)), default=0)) for page in pages
        ]
        next_page = _read_next_offset(self._file, pages[-1].offset) if 0 < len(pages) < _MAX_PAGES else 0
        if not pages or next_page or max(ends) > size:
            raise HistoError(
                f"{self.path}: the slide is not complete: the file ends after {size:,} bytes, before its last image",
                "copy or download it again",
            )

    def _check(self, page: Any) -> None:
        """Refuse pixels that are not 8-bit RGB, and tiles that take much memory."""
        problem = None
        if page.dtype != np.uint8 or page.samplesperpixel not in (3, 4):
            problem = f"{page.dtype} with {page.samplesperpixel} channel{'' if page.samplesperpixel == 1 else 's'}"
        elif page.planarconfig != 1:
            problem = "red, green and blue in separate planes"
        elif page.photometric != _RGB and not (page.photometric == _YCBCR and page.compression in _JPEG):
            problem = _COLOUR_MODELS.get(int(page.photometric), f"of the colour model {int(page.photometric)}")
        if problem:
            raise HistoError(f"{self.path}: the pixels are {problem}, not 8-bit RGB", "export it as 8-bit RGB")
        check_tile(self.path, page.imagewidth, page.imagelength, *find_tile_size(page))

    def _check_single(self, first: Any, pages: list[Any]) -> None:
        """Refuse several images of the size of the slide: focal planes, times, channels, or other slides."""
        size = first.imagewidth, first.imagelength
        count = sum((page.imagewidth, page.imagelength) == size for page in pages)
        if count > 1:
            raise HistoError(
                f"{self.path} has {count} images of {size[0]}x{size[1]} pixels, and a slide has one",
                "export one of them: one focal plane, one point in time, or the RGB picture of all channels",
            )

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
        """Decode one tile, and copy the pixels that are in the rectangle with the corner (x, y)."""
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
            has_no_codec = "imagecodecs" in str(error)
            hint = INSTALL if has_no_codec else "copy or export it again"
            raise HistoError(f"{self.path}: tile {index} cannot be decoded: {error}", hint) from error
        if segment is None:
            return
        top, left = position[2], position[3]
        tile = segment[0, : shape[1], : shape[2], :3]
        rows = slice(max(top, y), min(top + tile.shape[0], y + image.shape[0]))
        columns = slice(max(left, x), min(left + tile.shape[1], x + image.shape[1]))
        if rows.start < rows.stop and columns.start < columns.stop:
            pixels = tile[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            image[rows.start - y : rows.stop - y, columns.start - x : columns.stop - x] = pixels

    def _close_file(self) -> None:
        self._file.close()


def _describe_other_images(first: Any, pages: list[Any]) -> tuple[str, ...]:
    """Return a flag if the file has another large image that is no reduced version of the slide."""
    smallest = first.imagewidth * first.imagelength / _LARGE_IMAGE
    others = [page for page in pages if page is not first and not page.is_reduced]
    count = sum(page.imagewidth * page.imagelength >= smallest for page in others)
    return (f"{format_count(count, 'other large image')} of the file left out",) if count else ()


def find_tile_size(page: Any) -> tuple[int, int]:
    """Return the width and height of the tiles or strips of a page."""
    if page.is_tiled:
        return page.tilewidth, page.tilelength
    return page.imagewidth, min(page.rowsperstrip, page.imagelength)


def _read_mpp(file: Any, page: Any) -> tuple[float | None, float | None]:
    """Return the micrometres per pixel (x, y): from OME's metadata, else from the TIFF tags."""
    if file.is_ome and file.ome_metadata:
        mpp = _read_ome_mpp(file.ome_metadata, page.imagewidth, page.imagelength)
        if mpp is not None:
            return mpp
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


def _read_ome_mpp(metadata: str, width: int, height: int) -> tuple[float, float] | None:
    """Return the micrometres per pixel (x, y) of the image of this size in OME's metadata.

    It is None if there is no such image, or if there are several that have different resolutions.
    """
    found: set[tuple[float, float] | None] = set()

    def on_element(name: str, attributes: dict[str, str]) -> None:
        if name == "Pixels" and (attributes.get("SizeX"), attributes.get("SizeY")) == (str(width), str(height)):
            found.add(_parse_ome_mpp(attributes))

    read_elements(metadata, on_element)
    return found.pop() if len(found) == 1 else None


def _parse_ome_mpp(pixels: dict[str, str]) -> tuple[float, float] | None:
    """Return the micrometres per pixel (x, y) of an element `Pixels`; None if it has none."""
    size_x = pixels.get("PhysicalSizeX")
    units = [_OME_UNITS.get(pixels.get(f"PhysicalSize{axis}Unit", "µm")) for axis in "XY"]
    if not size_x or units[0] is None or units[1] is None:
        return None
    return float(size_x) * units[0], float(pixels.get("PhysicalSizeY", size_x)) * units[1]


def _read_next_offset(file: Any, offset: int) -> int:
    """Return the offset of the page after the one at `offset`, 0 if that is the last one."""
    layout, handle = file.tiff, file.filehandle
    handle.seek(offset)
    (tags,) = struct.unpack(layout.tagnoformat, handle.read(layout.tagnosize))
    handle.seek(offset + layout.tagnosize + tags * layout.tagsize)
    (following,) = struct.unpack(layout.offsetformat, handle.read(layout.offsetsize))
    return int(following)


def _find_levels(pages: list[Any]) -> list[Any]:
    """Return the largest page of a TIFF and its reduced versions: those in its SubIFDs, else the reduced pages."""
    first = max(pages, key=lambda page: page.imagewidth * page.imagelength)
    others = list(islice(first.pages or (), _MAX_PAGES)) or [page for page in pages if page.is_reduced]
    levels, largest = [first], Level(first.imagewidth, first.imagelength, 1.0, 1, 1)
    for page in sorted(others, key=lambda page: -page.imagewidth):
        is_alike = page.dtype == first.dtype and page.samplesperpixel == first.samplesperpixel
        if is_alike and has_shape_of(page.imagewidth, page.imagelength, largest):
            levels += [page] if page.imagewidth < levels[-1].imagewidth else []
    return levels
