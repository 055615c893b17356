"""Regions of a map of scores."""

import cv2
import numpy as np
import pytest

from histocli.slides.measures import find_regions, trace_outlines


def area(rings):
    """The area that the first ring encloses, without those of the others."""
    sizes = [cv2.contourArea(np.array(ring, np.float32)) for ring in rings]
    return sizes[0] - sum(sizes[1:])


def test_the_outline_of_a_square_has_its_corners():
    assert trace_outlines(np.ones((1, 1), bool)) == [[(0, 0), (1, 0), (1, 1), (0, 1), (0, 0)]]


def test_a_hole_has_an_outline_of_its_own():
    mask = np.ones((3, 3), bool)
    mask[1, 1] = False
    outer, hole = trace_outlines(mask)
    assert outer == [(0, 0), (3, 0), (3, 3), (0, 3), (0, 0)]
    assert set(hole) == {(1, 1), (2, 1), (2, 2), (1, 2)}


def test_each_of_many_holes_has_an_outline():
    """The time grows with the number of corners; with its square, this test takes minutes."""
    scores = np.full((201, 201), 0.9)
    scores[1::2, 1::2] = 0.1
    [region] = find_regions(scores, 0.5)
    assert len(region.rings) == 1 + 100 * 100
    assert region.squares == 201 * 201 - 100 * 100


@pytest.mark.parametrize("seed", range(8))
def test_the_outlines_of_any_region_enclose_its_squares(seed):
    scores = np.random.default_rng(seed).random((12, 15))
    regions = find_regions(scores, 0.4)
    assert sum(region.squares for region in regions) == (scores >= 0.4).sum()
    for region in regions:
        assert area(region.rings) == region.squares
        for ring in region.rings:
            assert ring[0] == ring[-1]
            assert len(set(ring)) == len(ring) - 1, "no outline touches itself"


def test_squares_that_were_not_scored_are_in_no_region():
    scores = np.array([[0.9, np.nan, 0.8]])
    assert [(region.squares, region.maximum) for region in find_regions(scores, 0.5)] == [(1, 0.9), (1, 0.8)]
