"""Find the images that their files store as grey, and those that may have transparent pixels, by their headers."""

import re

from histocli.images.headers import JPEG_START, PNG, iterate_png_chunks
from histocli.images.jpeg import is_grey_jpeg
from histocli.images.jpeg2000 import count_components, has_8_bits

GREY, TRANSPARENT = "grey, converted to RGB", "transparent pixels were read as opaque"  # remarks on images
_PNG_GREY, _PNG_ALPHA = (0, 4), (4, 6)  # the colour types of a PNG
_VP8X_ANIMATION, _VP8X_EXIF, _VP8X_ALPHA, _VP8L_ALPHA = 0x02, 0x08, 0x10, 0x10  # flags of a WebP
DEEP, _MONOCHROME = 0x40, 0x10  # flags of an AVIF: more than 8 bits, a single channel


def is_grey(data: bytes) -> bool:
    """Return whether the header of a PNG, JPEG, JPEG 2000 or AVIF says that it is grey; False for other formats."""
    if data.startswith(PNG):
        return _read_byte(data, 25) in _PNG_GREY
    if data.startswith(JPEG_START):
        return is_grey_jpeg(data)
    if data[4:8] == b"ftyp":
        flags = read_av1_flags(data)
        return bool(flags) and all(flag & _MONOCHROME for flag in flags)
    return count_components(data) in (1, 2)  # 2: with an alpha channel


def may_be_transparent(data: bytes) -> bool:
    """Return whether a PNG, or a WebP, JPEG 2000 or AVIF of 8 bits, has an alpha channel; it may be opaque everywhere.

    Animations are left out.
    """
    if data.startswith(PNG):
        return _read_byte(data, 25) in _PNG_ALPHA or b"tRNS" in data[: data.find(b"IDAT")]
    if data[8:16] == b"WEBPVP8X":
        return _read_byte(data, 20) & (_VP8X_ALPHA | _VP8X_ANIMATION) == _VP8X_ALPHA
    if data[8:16] == b"WEBPVP8L":
        return _read_byte(data, 24) & _VP8L_ALPHA != 0
    if data[4:8] == b"ftyp":
        return b":auxiliary:alpha" in data and all(flag & DEEP == 0 for flag in read_av1_flags(data))
    return count_components(data) == 4 and has_8_bits(data)


def has_exif(data: bytes) -> bool:
    """Return whether a PNG, WebP, JPEG 2000 or AVIF may have Exif data, which can turn the image."""
    if data.startswith(PNG):  # a search in all its bytes would be slow
        return any(kind == b"eXIf" for kind, _, _ in iterate_png_chunks(data))
    if data[8:16] == b"WEBPVP8X":
        return _read_byte(data, 20) & _VP8X_EXIF != 0
    return b"Exif" in data


def _read_byte(data: bytes, position: int) -> int:
    """Return a byte of a file; 0 if the file is shorter, which no decoder accepts then."""
    return data[position] if position < len(data) else 0


def read_av1_flags(data: bytes) -> list[int]:
    """Return the flags of each image in an AVIF, from its av1C boxes; an alpha channel is an image too."""
    return [flags[0] for flags in re.findall(rb"av1C..(.)", data, re.DOTALL)]
