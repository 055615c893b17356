"""Decode image files of any format and size to patches (96,96,3) uint8 RGB."""

import re
from itertools import takewhile
from typing import Any, Literal

import cv2
import numpy as np

from histocli.config import Resize
from histocli.data import MAX_PIXELS
from histocli.errors import HistoError

cv2.setNumThreads(1)  # patches are small: several are decoded at once instead
_set_log_level = (
    getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
)  # which one there is depends on the version of OpenCV
_set_log_level(0)  # silent: our own message names the unreadable file

PATCH_SIZE = 96
CENTRE = slice(32, 64)  # the central 32x32 that decides a patch's label
# A TIFF's ExtraSamples tag with the value 2 in either byte order.
_UNASSOCIATED_ALPHA = (b"\x52\x01\x03\0\x01\0\0\0\x02\0", b"\x01\x52\0\x03\0\0\0\x01\0\x02")

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_SCAN, _END, _RESTART_INTERVAL, _RESTARTS = 0xDA, 0xD9, 0xDD, range(0xD0, 0xD8)
_AFTER_A_SCAN = frozenset([0xC4, _END, _SCAN, 0xDB, 0xDC, _RESTART_INTERVAL, 0xFE, *range(0xE0, 0xF0)])

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


def decode(data: bytes, name: str) -> Pixels:
    """Decode an image file's bytes to RGB uint8 (H,W,3); `name` is for the error.

    Grey, palette, CMYK and 16-bit images are converted, an alpha channel is dropped, an EXIF rotation is applied; if
    there are several frames or pages, the first is decoded.

    Raises:
        HistoError: OpenCV cannot read the image; it is truncated, damaged or larger than `MAX_PIXELS`; or it is a TIFF
            with transparent parts.
    """
    if not data:
        raise HistoError(f"{name}: the file is empty")
    if fault := _find_damage(data):
        raise HistoError(f"{name}: the image is {fault}")
    if data[:2] in (b"II", b"MM") and any(tag in _tiff_tags(data) for tag in _UNASSOCIATED_ALPHA):
        _refuse_transparent(data, name)
    image = _imdecode(data, cv2.IMREAD_COLOR)
    if image is None:
        raise HistoError(f"{name}: not an image that can be read (or over {MAX_PIXELS:,} pixels)")
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image)  # type: ignore[return-value]


def _imdecode(data: bytes, flags: int) -> "cv2.typing.MatLike | None":
    try:
        return cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        return None


def _find_damage(data: bytes) -> str:
    """Return the damage of a JPEG or PNG, or "": OpenCV would fill missing pixels with grey."""
    if data[:4] == b"\x89PNG":
        if int.from_bytes(data[16:20]) * int.from_bytes(data[20:24]) > MAX_PIXELS:
            return f"of more than {MAX_PIXELS:,} pixels"
        return "" if b"IEND" in data else "truncated"
    return _find_jpeg_damage(data) if data[:3] == b"\xff\xd8\xff" else ""


def _find_jpeg_damage(data: bytes) -> str:
    """Check a JPEG's segments and scans up to its end (ITU-T T.81, annex B); return the damage, or ""."""
    at, restarts = 2, False
    while marker := _MARKER.match(data, at):
        code, at = marker[0][1], marker.end()
        if code == _END:
            return ""
        restarts = data[at + 2 : at + 4] != b"\0\0" if code == _RESTART_INTERVAL else restarts
        at += int.from_bytes(data[at : at + 2])
        if code == _SCAN:
            found = list(takewhile(lambda m: m[0][1] in _RESTARTS, _MARKER.finditer(data, at)))
            if [m[0][1] for m in found] != [_RESTARTS[i % 8] for i in range(len(found) if restarts else 0)]:
                return "damaged"
            after = _MARKER.search(data, found[-1].end() if found else at)
            if after is None:
                return "truncated"
            if after[0][1] not in _AFTER_A_SCAN:
                return "damaged"
            at = after.start()
        while data[at : at + 2] == b"\xff\xff":  # padding between segments
            at += 1
    return "" if data.find(b"\xff\xd9", at) >= 0 else "truncated"


def _tiff_tags(data: bytes) -> bytes:
    """Return the tags of a TIFF's first page; a TIFF that is damaged there, or a BigTIFF, is returned as a whole."""
    order: Literal["little", "big"] = "little" if data[:2] == b"II" else "big"
    first = int.from_bytes(data[4:8], order)
    tags = data[first + 2 : first + 2 + 12 * int.from_bytes(data[first : first + 2], order)]
    return tags or data


def _refuse_transparent(data: bytes, name: str) -> None:
    """Refuse a TIFF with unassociated alpha, unless it is opaque: OpenCV multiplies its colours by the alpha."""
    image = _imdecode(data, cv2.IMREAD_UNCHANGED)
    if image is None or image.ndim != 3 or image.shape[2] != 4:
        return
    if int(image[..., 3].min()) < (0xFFFF if image.dtype == np.uint16 else 0xFF):
        raise HistoError(f"{name}: a TIFF with transparent parts", "save it without its alpha channel")


def fit(image: Pixels, resize: Resize = Resize.CROP) -> Pixels:
    """Crop or scale an RGB image (H,W,3) of any size to (96,96,3).

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
