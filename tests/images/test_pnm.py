"""PBM, PGM and PPM: text and binary, with any maximum in the header."""

import itertools

import numpy as np
import pytest

from histocli.errors import HistoError
from histocli.images.decode import decode

WHITES = [1, 15, 100, 255, 4095, 65535]
SPACES = [" ", "\n", "\t", "\r\n", " # a comment\n"]


def draw(kind, white):
    """Return random values of an image of a kind (P1 to P6), and what they are as uint8 RGB."""
    shape = (20, 22, 3) if kind in ("P3", "P6") else (20, 22)
    values = np.random.default_rng(white).integers(0, white + 1, shape)
    values.flat[0] = white
    grey = 1 - values if kind in ("P1", "P4") else values
    pixels = grey >> 8 if white == 65535 else np.rint(grey * 255 / white)
    return values, pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def header(kind, white, space=" "):
    return space.join([kind, "22", "20", *([] if kind in ("P1", "P4") else [str(white)])]).encode()


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize(("kind", "white"), [("P1", 1), *itertools.product(("P2", "P3"), WHITES)])
def test_values_may_be_separated_by_any_white_space(kind, white, space):
    values, pixels = draw(kind, white)
    body = space.join(map(str, values.flat)).encode()
    np.testing.assert_array_equal(decode(header(kind, white, space) + space.encode() + body, "x"), pixels)


def test_the_bits_of_a_pbm_need_no_spaces_between_them():
    values, pixels = draw("P1", 1)
    np.testing.assert_array_equal(decode(b"P1 22 20\n" + "".join(map(str, values.flat)).encode(), "x"), pixels)


@pytest.mark.parametrize("end", [b" ", b"\n", b"\r\n"])
@pytest.mark.parametrize(("kind", "white"), [("P4", 1), *itertools.product(("P5", "P6"), WHITES)])
def test_binary_values_are_scaled_by_the_maximum(kind, white, end):
    values, pixels = draw(kind, white)
    if kind == "P4":
        body = np.packbits(values, axis=1).tobytes()
    else:
        body = values.astype(">u2" if white > 255 else np.uint8).tobytes()
    np.testing.assert_array_equal(decode(header(kind, white) + end + body, "x"), pixels)


@pytest.mark.parametrize(("depth", "kind"), [(1, "P5"), (2, "P5"), (3, "P6"), (4, "P6")])
@pytest.mark.parametrize("white", [1, 100, 255, 4095, 65535])
def test_pam_is_read_without_its_alpha_channel(depth, kind, white):
    values, pixels = draw(kind, white)
    values = values.reshape(20, 22, -1)
    if depth in (2, 4):
        values = np.concatenate([values, values[..., :1] * 0], axis=2)
    kinds = {1: "GRAYSCALE", 2: "GRAYSCALE_ALPHA", 3: "RGB", 4: "RGB_ALPHA"}
    fields = f"P7\n# a comment\nWIDTH 22\nHEIGHT 20\nDEPTH {depth}\nMAXVAL {white}\nTUPLTYPE {kinds[depth]}\nENDHDR\n"
    data = fields.encode() + values.astype(">u2" if white > 255 else np.uint8).tobytes()
    np.testing.assert_array_equal(decode(data, "x"), pixels)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"P2 2 2 255 1 2 3", "truncated: it has 3 values instead of 4"),
        (b"P3 2 2 255", "truncated: it has 0 values instead of 12"),
        (b"P2 2 2 255 1 2 3 4 5", "damaged: it has 5 values instead of 4"),
        (b"P2 2 2 255 1 2 3 256", "damaged: it has the value 256, but 255 is white"),
        (b"P2 2 2 255 1 2 3 99999999999999999999999", "damaged: it has the value"),
        (b"P2 2 2 255 1 2 -3 4", "damaged: it has text that is no number"),
        (b"P1 2 2 0 1 1 2", "damaged: it has the value 2, but 1 is white"),
        (b"P5 2 2 15 \x01\x02\xff\x01", "damaged: it has the value 255, but 15 is white"),
        (b"P5 2 2 65536 abcdabcd", "damaged: its header gives 65,536 as white"),
        (b"P6 2 2 255 abcdefghijk", "truncated: its header gives a larger file"),
        (b"P4 9 2 abc", "truncated: its header gives a larger file"),
        (b"P2 99999 99999 255 1", "more than 67,108,864 pixels"),
        (b"P5 0 2 255 a", "its header gives no size"),
        (b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 9\nMAXVAL 15\nENDHDR\nabcd", "a PAM image whose header is not understood"),
        (b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 3\nMAXVAL 15\nENDHDR\nabcdabcdabcd", "a PAM image whose header is not"),
        (b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 3\nMAXVAL 15\nTUPLTYPE RGB\nENDHDR\nabcd", "truncated"),
    ],
)
def test_what_is_damaged_is_refused(data, reason):
    with pytest.raises(HistoError, match=reason):
        decode(data, "x")
