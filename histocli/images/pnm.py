"""Read two formats of Netpbm, PGM and PPM, in their binary forms (P5 and P6).

OpenCV does not scale the values by the maximum in the header. Pillow clips values above it, reads PPM of 16 bits as 8
bits, and shifts the colours if the header ends with a carriage return and a newline.
"""

import re

import numpy as np

from histocli.images.intensity import Values
from histocli.images.sizes import ImageError, check_pixels

_START = re.compile(rb"P[1-7][ \t\n\v\f\r#]")
_NUMBER = rb"(?:[ \t\n\v\f\r]|#[^\n\r]*[\n\r])+(\d{1,9})"  # after white space and comments
_HEADER = re.compile(rb"P[56]" + 3 * _NUMBER + rb"[ \t\n\v\f\r]")
_MAX_WHITE = 65535
_HINT = "save it as PNG"


def is_pnm(data: bytes) -> bool:
    """Return whether the first bytes of a file are those of a PBM, PGM, PPM or PAM."""
    return _START.match(data) is not None


def read_pnm(data: bytes) -> Values:
    """Return the image (H,W,3), uint8; uint16 if the header gives 65535 as white, as files with fewer bits may do.

    White space after the pixels is ignored, but not if the header ends with a carriage return: a newline may then
    belong to the header, and what looks like white space at the end could be the last pixel.

    Raises:
        ImageError: it is not a binary PGM or PPM, is truncated or damaged, or has more than `MAX_PIXELS` pixels.
    """
    if data[1:2] not in b"56":
        raise ImageError(f"of the Netpbm formats only P5 and P6 are read, but it is {data[:2].decode()}", _HINT)
    header = _HEADER.match(data)
    if header is None:
        raise ImageError("the image is damaged: its header is not that of a PGM or PPM", _HINT)
    width, height, white = map(int, header.groups())
    check_pixels(width, height)
    if not 1 <= white <= _MAX_WHITE:
        raise ImageError(f"the image is damaged: its header gives {white:,} as white")
    channels = 3 if data[1:2] == b"6" else 1
    dtype = np.dtype(np.uint8 if white < 256 else ">u2")
    numel = width * height * channels
    size, expected = len(data) - header.end(), numel * dtype.itemsize
    is_padded = header[0][-1:] != b"\r" and not data[header.end() + expected :].strip()
    if size < expected or (size > expected and not is_padded):
        state = "truncated" if size < expected else "damaged"
        raise ImageError(f"the image is {state}: its pixels have {size:,} bytes instead of {expected:,}", _HINT)
    values: Values = np.frombuffer(data, dtype, numel, header.end()).reshape(height, width, channels)
    if white != 255 and values.max() > white:
        raise ImageError(f"the image is damaged: it has the value {values.max():,}, but {white:,} is white")
    if white == _MAX_WHITE:
        values = values.astype(np.uint16)
    elif white != 255:
        values = np.rint(values * 255.0 / white).astype(np.uint8)
    return np.repeat(values, 3, axis=2) if channels == 1 else values
