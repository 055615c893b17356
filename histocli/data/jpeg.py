"""Decode JPEG images and refuse what libjpeg reports as damaged.

OpenCV and Pillow ignore libjpeg's warnings, and return wrong pixels. simplejpeg raises an error for a warning, and
gives the same pixels as OpenCV.
"""

from typing import Any

import numpy as np
import simplejpeg

from histocli.data.sizes import ImageError

Pixels = np.ndarray[Any, np.dtype[np.uint8]]

# How the warnings of libjpeg about lost or wrong data begin. Others are about harmless fields, such as a revision.
_DAMAGE = ("Corrupt JPEG data", "Premature end of JPEG")
_EXIF = b"Exif\0\0"


def decode_jpeg(data: bytes) -> "Pixels | None":
    """Return the pixels (H,W,3) uint8 RGB of a JPEG; None for one that OpenCV must decode: CMYK, or with Exif data.

    Raises:
        ImageError: its compressed data is damaged, so far as libjpeg notices it.
    """
    try:
        is_cmyk = simplejpeg.decode_jpeg_header(data)[2] == "CMYK"
        pixels = simplejpeg.decode_jpeg(data, "CMYK" if is_cmyk else "RGB")
    except ValueError as error:
        if str(error).startswith(_DAMAGE):
            raise ImageError(
                f"the image is damaged: {error}", "make the file again; if its pixels are right, save it as PNG"
            ) from error
        return None  # of a kind that it does not read, for example with an unusual sampling of colours
    return None if is_cmyk or _EXIF in data else pixels  # Exif data may turn the image
