"""The map of scored patches on the plane of their slide, beside that of their labels."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch as LegendPatch

from histocli.plots.style import CLASS_COLOURS, CLASS_NAMES, PAGE, TUMOUR, set_title
from histocli.slides.patch_maps import PatchMap

_COLOURS = "inferno"  # the colour map of probabilities
_BACKGROUND = "#EEEEEE"  # of the places without a patch: unlike all colours of the map
_MARGIN = 2  # cells around the patches


def find_map_size(shown: PatchMap) -> tuple[float, float]:
    """Return the width and the height of a map in inches."""
    rows, columns = shown.probs.shape
    panels = 2 if has_labels(shown) else 1
    ratio = (rows + 2 * _MARGIN) / (columns + 2 * _MARGIN)
    return PAGE, PAGE / panels * min(max(ratio, 0.35), 1.6) + 1.3


def has_labels(shown: PatchMap) -> bool:
    """Return whether the label of any patch is known."""
    return bool(np.isfinite(shown.labels).any())


def draw_map(figure: Figure, shown: PatchMap, source: str, threshold: float | None = None) -> None:
    """Draw the probabilities of a slide's patches with a colour bar, and their labels beside them where known.

    The axes are millimetres from the upper left corner of the slide. `source` says what was scored, and the threshold
    is marked on the colour bar.
    """
    panels: list[Axes] = list(figure.subplots(1, 2 if has_labels(shown) else 1, squeeze=False)[0])
    image = _draw_panel(panels[0], shown, shown.probs, _COLOURS)
    bar = figure.colorbar(image, ax=panels, location="bottom", shrink=0.5, label="probability of tumour")
    if threshold is not None:
        bar.ax.axvline(threshold, color=TUMOUR, linewidth=1.2)
    if len(panels) > 1:
        _draw_panel(panels[1], shown, shown.labels, ListedColormap(CLASS_COLOURS))
        keys = [LegendPatch(color=c, label=n) for c, n in zip(CLASS_COLOURS, CLASS_NAMES, strict=True)]
        panels[1].legend(handles=keys, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0.2)
    set_title(figure, shown.slide, source, describe_map(shown, threshold))


def describe_map(shown: PatchMap, threshold: float | None) -> str:
    """Return what the cells of a map are, in one line."""
    cells = int(np.isfinite(shown.probs).sum())
    merged = "" if cells == shown.patches else f" in {cells:,} cells: their mean"
    at = "" if threshold is None else f"; threshold {threshold:.3g}"
    moved = f", {shown.moved:,} of the patches moved to the nearest" if shown.moved else ""
    return f"{shown.patches:,} patches{merged}; squares of {shown.side * 1000:.0f} µm{moved}{at}"


def _draw_panel(axes: Axes, shown: PatchMap, values: "np.ndarray", colours: "str | ListedColormap"):  # type: ignore[no-untyped-def, type-arg]
    rows, columns = values.shape
    right, bottom = shown.left + columns * shown.side, shown.top + rows * shown.side
    image = axes.imshow(
        np.ma.masked_invalid(values),
        cmap=colours,
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(shown.left, right, bottom, shown.top),
    )
    margin = _MARGIN * shown.side
    axes.set(xlim=(shown.left - margin, right + margin), ylim=(bottom + margin, shown.top - margin))
    axes.set(xlabel="mm", ylabel="mm", facecolor=_BACKGROUND)
    axes.grid(False)
    return image
