"""The boxes of JP2 and AVIF files (ISO/IEC 14496-12), and checks of AVIF files before they are decoded.

An AVIF file says its size twice: in a box, and in its AV1 stream, by which a decoder allocates memory.
"""

from collections.abc import Iterator
from struct import Struct

from histocli.images.sizes import ImageError, Size, check_pixels

_BOX = Struct(">I4s")
_NO_IMAGES = (b"Exif", b"mime")
_SEQUENCE_HEADER = 1  # the type of an OBU, a unit of an AV1 stream


def iterate_boxes(data: bytes, at: int = 0, stop: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, the begin and the end of each box between two positions of a file.

    Raises:
        ImageError: a box is larger than this range.
    """
    stop = len(data) if stop is None else stop
    while at + 8 <= stop:
        length, kind = _BOX.unpack_from(data, at)
        begin = at + 8
        if length == 1:
            length, begin = int.from_bytes(data[at + 8 : at + 16]), at + 16
        length = length or stop - at  # 0: up to the end
        if length < begin - at or length > stop - at:
            raise ImageError("the image is truncated: a box in it is larger than the file")
        yield kind, begin, at + length
        at += length


def check_avif(data: bytes) -> Size | None:
    """Return the largest size that an AVIF file gives, in its boxes or its AV1 streams; None if there is no image.

    Raises:
        ImageError: it is truncated, has more than `MAX_PIXELS` pixels, or is no plain still image.
    """
    found: list[Size] = []
    for kind, begin, end in iterate_boxes(data):
        if kind == b"moov":
            raise ImageError("it is an animated AVIF, which is not read", "save it as PNG")
        if kind == b"meta":
            found += _read_sizes(data, begin + 4, end)
    for size in found:
        check_pixels(*size)
    return max(found, key=lambda size: (max(size), min(size)), default=None)


def _make_structure_error() -> ImageError:
    return ImageError("it is an AVIF file of an unusual structure, which is not read", "save it as PNG")


def _read_sizes(data: bytes, begin: int, end: int) -> Iterator[Size]:
    """Yield the sizes of the images in a meta box."""
    boxes = {kind: (first, last) for kind, first, last in iterate_boxes(data, begin, end)}
    properties, names, places = (boxes.get(kind, (0, 0)) for kind in (b"iprp", b"iinf", b"iloc"))
    for kind, first, last in iterate_boxes(data, *properties):
        for name, at, _ in iterate_boxes(data, first, last) if kind == b"ipco" else ():
            if name == b"imir" or (name == b"irot" and data[at] & 3):  # neither OpenCV nor Pillow turns it
                raise ImageError("it is an AVIF that is rotated or mirrored by its header", "save it as PNG")
            if name == b"ispe":
                yield Size(int.from_bytes(data[at + 4 : at + 8]), int.from_bytes(data[at + 8 : at + 12]))
    kinds = dict(_read_item_kinds(data, *names))
    for item, at, length in _find_items(data, *places):
        if kinds.get(item) == b"av01":
            yield from _read_stream_sizes(data[at : at + length])
        elif kinds.get(item) not in _NO_IMAGES:
            raise _make_structure_error()


def _read_item_kinds(data: bytes, begin: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield the number and the kind of each item in an iinf box."""
    for kind, at, _ in iterate_boxes(data, begin + (6 if data[begin : begin + 1] == b"\0" else 8), end):
        if kind == b"infe":
            wide = 4 if data[at] > 2 else 2
            yield int.from_bytes(data[at + 4 : at + 4 + wide]), data[at + 6 + wide : at + 10 + wide]


def _find_items(data: bytes, begin: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield the number of each item in an iloc box, and the position and the length of its only extent."""
    reader, version = _Bits(data[begin:end]), data[begin] if end else 0
    reader.take(32)
    offset_bits, length_bits, base_bits, index_bits = (8 * reader.take(4) for _ in range(4))
    for _ in range(reader.take(32 if version == 2 else 16) if end else 0):
        item = reader.take(32 if version == 2 else 16)
        method = reader.take(16) if version else 0
        reader.take(16)  # which file: 0 is this one
        base = reader.take(base_bits)
        if method or reader.take(16) != 1:
            raise _make_structure_error()
        reader.take(index_bits if version else 0)
        yield item, base + reader.take(offset_bits), reader.take(length_bits) or len(data)


def _read_stream_sizes(stream: bytes) -> Iterator[Size]:
    """Yield the size in each sequence header of an AV1 stream (AV1 specification, section 5.3)."""
    at = 0
    while at < len(stream):
        kind, has_extension, has_length = stream[at] >> 3 & 15, stream[at] >> 2 & 1, stream[at] >> 1 & 1
        at += 1 + has_extension
        length = shift = 0
        while has_length:  # seven bits in each byte
            length |= (stream[at] & 127) << shift
            has_length, shift, at = stream[at] >> 7, shift + 7, at + 1
        end = at + length if shift else len(stream)
        if kind == _SEQUENCE_HEADER:
            yield _read_sequence_size(_Bits(stream[at:end]))
        at = end


def _read_sequence_size(bits: "_Bits") -> Size:
    """Return the size in an AV1 sequence header (section 5.5.1)."""
    bits.take(4)  # the profile, and whether it is a still picture
    if bits.take(1):  # the short header of a still picture
        bits.take(5)
    else:
        if bits.take(1):  # the timing of a video
            raise _make_structure_error()
        has_delays = bits.take(1)
        for _ in range(bits.take(5) + 1):
            bits.take(12)
            if bits.take(5) > 7:
                bits.take(1)
            if has_delays and bits.take(1):
                bits.take(4)
    width_bits, height_bits = bits.take(4) + 1, bits.take(4) + 1
    return Size(bits.take(width_bits) + 1, bits.take(height_bits) + 1)


class _Bits:
    """The bits of some bytes, the highest first."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    def take(self, count: int) -> int:
        """Return the next bits as a number.

        Raises:
            IndexError: there are fewer bits; `check_header` then says that the image is truncated.
        """
        end = self._at + count
        if end > 8 * len(self._data):
            raise IndexError("too few bits are left")
        value = int.from_bytes(self._data[self._at // 8 : -(-end // 8)]) >> -end % 8
        self._at = end
        return value & (1 << count) - 1
