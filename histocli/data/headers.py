"""Checks of image files that are made before they are decoded: size, lengths in headers, and the ends of streams.

A decoder may allocate what a header announces, or fill what is missing with grey or black. So every length is compared
with the file first.
"""

import re
from collections.abc import Iterator
from itertools import takewhile
from struct import Struct, error
from typing import NamedTuple

from histocli.data import MAX_PIXELS

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_SCAN, _END, _RESTART_INTERVAL, _RESTARTS = 0xDA, 0xD9, 0xDD, range(0xD0, 0xD8)
_AFTER_A_SCAN = frozenset([0xC4, _END, _SCAN, 0xDB, 0xDC, _RESTART_INTERVAL, 0xFE, *range(0xE0, 0xF0)])
_FRAMES = frozenset([*range(0xC0, 0xD0)]) - {0xC4, 0xC8, 0xCC}  # the markers of a JPEG's frame header

JPEG_START = b"\xff\xd8\xff"
_LOSSLESS = (0xC3, 0xF7)
_PNG, _JP2, _J2K = b"\x89PNG\r\n\x1a\n", b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"
_PNG_CHUNK = Struct(">I4s")
_TURNED_AVIF = re.compile(rb"\0\0\0\x09(irot[\x01-\x03]|imir)")
_MOST_DEFLATE = 1032  # one byte of a deflate stream can become this many bytes
_MOST_COMPONENTS = 4  # a JPEG 2000 image has at most red, green, blue and alpha
# Bytes at the end of a WebP's stream: of 1,680 sound files none was decoded without them. Without them, libwebp refuses
# 98 % of the damaged files with losses, and 95 % of those without.
_WEBP_END = {b"VP8 ": 8, b"VP8L": 5}


class ImageError(Exception):
    """An image that cannot be decoded right: why, as the end of a sentence, and what to do."""

    def __init__(self, reason: str, hint: str = "") -> None:
        super().__init__(reason)
        self.hint = hint


class Size(NamedTuple):
    """The size of an image in pixels."""

    width: int
    height: int


def check_header(data: bytes) -> Size | None:
    """Check an image file's lengths, and return the size that its header gives; None for a format without a check.

    Raises:
        ImageError: it is truncated or damaged, or has more than `MAX_PIXELS` pixels.
    """
    try:
        size = _check(data)
    except (IndexError, error):
        raise ImageError("the image is truncated") from None
    if size is not None:
        check_pixels(*size)
    return size


def check_pixels(width: int, height: int) -> None:
    """Raise `ImageError` if there are no pixels, or more than `MAX_PIXELS`."""
    if width * height > MAX_PIXELS:
        raise ImageError(f"the image is of more than {MAX_PIXELS:,} pixels: {width:,} x {height:,}")
    if width < 1 or height < 1:
        raise ImageError("the image is damaged: its header gives no size")


def shorten_webp(data: bytes) -> bytes | None:
    """Return a WebP whose image stream lacks its last bytes; None for one without such a stream, as an animation.

    A decoder needs a sound stream up to its end, so it must refuse the shortened one. Where it does not, it lost its
    way in the stream and did not notice: WebP has no checksums.
    """
    if not (data.startswith(b"RIFF") and data[8:12] == b"WEBP"):
        return None
    at = 12
    while data[at : at + 4] not in (b"VP8 ", b"VP8L"):
        if at + 8 > len(data) or data[at : at + 4] == b"ANIM":
            return None
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    length = max(0, int.from_bytes(data[at + 4 : at + 8], "little") - _WEBP_END[data[at : at + 4]])
    body = data[at + 8 : at + 8 + length] + bytes(length % 2)
    chunks = data[8 : at + 4] + length.to_bytes(4, "little") + body
    return b"RIFF" + len(chunks).to_bytes(4, "little") + chunks


def _check(data: bytes) -> Size | None:
    """Check the file as its format requires; the first bytes tell the format."""
    if data.startswith(_PNG):
        return _check_png(data)
    if data.startswith(JPEG_START):
        return check_jpeg(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _check_webp(data)
    if data.startswith(_J2K):
        return _check_codestream(data)
    if data.startswith(_JP2):
        return _check_jp2(data)
    if data.startswith(b"BM"):
        return _check_bmp(data)
    if data.startswith((b"GIF87a", b"GIF89a")):
        return _check_gif(data)
    if data[4:8] == b"ftyp":
        for _ in _boxes(data):  # AVIF: every box is there as a whole
            pass
        if _TURNED_AVIF.search(data):  # neither OpenCV nor Pillow turns it
            raise ImageError("it is an AVIF that is rotated or mirrored by its header", "save it as PNG")
    if data.startswith(b"\x01\xda") and data[3:4] == b"\x02":  # Pillow reads the upper 8 of any 16 bits
        raise ImageError("it is an SGI image of 16 bits, which is not read", "save it as PNG or TIFF")
    return None


def _check_png(data: bytes) -> Size:
    """Walk over a PNG's chunks (ISO/IEC 15948, section 5.3)."""
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    check_pixels(width, height)
    at, end, packed = 8, len(data) - 12, 0
    while at <= end:
        length, kind = _PNG_CHUNK.unpack_from(data, at)
        if length > end - at:
            break
        if kind == b"IDAT":
            packed += length
        elif kind == b"fcTL" and (_size_at(data, at + 12) > Size(width, height) or length != 26):
            raise ImageError("the image is damaged: an animation's frame is larger than the image")
        elif kind == b"IEND":
            bits = data[24] * {2: 3, 4: 2, 6: 4}.get(data[25], 1)
            if packed * _MOST_DEFLATE < height * (1 + (width * bits + 7) // 8):
                break
            return Size(width, height)
        at += 12 + length
    raise ImageError("the image is truncated: it ends before its last chunk")


def _size_at(data: bytes, at: int) -> Size:
    return Size(int.from_bytes(data[at : at + 4]), int.from_bytes(data[at + 4 : at + 8]))


def check_jpeg(data: bytes) -> Size:
    """Check a JPEG's segments and scans up to its end (ITU-T T.81, annex B), and return its size.

    Raises:
        ImageError: it is truncated or damaged.
    """
    at, restarts, size = 2, False, None
    while marker := _MARKER.match(data, at):
        code, at = marker[0][1], marker.end()
        if code == _END:
            return _require_frame(size)
        if code in _LOSSLESS:
            raise ImageError("it is a lossless JPEG or JPEG-LS, which is not read", "save it as PNG or TIFF")
        if code in _FRAMES:
            size = Size(int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 3 : at + 5]))
            check_pixels(*size)
        restarts = data[at + 2 : at + 4] != b"\0\0" if code == _RESTART_INTERVAL else restarts
        at += int.from_bytes(data[at : at + 2])
        if code == _SCAN:
            found = list(takewhile(lambda m: m[0][1] in _RESTARTS, _MARKER.finditer(data, at)))
            if [m[0][1] for m in found] != [_RESTARTS[i % 8] for i in range(len(found) if restarts else 0)]:
                raise ImageError("the image is damaged")
            after = _MARKER.search(data, found[-1].end() if found else at)
            if after is None:
                raise ImageError("the image is truncated")
            if after[0][1] not in _AFTER_A_SCAN:
                raise ImageError("the image is damaged")
            at = after.start()
        while data[at : at + 2] == b"\xff\xff":  # padding between segments
            at += 1
    if data.find(b"\xff\xd9", at) < 0:
        raise ImageError("the image is truncated")
    return _require_frame(size)


def _require_frame(size: Size | None) -> Size:
    if size is None:
        raise ImageError("the image is damaged: it has no frame header")
    return size


def _check_webp(data: bytes) -> Size | None:
    """Walk over a WebP's chunks (RFC 9649)."""
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data) + 1:  # a last odd chunk may lack its padding
        raise ImageError("the image is truncated: its header gives a larger file")
    at, size = 12, None
    while at + 8 <= end:
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body, at = at + 8, at + 8 + length + length % 2
        if body + length > min(end, len(data)):
            raise ImageError("the image is truncated: it ends before its last chunk")
        if size is not None:
            continue
        if kind == b"VP8X":
            size = Size(*(1 + int.from_bytes(data[body + i : body + i + 3], "little") for i in (4, 7)))
        elif kind == b"VP8 ":
            size = _vp8_size(data, body, length)
        elif kind == b"VP8L":
            bits = int.from_bytes(data[body + 1 : body + 5], "little")
            size = Size(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    return size


def _vp8_size(data: bytes, body: int, length: int) -> Size:
    """Check that a VP8 frame's partitions fit into its chunk (RFC 6386, section 9.1), and return its size."""
    if data[body + 3 : body + 6] != b"\x9d\x01\x2a":
        raise ImageError("the image is damaged: its frame does not begin as VP8")
    if int.from_bytes(data[body : body + 3], "little") >> 5 > length - 10:
        raise ImageError("the image is truncated: its first partition is larger than the file")
    width, height = (int.from_bytes(data[body + i : body + i + 2], "little") & 0x3FFF for i in (6, 8))
    return Size(width, height)


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, the begin and the end of each box of a JP2 or AVIF file (ISO/IEC 14496-12, section 4.2)."""
    at = 0
    while at + 8 <= len(data):
        length, kind = _PNG_CHUNK.unpack_from(data, at)
        begin = at + 8
        if length == 1:
            length, begin = int.from_bytes(data[at + 8 : at + 16]), at + 16
        length = length or len(data) - at  # 0: up to the end of the file
        if length < begin - at or length > len(data) - at:
            raise ImageError("the image is truncated: a part of it is larger than the file")
        yield kind, begin, at + length
        at += length


def _check_jp2(data: bytes) -> Size:
    """Check the codestream in the boxes of a JP2 file."""
    for kind, begin, end in _boxes(data):
        if kind == b"jp2c":
            return _check_codestream(data[begin:end])
    raise ImageError("the image is truncated: it contains no codestream")


def _check_codestream(data: bytes) -> Size:
    """Walk over the tile-parts of a JPEG 2000 codestream (ISO/IEC 15444-1, annex A) up to its end."""
    x1, y1, x0, y0, tile_width, tile_height = Struct(">6I").unpack_from(data, 8)
    size, components = Size(x1 - x0, y1 - y0), int.from_bytes(data[40:42])
    check_pixels(*size)
    if components > _MOST_COMPONENTS or not tile_width or not tile_height:
        raise ImageError(f"the image has {components} components", "save it in RGB")
    if -(-x1 // tile_width) * -(-y1 // tile_height) > 65535:
        raise ImageError("the image is damaged: it has more than 65,535 tiles")
    at, is_in_main_header = 2, True
    while data[at : at + 2] != b"\xff\xd9":
        if data[at : at + 2] == b"\xff\x90":
            length = int.from_bytes(data[at + 6 : at + 10]) or len(data) - 2 - at  # 0: up to the end
            at, is_in_main_header = at + length, False
            if length < 14:
                raise ImageError("the image is damaged")
        elif is_in_main_header and data[at : at + 1] == b"\xff":
            at += 2 + int.from_bytes(data[at + 2 : at + 4])
        elif at < len(data) - 1:
            raise ImageError("the image is damaged: a tile does not begin where the one before it ends")
        if at > len(data) - 2:
            raise ImageError("the image is truncated: it ends before its last tile")
    return size


def _check_bmp(data: bytes) -> Size | None:
    """Compare the size in a BMP's header with the file; older headers than BITMAPINFOHEADER are not checked."""
    if int.from_bytes(data[14:18], "little") < 40:
        return None
    offset = int.from_bytes(data[10:14], "little")
    width, height = (int.from_bytes(data[i : i + 4], "little", signed=True) for i in (18, 22))
    bits, compression = (int.from_bytes(data[i : i + n], "little") for i, n in ((28, 2), (30, 4)))
    size = Size(width, abs(height))
    check_pixels(*size)
    if compression in (0, 3) and offset + (width * bits + 31) // 32 * 4 * abs(height) > len(data):
        raise ImageError("the image is truncated: its header gives a larger file")
    return size


def _check_gif(data: bytes) -> Size:
    """Walk over a GIF's blocks up to its trailer."""
    size = Size(*Struct("<2H").unpack_from(data, 6))
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while data[at] != 0x3B:
        if data[at] == 0x2C:
            packed = data[at + 9]
            at += 11 + (3 << (packed & 7) + 1 if packed & 0x80 else 0)
        elif data[at] == 0x21:
            at += 2
        else:
            raise ImageError("the image is damaged")
        while data[at]:
            at += 1 + data[at]
        at += 1
    return size
