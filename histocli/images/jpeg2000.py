"""Checks of JPEG 2000 files before they are decoded (ISO/IEC 15444-1)."""

from struct import Struct

from histocli.images.boxes import iterate_boxes
from histocli.images.sizes import ImageError, Size, check_pixels

JP2, J2K = b"\0\0\0\x0cjP  ", b"\xff\x4f\xff\x51"
_MAX_COMPONENTS = 4  # red, green, blue and alpha
_MAX_TILES = 4096
# OpenJPEG allocates about 400 bytes for each precinct, and two for each precinct in each layer. With the sizes of
# precincts that encoders choose, an image of 2,048 x 2,048 has fewer than 10,000.
_MAX_PRECINCTS = 1 << 15
_MAX_PACKETS = 1 << 21
_TILE_PART, _CODING, _CODING_OF_COMPONENT, _DATA = b"\xff\x90", b"\xff\x52", b"\xff\x53", b"\xff\x93"
_ENUMERATED, _PROFILE = 1, 2  # how a box colr gives the colour space: a number, or an ICC profile
_SRGB, _GREY = 16, 17
_OTHER_SPACES = {12: "CMYK", 14: "CIELab", 18: "sYCC"}


def check_jp2(data: bytes) -> Size:
    """Check the colour space and the codestream in the boxes of a JP2 file.

    Raises:
        ImageError: the colour space is neither sRGB nor grey; or as `check_codestream`.
    """
    for kind, begin, end in iterate_boxes(data):
        if kind == b"jp2h":
            _check_colour_space(data, begin, end)
        if kind == b"jp2c":
            return check_codestream(data[begin:end])
    raise ImageError("the image is truncated: it contains no codestream")


def _check_colour_space(data: bytes, begin: int, end: int) -> None:
    """Check the colour space in the header box of a JP2 file (annex I.5.3.3); a profile is not applied.

    OpenCV reads other colour spaces as RGB, or with wrong colours.
    """
    for kind, at, _ in iterate_boxes(data, begin, end):
        if kind != b"colr" or data[at] not in (_ENUMERATED, _PROFILE):
            continue
        space = int.from_bytes(data[at + 3 : at + 7])
        if data[at] == _ENUMERATED and space not in (_SRGB, _GREY):
            name = _OTHER_SPACES.get(space, str(space))
            raise ImageError(f"it is a JPEG 2000 in the colour space {name}, which is not read", "save it as PNG")
        return  # decoders use the first of several such boxes


def check_codestream(data: bytes) -> Size:
    """Walk over the tile-parts of a codestream (annex A) up to its end, and return the image's size.

    Raises:
        ImageError: it is truncated or damaged, or has more tiles or precincts than an image of its size needs.
    """
    x1, y1, x0, y0, tile_width, tile_height = Struct(">6I").unpack_from(data, 8)
    size, components = Size(x1 - x0, y1 - y0), int.from_bytes(data[40:42])
    check_pixels(*size)
    if components > _MAX_COMPONENTS or not tile_width or not tile_height:
        raise ImageError(f"the image has {components} components", "save it in RGB")
    if -(-x1 // tile_width) * -(-y1 // tile_height) > _MAX_TILES:
        raise ImageError(f"the image is damaged: it has more than {_MAX_TILES:,} tiles")
    at, is_in_main_header = 2, True
    while data[at : at + 2] != b"\xff\xd9":
        if data[at : at + 2] == _TILE_PART:
            length = int.from_bytes(data[at + 6 : at + 10]) or len(data) - 2 - at  # 0: up to the end
            if length < 14:
                raise ImageError("the image is damaged")
            _check_tile_header(data[at + 12 : at + length], size, components)
            at, is_in_main_header = at + length, False
        elif is_in_main_header and data[at : at + 1] == b"\xff":
            length = 2 + int.from_bytes(data[at + 2 : at + 4])
            _check_coding(data[at : at + length], size, components)
            at += length
        elif at < len(data) - 1:
            raise ImageError("the image is damaged: a tile does not begin where the one before it ends")
        if at > len(data) - 2:
            raise ImageError("the image is truncated: it ends before its last tile")
    return size


def has_8_bits(data: bytes) -> bool:
    """Return whether a JP2 file or a codestream says, in its marker SIZ, that no component has more than 8 bits.

    It returns False if `data` is of another format, or ends before this marker.
    """
    at, count = _find_codestream(data), count_components(data)
    depths = data[at + 42 : at + 42 + 3 * count : 3]  # the number of bits minus 1; the highest bit is set if signed
    return 0 < count == len(depths) and max(depths) < 8


def count_components(data: bytes) -> int:
    """Return how many channels a JP2 file or a codestream has; 0 for another format, or for too few bytes."""
    at = _find_codestream(data)
    return int.from_bytes(data[at + 40 : at + 42]) if at >= 0 else 0


def _find_codestream(data: bytes) -> int:
    """Return where the codestream begins; -1 if there is none."""
    return data.find(J2K) if data.startswith(JP2) else 0 if data.startswith(J2K) else -1


def _check_tile_header(part: bytes, size: Size, components: int) -> None:
    """Check the markers of a tile-part before its data."""
    at = 0
    while part[at : at + 2] != _DATA:
        if at >= len(part) or part[at] != 0xFF:
            raise ImageError("the image is damaged: a tile has no data")
        length = 2 + int.from_bytes(part[at + 2 : at + 4])
        _check_coding(part[at : at + length], size, components)
        at += length


def _check_coding(marker: bytes, size: Size, components: int) -> None:
    """Check the number of precincts and layers that a marker COD or COC gives."""
    if marker.startswith(_CODING):
        has_precincts, layers, levels, precincts = marker[4] & 1, int.from_bytes(marker[6:8]), marker[9], marker[14:]
    elif marker.startswith(_CODING_OF_COMPONENT):
        has_precincts, layers, levels, precincts = marker[5] & 1, 1, marker[6], marker[11:]
    else:
        return
    count = components
    if has_precincts:
        if len(precincts) <= levels:
            raise ImageError("the image is damaged: sizes of precincts are missing")
        count = components * sum(
            _count_precincts(size, levels - level, precincts[level]) for level in range(levels + 1)
        )
    if count > _MAX_PRECINCTS or count * layers > _MAX_PACKETS:
        raise ImageError(f"the image is damaged: it has {count:,} precincts in {layers:,} layers")


def _count_precincts(size: Size, reduction: int, exponents: int) -> int:
    """Return how many precincts there are in an image whose sides are divided by 2**reduction.

    A precinct has 2**x by 2**y pixels: x is the lower half of the byte `exponents`, and y the upper half.
    """
    width, height = (-(-side >> reduction) if reduction else side for side in size)
    return (1 + (width >> (exponents & 15))) * (1 + (height >> (exponents >> 4)))
