"""A grid of squares over a slide at a given resolution, read tile by tile in the file's order, each tile once."""

import math
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np

from histocli.errors import HistoError
from histocli.patch import Pixels
from histocli.slides.slide import Slide

Mask = np.ndarray[Any, np.dtype[np.bool_]]
Edges = np.ndarray[Any, np.dtype[np.int64]]

WHITE = 255
_LEVEL_TOLERANCE = 1.01  # a level that is up to 1% coarser than requested is fine enough
_MAX_COARSENESS = 1.25  # a slide may be coarser than wanted by this factor; a coarser one lacks details
_BLOCK = (1024, 256)  # pixels: width and height that are read at once, rounded to whole tiles
_MAX_COLUMNS = 16  # neighbouring squares that are resampled as one task


class Box(NamedTuple):
    """A rectangle in level-0 pixels."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class Grid:
    """Squares of `step` pixels at the resolution `mpp`, which cover a slide from its upper left corner.

    `xs` (columns+1) and `ys` (rows+1) are the edges of the squares in pixels of the level that is read, rounded to
    whole pixels; the last ones may lie outside the slide. `scale` is the number of level pixels per grid pixel.
    `origin` is that of the slide.
    """

    level: int
    step: int
    mpp: float
    scale: tuple[float, float]
    xs: Edges
    ys: Edges
    downsample: float
    size: tuple[int, int]  # width and height of level 0
    origin: tuple[int, int] = (0, 0)

    @property
    def shape(self) -> tuple[int, int]:
        """The number of rows and columns."""
        return len(self.ys) - 1, len(self.xs) - 1

    @property
    def is_upsampled(self) -> bool:
        """Whether the slide is coarser than the grid, so that pixels are interpolated."""
        return max(self.scale) < 1 / _LEVEL_TOLERANCE

    def find_box(self, row: int, column: int) -> Box:
        """Return the part of a square that lies in the slide, in level-0 pixels."""
        left, right = (min(round(int(x) * self.downsample), self.size[0]) for x in self.xs[column : column + 2])
        top, bottom = (min(round(int(y) * self.downsample), self.size[1]) for y in self.ys[row : row + 2])
        return Box(left, top, right - left, bottom - top)


def plan_grid(slide: Slide, slide_mpp: tuple[float, float], mpp: float, step: int) -> Grid:
    """Return the grid of squares of `step` pixels at `mpp` micrometres per pixel, on the nearest finer level.

    `slide_mpp` are the micrometres per level-0 pixel (x, y).

    Raises:
        HistoError: the slide is much coarser than `mpp`.
    """
    if min(slide_mpp) > mpp * _MAX_COARSENESS:
        raise HistoError(
            f"{slide.path} has {min(slide_mpp):.4g} micrometres per pixel; the network needs {mpp}",
            "scan it with a stronger objective, or correct --mpp if it is wrong",
        )
    level = find_level(slide, slide_mpp, mpp)
    read = slide.levels[level]
    scale = tuple(mpp / (level_0_mpp * read.downsample) for level_0_mpp in slide_mpp)
    xs, ys = (_compute_edges(size, step * ratio) for size, ratio in zip((read.width, read.height), scale, strict=True))
    size = (slide.width, slide.height)
    return Grid(level, step, mpp, (scale[0], scale[1]), xs, ys, read.downsample, size, slide.origin)


def find_level(slide: Slide, slide_mpp: tuple[float, float], mpp: float) -> int:
    """Return the coarsest level that has at most `mpp` micrometres per pixel; the finest one if none has."""
    fine = [i for i, level in enumerate(slide.levels) if max(slide_mpp) * level.downsample <= mpp * _LEVEL_TOLERANCE]
    return max(fine, key=lambda i: slide.levels[i].downsample, default=0)


def _compute_edges(size: int, side: float) -> Edges:
    """Return the edges of the squares that cover `size` pixels."""
    # An edge less than half a pixel before the border is rounded to it: a square from there would have no pixels.
    count = max(1, math.ceil((size - 0.5) / side - 1e-6))
    return np.round(np.arange(count + 1) * side).astype(np.int64)


class Strip(NamedTuple):
    """A row of a grid, and its pixels (step, columns*step, 3); squares that are not needed are white."""

    row: int
    pixels: Pixels


def read_strips(slide: Slide, grid: Grid, needed: Mask) -> Iterator[Strip]:
    """Read the needed squares (rows, columns) row by row, resampled by area to the grid's resolution.

    Each tile of the slide that a needed square touches is read once, in the order of the file, and is forgotten after
    the last row that touches it: the memory depends on the slide's width, not on its height.

    Raises:
        HistoError: the slide is damaged.
    """
    blocks = _Blocks(slide, grid, needed)
    rows, columns = np.flatnonzero(needed.any(1)), grid.shape[1]
    for row in rows.tolist():
        blocks.load(row)
        pixels = np.full((grid.step, columns * grid.step, 3), WHITE, np.uint8)
        spans = _find_column_spans(needed[row])
        tasks = [slide.threads.submit(_resample, blocks, grid, row, span, pixels) for span in spans]
        blocks.prefetch(row)
        for task in tasks:
            task.result()
        yield Strip(row, pixels)


def _find_column_spans(needed: Mask) -> Iterator[range]:
    """Yield the ranges of neighbouring needed columns, at most `_MAX_COLUMNS` long."""
    steps = np.flatnonzero(np.diff(np.concatenate([[0], needed.astype(np.int8), [0]])))
    for start, stop in steps.reshape(-1, 2).tolist():
        for first in range(start, stop, _MAX_COLUMNS):
            yield range(first, min(first + _MAX_COLUMNS, stop))


def _resample(blocks: "_Blocks", grid: Grid, row: int, columns: range, into: Pixels) -> None:
    """Resample neighbouring squares of a row, each from its own pixels of the slide only."""
    left, right = int(grid.xs[columns.start]), int(grid.xs[columns.stop])
    top, bottom = int(grid.ys[row]), int(grid.ys[row + 1])
    image = blocks.cut(left, top, right, bottom)
    method = cv2.INTER_LINEAR if grid.is_upsampled else cv2.INTER_AREA
    side = grid.step
    for column in columns:
        square = image[:, grid.xs[column] - left : grid.xs[column + 1] - left]
        if square.shape[:2] != (side, side):
            square = cv2.resize(square, (side, side), interpolation=method)  # type: ignore[assignment]
        into[:, column * side : (column + 1) * side] = square


class _Blocks:
    """Blocks of whole tiles of one level: those that the needed squares touch, in rows of blocks (`block_rows`)."""

    def __init__(self, slide: Slide, grid: Grid, needed: Mask) -> None:
        self.slide, self.grid = slide, grid
        self.level = level = slide.levels[grid.level]
        self.width = level.tile_width * max(1, _BLOCK[0] // level.tile_width)
        self.height = level.tile_height * max(1, _BLOCK[1] // level.tile_height)
        self.needed = self._find_needed(needed)
        self.block_rows: dict[int, dict[int, Future[Pixels]]] = {}

    def _find_needed(self, needed: Mask) -> Mask:
        """Return which blocks (rows, columns) the needed squares touch."""
        grid, level = self.grid, self.level
        count = -(-level.height // self.height), -(-level.width // self.width)
        blocks = np.zeros(count, np.bool_)
        first = grid.xs[:-1] // self.width
        last = np.minimum((grid.xs[1:] - 1) // self.width, count[1] - 1)
        for row in np.flatnonzero(needed.any(1)).tolist():
            span = self._find_span(row)
            for column in np.flatnonzero(needed[row]).tolist():
                blocks[span, first[column] : last[column] + 1] = True
        return blocks

    def _find_span(self, row: int) -> slice:
        """Return the rows of blocks that a row of squares touches."""
        top, bottom = int(self.grid.ys[row]), min(int(self.grid.ys[row + 1]), self.level.height)
        return slice(top // self.height, (bottom - 1) // self.height + 1)

    def load(self, row: int) -> None:
        """Read the blocks that a row of squares needs, and forget the blocks above, which no later row needs."""
        span = self._find_span(row)
        for block_row in [block_row for block_row in self.block_rows if block_row < span.start]:
            del self.block_rows[block_row]
        self._submit(range(span.start, span.stop))
        for block_row in range(span.start, span.stop):
            for block in self.block_rows[block_row].values():
                block.result()

    def prefetch(self, row: int) -> None:
        """Begin to read the next row of blocks, if a later row of squares needs it."""
        following = self._find_span(row).stop
        if following < len(self.needed):
            self._submit(range(following, following + 1))

    def _submit(self, block_rows: range) -> None:
        """Begin to read the needed blocks of these rows of blocks."""
        for block_row in block_rows:
            if block_row not in self.block_rows:
                columns = np.flatnonzero(self.needed[block_row]).tolist()
                self.block_rows[block_row] = {
                    column: self.slide.threads.submit(self._read, block_row, column) for column in columns
                }

    def _read(self, block_row: int, block_column: int) -> Pixels:
        """Read one block."""
        x, y = block_column * self.width, block_row * self.height
        width, height = min(self.width, self.level.width - x), min(self.height, self.level.height - y)
        return self.slide.read(self.grid.level, x, y, width, height)

    def cut(self, left: int, top: int, right: int, bottom: int) -> Pixels:
        """Return a rectangle of the level that has been read; what lies outside the slide is white."""
        image = np.full((bottom - top, right - left, 3), WHITE, np.uint8)
        right, bottom = min(right, self.level.width), min(bottom, self.level.height)
        for block_row in range(top // self.height, (bottom - 1) // self.height + 1):
            for block_column in range(left // self.width, (right - 1) // self.width + 1):
                block = self.block_rows[block_row][block_column].result()
                x, y = block_column * self.width, block_row * self.height
                above, below = max(top, y), min(bottom, y + self.height)
                start, stop = max(left, x), min(right, x + self.width)
                pixels = block[above - y : below - y, start - x : stop - x]
                image[above - top : below - top, start - left : stop - left] = pixels
        return image


def read_overview(slide: Slide, slide_mpp: tuple[float, float], mpp: float) -> Pixels:
    """Read a whole slide at a low resolution: uint8 (H,W,3) RGB, with white to the right of and below the slide."""
    grid = plan_grid(slide, slide_mpp, mpp, 64)
    strips = read_strips(slide, grid, np.ones(grid.shape, np.bool_))
    return np.concatenate([strip.pixels for strip in strips])
