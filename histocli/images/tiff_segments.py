"""Unpack the segments (strips and tiles) of a TIFF strictly: each must unpack to exactly its size."""

import zlib
from collections.abc import Callable
from functools import lru_cache
from struct import Struct

import cv2
import numpy as np

from histocli.images import tiff_tags
from histocli.images.sizes import ImageError

NONE, LZW, JPEG, ADOBE_DEFLATE, DEFLATE, PACKBITS = 1, 5, 7, 8, 32946, 32773

# The functions that unpack a segment take its bytes, and the smallest (`wanted`) and the largest number of unpacked
# bytes that are correct. They return `wanted` bytes.


def _copy(packed: bytes, wanted: int, largest: int) -> bytes:
    """Return an uncompressed segment."""
    if len(packed) < wanted:
        raise ImageError("the image is truncated: a segment is too short")
    return packed[:wanted]


def _inflate(packed: bytes, wanted: int, largest: int) -> bytes:
    """Unpack a segment of deflate; raise `ImageError` unless it has exactly the length of a segment."""
    stream = zlib.decompressobj()
    try:
        unpacked = stream.decompress(packed, largest + 1)
    except zlib.error:
        raise ImageError("the image is damaged: its deflate stream cannot be unpacked") from None
    if not stream.eof or len(unpacked) not in (wanted, largest):
        raise ImageError("the image is damaged: its deflate stream has a wrong length")
    return unpacked[:wanted]


def _unpack_bits(packed: bytes, wanted: int, largest: int) -> bytes:
    """Unpack PackBits (TIFF 6.0, section 9)."""
    parts, at, count = [], 0, 0
    while at < len(packed) and count < largest:
        code = packed[at]
        if code < 128:
            part = packed[at + 1 : at + 2 + code]
            at += 2 + code
        elif code > 128:
            part = packed[at + 1 : at + 2] * (257 - code)
            at += 2
        else:
            part, at = b"", at + 1
        parts.append(part)
        count += len(part)
    if count not in (wanted, largest) or at > len(packed) or packed[at:].strip(b"\0\x80"):
        raise ImageError("the image is damaged: its PackBits stream has a wrong length")
    return b"".join(parts)[:wanted]


def _unpack_lzw(packed: bytes, wanted: int, largest: int) -> bytes:
    """Unpack LZW by OpenCV's libtiff, as a 16-bit grey image, because OpenCV reports libtiff's errors only for these.

    If the number of bytes is odd, the last byte is read from an 8-bit image.
    """
    pairs = wanted // 2
    image = decode_with_opencv(_as_grey_tiff(packed, pairs, 16), pairs) if pairs else None
    if pairs and (image is None or image.dtype != np.uint16):
        raise ImageError("the image is damaged: its LZW stream cannot be unpacked")
    unpacked = b"" if image is None else image.astype("<u2", copy=False).tobytes()[: 2 * pairs]
    if wanted % 2:
        whole = decode_with_opencv(_as_grey_tiff(packed, wanted, 8), wanted)
        if whole is None:
            raise ImageError("the image is damaged: its LZW stream cannot be unpacked")
        unpacked += whole.tobytes()[wanted - 1 : wanted]
    return unpacked


_HEADER = Struct("<2sHIH" + "HHII" * 8)
_LENGTH = Struct("<HHIII")  # the last tag, which is the length, and the end of the directory
_ROW = 1 << 20  # pixels: OpenCV reads no wider image
_MAX_ROWS = 1 << 12
_DECODER_BYTES = 16  # memory for each pixel: JPEG 2000 needs three channels of int32 and the image itself
_LIBRARY_BYTES = 4 << 20  # memory of the buffers of OpenCV and libtiff


def _as_grey_tiff(packed: bytes, pixels: int, bits: int) -> bytes:
    """Return a grey TIFF whose only segment is a given LZW stream."""
    return _grey_header(pixels, bits) + _LENGTH.pack(tiff_tags.STRIP_BYTES, 4, 1, len(packed), 0) + packed


@lru_cache(64)
def _grey_header(pixels: int, bits: int) -> bytes:
    """Return the header of a grey TIFF with one LZW segment, except its last tag, which is the segment's length."""
    # libtiff must be asked for exactly `pixels`, so all rows have the same length.
    rows = next((n for n in range(-(-pixels // _ROW), _MAX_ROWS) if pixels % n == 0), 0)
    if not rows:
        raise ImageError("LZW segments of this size cannot be unpacked", "save it as PNG")
    begin = _HEADER.size + _LENGTH.size
    tags = {
        tiff_tags.WIDTH: pixels // rows,
        tiff_tags.HEIGHT: rows,
        tiff_tags.BITS_PER_SAMPLE: bits,
        tiff_tags.COMPRESSION: LZW,
        tiff_tags.PHOTOMETRIC: 1,
        tiff_tags.STRIP_OFFSETS: begin,
        tiff_tags.SAMPLES_PER_PIXEL: 1,
        tiff_tags.ROWS_PER_STRIP: rows,
    }
    entries = [field for tag, value in tags.items() for field in (tag, 4, 1, value)]
    return _HEADER.pack(b"II", 42, 8, len(tags) + 1, *entries)


UNPACK: dict[int, Callable[[bytes, int, int], bytes]] = {
    NONE: _copy,
    LZW: _unpack_lzw,
    ADOBE_DEFLATE: _inflate,
    DEFLATE: _inflate,
    PACKBITS: _unpack_bits,
}


def decode_with_opencv(data: bytes, pixels: int, flags: int = cv2.IMREAD_UNCHANGED) -> "cv2.typing.MatLike | None":
    """Decode an image of `pixels` pixels with OpenCV; return None if it cannot.

    Raises:
        MemoryError: it could not, and there is not enough memory. OpenCV returns the same for a damaged image.
    """
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        np.empty(pixels * _DECODER_BYTES + _LIBRARY_BYTES, np.uint8)
    return image
