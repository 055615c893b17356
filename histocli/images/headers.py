"""Checks of image files that are made before they are decoded: size, lengths in headers, and the ends of streams.

A decoder may allocate what a header announces, or fill what is missing with grey or black. Therefore every length is
compared with the file first.
"""

import re
from collections.abc import Iterator
from itertools import takewhile
from struct import Struct, error
from zlib import crc32

from histocli.images.boxes import check_avif
from histocli.images.jpeg2000 import J2K, JP2, check_codestream, check_jp2
from histocli.images.sizes import ImageError, Size, check_pixels

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_SCAN, _END, _RESTART_INTERVAL, _RESTARTS = 0xDA, 0xD9, 0xDD, range(0xD0, 0xD8)
_MARKERS_AFTER_SCAN = frozenset([0xC4, _END, _SCAN, 0xDB, 0xDC, _RESTART_INTERVAL, 0xFE, *range(0xE0, 0xF0)])
_FRAMES = frozenset([*range(0xC0, 0xD0)]) - {0xC4, 0xC8, 0xCC}  # the markers of a JPEG's frame header

JPEG_START = b"\xff\xd8\xff"
_LOSSLESS, _ARITHMETIC = (0xC3, 0xF7), (0xC9, 0xCA)
_MAX_SCANS = 100  # in a JPEG: encoders write about ten, and each takes the time of a whole image
PNG = b"\x89PNG\r\n\x1a\n"
_GIF = (b"GIF87a", b"GIF89a")
_GIF_FRAME, _GIF_EXTENSION, _GIF_TRAILER = b",!;"
_PNG_CHUNK = Struct(">I4s")
_MAX_DEFLATE_RATIO = 1032  # one byte of a deflate stream can become this many bytes
_CHECKED_PNG_CHUNKS = (b"IHDR", b"PLTE", b"IDAT")  # those without which there are no pixels
_ANCILLARY = 0x20  # a bit of the first letter of a chunk's name: a decoder need not know this chunk
_BMP_MASKS = (0xFF0000, 0xFF00, 0xFF)  # of R, G and B in a pixel of 32 bits
_BMP_BYTES = {0xFF << shift for shift in (0, 8, 16, 24)}
_WEBP_START_BYTES = {b"VP8X": 10, b"VP8 ": 10, b"VP8L": 5}  # with the size and the flags
# Bytes at the end of a WebP's stream. Of 1,680 undamaged files, none could be decoded without them. Of damaged files
# without them, libwebp refuses 98% of the lossy and 95% of the lossless ones.
_WEBP_END_BYTES = {b"VP8 ": 8, b"VP8L": 5}


def check_header(data: bytes) -> Size | None:
    """Check an image file's lengths, and return the size that its header gives; None for a format without a check.

    Raises:
        ImageError: it is truncated or damaged, or has more than `MAX_PIXELS` pixels.
    """
    try:
        size = _check(data)
    except (IndexError, OverflowError, error):
        raise ImageError("the image is truncated") from None
    if size is not None:
        check_pixels(*size)
    return size


def is_animated(data: bytes) -> bool:
    """Return whether a PNG, WebP or GIF whose header was checked has more than one frame."""
    if data.startswith(PNG):
        return b"acTL" in data[: data.find(b"IDAT")]  # APNG: before the first frame
    if data.startswith(b"RIFF") and data[8:16] == b"WEBPVP8X":
        return bool(data[20] & 2)
    return data.startswith(_GIF) and sum(1 for kind in _iterate_gif_blocks(data) if kind == _GIF_FRAME) > 1


def shorten_webp(data: bytes) -> bytes | None:
    """Return a WebP whose image stream lacks its last bytes; None for one without such a stream, such as an animation.

    A decoder reads an undamaged stream up to its end, so it must refuse the shortened one. If it accepts the shortened
    one, the stream is damaged and the decoder did not notice it: WebP has no checksums.
    """
    if not (data.startswith(b"RIFF") and data[8:12] == b"WEBP"):
        return None
    at = 12
    while data[at : at + 4] not in (b"VP8 ", b"VP8L"):
        if at + 8 > len(data) or data[at : at + 4] == b"ANIM":
            return None
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        at += 8 + length + length % 2
    length = max(0, int.from_bytes(data[at + 4 : at + 8], "little") - _WEBP_END_BYTES[data[at : at + 4]])
    body = data[at + 8 : at + 8 + length] + bytes(length % 2)
    chunks = data[8 : at + 4] + length.to_bytes(4, "little") + body
    return b"RIFF" + len(chunks).to_bytes(4, "little") + chunks


def _check(data: bytes) -> Size | None:
    """Check the file as its format requires; the first bytes tell the format."""
    if data.startswith(PNG):
        return _check_png(data)
    if data.startswith(JPEG_START):
        return check_jpeg(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _check_webp(data)
    if data.startswith(J2K):
        return check_codestream(data)
    if data.startswith(JP2):
        return check_jp2(data)
    if data.startswith(b"BM"):
        return _check_bmp(data)
    if data.startswith(_GIF):
        return _check_gif(data)
    if data[4:8] == b"ftyp":
        return check_avif(data)
    if data.startswith(b"\x01\xda") and data[3:4] == b"\x02":  # Pillow reads the upper 8 of any 16 bits
        raise ImageError("it is an SGI image of 16 bits, which is not read", "save it as PNG or TIFF")
    return None


def _check_png(data: bytes) -> Size:
    """Walk over a PNG's chunks (ISO/IEC 15948, section 5.3)."""
    size = _read_size(data, 16)
    check_pixels(*size)
    at, end, packed, view = 8, len(data) - 12, 0, memoryview(data)
    while at <= end:
        length, kind = _PNG_CHUNK.unpack_from(data, at)
        if length > end - at:
            break
        if kind in _CHECKED_PNG_CHUNKS:
            chunk = view[at + 4 : at + 12 + length]  # without its length; the CRC-32 is at its end
            if crc32(chunk[:-4]) != int.from_bytes(chunk[-4:]):
                raise ImageError("the image is damaged: the checksum of a chunk is wrong")
        if kind == b"IDAT":
            packed += length
        elif kind == b"fcTL" and (_read_size(data, at + 12) > size or length != 26):
            raise ImageError("the image is damaged: an animation's frame is larger than the image")
        elif kind == b"IEND":
            bits = data[24] * {2: 3, 4: 2, 6: 4}.get(data[25], 1)
            if packed * _MAX_DEFLATE_RATIO < size.height * (1 + (size.width * bits + 7) // 8):
                break
            return size
        at += 12 + length
    raise ImageError("the image is truncated: it ends before its last chunk")


def remove_unused_chunks(data: bytes) -> bytes:
    """Remove what does not change the pixels from a PNG that `check_header` has checked; return other files unchanged.

    Of all chunks that a decoder need not know, transparency (tRNS) and Exif stay. Texts can be compressed: a thousand
    of them, some megabytes in the file, take gigabytes in libpng. With the chunks of an animation, OpenCV returns black
    where the first image is no frame. Of other chunks that are malformed, libpng prints a warning for each image.
    """
    if not data.startswith(PNG):
        return data
    parts, kept = [], 0
    for kind, at, end in iterate_png_chunks(data):
        is_exif = kind == b"eXIf" and data[at + 8 : at + 12] in (b"II*\0", b"MM\0*")
        if kind[0] & _ANCILLARY and kind != b"tRNS" and not is_exif:
            parts.append(data[kept:at])
            kept = end
    return b"".join([*parts, data[kept:]]) if parts else data


def iterate_png_chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, the begin and the end of each chunk of a PNG that `check_header` has checked."""
    at = 8
    while at + 12 <= len(data):
        length, kind = _PNG_CHUNK.unpack_from(data, at)
        yield kind, at, at + 12 + length
        at += 12 + length


def _read_size(data: bytes, at: int) -> Size:
    return Size(int.from_bytes(data[at : at + 4]), int.from_bytes(data[at + 4 : at + 8]))


def check_jpeg(data: bytes) -> Size:
    """Check a JPEG's segments and scans up to its end (ITU-T T.81, annex B), and return its size.

    Raises:
        ImageError: it is truncated or damaged.
    """
    at, restarts, size, scans = 2, False, None, 0
    while marker := _MARKER.match(data, at):
        code, at = marker[0][1], marker.end()
        if code == _END:
            break
        if code in _LOSSLESS:
            raise ImageError("it is a lossless JPEG or JPEG-LS, which is not read", "save it as PNG or TIFF")
        if code in _ARITHMETIC:  # a decoder would read pixels from the bytes of any other coding
            raise ImageError("it is a JPEG with arithmetic coding, which is not read", "save it as PNG or TIFF")
        if code in _FRAMES:
            size = Size(int.from_bytes(data[at + 5 : at + 7]), int.from_bytes(data[at + 3 : at + 5]))
            check_pixels(*size)
        restarts = data[at + 2 : at + 4] != b"\0\0" if code == _RESTART_INTERVAL else restarts
        at += int.from_bytes(data[at : at + 2])
        if code == _SCAN:
            if (scans := scans + 1) > _MAX_SCANS:
                raise ImageError(f"the image is damaged: it has more than {_MAX_SCANS} scans")
            found = list(takewhile(lambda m: m[0][1] in _RESTARTS, _MARKER.finditer(data, at)))
            if [m[0][1] for m in found] != [_RESTARTS[i % 8] for i in range(len(found) if restarts else 0)]:
                raise ImageError("the image is damaged")
            after = _MARKER.search(data, found[-1].end() if found else at)
            if after is None:
                raise ImageError("the image is truncated")
            if after[0][1] not in _MARKERS_AFTER_SCAN:
                raise ImageError("the image is damaged")
            at = after.start()
        while data[at : at + 2] == b"\xff\xff":  # padding between segments
            at += 1
    if marker is None and data.find(b"\xff\xd9", at) < 0:
        raise ImageError("the image is truncated")
    if size is None:
        raise ImageError("the image is damaged: it has no frame header")
    return size


def _check_webp(data: bytes) -> Size:
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
        if length < _WEBP_START_BYTES.get(kind, 0):
            raise ImageError("the image is truncated: the chunk with its size is too short")
        if kind == b"VP8X":
            size = Size(*(1 + int.from_bytes(data[body + i : body + i + 3], "little") for i in (4, 7)))
        elif kind == b"VP8 ":
            size = _check_vp8(data, body, length)
        elif kind == b"VP8L":
            bits = int.from_bytes(data[body + 1 : body + 5], "little")
            size = Size(1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF))
    if size is None:
        raise ImageError("the image is truncated: it has no chunk with its size")
    return size


def _check_vp8(data: bytes, body: int, length: int) -> Size:
    """Check that a VP8 frame's partitions fit into its chunk (RFC 6386, section 9.1), and return its size."""
    if data[body + 3 : body + 6] != b"\x9d\x01\x2a":
        raise ImageError("the image is damaged: its data do not begin with the bytes of a VP8 frame")
    if int.from_bytes(data[body : body + 3], "little") >> 5 > length - 10:
        raise ImageError("the image is truncated: its first partition is larger than the file")
    width, height = (int.from_bytes(data[body + i : body + i + 2], "little") & 0x3FFF for i in (6, 8))
    return Size(width, height)


def _check_bmp(data: bytes) -> Size | None:
    """Compare the size in a BMP's header with the file; older headers than BITMAPINFOHEADER are not checked."""
    if int.from_bytes(data[14:18], "little") < 40:
        return None
    offset = int.from_bytes(data[10:14], "little")
    width, height = (int.from_bytes(data[i : i + 4], "little", signed=True) for i in (18, 22))
    bits, compression = (int.from_bytes(data[i : i + n], "little") for i, n in ((28, 2), (30, 4)))
    size = Size(width, abs(height))
    check_pixels(*size)
    if compression == 3 and bits == 32:
        # OpenCV ignores the masks after a header of 40 bytes, and reads 8 bits of channels that have more.
        masks, is_old = Struct("<3I").unpack_from(data, 54), int.from_bytes(data[14:18], "little") < 56
        if masks != _BMP_MASKS and (is_old or len(_BMP_BYTES.intersection(masks)) < 3):
            raise ImageError("it is a BMP of an unusual order of channels, which is not read", "save it as PNG")
    if compression in (0, 3) and offset + (width * bits + 31) // 32 * 4 * abs(height) > len(data):
        raise ImageError("the image is truncated: its header gives a larger file")
    return size


def _check_gif(data: bytes) -> Size:
    """Walk over a GIF's blocks up to its trailer."""
    for kind in _iterate_gif_blocks(data):
        if kind not in (_GIF_FRAME, _GIF_EXTENSION):
            raise ImageError("the image is damaged")
    return Size(*Struct("<2H").unpack_from(data, 6))


def _iterate_gif_blocks(data: bytes) -> Iterator[int]:
    """Yield the kind of each block before the trailer; raises IndexError where the file ends before it."""
    at = 13 + (3 << (data[10] & 7) + 1 if data[10] & 0x80 else 0)
    while (kind := data[at]) != _GIF_TRAILER:
        yield kind
        if kind == _GIF_FRAME:
            packed = data[at + 9]
            at += 11 + (3 << (packed & 7) + 1 if packed & 0x80 else 0)
        else:
            at += 2
        while data[at]:
            at += 1 + data[at]
        at += 1
