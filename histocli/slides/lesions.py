"""Lesions of annotated slides, detections in maps of scores, and the FROC curve as Camelyon16 defines it.

The definitions are those of the challenge's evaluation script: annotations on a mask of 7.8 micrometres per pixel,
grown by 37.5 micrometres and filled; a lesion is a connected part of it; lesions of less than 275 micrometres are
isolated tumour cells, which do not count. The 275 micrometres are the usual limit of 200 and the growth on both sides.
The script does not tell micrometastases from macrometastases. Their usual limit of 2 mm gets the same addition here.
"""

import math
from typing import Any, NamedTuple

import cv2
import numpy as np

from histocli.slides.annotations import TumourAreas
from histocli.slides.grid import Mask
from histocli.slides.measures import Map
from histocli.slides.polygons import fill_polygons

MASK_MPP = 7.776
FALSE_POSITIVES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  # per slide: the FROC score is the mean sensitivity at these
_GROWTH_UM = 37.5
_ISOLATED_UM = 200 + 2 * _GROWTH_UM
_MACRO_UM = 2000 + 2 * _GROWTH_UM
_NEIGHBOURHOOD_UM = 280.0  # a detection has the highest score within this distance
_ISOLATED, _MICRO, _MACRO = "isolated tumour cells", "micrometastasis", "macrometastasis"
SIZES = (_MICRO, _MACRO)

Labels = np.ndarray[Any, np.dtype[np.int32]]
Scores = np.ndarray[Any, np.dtype[np.float64]]


class Lesions(NamedTuple):
    """The lesions of a slide: their numbers, from 1, in a mask of `MASK_MPP`, and the size class of each."""

    labels: Labels
    sizes: list[str]


class Detection(NamedTuple):
    """A point of a slide, in micrometres from its upper left corner, and the score there."""

    x: float
    y: float
    score: float


class MatchedDetections(NamedTuple):
    """The detections of a slide: the highest score in each lesion (NaN if none), and those of the false positives.

    `lesion_sizes` are the size classes of the lesions.
    """

    lesion_scores: list[float]
    lesion_sizes: list[str]
    false_positive_scores: Scores


class Froc(NamedTuple):
    """Sensitivity against the mean number of false positives per slide, and the mean at `FALSE_POSITIVES`."""

    false_positives: list[float]
    sensitivity: list[float]
    score: float | None


def find_lesions(areas: TumourAreas, size: tuple[int, int], mpp: tuple[float, float]) -> Lesions:
    """Return the lesions of a slide of `size` (width, height) level-0 pixels."""
    from scipy import ndimage

    shape = tuple(max(1, math.ceil(pixels * um / MASK_MPP)) for pixels, um in zip(size[::-1], mpp[::-1], strict=True))
    if areas.mask is None:
        scale = (MASK_MPP / mpp[0], MASK_MPP / mpp[1])
        mask = fill_polygons(areas.tumour, (shape[0], shape[1]), scale)
        mask &= ~fill_polygons(areas.excluded, (shape[0], shape[1]), scale)
    else:
        mask = areas.mask.sample((shape[0], shape[1]), size)
    if not mask.any():
        return Lesions(np.zeros(mask.shape, np.int32), [])
    grown = ndimage.distance_transform_edt(~mask) < _GROWTH_UM / MASK_MPP
    labels, count = ndimage.label(ndimage.binary_fill_holes(grown), np.ones((3, 3), int))
    windows = enumerate(ndimage.find_objects(labels, count), start=1)
    return Lesions(labels.astype(np.int32), [_classify_size(labels[window] == number) for number, window in windows])


def _classify_size(mask: Mask) -> str:
    """Return the size class of a lesion, by the length of the major axis of the ellipse with the same moments."""
    points = np.argwhere(mask).astype(np.float64)
    covariance = np.cov(points.T, bias=True).reshape(2, 2) if len(points) > 1 else np.zeros((2, 2))
    length = 4 * math.sqrt(float(np.linalg.eigvalsh(covariance + np.eye(2) / 12)[-1])) * MASK_MPP
    return _ISOLATED if length < _ISOLATED_UM else _MICRO if length < _MACRO_UM else _MACRO


def find_detections(scores: Map, side: float) -> list[Detection]:
    """Return the local maxima of a map (rows, columns) of squares with sides of `side` micrometres.

    Of equal neighbours, only the first in reading order is a maximum. No score is too low: the FROC curve depends only
    on the order of the scores, and `--prevalence` can make all of them small.
    """
    values = np.nan_to_num(scores, nan=-1.0)  # below every score
    reach = max(1, round(_NEIGHBOURHOOD_UM / side))
    kernel = np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1, 2 * reach + 1)), np.uint8)
    order = np.zeros(values.size)
    order[np.lexsort((-np.arange(values.size), values.ravel()))] = np.arange(1, values.size + 1)
    ranks = order.reshape(values.shape)
    is_peak = (ranks >= cv2.dilate(ranks, kernel)) & np.isfinite(scores)
    return [
        Detection((column + 0.5) * side, (row + 0.5) * side, float(values[row, column]))
        for row, column in np.argwhere(is_peak).tolist()
    ]


def match_detections(detections: list[Detection], lesions: Lesions) -> MatchedDetections:
    """Return the highest score of a detection in each lesion, and the scores of the detections that are in none.

    A lesion without a detection has the score NaN. Isolated tumour cells, and the detections in them, are left out.
    """
    best = [math.nan] * len(lesions.sizes)
    false_positives = []
    height, width = lesions.labels.shape
    for detection in detections:
        row, column = min(int(detection.y / MASK_MPP), height - 1), min(int(detection.x / MASK_MPP), width - 1)
        number = int(lesions.labels[row, column])
        if not number:
            false_positives.append(detection.score)
        elif not best[number - 1] >= detection.score:  # also if the best is NaN
            best[number - 1] = detection.score
    kept = [i for i, size in enumerate(lesions.sizes) if size != _ISOLATED]
    return MatchedDetections(
        [best[i] for i in kept], [lesions.sizes[i] for i in kept], np.array(false_positives, float)
    )


def compute_froc(slides: list[MatchedDetections]) -> Froc:
    """Return the FROC curve of all slides, from the highest threshold to the lowest, and its score.

    The curve ends at the first threshold with more than 8 false positives per slide. The score is None if there is no
    lesion.
    """
    best = np.array([score for slide in slides for score in slide.lesion_scores])
    if not best.size:
        return Froc([], [], None)
    false_positives = np.concatenate([slide.false_positive_scores for slide in slides])
    found = np.sort(best[np.isfinite(best)])
    count = int(FALSE_POSITIVES[-1] * len(slides)) + 1
    if false_positives.size > count:
        lowest = np.partition(false_positives, -count)[-count]
        found, false_positives = found[found >= lowest], false_positives[false_positives >= lowest]
    thresholds = np.unique(np.concatenate([found, false_positives]))[::-1]
    sensitivity = (len(found) - np.searchsorted(found, thresholds)) / best.size
    per_slide = (false_positives.size - np.searchsorted(np.sort(false_positives), thresholds)) / len(slides)
    curve = np.concatenate([[0.0], per_slide]), np.concatenate([[0.0], sensitivity])
    at = np.interp(FALSE_POSITIVES, *curve)
    return Froc(curve[0].tolist(), curve[1].tolist(), float(at.mean()))


def count_found_lesions(slides: list[MatchedDetections], threshold: float) -> dict[str, tuple[int, int]]:
    """Return how many lesions of each size have a detection at or above the threshold, and how many there are."""
    lesions = [pair for slide in slides for pair in zip(slide.lesion_sizes, slide.lesion_scores, strict=True)]
    return {
        size: (
            sum(score >= threshold for kind, score in lesions if kind == size),
            sum(kind == size for kind, _ in lesions),
        )
        for size in SIZES
    }
