"""Read the tumour of a slide from a mask: a TIFF of one channel, such as Camelyon's evaluation masks, or a PNG."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np

from histocli.errors import HistoError, read_first_line
from histocli.images import MAX_PIXELS
from histocli.images.headers import check_header
from histocli.images.sizes import ImageError
from histocli.images.tiff_segments import decode_with_opencv
from histocli.patch import Pixels
from histocli.slides.grid import Grid, Mask
from histocli.slides.tiff import find_tile_size
from histocli.text import format_count

Positions = np.ndarray[Any, np.dtype[np.int64]]

_TUMOUR_VALUES = (1, 255)  # values of the pixels of tumour; a mask has one of them
_MAX_PAGES = 256
_MAX_COARSENESS = 16  # grid pixels per pixel of a mask: half of the square that decides a patch's label


class _Segment(NamedTuple):
    """A tile or strip of a mask with tumour: its upper left corner, and the mask of its tumour pixels."""

    x: int
    y: int
    tumour: Mask


@dataclass(frozen=True)
class TumourMask:
    """A mask of a whole slide, `width` x `height` pixels; `value` is the value of tumour, 0 if the slide has none."""

    path: Path
    width: int
    height: int
    value: int

    def label_squares(self, grid: Grid) -> Mask:
        """Return which squares (rows, columns) of a grid overlap any pixel of tumour.

        Raises:
            HistoError: the mask does not have the shape of the slide, or its pixels are too coarse for labels.
        """
        scale = self.check_fineness(grid)
        labels = np.zeros(grid.shape, np.bool_)
        width, height = (grid.step * ratio * grid.downsample / scale for ratio in grid.scale)
        for segment in self._read_tumour_segments():
            rows, columns = np.nonzero(segment.tumour)
            for row in _find_squares(segment.y + rows, height, grid.shape[0]):
                for column in _find_squares(segment.x + columns, width, grid.shape[1]):
                    labels[row, column] = True
        return labels

    def check_fineness(self, grid: Grid) -> int:
        """Return how many level-0 pixels a pixel of the mask spans, after a check that it is fine enough for labels.

        Raises:
            HistoError: the mask does not have the shape of the slide, or its pixels are too coarse for labels.
        """
        scale = self.compute_scale(grid.size)
        coarsest = scale / (min(grid.scale) * grid.downsample)
        if coarsest > _MAX_COARSENESS:
            raise HistoError(
                f"{self.path}: a pixel of the mask spans {coarsest * grid.mpp:.0f} micrometres",
                f"labels need a finer mask: at most {_MAX_COARSENESS * grid.mpp:.0f} micrometres per pixel",
            )
        return scale

    def sample(self, shape: tuple[int, int], size: tuple[int, int]) -> Mask:
        """Return the mask (H,W) at another resolution: each pixel has the value at its centre.

        `size` is the width and height of the slide in level-0 pixels.

        Raises:
            HistoError: the mask does not have the shape of the slide.
        """
        scale = self.compute_scale(size)
        xs = ((np.arange(shape[1]) + 0.5) * size[0] / shape[1] / scale).astype(np.int64)
        ys = ((np.arange(shape[0]) + 0.5) * size[1] / shape[0] / scale).astype(np.int64)
        sampled = np.zeros(shape, np.bool_)
        for segment in self._read_tumour_segments():
            height, width = segment.tumour.shape
            top, bottom = np.searchsorted(ys, (segment.y, segment.y + height)).tolist()
            left, right = np.searchsorted(xs, (segment.x, segment.x + width)).tolist()
            sampled[top:bottom, left:right] = segment.tumour[
                np.ix_(ys[top:bottom] - segment.y, xs[left:right] - segment.x)
            ]
        return sampled

    def compute_scale(self, size: tuple[int, int]) -> int:
        """Return how many level-0 pixels of a slide of `size` (width, height) a pixel of the mask spans.

        Raises:
            HistoError: the mask does not have the shape of the slide.
        """
        scale = max(1, round(size[0] / self.width))
        for slide_side, side in zip(size, (self.width, self.height), strict=True):
            if not side - 1 <= slide_side / scale < side + 1:  # sizes of levels are rounded up or down
                raise HistoError(
                    f"{self.path}: the mask has {self.width}x{self.height} pixels, and the slide {size[0]}x{size[1]}",
                    "a mask covers the whole slide; a pixel of it spans 1, 2, 4, ... pixels of the slide",
                )
        return scale

    def _read_tumour_segments(self) -> Iterator[_Segment]:
        if not self.value:
            return
        with _open_segments(self.path) as (_, _, segments):
            for x, y, pixels in segments:
                tumour = pixels == self.value
                if tumour.any():
                    yield _Segment(x, y, tumour)


def read_mask(path: Path) -> TumourMask:
    """Open a mask, and check the values of all of its pixels.

    Raises:
        HistoError: it cannot be read, has several channels, or has other values than 0 and 1, or 0 and 255.
    """
    found: set[int] = set()
    with _open_segments(path) as (width, height, segments):
        for _, _, pixels in segments:
            found.update(np.unique(pixels).tolist())
            if unknown := found - {0, *_TUMOUR_VALUES}:
                raise HistoError(
                    f"{path}: the mask has pixels of the value {min(unknown)}, "
                    "and the class of this value is not known",
                    "write a mask in which tumour is 1 or 255, and everything else is 0",
                )
    values = found - {0}
    if len(values) > 1:
        raise HistoError(f"{path}: the mask has pixels of 1 and of 255", "write a mask in which tumour has one value")
    return TumourMask(path, width, height, max(values, default=0))


def _find_squares(pixels: Positions, side: float, count: int) -> tuple[Positions, Positions]:
    """Return the first and the last square of `side` mask pixels that each pixel overlaps, along one axis."""
    first = np.floor(pixels / side + 1e-9).astype(np.int64)
    last = np.ceil((pixels + 1) / side - 1e-9).astype(np.int64) - 1  # a coarse pixel can reach into a second square
    return np.minimum(first, count - 1), np.minimum(last, count - 1)


def read_tissue_png(path: Path) -> Mask:
    """Read which pixels (H,W) of a PNG are painted: neither black nor transparent.

    Raises:
        HistoError: it cannot be read, is damaged, or too large.
    """
    image = _decode_png(path)
    if image.ndim == 2:
        return np.asarray(image > 0)
    is_painted = np.asarray(image[..., :3].any(2), np.bool_)
    return is_painted & (image[..., 3] > 0) if image.shape[2] == 4 else is_painted


def _decode_png(path: Path) -> "np.ndarray[Any, np.dtype[Any]]":
    try:
        data = path.read_bytes()
        size = check_header(data)
        image = decode_with_opencv(data, size.width * size.height if size else 0)
    except (ImageError, OSError) as error:
        hint = "export it again; a very large mask can be a tiled TIFF"
        raise HistoError(f"{path}: the mask cannot be read: {error}", hint) from error
    if image is None:
        raise HistoError(f"{path}: the mask is not an image that can be read", "export it again as a PNG file")
    return image


def _refuse_pixel_type(path: Path, channels: int, dtype: object) -> NoReturn:
    raise HistoError(
        f"{path}: the mask has {format_count(channels, 'channel')} of {dtype}",
        "write one channel of 8 bits: 0, and 1 for tumour; a picture that is not a mask must be in another folder",
    )


@contextmanager
def _open_segments(path: Path) -> Iterator[tuple[int, int, Iterator[tuple[int, int, Pixels]]]]:
    """Open a mask in this block: its width and height, and its tiles or strips with their upper left corners (x, y).

    Raises:
        HistoError: it cannot be read, is damaged, too large, or has several channels or more than 8 bits.
    """
    if path.suffix.lower() == ".png":
        image = _decode_png(path)
        if image.ndim != 2 or image.dtype != np.uint8:
            _refuse_pixel_type(path, image.shape[2] if image.ndim > 2 else 1, image.dtype)
        yield image.shape[1], image.shape[0], iter([(0, 0, image)])
        return
    import tifffile

    with ExitStack() as stack:
        try:
            file: Any = stack.enter_context(tifffile.TiffFile(path))
            page: Any = max(islice(file.pages, _MAX_PAGES), key=lambda page: page.imagewidth * page.imagelength)
            tile = math.prod(find_tile_size(page))
            is_mask = page.samplesperpixel == 1 and page.dtype in (np.uint8, np.bool_)
        except Exception as error:  # a damaged file can make tifffile raise any kind of exception
            raise HistoError(
                f"{path} is not a mask in a TIFF file: {read_first_line(error)}", "export it again"
            ) from error
        if not is_mask:
            _refuse_pixel_type(path, page.samplesperpixel, page.dtype)
        if not (page.imagewidth and page.imagelength and 0 < tile <= MAX_PIXELS):
            raise HistoError(
                f"{path}: the mask has {page.imagewidth}x{page.imagelength} pixels in tiles or strips of {tile:,}",
                f"write it in tiles, or in strips of at most {MAX_PIXELS:,} pixels",
            )
        yield page.imagewidth, page.imagelength, _decode_segments(path, page)


def _decode_segments(path: Path, page: Any) -> Iterator[tuple[int, int, Pixels]]:
    """Yield the tiles or strips of the page of a TIFF one by one; empty ones are skipped."""
    segments = page.segments(maxworkers=1)
    while True:
        try:
            found = next(segments, None)
        except Exception as error:  # a damaged tile can make a decoder raise any kind of exception
            raise HistoError(f"{path}: the mask cannot be decoded: {error}", "export it again") from error
        if found is None:
            return
        pixels, (_, _, y, x, _), (_, height, width, _) = found
        if pixels is not None:
            yield x, y, np.asarray(pixels[0, :height, :width, 0], np.uint8)
