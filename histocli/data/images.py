"""Any image file or bytes -> a 96x96 RGB uint8 patch."""

import os
from typing import Any

import numpy as np

from histocli.choices import Resize
from histocli.errors import HistoError

# OpenCV refuses a header that promises more pixels than this before it decodes anything; it reads the limit once.
MAX_PIXELS = 1 << 26
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS))

import cv2  # noqa: E402 - the limit above must be set first

cv2.setNumThreads(1)  # patches are small: the parallelism is over patches
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # we name the unreadable file ourselves

PATCH_SIZE = 96
CENTRE = slice(32, 64)  # the central 32x32 that decides a patch's label
SUFFIXES = frozenset(
    [
        ".bmp",
        ".dib",
        ".jpeg",
        ".jpg",
        ".jpe",
        ".jp2",
        ".png",
        ".webp",
        ".avif",
        ".pbm",
        ".pgm",
        ".ppm",
        ".pnm",
        ".tiff",
        ".tif",
        ".gif",
        ".exr",
        ".hdr",
        ".pic",
    ]
)

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def decode(data: bytes, name: str) -> Pixels:
    """Decode an image file's bytes to RGB uint8 (H,W,3); `name` is for the error.

    Grey, palette and 16-bit images are converted, an alpha channel is dropped, an EXIF rotation is applied.

    Raises:
        HistoError: no image that OpenCV reads, truncated, or more than `MAX_PIXELS`.
    """
    if not data:
        raise HistoError(f"{name}: the file is empty")
    if data[:3] == b"\xff\xd8\xff" and b"\xff\xd9" not in data[-512:]:
        raise HistoError(f"{name}: the JPEG is truncated")  # OpenCV would fill the rest with grey
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        image = None
    if image is None:
        raise HistoError(f"{name}: not an image that can be read (or over {MAX_PIXELS:,} pixels)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)  # type: ignore[return-value]


def fit(image: Pixels, resize: Resize = Resize.CROP) -> Pixels:
    """Bring an RGB image (H,W,3) of any size to (96,96,3).

    `crop` cuts the centre out and reflects borders where the image is smaller; `scale` resamples the largest
    central square.
    """
    height, width = image.shape[:2]
    if (height, width) == (PATCH_SIZE, PATCH_SIZE):
        return image
    side = min(height, width) if resize is Resize.SCALE else PATCH_SIZE
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    image = image[top : top + side, left : left + side]
    if resize is Resize.SCALE:
        method = cv2.INTER_AREA if side > PATCH_SIZE else cv2.INTER_CUBIC
        return cv2.resize(image, (PATCH_SIZE, PATCH_SIZE), interpolation=method)  # type: ignore[return-value]
    down, right = PATCH_SIZE - image.shape[0], PATCH_SIZE - image.shape[1]
    borders = (down // 2, down - down // 2, right // 2, right - right // 2)
    return np.ascontiguousarray(cv2.copyMakeBorder(image, *borders, cv2.BORDER_REFLECT), dtype=np.uint8)


def decode_patch(data: bytes, name: str, resize: Resize = Resize.CROP) -> Pixels:
    """Decode an image file's bytes to a patch (96,96,3) uint8 RGB; raises as `decode` does."""
    return fit(decode(data, name), resize)
