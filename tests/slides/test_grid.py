"""Squares of a slide: which pixels they show, and how often each tile is read."""

import time
import tracemalloc

import cv2
import numpy as np
import pytest

from histocli.errors import HistoError
from histocli.slides.grid import plan_grid, read_strips
from histocli.slides.reading import open_slide
from histocli.slides.scoring import plan_slide, read_patches
from histocli.slides.slide import Level, Slide
from tests.slides.files import write_slide


@pytest.fixture(autouse=True)
def _one_thread(monkeypatch):
    """Slides are read by one thread, so that the order of the reads is known."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def coordinates(height, width):
    """An image in which the colour of each pixel is its position."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x % 251, y % 241, (x // 251) * 16 + y // 241], 2).astype(np.uint8)


class CountingSlide(Slide):
    """A slide of memory that notes what is read of it."""

    def __init__(self, width, height, tile=256):
        self.levels = [Level(width, height, 1.0, tile, tile)]
        self.mpp, self.reads = (0.972, 0.972), []

    def read(self, level, x, y, width, height):
        self.reads.append((y, x, height, width))
        return np.zeros((height, width, 3), np.uint8)

    def _close_file(self):
        pass


@pytest.mark.parametrize("step", [32, 96])
@pytest.mark.parametrize("mpp", [0.243, 0.265, 0.499, 0.972])
def test_a_patch_shows_exactly_the_pixels_around_its_square(tmp_path, mpp, step):
    image = coordinates(1500, 1300)
    path = write_slide(tmp_path / "slide.tif", image, mpp)
    with open_slide(path) as slide:
        grid = plan_grid(slide, slide.mpp, 0.972, step)
        patches = [patch.load() for patch in read_patches(slide, grid, np.ones(grid.shape, bool))]
    rows, columns = grid.shape
    assert len(patches) == rows * columns
    scale = 0.972 / mpp
    around = (96 - step) / 2
    for number in (0, 1, columns - 1, columns + 1, rows * columns - 1):
        row, column = divmod(number, columns)
        square = patches[number][48 - step // 2 :, 48 - step // 2 :][:step, :step]
        box = grid.find_box(row, column)
        assert abs(box.x - column * step * scale) <= 0.5
        assert abs(box.y - row * step * scale) <= 0.5
        if box.x + step * scale < 1300 and box.y + step * scale < 1500:  # it does not reach over the border
            shown = image[box.y : box.y + box.height, box.x : box.x + box.width]
            np.testing.assert_array_equal(square, cv2.resize(shown, (step, step), interpolation=cv2.INTER_AREA))
        if around and column == 0:
            assert (patches[number][:, : int(around)] == 255).all(), "what is outside the slide is white"


def test_no_square_begins_at_the_border_of_the_slide():
    """27 squares have 5038.85 pixels: the edge of another one would be rounded to the border of the slide."""
    slide = CountingSlide(5039, 5040)
    grid = plan_grid(slide, (0.5, 0.5), 0.972, 96)
    assert grid.shape == (28, 27)
    assert [grid.find_box(27, 26)[i] for i in (0, 2)] == [4852, 187]
    assert grid.find_box(27, 26).height == 1


def test_a_coarser_level_is_read_where_it_is_fine_enough(tmp_path):
    image = np.repeat(np.repeat(coordinates(400, 384), 4, 0), 4, 1)
    path = write_slide(tmp_path / "slide.tif", image, 0.243, levels=(1, 2, 4, 8))
    with open_slide(path) as slide:
        grid = plan_grid(slide, slide.mpp, 0.972, 96)
        patches = [patch.load() for patch in read_patches(slide, grid, np.ones(grid.shape, bool))]
    assert grid.level == 2
    assert grid.find_box(1, 2) == (768, 384, 384, 384)
    np.testing.assert_array_equal(patches[grid.shape[1] + 2], coordinates(400, 384)[96:192, 192:288])


@pytest.mark.parametrize("step", [32, 96])
def test_each_tile_is_read_once_and_in_order(step):
    slide = CountingSlide(3000, 2900)
    grid = plan_grid(slide, slide.mpp, 0.972, step)
    needed = np.random.default_rng(0).random(grid.shape) < 0.4
    for _ in read_patches(slide, grid, needed):
        pass
    assert slide.reads == sorted(set(slide.reads))
    covered = np.zeros((2900, 3000), np.uint8)
    for y, x, height, width in slide.reads:
        assert x % 256 == y % 256 == 0
        covered[y : y + height, x : x + width] += 1
    assert covered.max() == 1


def test_tiles_of_glass_are_not_read():
    slide = CountingSlide(8000, 8000)
    grid = plan_grid(slide, slide.mpp, 0.972, 96)
    needed = np.zeros(grid.shape, bool)
    needed[40, 50] = True
    assert len(list(read_patches(slide, grid, needed))) == 1
    assert sum(height * width for _, _, height, width in slide.reads) <= 4 * 1024 * 256


def test_memory_does_not_grow_with_the_height_of_a_slide():
    def measure_peak_memory(height):
        slide = CountingSlide(3000, height)
        grid = plan_grid(slide, slide.mpp, 0.972, 96)
        tracemalloc.start()
        for _ in read_strips(slide, grid, np.ones(grid.shape, bool)):
            pass
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    assert measure_peak_memory(24_000) < 1.5 * measure_peak_memory(6000)


def test_a_slide_that_is_too_coarse_is_refused():
    slide = CountingSlide(3000, 3000)
    slide.path = "coarse.tif"
    with pytest.raises(HistoError, match=r"coarse\.tif has 2 micrometres per pixel"):
        plan_grid(slide, (2.0, 2.0), 0.972, 96)


def test_the_picture_of_a_slide_is_not_read_from_its_largest_level():
    slide = CountingSlide(10_000, 10_000)
    slide.mpp = (0.243, 0.243)
    slide.levels.append(Level(625, 625, 16.0, 256, 256))
    plan = plan_slide(slide, slide.mpp, 96, None, True)
    assert max(plan.overview.shape) == 625  # of the small level; more detail would need all of level 0
    sizes = [height * width for _, _, height, width in slide.reads]
    assert sum(size for size in sizes if size > 128 * 128) == 625 * 625
    assert sum(size <= 128 * 128 for size in sizes) <= 32  # places of level 0, to compare what the levels show


def test_a_slide_is_closed_after_its_threads_have_ended():
    is_reading_when_closed = []

    class SlowSlide(CountingSlide):
        is_reading = False

        def read(self, level, x, y, width, height):
            self.is_reading = True
            time.sleep(0.05)
            self.is_reading = False
            return super().read(level, x, y, width, height)

        def _close_file(self):
            is_reading_when_closed.append(self.is_reading)

    with SlowSlide(600, 3000) as slide:
        grid = plan_grid(slide, slide.mpp, 0.972, 96)
        next(read_strips(slide, grid, np.ones(grid.shape, bool)))  # the next blocks are read in advance
    assert is_reading_when_closed == [False]
