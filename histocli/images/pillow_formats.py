"""Decode the formats that OpenCV does not read, by Pillow."""

import re
import struct
import warnings
from collections.abc import Iterator
from io import BytesIO
from typing import TYPE_CHECKING

import numpy as np

from histocli.images import MAX_PIXELS
from histocli.images.channels import GREY, TRANSPARENT
from histocli.images.intensity import Values
from histocli.images.other_formats import refuse_other_formats
from histocli.images.sizes import ImageError, check_pixels

# Pillow warns of images with many pixels. `check_pixels` refuses images with fewer pixels than that.
warnings.filterwarnings("ignore", "Image size .* exceeds limit")
warnings.filterwarnings("ignore", "Image was not the expected size")  # an icon; `decode_by_pillow` refuses it

if TYPE_CHECKING:
    from PIL.ImageFile import ImageFile

FIRST_FRAME = "only the first of several frames was read"
LARGEST_SIZE = "only the largest of several sizes was read"

# Pillow tries these formats in this order. TGA has no first bytes of its own, so it is the last. GIF is here because
# OpenCV gives transparent pixels another colour. These are not here: EPS and WMF, for which Pillow starts other
# programs; FITS, because Pillow ignores the scale of its values (BZERO) and all planes but the first; and IM, which
# Pillow 15 will not read.
_FORMATS = (
    *("DIB", "GIF", "PCX", "QOI", "SGI", "SUN", "PSD", "ICO", "CUR", "ICNS", "DDS", "BLP", "MSP", "PIXAR"),
    *("XBM", "XPM", "FLI", "DCX", "FTEX", "GBR", "SPIDER", "TGA"),
)
# What Pillow raises for damaged files of these formats; an AttributeError for SPIDER, for example.
_DAMAGED = (
    *(OSError, ValueError, LookupError, ArithmeticError, AttributeError, TypeError, AssertionError, EOFError),
    *(struct.error, NotImplementedError),
)
_GREY_MODES = ("1", "L", "LA", "La", "F", "I", "I;16", "I;16B", "I;16L", "I;16N")
_WITH_FRAMES = ("FLI", "DCX", "SPIDER")
_ICONS = (b"\0\0\1\0", b"\0\0\2\0")  # ICO and CUR
_EMBEDDED = re.compile(rb"\x89PNG\r\n\x1a\n....IHDR(.{8})|\0\0\0\x16ihdr(.{8})", re.DOTALL)


def decode_by_pillow(data: bytes) -> tuple[Values, tuple[str, ...]]:
    """Decode an image that OpenCV does not read, or reads incorrectly.

    Returns:
        Its values (H,W,3): uint8, or what the file has if it has more than 8 bits; and remarks on it.

    Raises:
        ImageError: it is of a format that is not read, is damaged, or has more than `MAX_PIXELS` pixels.
    """
    from PIL import Image, UnidentifiedImageError

    refuse_other_formats(data)
    _check_icons(data)
    try:
        with Image.open(BytesIO(data), formats=_FORMATS) as image:
            size = image.size
            check_pixels(*size)
            image.load()
            if image.size != size:
                raise ImageError("the image is damaged: its header gives another size than its pixels have")
            remarks = tuple(_iterate_remarks(image))
            if image.mode.startswith(("I", "F")):  # more than 8 bits: `convert` would clip the values
                return np.repeat(np.asarray(image)[:, :, None], 3, axis=2), remarks
            return np.asarray(image.convert("RGB")), remarks
    except UnidentifiedImageError:
        reason = "not an image that can be read"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        reason = f"the image has more than {MAX_PIXELS:,} pixels"
    except SyntaxError as error:
        reason = f"not an image that can be read: {error}"
    except _DAMAGED as error:
        reason = f"the image is damaged: {error}"
    raise ImageError(reason)


def _iterate_remarks(image: "ImageFile") -> Iterator[str]:
    """Yield a remark if the file has several images, of which this is one; if it is grey; if pixels are transparent."""
    if len(image.info.get("sizes", ())) > 1:
        yield LARGEST_SIZE
    elif image.format in _WITH_FRAMES and getattr(image, "n_frames", 1) > 1:
        yield FIRST_FRAME
    if image.mode in _GREY_MODES:
        yield GREY
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema()[0] != 255:
        yield TRANSPARENT


def _check_icons(data: bytes) -> None:
    """Refuse a file of icons that is truncated, or has an image of more than `MAX_PIXELS` pixels.

    Pillow reads an icon that is left where the others are missing, and it checks only the size of the icon, not that of
    the image in it.
    """
    if data.startswith(b"icns") and int.from_bytes(data[4:8], "big") > len(data):
        raise ImageError("the image is truncated")
    if data.startswith((b"icns", *_ICONS)):
        for match in _EMBEDDED.finditer(data):
            check_pixels(*struct.unpack(">II", match[1] or match[2]))
    if data.startswith(_ICONS):
        for width, height in _list_bitmap_sizes(data):
            check_pixels(width, height)


def _list_bitmap_sizes(data: bytes) -> Iterator[tuple[int, int]]:
    """Yield the width and height of each bitmap in an ICO or CUR, from the header of the bitmap."""
    for entry in range(6, min(len(data), 6 + 16 * int.from_bytes(data[4:6], "little")) - 15, 16):
        start = int.from_bytes(data[entry + 12 : entry + 16], "little")
        if len(data) >= start + 12 and data[start : start + 4] == b"\x28\0\0\0":  # a BMP without its file header
            width, height = struct.unpack_from("<ii", data, start + 4)
            yield abs(width), abs(height)
