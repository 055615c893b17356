"""FROC and the size of lesions, as Camelyon16's evaluation script defines them."""

import math

import numpy as np
import pytest

from histocli.slides.annotations import TumourAreas
from histocli.slides.lesions import (
    Detection,
    MatchedDetections,
    compute_froc,
    count_found_lesions,
    find_detections,
    find_lesions,
    match_detections,
)
from histocli.slides.polygons import Polygon

MPP = (0.486, 0.486)


def square(x, y, side):
    """A square of `side` micrometres at (x, y) micrometres, in level-0 pixels."""
    ring = np.array([[x, y], [x + side, y], [x + side, y + side], [x, y + side]]) / 0.486
    return Polygon(ring, [])


def test_froc_agrees_with_a_curve_computed_by_hand():
    slides = [
        MatchedDetections([0.9, math.nan], ["micrometastasis"] * 2, [0.8, 0.2]),
        MatchedDetections([], [], [0.95]),
    ]
    curve = compute_froc(slides)
    assert curve.false_positives == [0, 0.5, 0.5, 1.0, 1.5]
    assert curve.sensitivity == [0, 0, 0.5, 0.5, 0.5]
    assert curve.score == pytest.approx((0 + 0.5 * 5) / 6)


def test_without_lesions_there_is_no_froc_score():
    assert compute_froc([MatchedDetections([], [], [0.5])]).score is None


def test_lesions_are_grown_by_37_micrometres_so_near_ones_are_one():
    far = find_lesions(TumourAreas([square(1000, 1000, 400), square(1600, 1000, 400)], []), (10_000, 10_000), MPP)
    near = find_lesions(TumourAreas([square(1000, 1000, 400), square(1450, 1000, 400)], []), (10_000, 10_000), MPP)
    assert far.sizes == ["micrometastasis", "micrometastasis"]
    assert near.sizes == ["micrometastasis"]


@pytest.mark.parametrize(
    ("side", "size"),
    [(100, "isolated tumour cells"), (300, "micrometastasis"), (1690, "micrometastasis"), (2000, "macrometastasis")],
)
def test_a_lesion_is_classified_by_its_length_without_the_growth(side, size):
    assert find_lesions(TumourAreas([square(500, 500, side)], []), (8000, 8000), MPP).sizes == [size]


def test_detections_in_isolated_tumour_cells_are_neither_found_nor_false():
    lesions = find_lesions(TumourAreas([square(500, 500, 100), square(2000, 2000, 400)], []), (8000, 8000), MPP)
    matched = match_detections(
        [Detection(550, 550, 0.9), Detection(2200, 2200, 0.6), Detection(2300, 2300, 0.7)], lesions
    )
    assert matched[:2] == ([0.7], ["micrometastasis"])
    assert matched.false_positive_scores.tolist() == []
    assert match_detections([Detection(3500, 100, 0.4)], lesions).false_positive_scores.tolist() == [0.4]


def test_excluded_areas_are_no_lesion():
    areas = TumourAreas([square(1000, 1000, 400)], [square(900, 900, 800)])
    assert find_lesions(areas, (8000, 8000), MPP).sizes == []


def test_detections_are_local_maxima():
    scores = np.full((20, 20), np.nan)
    scores[2:10, 2:10] = 0.1
    scores[4, 4], scores[5, 5], scores[9, 9], scores[3, 9] = 0.9, 0.8, 0.7, 0.01
    found = find_detections(scores, 93.3)
    assert (4.5 * 93.3, 4.5 * 93.3, 0.9) in found
    assert (9.5 * 93.3, 9.5 * 93.3, 0.7) in found
    assert all(detection.score != 0.8 for detection in found)


def test_froc_does_not_change_if_all_scores_become_smaller():
    rng = np.random.default_rng(0)
    lesions = find_lesions(TumourAreas([square(1000, 1000, 600)], []), (20_000, 20_000), MPP)
    scores = rng.random((100, 100))
    scores[:, 50:] = np.nan
    scores[13, 13] = 0.999  # in the lesion
    curves = [
        compute_froc([match_detections(find_detections(values, 93.3), lesions)])
        for values in (scores, scores / 1000, scores / (scores + 50 * (1 - scores)))
    ]
    assert curves[0] == curves[1] == curves[2]
    assert curves[0].score > 0


def test_the_froc_curve_ends_after_8_false_positives_per_slide():
    """The others would only make the report larger. Equal scores count together."""
    slides = [
        MatchedDetections([0.95, 0.5, 0.4], ["micrometastasis"] * 3, [0.9] * 4 + [0.3] * 100),
        MatchedDetections([0.35], ["micrometastasis"], [0.2] * 1000),
    ]
    curve = compute_froc(slides)
    assert curve.false_positives == [0, 0, 2, 2, 2, 2, 52]
    assert curve.sensitivity == [0, 0.25, 0.25, 0.5, 0.75, 1, 1]


def test_a_square_that_was_not_scored_is_no_detection_and_hides_none():
    scores = np.full((6, 6), np.nan)
    scores[3, 3] = 0.0
    assert find_detections(scores, 93.3) == [Detection(3.5 * 93.3, 3.5 * 93.3, 0.0)]


def test_recall_is_counted_for_each_size_of_lesions():
    slides = [
        MatchedDetections([0.9, 0.3], ["micrometastasis", "macrometastasis"], []),
        MatchedDetections([math.nan], ["micrometastasis"], []),
    ]
    assert count_found_lesions(slides, 0.5) == {"micrometastasis": (1, 2), "macrometastasis": (0, 1)}
