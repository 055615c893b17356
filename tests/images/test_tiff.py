"""TIFF files: the right pixels, or the reason why they cannot be had."""

import io
import struct
import zipfile

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from histocli.enums import Resize
from histocli.errors import HistoError
from histocli.files.file import find_images
from histocli.files.listing import list_files
from histocli.images.decode import Preparation, decode, decode_patch
from histocli.images.image_files import infer_file_ranges
from histocli.images.remarks import Remarks
from histocli.images.tiff_pages import read_first_page
from tests.images.test_decode import peak_memory_below

PATCH = cv2.GaussianBlur(np.random.default_rng(3).integers(20, 256, (96, 96, 3), np.uint8), (0, 0), 2)
WIDE = np.tile(PATCH, (2, 3, 1))[:150, :203]  # an odd number of bytes in each row


def by_pillow(pixels, compression, **tags):
    """A TIFF of one strip, or of strips of some rows."""
    stream, info = io.BytesIO(), TiffImagePlugin.ImageFileDirectory_v2()
    for tag, value in tags.items():
        info[int(tag[1:])] = value
    Image.fromarray(pixels).save(stream, "TIFF", compression=compression, tiffinfo=info)
    return stream.getvalue()


def tiff(array, order="<", tile=None, planar=False, pages=1, description=b"", **tags):
    """A TIFF without compression, made by hand: (H,W,S) of any type, in one strip, tiles or planes."""
    height, width, samples = array.shape
    planes = [array[..., i : i + 1] for i in range(samples)] if planar else [array]
    if tile:
        padded = [np.pad(p, ((0, -height % tile), (0, -width % tile), (0, 0))) for p in planes]
        parts = [
            p[y : y + tile, x : x + tile] for p in padded for y in range(0, height, tile) for x in range(0, width, tile)
        ]
    else:
        parts = planes
    bodies = [np.ascontiguousarray(part.astype(array.dtype.newbyteorder(order))).tobytes() for part in parts]
    kind = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    values = {256: width, 257: height, 258: [array.itemsize * 8] * samples, 259: 1, 262: 2 if samples > 2 else 1}
    values |= {277: samples, 284: 2 if planar else 1, 339: [kind] * samples}
    values |= {322: tile, 323: tile} if tile else {278: height}
    values |= {int(tag[1:]): value for tag, value in tags.items()}
    offsets, lengths = (324, 325) if tile else (273, 279)
    file = bytearray((b"II*\0" if order == "<" else b"MM\0*") + bytes(4))
    places = []
    for body in bodies:
        places.append(len(file))
        file += body
    values |= {offsets: places, lengths: [len(body) for body in bodies]}
    link = 4
    for _ in range(pages):
        entries = b""
        for tag, value in sorted(values.items()):
            numbers = value if isinstance(value, list) else [value]
            packed = struct.pack(f"{order}{len(numbers)}I", *numbers)
            if len(packed) > 4:
                packed, at = struct.pack(f"{order}I", len(file)), packed
                file += at
            entries += struct.pack(f"{order}HHI", tag, 4, len(numbers)) + packed
        if description:
            text = struct.pack(f"{order}I", len(file))
            file += description
            at = 12 * sum(tag < 270 for tag in values)
            entries = entries[:at] + struct.pack(f"{order}HHI", 270, 2, len(description)) + text + entries[at:]
        file[link : link + 4] = struct.pack(f"{order}I", len(file))
        file += struct.pack(f"{order}H", len(entries) // 12) + entries
        link = len(file)
        file += bytes(4)
    return bytes(file)


def value_at(data, tag):
    """Return the offset of the value of an inline tag in a little-endian TIFF."""
    return data.index(struct.pack("<H", tag), struct.unpack_from("<I", data, 4)[0]) + 8


COMPRESSIONS = ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"]


@pytest.mark.parametrize("compression", COMPRESSIONS)
@pytest.mark.parametrize("rows", [None, 16])
@pytest.mark.parametrize("pixels", [PATCH, WIDE, PATCH[..., 0]], ids=["patch", "odd rows", "grey"])
def test_every_pixel_is_kept(compression, rows, pixels):
    if compression == "raw" and rows:  # old versions of Pillow do not write it
        stream = io.BytesIO()
        pytest.importorskip("tifffile").imwrite(stream, pixels, rowsperstrip=rows)
        data = stream.getvalue()
    else:
        data = by_pillow(pixels, compression, **({"t278": rows} if rows else {}))
    expected = pixels if pixels.ndim == 3 else np.dstack([pixels] * 3)
    assert np.array_equal(decode(data, "x"), expected)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_differences_between_neighbouring_pixels_are_added_up(compression):
    # Tag 317 is the predictor. With 2, each pixel is stored as its difference from the pixel to its left.
    assert np.array_equal(decode(by_pillow(PATCH, compression, t317=2), "x"), PATCH)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("tile", [None, 32, 64])
@pytest.mark.parametrize("planar", [False, True])
@pytest.mark.parametrize("scale", [1, 257])
def test_every_layout_of_a_tiff_gives_the_same_pixels(order, tile, planar, scale):
    pixels = PATCH if scale == 1 else PATCH.astype(np.uint16) * scale
    assert np.array_equal(decode(tiff(pixels, order, tile, planar), "x"), PATCH)


@pytest.mark.attack
@pytest.mark.parametrize("compression", COMPRESSIONS[1:])
@pytest.mark.parametrize("by", ["noise", "zeros"])
@pytest.mark.parametrize("at", [0.2, 0.5, 0.8])
def test_a_damaged_stream_is_refused(compression, by, at):
    data = bytearray(by_pillow(PATCH, compression))
    begin, length = int(len(data) * at), 600
    noise = np.random.default_rng(1).integers(0, 256, length, np.uint8).tobytes()
    data[begin : begin + length] = noise if by == "noise" else bytes(length)
    with pytest.raises(HistoError, match=r"some/x: the image is (damaged|truncated)"):
        decode(bytes(data), "some/x")


def test_a_jpeg_in_a_tiff_that_is_cut_is_refused():
    data = by_pillow(PATCH, "jpeg")
    assert np.abs(decode(data, "x").astype(int) - PATCH).mean() < 4
    at = data.rindex(b"\xff\xd9")
    with pytest.raises(HistoError, match=r"truncated|damaged"):
        decode(data[:at] + b"\0\0" + data[at + 2 :], "x")


@pytest.mark.parametrize(("number", "name"), [(34933, "PNG"), (50002, "JPEG XL"), (33005, "JPEG 2000"), (9999, "9999")])
def test_a_compression_that_is_not_read_is_named(number, name):
    data = bytearray(by_pillow(PATCH, "raw"))
    at = value_at(data, 259)
    data[at : at + 4] = struct.pack("<I", number)
    with pytest.raises(HistoError, match=f"compression .*{name}"):
        decode(bytes(data), "x")


@pytest.mark.attack
@pytest.mark.parametrize("kind", [np.uint16, np.int16, np.int32, np.uint32])
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_integers_of_fewer_bits_keep_their_brightness(kind, bits):
    remarks = Remarks()
    image = decode(tiff(PATCH.astype(kind) << (bits - 8)), "x", remarks=remarks)
    assert np.array_equal(image, PATCH)
    assert remarks.count_images() == {f"read as {bits}-bit integers, 0 to {2**bits - 1:,}": 1}


@pytest.mark.attack
@pytest.mark.parametrize("top", [1, 255])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_fractions_become_8_bits(top, kind):
    assert np.array_equal(decode(tiff((PATCH / 255 * top).astype(kind)), "x"), PATCH)


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.full((96, 96, 3), 300, np.uint16), "not clear which value is white"),
        (np.full((96, 96, 3), 20_000, np.uint16), "not clear which value is white"),
        (np.full((96, 96, 3), 3.5, np.float32), "not clear which value is white"),
        (np.full((96, 96, 3), 70_000, np.int32), "not clear which value is white"),
        (np.full((96, 96, 3), -5, np.int16), "values below 0"),
        (np.full((96, 96, 3), np.nan, np.float32), "not finite"),
    ],
)
def test_values_that_are_ambiguous_or_impossible_are_refused(values, why):
    with pytest.raises(HistoError, match=why) as raised:
        decode(tiff(values), "x")
    assert "uint8" in raised.value.hint


def test_the_range_is_that_of_the_whole_set(tmp_path):
    bright = PATCH.astype(np.uint16) << 4  # of 12 bits
    values = {"bright": bright, "dim": bright >> 1, "black": bright * 0}
    for name, image in values.items():
        (tmp_path / f"{name}.tif").write_bytes(tiff(image))
    how = Preparation(Resize.CROP, ranges=infer_file_ranges(find_images(list_files(tmp_path)).images))
    for image in values.values():
        assert np.array_equal(decode_patch(tiff(image), "x", how), image >> 4)
    with pytest.raises(HistoError, match=r"values up to .*, but the other images hold 12-bit integers"):
        decode_patch(tiff(bright * 4), "x", how)
    for bits in (8, 10):
        with pytest.raises(HistoError, match=r"only, but the other images hold 12-bit integers.*nearly black"):
            decode_patch(tiff(bright >> (12 - bits)), "x", how)


def test_an_image_outside_the_sample_is_not_read_by_a_range_of_its_own(tmp_path):
    """Alone, the dark image is read as one of 10 bits: four times too bright."""
    for number in range(300):  # more than the 256 that are read to infer white
        cv2.imwrite(str(tmp_path / f"{number:03}.png"), PATCH)
    dark = PATCH.astype(np.uint16) << 2
    cv2.imwrite(str(tmp_path / "002_.png"), dark)
    how = Preparation(ranges=infer_file_ranges(find_images(list_files(tmp_path)).images))
    data = (tmp_path / "002_.png").read_bytes()
    with pytest.raises(HistoError, match=r"uint16 values; the \(at most 256\) images .* hold none") as raised:
        decode_patch(data, "x", how)
    assert raised.value.hint.startswith("run histo once for the uint16 images and once for the others, or save")
    assert np.array_equal(decode_patch(data, "x")[..., ::-1], PATCH)


@pytest.mark.parametrize("suffix", ["png", "tif"])
def test_a_few_images_of_12_bits_among_many_of_8_share_one_range(tmp_path, suffix):
    for number in range(200):
        cv2.imwrite(str(tmp_path / f"{number:03}.{suffix}"), PATCH)
    deep = PATCH.astype(np.uint16)
    for name, image in {"001a": deep << 4, "101a": deep << 4, "151a": deep << 2}.items():
        cv2.imwrite(str(tmp_path / f"{name}.{suffix}"), image)
    how = Preparation(ranges=infer_file_ranges(find_images(list_files(tmp_path)).images))
    assert np.array_equal(decode_patch((tmp_path / f"101a.{suffix}").read_bytes(), "x", how)[..., ::-1], PATCH)
    with pytest.raises(HistoError, match="only, but the other images hold 12-bit integers"):
        decode_patch((tmp_path / f"151a.{suffix}").read_bytes(), "x", how)


FORMATS = ["image.jpg", "image.png", "image.webp", "image.gif", "image.bmp", "image.jp2", "image.avif"]


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("is_zipped", [False, True])
def test_images_whose_header_says_8_bits_are_not_decoded_to_infer_white(tmp_path, monkeypatch, name, is_zipped):
    Image.fromarray(PATCH).save(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / name, name)
    files = list_files(tmp_path / "x.zip" if is_zipped else tmp_path / name)
    monkeypatch.setattr("histocli.images.image_files.read_values", lambda _: pytest.fail("the image was decoded"))
    if not name.endswith("avif"):  # its header has no fixed place
        monkeypatch.setattr(type(files[0].read), "__call__", lambda _: pytest.fail("the whole file was read"))
    assert infer_file_ranges(files) == {}


@pytest.mark.parametrize("suffix", ["png", "jp2"])
def test_images_whose_header_says_16_bits_are_decoded_to_infer_white(tmp_path, suffix):
    cv2.imwrite(str(tmp_path / f"a.{suffix}"), PATCH.astype(np.uint16) << 4)
    (found,) = infer_file_ranges(find_images(list_files(tmp_path)).images).values()
    assert str(found) == "12-bit integers, 0 to 4,095"


@pytest.mark.parametrize("bits", [10, 12, 14])
def test_inverted_grey_of_fewer_than_16_bits_is_refused(bits):
    """It became nearly white: 65,535 and not 4,095 minus each sample."""
    grey = PATCH[..., :1].astype(np.uint16)
    assert np.array_equal(decode(tiff(65535 - grey * 257, t262=0), "x"), np.repeat(PATCH[..., :1], 3, 2))
    with pytest.raises(HistoError, match=r"white is zero in it, and its samples go up to .* only") as raised:
        decode(tiff((1 << bits) - 1 - (grey << (bits - 8)), t262=0), "x")
    assert "black as zero" in raised.value.hint


def test_an_inverted_pale_patch_of_16_bits_is_read():
    pale = np.full((96, 96, 1), 6_000, np.uint16)
    pale[40:50, 40:50] = 20_000
    assert np.array_equal(decode(tiff(pale, t262=0), "x"), np.repeat((65535 - pale) >> 8, 3, 2))


def test_inverted_grey_of_12_packed_bits_is_refused():
    """It was read as its negative."""
    left, right = (4095 - (PATCH[:, i::2, :1].astype(np.uint16) << 4) for i in (0, 1))
    packed = np.concatenate([left >> 4, (left & 15) << 4 | right >> 8, right & 255], 2).astype(np.uint8)
    with pytest.raises(HistoError, match="white is zero in it, and its samples have 12 bits"):
        decode(tiff(packed.reshape(96, 144, 1), t256=96, t258=[12], t262=0), "x")


@pytest.mark.parametrize(
    ("tags", "mpp"),
    [
        ({"t282": TiffImagePlugin.IFDRational(10_000_000, 243), "t296": 3}, 0.243),
        ({"t282": TiffImagePlugin.IFDRational(25_400_000, 486), "t296": 2}, 0.486),
        ({"t282": TiffImagePlugin.IFDRational(1_000, 250), "t296": 1, "t270": "ImageJ=1.54\nunit=micron\n"}, 0.25),
        ({"t282": TiffImagePlugin.IFDRational(72, 1), "t296": 2}, None),
        ({"t282": TiffImagePlugin.IFDRational(1_000, 250), "t296": 1}, None),
        ({"t282": TiffImagePlugin.IFDRational(0, 1), "t296": 3}, None),
        ({}, None),
    ],
)
def test_the_resolution_in_the_tags_is_read(tags, mpp):
    assert read_first_page(by_pillow(PATCH, None, **tags)).mpp == (mpp and pytest.approx(mpp, rel=1e-3))


def test_a_colour_space_that_is_not_read_is_refused():
    with pytest.raises(HistoError, match="a colour space"):
        decode(tiff(PATCH, t262=8), "x")


def pages(count, description):
    grey = [Image.fromarray(PATCH[..., i % 3]) for i in range(count)]
    stream = io.BytesIO()
    grey[0].save(stream, "TIFF", save_all=True, append_images=grey[1:], description=description)
    return stream.getvalue()


def name_channels(*names):
    channels = "".join(f'<Channel ID="Channel:0:{i}" Name="{name}"/>' for i, name in enumerate(names))
    return f'<OME><Pixels SizeC="3" SizeT="1" SizeZ="1">{channels}</Pixels></OME>'


@pytest.mark.parametrize("names", [("DAPI", "FITC", "Cy3"), ("Blue", "Green", "Red"), ("Red", "Green", "Cy5")])
def test_pages_of_other_channels_are_refused(names):
    with pytest.raises(HistoError, match=f"its pages are the channels {', '.join(names)}, and not red"):
        decode(pages(3, name_channels(*names)), "x")


@pytest.mark.parametrize(
    "description",
    [
        "ImageJ=1.53\nimages=3\nchannels=3\nmode=grayscale\n",
        '<OME><Pixels SizeC="3" SizeT="1" SizeZ="1"/></OME>',
        name_channels("Red", "Green", "Blue"),
        name_channels("Channel 0", "Channel 1", "Channel 2"),
        name_channels("C:0/3", "C:1/3", "C:2/3"),
    ],
)
def test_red_green_and_blue_pages_are_joined(description):
    remarks = Remarks()
    assert np.array_equal(decode(pages(3, description), "x", remarks=remarks), PATCH)
    assert remarks.count_images() == {"three pages were combined to RGB": 1}


@pytest.mark.parametrize(
    ("count", "description"),
    [(3, ""), (2, ""), (3, "ImageJ=1.53\nimages=3\nslices=3\n"), (4, "ImageJ=1.53\nimages=4\nchannels=4\n")],
)
def test_other_grey_pages_are_refused(count, description):
    with pytest.raises(HistoError, match=f"a stack of {count} grey pages"):
        decode(pages(count, description), "x")


def test_a_stack_without_pages_is_refused():
    data = tiff(PATCH[..., :1], description=b"ImageJ=1.53\nimages=12\nslices=12\n\0")
    with pytest.raises(HistoError, match="a stack of 12 grey pages"):
        decode(data, "x")


def test_a_pyramid_or_a_large_image_is_a_slide():
    stream = io.BytesIO()
    large = Image.new("RGB", (400, 300))
    large.save(stream, "TIFF", save_all=True, append_images=[large.resize((200, 150)), large.resize((100, 75))])
    with pytest.raises(HistoError, match=r"a whole slide of 400 x 300 pixels \(a pyramid of 3 levels\)") as raised:
        decode_patch(stream.getvalue(), "x")
    assert "patches of 96 x 96" in raised.value.hint
    for kind in ("TIFF", "PNG", "JPEG", "BMP", "WEBP"):
        stream = io.BytesIO()
        Image.new("RGB", (2049, 20)).save(stream, kind)
        with pytest.raises(HistoError, match="a whole slide of 2,049 x 20 pixels"):
            decode_patch(stream.getvalue(), "x")
    small = io.BytesIO()
    Image.fromarray(PATCH).save(small, "TIFF", save_all=True, append_images=[Image.fromarray(PATCH[::2, ::2])])
    assert np.array_equal(decode_patch(small.getvalue(), "x"), PATCH)  # a patch with a thumbnail


def test_what_a_header_claims_is_not_allocated():
    bomb = by_pillow(np.zeros((2000, 2000), np.uint8), "tiff_adobe_deflate")
    claims = tiff(PATCH, t278=96)
    at = value_at(claims, 279)
    for data in (bomb[:100] + bytes(20) + bomb[120:], claims[:at] + b"\xff\xff\xff\x7f" + claims[at + 4 :]):
        with peak_memory_below(16 << 20), pytest.raises(HistoError, match="x: "):
            decode(data, "x")


@pytest.mark.attack
@pytest.mark.parametrize("tile", [None, (32, 32)])
def test_a_damaged_jpeg_in_a_tiff_is_refused_with_what_libjpeg_says(tile):
    tifffile = pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), np.uint8)
    tifffile.imwrite(stream, pixels, photometric="rgb", compression="jpeg", tile=tile)
    data = bytearray(stream.getvalue())
    assert decode(bytes(data), "x").shape == (96, 96, 3)
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        at, length = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    data[at + length // 2 : at + length // 2 + length // 4] = bytes(length // 4)
    with pytest.raises(HistoError, match=r"x: the image is damaged: (Corrupt JPEG data|a JPEG in it)"):
        decode(bytes(data), "x")


def test_a_page_with_one_bit_for_each_pixel_is_read():
    pytest.importorskip("tifffile")
    pytest.importorskip("imagecodecs")
    page = Image.fromarray(PATCH[..., 1]).convert("1")
    stream = io.BytesIO()
    page.save(stream, "TIFF", compression="group4")
    assert np.array_equal(decode(stream.getvalue(), "x")[..., 0], np.asarray(page.convert("L")))


@pytest.mark.parametrize("samples", [3, 4])
def test_grey_channels_that_may_not_be_red_green_and_blue_are_refused(samples):
    channels = np.dstack([PATCH, PATCH])[..., :samples]
    with pytest.raises(HistoError, match=f"the image has {samples} channels, but does not say that they are red"):
        decode(tiff(channels, t262=1, t338=[0] * (samples - 1)), "x")


def test_a_first_page_that_is_a_reduced_version_is_refused():
    pages = io.BytesIO()
    small, whole = (Image.fromarray(pixels) for pixels in (np.ascontiguousarray(PATCH[::4, ::4]), PATCH))
    small.save(pages, "TIFF", save_all=True, append_images=[whole], tiffinfo={254: 1})
    with pytest.raises(HistoError, match="its first page is a reduced version of another page"):
        decode(pages.getvalue(), "x")
