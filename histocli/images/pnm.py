"""Read the formats of Netpbm: PBM, PGM and PPM, as text (P1 to P3) and binary (P4 to P6), and PAM (P7)."""

import re

import numpy as np

from histocli.images.intensity import Values
from histocli.images.sizes import ImageError, check_pixels

_GAP = rb"(?:[ \t\n\v\f\r]|#[^\n\r]*[\n\r])+"  # white space and comments
_HEADER = re.compile(
    rb"P(?:([14])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})"
    rb"|([2356])" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9})" + _GAP + rb"(\d{1,9}))(?=[ \t\n\v\f\r#]|$)"
)
_COMMENT = re.compile(rb"#[^\n\r]*")
_SPACE = b" \t\n\v\f\r"
_MAX_WHITE = 65535
_PAM_HEADER = re.compile(rb"P7\n(?:(?!ENDHDR).*\n){1,100}ENDHDR(?=\n)")
_PAM_FIELD = re.compile(rb"^(WIDTH|HEIGHT|DEPTH|MAXVAL)\s+(\d{1,9})\s*$", re.MULTILINE)


def is_pnm(data: bytes) -> bool:
    """Return whether the first bytes of a file are those of a PBM, PGM, PPM or PAM."""
    return data[:1] == b"P" and (_HEADER.match(data) is not None or _PAM_HEADER.match(data) is not None)


def read_pnm(data: bytes) -> Values:
    """Return the image (H,W,3), uint8; uint16 if the header gives 65535 as white, as files with fewer bits may do.

    An alpha channel of a PAM is dropped. OpenCV does not scale binary values by the maximum of the header, and takes
    text with values above it; Pillow reads 16-bit text as 8 bits.

    Raises:
        ImageError: it is truncated or damaged, or has more than `MAX_PIXELS` pixels.
    """
    kind, width, height, channels, white, begin = _read_header(data)
    check_pixels(width, height)
    if not 1 <= white <= _MAX_WHITE:
        raise ImageError(f"the image is damaged: its header gives {white:,} as white")
    body = data[begin:]
    if kind == 4:
        rows = _unpack(body, height * -(-width // 8), white).reshape(height, -1)
        values = np.unpackbits(rows, axis=1, count=width)
    elif kind < 4:
        values = _parse_text(body, height * width * channels, is_binary=kind == 1)
    else:
        values = _unpack(body, height * width * channels, white)
    if int(values.max()) > white:
        raise ImageError(f"the image is damaged: it has the value {values.max():,}, but {white:,} is white")
    if kind in (1, 4):
        values = 1 - values  # 1 is black
    values = values.reshape(height, width, channels)[..., : 3 if channels > 2 else 1]
    if white == _MAX_WHITE:
        values = values.astype(np.uint16)
    elif white != 255 or values.dtype != np.uint8:
        values = np.rint(values * 255.0 / white).astype(np.uint8)
    return np.repeat(values, 3, axis=2) if channels < 3 else values


def _read_header(data: bytes) -> tuple[int, int, int, int, int, int]:
    """Return the kind (1 to 7), width, height, channels, the value of white, and the length of the header."""
    if (header := _HEADER.match(data)) is not None:
        kind, width, height, *white = (int(group) for group in header.groups() if group is not None)
        return kind, width, height, 3 if kind in (3, 6) else 1, white[0] if white else 1, header.end()
    pam = _PAM_HEADER.match(data)
    assert pam is not None
    fields = {name.decode(): int(value) for name, value in _PAM_FIELD.findall(pam[0])}
    is_rgb = re.search(rb"^TUPLTYPE\s+RGB", pam[0], re.MULTILINE) is not None
    if len(fields) < 4 or not 1 <= fields["DEPTH"] <= 4 or is_rgb != (fields["DEPTH"] > 2):  # OpenCV writes BGR
        raise ImageError("it is a PAM image whose header is not understood", "save it as PNG")
    return 7, fields["WIDTH"], fields["HEIGHT"], fields["DEPTH"], fields["MAXVAL"], pam.end()


def _parse_text(body: bytes, count: int, is_binary: bool) -> Values:
    """Return the `count` numbers of a text; bits need no space between them."""
    text = _COMMENT.sub(b"", body)
    if text.translate(None, b"0123456789" + _SPACE):
        raise ImageError("the image is damaged: it has text that is no number")
    if is_binary:
        values = np.frombuffer(text.translate(None, _SPACE), np.uint8) - ord("0")
    else:
        values = np.fromstring(text.decode(), np.int64, sep=" ") if text.strip() else np.empty(0, np.int64)
    if len(values) < count:
        raise ImageError(f"the image is truncated: it has {len(values):,} values instead of {count:,}")
    if len(values) > count:
        raise ImageError(f"the image is damaged: it has {len(values):,} values instead of {count:,}")
    return values


def _unpack(body: bytes, count: int, white: int) -> Values:
    """Return `count` bytes, or numbers of two bytes, after the one white space that ends the header."""
    dtype = np.dtype(np.uint8 if white < 256 else ">u2")
    length = count * dtype.itemsize
    begin = 2 if body[:2] == b"\r\n" and len(body) == length + 2 else 1
    if len(body) < begin + length:
        raise ImageError("the image is truncated: its header gives a larger file")
    return np.frombuffer(body, dtype, count, begin)
