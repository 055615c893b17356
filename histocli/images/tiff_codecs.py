"""The compressions of TIFF that tifffile unpacks, and the sizes of the images inside the segments.

Some compressions store whole images with headers of their own. A decoder allocates the memory that these
announce, so they are compared with the size of a segment first.
"""

from collections.abc import Callable
from struct import Struct, error

from histocli.images.headers import check_header
from histocli.images.sizes import ImageError, Size
from histocli.images.tiff_layout import Layout

_JXL_BITS = (9, 13, 18, 30)  # bits of a side; the two bits before it choose one of these
_JXL_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}


def _read_jxl_size(data: bytes) -> Size | None:
    """Return the size in the header of a JPEG XL codestream (ISO/IEC 18181-1, section D.2)."""
    if data[:2] != b"\xff\x0a":
        return None
    bits, at = int.from_bytes(data[2:14], "little"), 0

    def take(count: int) -> int:
        nonlocal at
        at += count
        return bits >> at - count & (1 << count) - 1

    is_small = take(1)

    def read_side() -> int:
        return 8 * (take(5) + 1) if is_small else take(_JXL_BITS[take(2)]) + 1

    height, ratio = read_side(), take(3)
    if not ratio:
        return Size(read_side(), height)
    across, down = _JXL_RATIOS[ratio]
    return Size(height * across // down, height)


def _read_lerc_size(data: bytes) -> Size | None:
    """Return the size in the header of a LERC blob, version 2."""
    if data[:6] != b"Lerc2 ":
        return None
    (version,) = Struct("<i").unpack_from(data, 6)
    height, width = Struct("<2i").unpack_from(data, 14 if version > 2 else 10)
    return Size(width, height)


CODEC_NAMES = {
    2: "CCITT",
    3: "CCITT",
    4: "CCITT",
    6: "old JPEG",
    33003: "JPEG 2000",
    33005: "JPEG 2000",
    34712: "JPEG 2000",
    34887: "LERC",
    34925: "LZMA",
    34933: "PNG",
    50000: "Zstandard",
    50001: "WebP",
    50002: "JPEG XL",
    52546: "JPEG XL",
}
_SIZES: dict[str, Callable[[bytes], Size | None]] = {
    "old JPEG": check_header,
    "JPEG 2000": check_header,
    "PNG": check_header,
    "WebP": check_header,
    "LERC": _read_lerc_size,
    "JPEG XL": _read_jxl_size,
}


def check_segments(layout: Layout) -> None:
    """Check that no segment holds an image that is larger than the segment.

    Raises:
        ImageError: one does, or its header cannot be read; or the compression is not known.
    """
    name = CODEC_NAMES.get(layout.compression)
    if name is None:
        raise ImageError(f"its compression (number {layout.compression}) is not read", "save it as PNG")
    if name not in _SIZES:
        return
    for at, length in layout.find_segments():
        try:
            size = _SIZES[name](layout.page.data[at : at + length])
        except error:
            size = None  # it is shorter than a header
        if size is None:
            raise ImageError(f"the image is damaged, or its compression ({name}) is of another kind", "save it as PNG")
        if size.width * size.height > layout.segment_width * layout.segment_height:
            raise ImageError(f"the image is damaged: a segment of it has {size.width:,} x {size.height:,} pixels")
