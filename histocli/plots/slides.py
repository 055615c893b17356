"""Draw pictures of a slide, its tissue and the map of its scores, and the curves of slides."""

from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure

from histocli.atomic import write_atomically
from histocli.patch import Pixels
from histocli.plots.evaluation import add_roc_axes
from histocli.plots.style import COLUMN, GREEN, NORMAL, ORANGE, PAGE, TUMOUR, PlotStyle, save, set_title
from histocli.reports.slides import MAXIMUM, Estimate, SlideEvaluation
from histocli.slides.grid import Grid, Mask
from histocli.slides.lesions import FALSE_POSITIVES
from histocli.slides.measures import Map, find_regions
from histocli.text import format_count, format_metric

_MAX_SIDE = 1600  # pixels: the longer side of a picture
_OPACITY = (0.1, 0.75)  # the opacity of the map over the slide, for the probabilities 0 and 1
_OUTLINES = (("white", 2.0), ("black", 1.0))  # colours and widths in points: on dark tissue, only the white is seen
_COLOURS = "viridis"  # the colour map of probabilities: blue, green and yellow are not the colours of stained tissue
_MAX_COLUMNS = 100  # of a map whose outlines have their full width: the squares of others are smaller
_BAR_LENGTHS_MM = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0)  # lengths of a scale bar in mm


def write_tissue(path: Path, overview: Pixels, tissue: Mask) -> None:
    """Write the overview with the outlines of the tissue as a PNG file."""
    image, mask = _shrink(overview), tissue.astype(np.uint8)
    mask = np.asarray(cv2.resize(mask, (image.shape[1], image.shape[0]), interpolation=cv2.INTER_NEAREST), np.uint8)
    outlines, _ = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    drawn = cv2.drawContours(
        cv2.cvtColor(image, cv2.COLOR_RGB2BGR), outlines, -1, _parse_bgr(NORMAL), max(1, max(image.shape) // 500)
    )
    ok, png = cv2.imencode(".png", drawn)
    assert ok
    with write_atomically(path) as temporary:
        temporary.write_bytes(png.tobytes())


def write_heatmap_picture(
    path: Path, name: str, overview: Pixels, overview_mpp: float, scores: Map, grid: Grid, threshold: float
) -> None:
    """Write the map over the overview as a PNG file, with a colour bar and a scale bar."""
    height, width = overview.shape[:2]
    ratio = min(max(height / width, 0.3), 1.6)

    def draw(figure: Figure) -> None:
        axes: Axes = figure.add_subplot()
        extent = (0.0, float(width), float(height), 0.0)
        axes.imshow(_shrink(overview), extent=extent)
        side = grid.step * grid.mpp / overview_mpp
        rows, columns = grid.shape
        shown = axes.imshow(
            np.ma.masked_invalid(scores),
            cmap=_make_transparent(_COLOURS),
            vmin=0,
            vmax=1,
            interpolation="nearest",
            extent=(0.0, columns * side, rows * side, 0.0),
        )
        axes.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        axes.grid(False)
        axes.spines[:].set_visible(False)
        outlines = [np.array(ring) * side for region in find_regions(scores, threshold) for ring in region.rings]
        bar = figure.colorbar(shown, ax=axes, shrink=0.8, pad=0.02, label="probability of tumour")
        for colour, points in _OUTLINES:
            thinner = points * min(_MAX_COLUMNS / columns, 1)
            axes.add_collection(LineCollection(outlines, colors=colour, linewidths=thinner))
            bar.ax.axhline(threshold, color=colour, linewidth=points)
        _draw_scale_bar(axes, width, height, overview_mpp)
        squares = format_count(int(np.isfinite(scores).sum()), "square")
        outlined = f"outlined where the probability is at or above the threshold {threshold:.3g}"
        set_title(figure, name, f"{squares} of {grid.step * grid.mpp:.0f} µm; {outlined}")

    save(path, PlotStyle(), PAGE, PAGE * ratio * 0.8 + 0.8, draw)


def _make_transparent(name: str) -> ListedColormap:
    """Return a colour map whose low values are nearly transparent, so that they do not hide the tissue."""
    colours = colormaps[name](np.linspace(0, 1, 256))
    colours[:, 3] = np.linspace(*_OPACITY, 256)
    return ListedColormap(colours)


def write_slide_curves(folder: Path, name: str, report: SlideEvaluation) -> list[Path]:
    """Write the ROC and the FROC curve that have a value, remove those of an earlier call, and return their paths."""
    written = []
    for kind, draw, height, is_defined in (
        ("roc", _draw_roc, COLUMN + 1, report.auc[MAXIMUM].value is not None),
        ("froc", _draw_froc, COLUMN, bool(report.sensitivity)),
    ):
        path = folder / f"{name}-{kind}.png"
        if is_defined:
            written.append(save(path, PlotStyle(), COLUMN, height, partial(draw, report=report)))
        else:
            path.unlink(missing_ok=True)
    return written


def _draw_roc(figure: Figure, report: SlideEvaluation) -> None:
    """Draw the ROC curves of slides, one for each way to make one score of a slide."""
    axes = add_roc_axes(figure)
    for (name, estimate), colour in zip(report.auc.items(), (NORMAL, ORANGE, GREEN), strict=True):
        axes.plot(
            *zip(*report.compute_roc(name), strict=True),
            color=colour,
            clip_on=False,
            label=f"{name}: {_format_estimate(estimate)}",
        )
    figure.legend(loc="outside lower center")
    what = f"{format_count(report.slides, 'slide')}, {report.tumour_slides:,} with tumour"
    set_title(figure, "ROC of slides", what)


def _draw_froc(figure: Figure, report: SlideEvaluation) -> None:
    """Draw the FROC curve, and the points whose mean is the score."""
    axes: Axes = figure.add_subplot()
    last = max(report.false_positives[-1], FALSE_POSITIVES[-1])
    false = [*report.false_positives, last]
    found = [*report.sensitivity, report.sensitivity[-1]]
    axes.plot(false, found, color=NORMAL, clip_on=False)
    at = np.interp(FALSE_POSITIVES, report.false_positives, report.sensitivity)
    axes.plot(FALSE_POSITIVES, at, "o", color=TUMOUR, clip_on=False, label="1/4 to 8 false positives")
    axes.set(xlabel="false positives per slide", ylabel="sensitivity for lesions", ylim=(0, 1))
    axes.set(xlim=(0, FALSE_POSITIVES[-1]))
    axes.legend(loc="lower right")
    lesions = sum(recall.lesions for recall in report.recall.values())
    what = f"{format_count(lesions, 'lesion')} in {format_count(report.slides, 'slide')}"
    set_title(figure, "FROC of lesions", f"{what}; score {_format_estimate(report.froc)}")


def _format_estimate(estimate: Estimate) -> str:
    interval = f" ({estimate.interval[0]:.2f} to {estimate.interval[1]:.2f})" if estimate.interval else ""
    return format_metric(estimate.value, 3) + interval


def _draw_scale_bar(axes: Axes, width: int, height: int, mpp: float) -> None:
    """Draw a bar of a round number of millimetres, about a fifth of the picture wide, below the slide."""
    wanted = width * mpp / 1000 / 5
    length = max((bar for bar in _BAR_LENGTHS_MM if bar <= wanted), default=_BAR_LENGTHS_MM[0])
    pixels = length * 1000 / mpp
    right, y = width * 0.98, height * 1.03
    axes.plot([right - pixels, right], [y, y], color="black", linewidth=2.5, solid_capstyle="butt", clip_on=False)
    label: dict[str, Any] = {"ha": "center", "va": "top", "fontsize": 8}
    axes.text(right - pixels / 2, y + height * 0.012, f"{length:g} mm", **label)


def _shrink(image: Pixels) -> Pixels:
    scale = _MAX_SIDE / max(image.shape[:2])
    if scale >= 1:
        return image
    size = max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def _parse_bgr(colour: str) -> tuple[int, int, int]:
    return int(colour[5:7], 16), int(colour[3:5], 16), int(colour[1:3], 16)
