"""Enlarge the centre of an image only: of an image that becomes very large, the rest would need gigabytes.

OpenCV's `cv2.resize` takes no part of an image at a fraction of a pixel. Its cubic interpolation is repeated here; a
value can differ from OpenCV's by 1, because of another order of rounding.
"""

import numpy as np
import numpy.typing as npt

from histocli.images.sizes import Size
from histocli.patch import PATCH_SIDE, Pixels

_A = -0.75  # the parameter of OpenCV's cubic interpolation (Keys 1981)


def enlarge_centre(image: Pixels, size: Size) -> Pixels:
    """Return the central pixels, at most 96x96, that an image (H,W,3) has after it is enlarged to `size`."""
    rows, vertical = _compute_weights(image.shape[0], size.height)
    columns, horizontal = _compute_weights(image.shape[1], size.width)
    wide = np.tensordot(horizontal, image[rows, columns], (1, 1))  # (columns of the patch, rows of the image, 3)
    values = np.tensordot(vertical, wide, (1, 1))
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _compute_weights(side: int, enlarged: int) -> tuple[slice, npt.NDArray[np.float64]]:
    """Return the pixels of a side that the central pixels of the enlarged side depend on, and their weights.

    The weights are (central pixels, pixels of the slice).
    """
    count = min(PATCH_SIDE, enlarged)
    start = (enlarged - count) // 2  # as `fit` cuts the centre out
    centres = (np.arange(start, start + count) + 0.5) * side / enlarged - 0.5  # pixel i reaches from i - 0.5 to i + 0.5
    first = np.floor(centres).astype(np.int64) - 1
    used = slice(max(0, int(first[0])), min(side, int(first[-1]) + 4))
    weights = np.zeros((count, used.stop - used.start))
    for i in range(4):
        neighbours = np.clip(first + i, 0, side - 1)  # beyond the border, the last pixel is repeated
        weights[np.arange(count), neighbours - used.start] += _weigh(np.abs(centres - (first + i)))
    return used, weights


def _weigh(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return the cubic weights of pixels at distances from 0 to 2."""
    near = ((_A + 2) * distance - (_A + 3)) * distance**2 + 1
    far = ((_A * distance - 5 * _A) * distance + 8 * _A) * distance - 4 * _A
    return np.where(distance <= 1, near, far)
