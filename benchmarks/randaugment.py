"""RandAugment with stains: three random operations, one after the other, of a random size.

After Faryna, van der Laak and Litjens, "Tailoring automated data augmentation to H&E-stained histopathology", 2021, who
report an AUC of 0.964 with n = 3 and m = 5 on Camelyon17. The list of operations and their ranges are those of their
published code (github.com/DIAGNijmegen/pathology-he-auto-augment), also where they surprise: up to m = 9, brightness,
contrast, saturation and sharpness are only made lower, down to a tenth.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageEnhance, ImageOps

COUNT = 3  # n: operations for a patch
MAGNITUDE = 5  # m: the largest level, of 10
FILL = (128, 128, 128)  # the colour of pixels from outside the patch
# The stains of scikit-image before 0.18, which the published code copied.
_STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]], np.float32)
_UNMIX = np.linalg.inv(_STAINS)

Operation = Callable[[Image.Image, float, np.random.Generator], Image.Image]  # of a patch and a level from 0 to 10


def apply_randaugment(patch: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a uint8 RGB patch (H,W,3) after `COUNT` random operations."""
    image = Image.fromarray(patch)
    for number in rng.integers(len(OPERATIONS), size=COUNT):
        image = OPERATIONS[number](image, rng.uniform(0, MAGNITUDE), rng)
    return np.asarray(image)


def _enhance(kind: type) -> Operation:
    """Return the operation that multiplies a property of the patch by 0.1 to 1.9."""
    return lambda image, level, _: kind(image).enhance(0.1 + 0.18 * level)


def _warp(make_matrix: Callable[[float], tuple[float, ...]], largest: float, resample: Image.Resampling) -> Operation:
    """Return the operation that applies an affine matrix, made from a random value up to `largest` at level 10."""

    def warp(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
        value = largest * level / 10 * rng.choice((-1, 1))
        return image.transform(image.size, Image.Transform.AFFINE, make_matrix(value), resample, fillcolor=FILL)

    return warp


def _rotate(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    """Rotate by up to 30 degrees at level 10."""
    return image.rotate(3 * level * rng.choice((-1, 1)), fillcolor=FILL)


def _change_hue(image: Image.Image, _: float, rng: np.random.Generator) -> Image.Image:
    """Shift the hue and scale the saturation; the published code takes the largest level here, not the random one."""
    hue, saturation = rng.uniform(-0.03 * MAGNITUDE, 0.03 * MAGNITUDE, 2)
    hsv = np.array(image.convert("HSV"), np.float32)
    hsv[..., 0] = (hsv[..., 0] + 256 * hue) % 256
    room = 1 if saturation < 0 else 1 - hsv[..., 1] / 255
    hsv[..., 1] *= 1 + saturation * room
    return Image.fromarray(hsv.astype(np.uint8), "HSV").convert("RGB")


def _change_stains(image: Image.Image, level: float, rng: np.random.Generator) -> Image.Image:
    """Scale and shift the stains, in the logarithm of the pixels plus 2; skip very light and very dark patches."""
    pixels = np.asarray(image, np.float32) / 255
    if not 0.15 <= pixels.mean() <= 0.85:
        return image
    scale, shift = rng.uniform(-0.03 * level, 0.03 * level, (2, 3)).astype(np.float32)
    stains = -np.log(pixels + 2) @ _UNMIX * (1 + scale) + shift
    return Image.fromarray((255 * np.clip(np.exp(-(stains @ _STAINS)) - 2, 0, 1)).astype(np.uint8))


OPERATIONS: tuple[Operation, ...] = (
    _warp(lambda x: (1, 0, x, 0, 1, 0), 10, Image.Resampling.NEAREST),
    _warp(lambda y: (1, 0, 0, 0, 1, y), 10, Image.Resampling.NEAREST),
    _warp(lambda x: (1, x, 0, 0, 1, 0), 0.3, Image.Resampling.BICUBIC),
    _warp(lambda y: (1, 0, 0, y, 1, 0), 0.3, Image.Resampling.BICUBIC),
    _rotate,
    _enhance(ImageEnhance.Brightness),
    _enhance(ImageEnhance.Sharpness),
    _enhance(ImageEnhance.Color),
    _enhance(ImageEnhance.Contrast),
    lambda image, *_: ImageOps.equalize(image),
    lambda image, *_: image,
    _change_hue,
    _change_stains,
)
