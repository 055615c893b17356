"""Sheets of patches: samples of each class, and the most confident errors; the central 32x32 is marked."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from histocli.patch import PATCH_SIDE
from histocli.plots.style import PAGE, set_title

COLUMNS = 8
ROWS = 2  # the number of rows of each group
PER_GROUP = COLUMNS * ROWS
_CENTRE, _GAP = 32, 8  # pixels
_BESIDE = 2  # pixels between a patch and the picture to its right
_CAPTION = 42  # pixels under a patch that has a caption of two lines


class Group(NamedTuple):
    """Patches under one heading: `pixels` (N,96,96,3) uint8, and N captions of two lines, or no captions.

    `beside` are pictures, as `pixels`, that are drawn to the right of the patches; each caption is under both.
    """

    heading: str
    pixels: npt.NDArray[np.uint8]
    captions: Sequence[str] = ()
    beside: npt.NDArray[np.uint8] | None = None

    @property
    def width(self) -> int:
        """The number of columns that a patch takes."""
        return 1 if self.beside is None else 2


def select_confident_errors(
    labels: npt.ArrayLike, probs: npt.ArrayLike, threshold: float, count: int = PER_GROUP
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the rows of the false positives and of the false negatives, the most confident first.

    Equal scores keep their order.

    Args:
        labels: (N,) 0 or 1.
        probs: (N,) tumour probabilities.
        threshold: where a patch is predicted as tumour.
        count: how many of each to return at most.
    """
    y, p = np.asarray(labels), np.asarray(probs, np.float64)
    false_positives = np.flatnonzero((y == 0) & (p >= threshold))
    false_negatives = np.flatnonzero((y == 1) & (p < threshold))
    return (
        false_positives[np.argsort(-p[false_positives], kind="stable")][:count],
        false_negatives[np.argsort(p[false_negatives], kind="stable")][:count],
    )


def find_sheet_size(groups: Sequence[Group]) -> tuple[float, float]:
    """Return the width and height in inches of a sheet of `groups`."""
    pixels = sum(_find_height(group) for group in groups)
    return PAGE, 0.6 + 0.25 * len(groups) + pixels * PAGE / (COLUMNS * (PATCH_SIDE + _GAP))


def draw_sheet(figure: Figure, groups: Sequence[Group], heading: str, *facts: str) -> None:
    """Draw the groups one below the other."""
    ratios = [_find_height(group) for group in groups]
    column = figure.subplots(len(groups), 1, height_ratios=ratios, squeeze=False)[:, 0]
    for axes, group in zip(column, groups, strict=True):
        _draw_group(axes, group)
    set_title(figure, heading, *facts)


def _draw_group(axes: Axes, group: Group) -> None:
    axes.set_axis_off()
    axes.set_anchor("NW")
    axes.set_title(group.heading, loc="left")
    if not len(group.pixels):
        return
    pitch = _find_pitch(group)
    canvas = np.full((_count_rows(group) * pitch, COLUMNS * (PATCH_SIDE + _GAP) - _GAP, 3), 255, np.uint8)
    for i, patch in enumerate(group.pixels):
        row, column = divmod(i * group.width, COLUMNS)
        y, x = row * pitch, column * (PATCH_SIDE + _GAP)
        pictures = [patch] if group.beside is None else [patch, group.beside[i]]
        for picture, left in zip(pictures, (x, x + PATCH_SIDE + _BESIDE), strict=False):
            canvas[y : y + PATCH_SIDE, left : left + PATCH_SIDE] = picture
            _mark_centre(axes, left, y)
        if group.captions:
            middle = x + (len(pictures) * PATCH_SIDE + (len(pictures) - 1) * _BESIDE) / 2
            axes.text(middle, y + PATCH_SIDE + 3, group.captions[i], ha="center", va="top", linespacing=1.1)
    axes.imshow(canvas)


def _mark_centre(axes: Axes, x: int, y: int) -> None:
    """Outline the central 32x32 pixels, which decide the label; white on black is visible on every stain."""
    corner = (x + (PATCH_SIDE - _CENTRE) / 2 - 0.5, y + (PATCH_SIDE - _CENTRE) / 2 - 0.5)
    box = Rectangle(corner, _CENTRE, _CENTRE, fill=False, edgecolor="white", linewidth=0.6)
    box.set_path_effects([withStroke(linewidth=1.5, foreground="black")])
    axes.add_patch(box)


def _count_rows(group: Group) -> int:
    return -(-len(group.pixels) * group.width // COLUMNS)


def _find_height(group: Group) -> int:
    """Return the height of a group in pixels; an empty group has only its heading."""
    return max(_GAP, _count_rows(group) * _find_pitch(group))


def _find_pitch(group: Group) -> int:
    """Return the distance between two rows of patches in pixels."""
    return PATCH_SIDE + (_CAPTION if group.captions else _GAP)
