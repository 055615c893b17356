"""PGM and PPM in their binary forms: any maximum in the header; the other forms are refused."""

import numpy as np
import pytest

from histocli.errors import HistoError
from histocli.images.decode import decode


@pytest.mark.parametrize("space", [b" ", b"\n", b"\t", b"\r\n", b" # a comment\n"])
@pytest.mark.parametrize("white", [1, 15, 100, 255, 4095, 65535])
@pytest.mark.parametrize(("kind", "channels"), [(b"P5", 1), (b"P6", 3)])
def test_values_are_scaled_by_the_maximum(kind, channels, white, space):
    values = np.random.default_rng(white).integers(0, white + 1, (20, 22, channels))
    values.flat[0] = white
    expected = values >> 8 if white == 65535 else np.rint(values * 255 / white)
    body = values.astype(">u2" if white > 255 else np.uint8).tobytes()
    pixels = decode(space.join([kind, b"22", b"20", b"%d\n" % white]) + body, "x")
    np.testing.assert_array_equal(pixels, np.broadcast_to(expected, (20, 22, 3)))


def test_white_space_after_the_pixels_is_ignored():
    np.testing.assert_array_equal(decode(b"P5 2 1 255 ab \r\n", "x")[..., 0], [[97, 98]])


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"P5 2 2 15 \x01\x02\xff\x01", "damaged: it has the value 255, but 15 is white"),
        (b"P5 2 2 65536 abcdabcd", "damaged: its header gives 65,536 as white"),
        (b"P5 2 2 0 abcd", "damaged: its header gives 0 as white"),
        (b"P6 2 2 255 abcdefghijk", "truncated: its pixels have 11 bytes instead of 12"),
        (b"P6\r\n2 2\r\n255\r\nabcdefghijkl", "damaged: its pixels have 13 bytes instead of 12"),
        (b"P5\r\n2 1\r\n255\r\na ", "damaged: its pixels have 3 bytes instead of 2"),
        (b"P5 2 1 255 abP5 2 1 255 cd", "damaged: its pixels have 15 bytes instead of 2"),
        (b"P6 2 2 ", "damaged: its header is not"),
        (b"P6 99999 99999 255 1", "more than 67,108,864 pixels"),
        (b"P5 0 2 255 a", "its header gives no size"),
        (b"P3 1 1 255 1 2 3", "only P5 and P6 are read, but it is P3"),
        (b"P4 9 2 abcd", "but it is P4"),
        (b"P7\nWIDTH 2\nHEIGHT 2\nDEPTH 1\nMAXVAL 15\nENDHDR\nabcd", "but it is P7"),
    ],
)
def test_what_is_damaged_or_of_another_form_is_refused(data, reason):
    with pytest.raises(HistoError, match=reason):
        decode(data, "x")
