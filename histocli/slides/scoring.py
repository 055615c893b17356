"""Score the tissue of one slide, square by square."""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from histocli.config import PATCH_MPP
from histocli.inference.predictor import BatchPredictor
from histocli.patch import PATCH_SIDE, Patch, Pixels
from histocli.slides.grid import WHITE, Grid, Mask, find_level, plan_grid, read_overview, read_strips
from histocli.slides.levels import check_levels
from histocli.slides.measures import Map
from histocli.slides.slide import Slide
from histocli.slides.tissue import (
    MIN_TISSUE_SHARE,
    OVERVIEW_FACTOR,
    compute_tissue_share,
    find_tissue,
    is_grey,
    load_mask,
)

PixelSize = tuple[float, float]
_MPP_TOLERANCE = 0.02  # relative difference between the width and height of a pixel that is reported
_MAX_PICTURE_SIDE = 2048  # pixels: a small slide is shown at a finer resolution, up to this size


class SlidePlan(NamedTuple):
    """What is scored of a slide: its grid, the needed squares, the share of tissue in each, and a picture.

    `overview_mpp` is the resolution of the picture in micrometres per pixel. `tissue` is the mask of the tissue, of
    7.8 micrometres per pixel.
    """

    grid: Grid
    needed: Mask
    tissue_share: Map
    overview: Pixels
    overview_mpp: float
    tissue: Mask
    flags: list[str]

    @property
    def tissue_mm2(self) -> float:
        """The area of the tissue."""
        return float(self.tissue.sum()) * (PATCH_MPP * OVERVIEW_FACTOR / 1000) ** 2


def plan_slide(slide: Slide, mpp: PixelSize, step: int, mask: Path | None, should_find_tissue: bool) -> SlidePlan:
    """Find the squares of a slide that are to be scored.

    A square is scored if at least a tenth of it is tissue. `mask` is the user's own mask; if `should_find_tissue` is
    false, the whole slide is scored.

    Raises:
        HistoError: the slide is damaged or too coarse, its levels show different pictures, or the mask does not fit it.
    """
    grid = plan_grid(slide, mpp, PATCH_MPP, step)
    overview, factor = _read_overview(slide, mpp)
    overview_mpp = PATCH_MPP * factor
    check_levels(slide, overview, {0, grid.level} - {find_level(slide, mpp, overview_mpp)})
    shape = _compute_size(slide, mpp, PATCH_MPP * OVERVIEW_FACTOR)
    if mask is not None:
        tissue, flags = load_mask(mask, shape, (slide.width, slide.height), slide.origin)
    elif should_find_tissue:
        small = cv2.resize(overview, shape[::-1], interpolation=cv2.INTER_AREA)
        tissue, flags = find_tissue(np.asarray(small, np.uint8), PATCH_MPP * OVERVIEW_FACTOR)
    else:
        tissue, flags = np.ones(shape, np.bool_), ["no mask"]
    tissue_share = compute_tissue_share(tissue, grid.shape, step // OVERVIEW_FACTOR)
    should_score_all = mask is None and not should_find_tissue
    needed = np.ones(grid.shape, np.bool_) if should_score_all else tissue_share >= MIN_TISSUE_SHARE
    if grid.is_upsampled:
        flags.append("upsampled")
    flags += [*slide.flags, *(["grey"] if is_grey(overview) else [])]
    if abs(mpp[0] / mpp[1] - 1) > _MPP_TOLERANCE:
        flags.append(f"pixels of {mpp[0]:.4g} x {mpp[1]:.4g} um")
    return SlidePlan(grid, needed, tissue_share, overview, overview_mpp, tissue, flags)


def _read_overview(slide: Slide, mpp: PixelSize) -> tuple[Pixels, int]:
    """Return a picture of the whole slide, and the number of grid pixels along one of its pixels (2 to 8).

    A finer picture is not read from a level with many more pixels than the picture, which could be level 0.
    """
    factor = OVERVIEW_FACTOR
    while factor > 2 and _is_cheap(slide, mpp, factor // 2):
        factor //= 2
    height, width = _compute_size(slide, mpp, PATCH_MPP * factor)
    return np.ascontiguousarray(read_overview(slide, mpp, PATCH_MPP * factor)[:height, :width]), factor


def _is_cheap(slide: Slide, mpp: PixelSize, factor: int) -> bool:
    """Return whether a picture with `factor` grid pixels per pixel is small, and is read from a small level."""
    level = slide.levels[find_level(slide, mpp, PATCH_MPP * factor)]
    is_small = max(_compute_size(slide, mpp, PATCH_MPP * factor)) <= _MAX_PICTURE_SIDE
    return is_small and max(level.width, level.height) <= 2 * _MAX_PICTURE_SIDE


def _compute_size(slide: Slide, mpp: PixelSize, wanted: float) -> tuple[int, int]:
    """Return the height and width in pixels of the whole slide at `wanted` micrometres per pixel."""
    return max(1, round(slide.height * mpp[1] / wanted)), max(1, round(slide.width * mpp[0] / wanted))


def score_squares(
    slide: Slide,
    grid: Grid,
    needed: Mask,
    predictor: BatchPredictor,
    chunk_size: int,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Map:
    """Return the probability of tumour (rows, columns) of each needed square, NaN for the others.

    The network sees the 96x96 pixels around the centre of a square. What lies outside the slide is white.

    Raises:
        HistoError: the slide is damaged, or as `BatchPredictor.predict_patches`.
    """
    scores = np.full(grid.shape, np.nan)
    found, done = [], 0
    with closing(predictor.predict_patches(read_patches(slide, grid, needed), chunk_size)) as chunks:
        for chunk in chunks:
            found.append(chunk.scores.probs)
            done += len(chunk.patches)
            on_progress(done)
    if found:
        scores[needed] = np.concatenate(found)
    return scores


def read_patches(slide: Slide, grid: Grid, needed: Mask) -> Iterator[Patch]:
    """Yield the patch (96,96,3) around each needed square, row by row; no pixel of the slide is read twice."""
    margin = PATCH_SIDE // grid.step // 2  # squares on each side of the central one
    size = 2 * margin + 1
    kernel = np.ones((size, size), np.uint8)
    read = np.asarray(cv2.dilate(needed.astype(np.uint8), kernel), np.bool_)
    strips = read_strips(slide, grid, read)
    recent: dict[int, Pixels] = {}
    white = np.full((grid.step, grid.shape[1] * grid.step, 3), WHITE, np.uint8)
    for row in np.flatnonzero(needed.any(1)).tolist():
        while max(recent, default=-1) < min(row + margin, grid.shape[0] - 1):
            number, pixels = next(strips)
            recent[number] = pixels
        for number in [number for number in recent if number < row - margin]:
            del recent[number]
        band = np.concatenate([recent.get(number, white) for number in range(row - margin, row + margin + 1)])
        if margin:
            width = margin * grid.step
            band = np.pad(band, ((0, 0), (width, width), (0, 0)), constant_values=WHITE)
        for column in np.flatnonzero(needed[row]).tolist():
            patch = band[:, column * grid.step : column * grid.step + PATCH_SIDE]
            # Only image files are decoded in other processes: these pixels are here already.
            yield Patch(f"{column}-{row}", lambda pixels=patch: pixels)  # type: ignore[misc]
