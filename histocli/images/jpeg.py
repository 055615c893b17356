"""Decode JPEG images and refuse what libjpeg reports as damaged.

OpenCV and Pillow ignore libjpeg's warnings, and return wrong pixels. simplejpeg raises an error for a warning, and
gives the same pixels as OpenCV.
"""

import simplejpeg

from histocli.images.sizes import ImageError
from histocli.patch import Pixels

# The first words of libjpeg's warnings about lost or wrong data, and of the errors where it stops. OpenCV would return
# what was decoded before such an error. Other warnings are about harmless fields.
_DAMAGE_MESSAGES = (
    "Corrupt JPEG data",
    "Premature end of JPEG",
    "Unsupported marker type",
    "Bogus ",
    "Huffman table ",
    "Quantization table ",
    "Invalid JPEG file structure",
    "Invalid component ID",
    "Invalid progressive",
    "Invalid SOS parameters",
    "Inconsistent progression",
    "Didn't expect more than one scan",
)
_EXIF = b"Exif\0\0"


def decode_jpeg(data: bytes) -> "Pixels | None":
    """Return the pixels (H,W,3) uint8 RGB of a JPEG; None for a JPEG that OpenCV must decode: CMYK, or with Exif data.

    Raises:
        ImageError: libjpeg reports that the compressed data is damaged.
    """
    try:
        is_cmyk = simplejpeg.decode_jpeg_header(data)[2] == "CMYK"
        pixels = simplejpeg.decode_jpeg(data, "CMYK" if is_cmyk else "RGB")
    except ValueError as error:
        if str(error).startswith(_DAMAGE_MESSAGES):
            raise ImageError(
                f"the image is damaged: {error}", "make the file again; if its pixels are right, save it as PNG"
            ) from error
        return None  # simplejpeg does not read this kind, for example an unusual sampling of colours
    return None if is_cmyk or _EXIF in data else pixels  # Exif data may turn the image


def is_grey_jpeg(data: bytes) -> bool:
    """Return whether the header of a JPEG says that it is grey; False for a kind that simplejpeg does not read."""
    try:
        return bool(simplejpeg.decode_jpeg_header(data)[2] == "Gray")
    except ValueError:
        return False
