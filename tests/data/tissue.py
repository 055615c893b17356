"""Make images with structure everywhere, as in stained tissue, and patches cut from them."""

from functools import lru_cache

import cv2
import numpy as np


@lru_cache(maxsize=8)
def texture(seed, side=400):
    """Return an image (side,side,3) without two equal places."""
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(40, 216, (side // 8, side // 8, 3), np.uint8), (side, side))
    return coarse + rng.integers(0, 40, (side, side, 3), np.uint8)


def crop(image, y, x):
    """The patch whose upper left pixel is (y, x)."""
    return image[y : y + 96, x : x + 96]


def write_patches(folder, patches):
    """Write RGB patches as PNG files; names may have folders, as of classes."""
    for name, pixels in patches.items():
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))[1].tobytes())
    return folder


@lru_cache(maxsize=16)
def tissue(seed, side=400):
    """Return an image (side,side,3) as smooth as a scan, without two equal places."""
    return cv2.GaussianBlur(texture(1000 + seed, side), (0, 0), 1.2)
