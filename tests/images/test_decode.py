"""Decode any image file to a patch: formats, sizes, and files that are not images."""

import io
import struct
import subprocess
import sys
import tracemalloc
import zlib
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from histocli.config import PATCH_MPP
from histocli.enums import Resize
from histocli.errors import HistoError
from histocli.images import MAX_PIXELS
from histocli.images.decode import Preparation, decode, decode_patch, fit
from histocli.images.jpeg import decode_jpeg
from histocli.images.remarks import Remarks
from histocli.images.sizes import ImageError

SOFT = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8), (0, 0), 4)
NOISE = np.random.default_rng(1).integers(0, 256, (96, 96, 3), np.uint8)


def encode(pixels, kind, mode=None, **options):
    image = Image.fromarray(pixels)
    stream = io.BytesIO()
    (image.convert(mode) if mode else image).save(stream, kind, **options)
    return stream.getvalue()


def largest_difference(image, pixels):
    assert image.dtype == np.uint8
    assert image.shape == pixels.shape
    return int(np.abs(image.astype(int) - pixels).max())


@contextmanager
def peak_memory_below(limit):
    """Check that the block allocates less than `limit` bytes at a time."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


LOSSLESS = {
    "png": ("PNG", {}),
    "tif": ("TIFF", {}),
    "tif-lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "tif-deflate": ("TIFF", {"compression": "tiff_deflate"}),
    "bmp": ("BMP", {}),
    "webp": ("WEBP", {"lossless": True}),
    "jp2": ("JPEG2000", {}),
    "ppm": ("PPM", {}),
}


@pytest.mark.parametrize(("kind", "options"), LOSSLESS.values(), ids=LOSSLESS)
def test_lossless_formats_keep_every_pixel(kind, options):
    assert largest_difference(decode(encode(SOFT, kind, **options), "x"), SOFT) == 0


@pytest.mark.parametrize("mode", [None, "CMYK"])
def test_jpeg_is_close_to_the_original_with_the_right_colours(mode):
    assert largest_difference(decode(encode(SOFT, "JPEG", mode, quality=98), "x"), SOFT) <= 8


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "BMP", "JPEG", "JPEG2000", "PPM", "TGA"])
def test_grey_becomes_three_equal_channels_and_is_counted(kind):
    grey, remarks = np.asarray(Image.fromarray(SOFT).convert("L")), Remarks()
    image = decode(encode(SOFT, kind, "L"), "x", remarks=remarks)
    assert largest_difference(image, np.dstack([grey] * 3)) <= (4 if kind == "JPEG" else 0)
    decode(encode(SOFT, kind), "in colour", remarks=remarks)
    assert remarks.count_images() == ({} if kind == "BMP" else {"grey, converted to RGB": 1})  # a BMP has a palette


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_become_eight(suffix, channels):
    pixels = SOFT[..., ::-1] if channels == 3 else SOFT[..., 0]
    data = cv2.imencode(suffix, pixels.astype(np.uint16) * 257)[1].tobytes()
    assert largest_difference(decode(data, "x"), SOFT if channels == 3 else np.dstack([SOFT[..., 0]] * 3)) <= 1


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "GIF", "BMP"])
def test_palette_images_are_converted_to_rgb(kind):
    palette = Image.fromarray(SOFT).quantize(32)
    stream = io.BytesIO()
    palette.save(stream, kind)
    assert largest_difference(decode(stream.getvalue(), "x"), np.asarray(palette.convert("RGB"))) == 0


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "JPEG2000", "TGA"])
def test_an_opaque_alpha_channel_is_dropped(kind):
    rgba, remarks = np.dstack([SOFT, np.full(SOFT.shape[:2], 255, np.uint8)]), Remarks()
    data = encode(rgba, kind, **({"lossless": True} if kind == "WEBP" else {}))
    assert largest_difference(decode(data, "x", remarks=remarks), SOFT) == 0
    assert not remarks


@pytest.mark.parametrize(
    ("kind", "options"),
    [("PNG", {}), ("WEBP", {"lossless": True, "exact": True}), ("JPEG2000", {}), ("TGA", {})],
)
def test_transparent_pixels_keep_their_colours_and_are_counted(kind, options):
    rgba, remarks = np.dstack([SOFT, NOISE[:40, :60, 0]]), Remarks()
    assert largest_difference(decode(encode(rgba, kind, **options), "x", remarks=remarks), SOFT) == 0
    assert remarks.count_images() == {"transparent pixels were read as opaque": 1}


def test_a_transparent_image_is_turned_as_its_exif_data_say():
    rgba, exif, remarks = np.dstack([SOFT, NOISE[:40, :60, 0]]), Image.Exif(), Remarks()
    exif[274] = 6
    for kind, options in (("PNG", {}), ("WEBP", {"lossless": True, "exact": True})):
        image = decode(encode(rgba, kind, exif=exif, **options), "x", remarks=remarks)
        assert largest_difference(image, np.rot90(SOFT, -1)) == 0
    assert remarks.count_images() == {"transparent pixels were read as opaque": 2}


def test_a_transparent_tiff_is_refused():
    rgba = np.dstack([SOFT, NOISE[:40, :60, 0]])
    with pytest.raises(HistoError, match=r"x\.tif: .*transparent"):
        decode(encode(rgba, "TIFF"), "x.tif")


def test_malformed_chunks_of_a_png_that_do_not_change_pixels_print_nothing(capfd):
    data, chunks = encode(NOISE, "PNG"), b""
    for kind, content in ((b"sRGB", b"\x09"), (b"gAMA", bytes(4)), (b"cHRM", b"\xff" * 32), (b"eXIf", b"bad")):
        chunks += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    assert largest_difference(decode(data[:33] + chunks + data[33:], "x.png"), NOISE) == 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("number", "name"), [(18, "sYCC"), (14, "CIELab"), (12, "CMYK"), (20, "20")])
def test_a_jpeg_2000_in_another_colour_space_is_refused(number, name):
    data = encode(SOFT, "JPEG2000", "YCbCr")
    assert data.count(b"colr\1\0\0\0\0\0\x12") == 1
    data = data.replace(b"colr\1\0\0\0\0\0\x12", b"colr\1\0\0" + number.to_bytes(4))
    with pytest.raises(HistoError, match=rf"x\.jp2: it is a JPEG 2000 in the colour space {name}, which is not read"):
        decode(data, "x.jp2")


def test_a_jpeg_2000_with_a_colour_profile_is_read():
    data = encode(SOFT, "JPEG2000").replace(b"colr\1\0\0", b"colr\2\0\0")
    assert largest_difference(decode(data, "x"), SOFT) == 0


@pytest.mark.parametrize("method", [1, 2])
def test_the_first_of_two_colour_spaces_of_a_jpeg_2000_counts(method):
    """The second one is sYCC, which is not read; the first is sRGB, or a colour profile (`method` 2)."""
    data = encode(SOFT, "JPEG2000")
    header, at = data.index(b"jp2h") - 4, data.index(b"colr") - 4
    first = data[at : at + 15].replace(b"colr\1", b"colr" + bytes([method]))
    second = data[at : at + 11] + (18).to_bytes(4)
    length = (int.from_bytes(data[header : header + 4]) + 15).to_bytes(4)

    def insert(boxes):
        return data[:header] + length + data[header + 4 : at] + boxes + data[at + 15 :]

    assert largest_difference(decode(insert(first + second), "x"), SOFT) == 0
    with pytest.raises(HistoError, match="in the colour space sYCC, which is not read"):
        decode(insert(second + first), "x")


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG"])
@pytest.mark.parametrize(
    ("orientation", "upright"),
    [(1, lambda p: p), (3, lambda p: np.rot90(p, 2)), (6, lambda p: np.rot90(p, -1)), (8, np.rot90)],
)
def test_an_exif_rotation_is_applied(kind, orientation, upright):
    exif = Image.Exif()
    exif[0x112] = orientation
    options = {"quality": 98} if kind == "JPEG" else {}
    assert largest_difference(decode(encode(SOFT, kind, exif=exif, **options), "x"), upright(SOFT)) <= 8


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP"])
def test_the_first_of_several_frames_is_used(kind):
    first = Image.fromarray(SOFT).quantize(32).convert("RGB")
    stream = io.BytesIO()
    options = {"lossless": True} if kind == "WEBP" else {}
    first.save(stream, kind, save_all=True, append_images=[first.rotate(180)], **options)
    assert largest_difference(decode(stream.getvalue(), "x"), np.asarray(first)) == 0


def test_the_suffix_does_not_matter():
    assert largest_difference(decode(encode(SOFT, "PNG"), "really-a-png.tif"), SOFT) == 0


def test_bytes_after_the_end_do_not_matter():
    for kind in ("JPEG", "PNG", "TIFF"):
        data = encode(SOFT, kind)
        assert np.array_equal(decode(data + bytes(2000), "x"), decode(data, "x"))


# sizes


def test_a_patch_of_the_right_size_is_not_changed():
    assert np.array_equal(fit(NOISE), NOISE)
    assert np.array_equal(fit(NOISE, Resize.SCALE), NOISE)
    assert np.array_equal(decode_patch(encode(NOISE, "TIFF"), "x"), NOISE)


@given(st.integers(1, 300), st.integers(1, 300), st.sampled_from(Resize))
@settings(max_examples=60, deadline=None)
def test_every_size_becomes_a_patch(height, width, resize):
    image = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    patch = fit(image, resize)
    assert patch.shape == (96, 96, 3)
    assert patch.dtype == np.uint8
    assert patch.flags.c_contiguous


@given(st.integers(96, 300), st.integers(96, 300))
@settings(max_examples=30, deadline=None)
def test_cropping_cuts_the_centre_out(height, width):
    image = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    top, left = (height - 96) // 2, (width - 96) // 2
    assert np.array_equal(fit(image), image[top : top + 96, left : left + 96])


@given(st.integers(1, 96), st.integers(1, 96))
@settings(max_examples=30, deadline=None)
def test_a_smaller_image_is_padded_by_reflection(height, width):
    image = np.random.default_rng(height * width).integers(0, 256, (height, width, 3), np.uint8)
    top, left = (96 - height) // 2, (96 - width) // 2
    borders = ((top, 96 - height - top), (left, 96 - width - left), (0, 0))
    assert np.array_equal(fit(image), np.pad(image, borders, "symmetric"))


def test_scaling_keeps_the_whole_central_square():
    wide = np.zeros((192, 400, 3), np.uint8)
    wide[:, 104:296] = np.repeat(np.repeat(NOISE, 2, 0), 2, 1)
    assert np.array_equal(fit(wide, Resize.SCALE), NOISE)
    ramp = np.repeat(np.arange(48, dtype=np.uint8)[None, :, None] * 5, 48, 0).repeat(3, 2)
    assert largest_difference(fit(ramp, Resize.SCALE)[:, ::2], np.repeat(ramp, 2, 0)) <= 6


def test_one_pixel_fills_the_patch():
    pixel = encode(np.full((1, 1, 3), (10, 200, 30), np.uint8), "PNG")
    for resize in Resize:
        assert (decode_patch(pixel, "x", Preparation(resize)) == (10, 200, 30)).all()


@pytest.mark.parametrize(("height", "width", "mpp"), [(2000, 5, 20), (3, 1999, 19.9), (40, 2048, 1.5), (1, 2047, 1.1)])
def test_of_an_image_that_mpp_makes_very_large_only_the_centre_is_computed(height, width, mpp):
    image, remarks = np.resize(NOISE, (height, width, 3)), Remarks()
    size = [round(side * mpp / PATCH_MPP) for side in (width, height)]
    expected = fit(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC))
    data = encode(image, "PNG")
    with peak_memory_below(3 << 20):
        patch = decode_patch(data, "x", Preparation(mpp=mpp), remarks)
    assert largest_difference(patch, expected) <= 1
    assert list(remarks) == ["cut to the centre" if min(size) >= 96 else "cut and padded"]


# errors


@pytest.mark.parametrize(("kind", "options"), [*LOSSLESS.values(), ("JPEG", {}), ("JPEG", {"progressive": True})])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.95, 0.999])
def test_a_truncated_image_is_an_error_that_names_it(kind, options, share):
    data = encode(NOISE, kind, **options)
    with pytest.raises(HistoError, match="some/patch"):
        decode(data[: int(len(data) * share)], "some/patch")


def test_the_end_of_a_thumbnail_is_not_the_end_of_its_jpeg():
    whole, thumbnail = encode(NOISE, "JPEG"), encode(NOISE[:16, :16], "JPEG")
    tagged = whole[:2] + b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail + whole[2:]
    assert np.array_equal(decode(tagged, "x"), decode(whole, "x"))
    start = tagged.rindex(b"\xff\xda")
    assert tagged.rindex(b"\xff\xd9", 0, start) > 0
    for length in (start + 20, len(tagged) - 1000, len(tagged) - 2):
        with pytest.raises(HistoError, match="truncated"):
            decode(tagged[:length], "x")


@pytest.mark.parametrize(
    "data", [b"", b"hello\n" * 50, b"<!DOCTYPE html><html>", b"II*\0", b"\xff\xd8\xff", bytes(5000)]
)
def test_a_file_that_is_not_an_image_is_an_error_that_names_it(data):
    with pytest.raises(HistoError, match=r"^a b,c\.tif: "):
        decode(data, "a b,c.tif")


def png_header(width, height):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")
    )


def tiff_header(width, height):
    tags = {256: width, 257: height, 258: 8, 259: 1, 262: 1, 273: 200, 277: 1, 278: height, 279: 100}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(400)


def bmp_header(width, height):
    data = bytearray(encode(SOFT, "BMP"))
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def jpeg_header(width, height):
    data = bytearray(encode(SOFT, "JPEG"))
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize("header", [png_header, tiff_header, bmp_header, jpeg_header])
def test_an_enormous_image_is_refused_by_its_header(header):
    data = header(40_000, 40_000)
    with peak_memory_below(1 << 20), pytest.raises(HistoError, match="pixels"):
        decode(data, "x")


def test_the_pixel_limit_holds_if_another_module_imports_opencv_first(tmp_path):
    side = int(MAX_PIXELS**0.5)
    header = struct.pack(">8I", 0x59A66A95, side, side + 1, 8, side * (side + 1), 1, 0, 0)
    (tmp_path / "large.ras").write_bytes(header + bytes(side * (side + 1)))  # its header is read by OpenCV alone
    code = (
        "import sys, pathlib\n"
        "from histocli.sources.synthetic import SyntheticSource\n"
        "next(SyntheticSource(1, 0).read_patches()).load()\n"
        "assert 'cv2' in sys.modules\n"
        "from histocli.images.decode import decode\n"
        "decode(pathlib.Path(sys.argv[1]).read_bytes(), 'large.ras')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "large.ras")]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "HistoError: large.ras: the image has more than 67,108,864 pixels: 8,192 x 8,193" in ran.stderr


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_damaged_bytes_give_an_image_or_an_error_never_a_crash(data):
    kind, options = data.draw(st.sampled_from([*LOSSLESS.values(), ("JPEG", {}), ("GIF", {})]))
    damaged = bytearray(encode(SOFT[:12, :12], kind, **options))
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert decode_patch(bytes(damaged), "x").shape == (96, 96, 3)
    except HistoError as error:
        assert str(error).startswith("x: ")  # noqa: PT017 - both ends are right


# lengths and streams


def chunked_webp(lossless):
    return encode(cv2.GaussianBlur(NOISE, (0, 0), 2), "WEBP", quality=80, lossless=lossless)


@pytest.mark.attack
@pytest.mark.parametrize("lossless", [False, True])
def test_nearly_every_damaged_webp_is_refused(lossless):
    """It has no checksums: the decoder must lose its way for damage to be noticed."""
    whole, taken = chunked_webp(lossless), 0
    places = [(i / 40, i % 2) for i in range(4, 36)]
    for at, is_noise in places:
        data = bytearray(whole)
        begin, length = int(len(data) * at), len(data) // 8
        data[begin : begin + length] = NOISE.tobytes()[:length] if is_noise else bytes(length)
        try:
            decode(bytes(data), "x")
        except HistoError as error:
            assert str(error).startswith("x: ")  # noqa: PT017 - some are taken
        else:
            taken += 1
    assert taken <= len(places) // 10


@pytest.mark.parametrize("side", [1, 5, 96, 300])
@pytest.mark.parametrize("quality", [1, 80, 100])
@pytest.mark.parametrize("lossless", [False, True])
def test_undamaged_webps_of_any_size_are_read(side, quality, lossless):
    pixels = np.resize(SOFT, (side, side, 3))
    for method in (0, 4):
        assert decode(encode(pixels, "WEBP", quality=quality, lossless=lossless, method=method), "x").shape[0] == side


def lengths_that_lie():
    """Files in which one length says more than there is."""
    png, webp, jp2, gif = (encode(SOFT, kind) for kind in ("PNG", "WEBP", "JPEG2000", "GIF"))
    at = png.index(b"IDAT") - 4
    yield "png", png[:at] + b"\xff\xff\xff\xf0" + png[at + 4 :]
    yield "png of few bytes", png_header(8000, 8000)
    yield "webp file", webp[:4] + b"\xff\xff\xff\x7f" + webp[8:]
    yield "webp chunk", webp[:16] + b"\xff\xff\xff\x7f" + webp[20:]
    yield "webp without a chunk", webp[:4] + b"\x04\0\0\0" + webp[8:16]
    yield "webp of few bytes", b"RIFF\x0c\0\0\0WEBPVP8X" + bytes(4)
    at = jp2.index(b"jp2c") - 4
    yield "jp2 box", jp2[:at] + b"\x7f\xff\xff\xff" + jp2[at + 4 :]
    at = jp2.index(b"\xff\x90")
    yield "jp2 tile", jp2[: at + 6] + b"\x7f\xff\xff\xff" + jp2[at + 10 :]
    at = jp2.index(b"\xff\x51")
    yield "jp2 components", jp2[: at + 38] + b"\x40\0" + jp2[at + 40 :]
    yield "gif", gif[:-20]
    yield "bmp", bmp_header(4000, 4000)


@pytest.mark.attack
@pytest.mark.parametrize(("kind", "data"), [pytest.param(kind, data, id=kind) for kind, data in lengths_that_lie()])
def test_a_length_beyond_the_file_is_refused_before_anything_is_allocated(kind, data):
    message = r"^x: (the image (is truncated|is damaged|has 16384 components))"
    with peak_memory_below(1 << 20), pytest.raises(HistoError, match=message):
        decode(data, "x")


def photoshop(pixels):
    height, width = pixels.shape[:2]
    header = struct.pack(">4sH6xH2I2H", b"8BPS", 1, 3, height, width, 8, 3)
    return header + bytes(12) + b"\0\0" + pixels.transpose(2, 0, 1).tobytes()


ICON = {"sizes": [(96, 96)]}
PILLOW_ALONE = {
    "tga": lambda: encode(NOISE, "TGA"),
    "pcx": lambda: encode(NOISE, "PCX"),
    "dib": lambda: encode(NOISE, "DIB"),
    "sgi": lambda: encode(NOISE, "SGI"),
    "dds": lambda: encode(NOISE, "DDS"),
    "ico": lambda: encode(NOISE, "ICO", **ICON),
    "ico with a bitmap": lambda: encode(NOISE, "ICO", **ICON, bitmap_format="bmp"),
    "psd": lambda: photoshop(NOISE),
}


@pytest.mark.parametrize("kind", PILLOW_ALONE)
def test_formats_that_only_pillow_reads_keep_every_pixel_and_are_refused_if_truncated(kind):
    data = PILLOW_ALONE[kind]()
    assert largest_difference(decode(data, "x"), NOISE) == 0
    for length in (len(data) // 3, len(data) - 200):
        with pytest.raises(HistoError, match=r"^x: (not an image|the image is (damaged|truncated))"):
            decode(data[:length], "x")


def test_the_largest_image_of_an_icon_is_read_and_reported():
    remarks = Remarks()
    data = encode(NOISE, "ICO", sizes=[(96, 96), (32, 32)])
    assert largest_difference(decode(data, "a.ico", remarks=remarks), NOISE) == 0
    assert remarks.count_images() == {"only the largest of several sizes was read": 1}


@pytest.mark.attack
@pytest.mark.parametrize("kind", ["ICO", "ICNS"])
def test_an_icon_of_many_pixels_is_refused_before_it_is_decoded(kind):
    image = Image.new("L", (96, 96))
    small, large = encode(np.asarray(image), "PNG"), encode(np.zeros((9000, 9000), np.uint8), "PNG")
    if kind == "ICO":
        data = struct.pack("<3H4B2H2I", 0, 1, 1, 96, 96, 0, 0, 1, 32, len(large), 22) + large
    else:
        data = b"icns" + struct.pack(">I4sI", 16 + len(large), b"ic07", 8 + len(large)) + large
    with pytest.raises(HistoError, match="more than 67,108,864 pixels: 9,000 x 9,000"):
        decode(data, "x")
    assert decode(data[:22] + small, "x").shape == (96, 96, 3) if kind == "ICO" else True


def test_fractions_in_a_spider_file_have_an_inferred_range():
    remarks = Remarks()
    grey = np.rint(np.asarray(Image.fromarray(NOISE).convert("F")))
    image = decode(encode(NOISE, "SPIDER", "F"), "a.spi", remarks=remarks)
    assert largest_difference(image, np.repeat(grey[..., None], 3, axis=2)) == 0
    assert remarks.count_images() == {"grey, converted to RGB": 1, "read as fractions from 0 to 255": 1}


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"PAR1" + bytes(99), "Parquet"),
        (b"\x1f\x8b" + bytes(99), "gzip"),
        (b"PK\x03\x04" + bytes(99), "zip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(99), "HDF5"),
        (bytes(257) + b"ustar" + bytes(300), "tar"),
        (b"\xff\x0a" + bytes(99), "JPEG XL"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 96 96\n", "PostScript"),
        (b"\xd7\xcd\xc6\x9a" + bytes(99), "metafile"),
        (b"Image type: RGB image" + bytes(99), "IM file"),
        (b"SIMPLE  =                    T" + bytes(99), "FITS"),
    ],
)
def test_another_format_is_named_with_what_to_do(data, what):
    with pytest.raises(HistoError, match=f"x: it is .*{what}") as raised:
        decode(data, "x")
    assert raised.value.hint


def test_a_file_of_no_known_format_is_not_said_to_have_too_many_pixels():
    with pytest.raises(HistoError, match=r"^x: not an image that can be read$"):
        decode(b"a text", "x")


def overwritten(data, start, fill):
    """Return a JPEG with a tenth of its bytes overwritten in the middle of its compressed data."""
    at = (data.index(b"\xff\xda") + len(data)) // 2
    length = len(data) // 10
    middle = bytes(length) if fill == "zeros" else start.integers(0, 255, length, np.uint8).tobytes()
    return data[:at] + middle + data[at + length :]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": 0}, {"quality": 98}])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_damaged_jpeg_is_refused_with_the_message_of_libjpeg(mode, options):
    whole = encode(NOISE, "JPEG", mode, **options)
    decode(whole, "x")
    with pytest.raises(HistoError, match="x: the image is damaged: Corrupt JPEG data"):
        decode(overwritten(whole, np.random.default_rng(0), "zeros"), "x")


def test_a_damaged_jpeg_with_an_exif_rotation_is_refused(tmp_path):
    exif = Image.Exif()
    exif[274] = 6
    whole = encode(NOISE, "JPEG", exif=exif)
    assert np.array_equal(decode(whole, "x"), np.rot90(decode(encode(NOISE, "JPEG"), "x"), -1))
    with pytest.raises(HistoError, match="damaged"):
        decode(overwritten(whole, np.random.default_rng(0), "zeros"), "x")


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"subsampling": "4:1:1"}, {"restart_marker_blocks": 4}])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_sound_jpeg_has_the_pixels_that_opencv_and_pillow_decode(mode, options):
    data = encode(SOFT, "JPEG", mode, **options)
    by_opencv = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
    assert np.array_equal(decode(data, "x"), by_opencv)
    assert largest_difference(decode(data, "x"), np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))) <= 1


def test_where_libjpeg_stops_the_image_is_refused_and_nothing_is_printed(capfd):
    whole = encode(SOFT, "JPEG")
    middle = (whole.index(b"\xff\xda") + len(whole)) // 2
    with pytest.raises(ImageError, match="the image is damaged: Unsupported marker type"):
        decode_jpeg(whole[:middle] + b"\xff\x02" + whole[middle + 2 :])
    assert capfd.readouterr() == ("", "")


def test_nearly_all_damaged_jpegs_are_refused():
    rng, refused = np.random.default_rng(1), 0
    for quality in range(50, 100):
        for fill in ("zeros", "noise"):
            try:
                decode(overwritten(encode(SOFT, "JPEG", quality=quality), rng, fill), "x")
            except HistoError:
                refused += 1
    assert refused >= 85  # of 100


@pytest.mark.parametrize("marker", [0xC3, 0xF7])
def test_lossless_jpegs_are_named(marker):
    data = bytearray(encode(SOFT, "JPEG"))
    data[data.index(b"\xff\xc0") + 1] = marker
    with pytest.raises(HistoError, match="a lossless JPEG or JPEG-LS, which is not read"):
        decode(bytes(data), "x")


@pytest.mark.skipif(".avif" not in Image.registered_extensions(), reason="this Pillow writes no AVIF")
def test_an_avif_that_is_rotated_by_its_header_is_refused():
    exif = Image.Exif()
    assert largest_difference(decode(encode(SOFT, "AVIF", quality=95), "x"), SOFT) < 30
    exif[0x112] = 6
    with pytest.raises(HistoError, match="an AVIF that is rotated or mirrored by its header"):
        decode(encode(SOFT, "AVIF", quality=95, exif=exif), "x")


def test_transparent_pixels_of_a_gif_keep_their_colours():
    palette = Image.fromarray(SOFT).quantize(32)
    stream = io.BytesIO()
    palette.save(stream, "GIF", transparency=3)
    assert largest_difference(decode(stream.getvalue(), "x"), np.asarray(palette.convert("RGB"))) == 0


def test_sgi_of_16_bits_is_refused():
    assert largest_difference(decode(encode(SOFT, "SGI"), "x"), SOFT) == 0
    with pytest.raises(HistoError, match="an SGI image of 16 bits"):
        decode(encode(SOFT, "SGI", bpc=2), "x")


@pytest.mark.parametrize(("kind", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True})])
def test_the_first_frame_of_an_animation_is_read_and_reported(kind, options):
    frames = [Image.new("RGB", (96, 96), color) for color in ((200, 100, 150), (10, 20, 30))]
    remarks = []
    for others in ([], frames[1:]):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=others, **options)
        remarks.append(Remarks())
        image = decode(buffer.getvalue(), "a.png", remarks=remarks[-1])
        assert np.abs(image.astype(int) - (200, 100, 150)).max() <= 2  # a GIF has a palette
    assert [remark.count_images() for remark in remarks] == [{}, {"only the first of several frames was read": 1}]
