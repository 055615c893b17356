"""Pictures of explanations: a patch in grey, with the colours of the classes where the score comes from."""

import numpy as np
import numpy.typing as npt
from matplotlib.colors import to_rgb

from histocli.plots.style import NORMAL, TUMOUR

KEY = "beside it: what raises this probability in orange, what lowers it in blue"
_STRONGEST = 0.75  # the opacity of the colour where the map is largest; the patch stays visible there
_LIGHTER = 0.35  # how much of white is mixed into the grey patch

Pictures = npt.NDArray[np.uint8]


def draw_maps(pixels: Pictures, maps: npt.NDArray[np.float32]) -> Pictures:
    """Return pictures, uint8 (N,H,W,3), of patches (N,H,W,3) and their explanations (N,H,W).

    Orange raises the probability of tumour, blue lowers it. Each patch has its own scale: the colours are
    strongest at its largest absolute value.
    """
    largest = np.abs(maps).max((1, 2), keepdims=True, initial=0)
    share = np.divide(maps, largest, out=np.zeros_like(maps), where=largest > 0)[..., None]
    grey = pixels @ np.array([0.299, 0.587, 0.114]) / 255
    light = (grey * (1 - _LIGHTER) + _LIGHTER)[..., None]
    colour = np.where(share > 0, np.array(to_rgb(TUMOUR)), np.array(to_rgb(NORMAL)))
    weight = _STRONGEST * np.abs(share)
    pictures: Pictures = np.round(255 * (light * (1 - weight) + colour * weight)).astype(np.uint8)
    return pictures
