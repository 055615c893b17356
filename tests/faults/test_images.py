"""Unusual image files: the right pixels, or one line on stderr with the path; the CSV is always valid."""

import csv
import io
import os
import re
import shutil
import struct
import subprocess
import sys
from contextlib import suppress

import cv2
import numpy as np
import pytest
from PIL import Image

from histocli.errors import HistoError
from histocli.images.decode import decode
from tests.cli import REPOSITORY
from tests.faults.processes import histo
from tests.images.test_decode import bmp_header, encode, jpeg_header, png_header, tiff_header

PREDICT = ["predict", "--ckpt", "first", "--device", "cpu"]
PATCH = cv2.GaussianBlur(np.random.default_rng(7).integers(0, 256, (96, 96, 3), np.uint8), (0, 0), 3)
GREY = np.dstack([cv2.cvtColor(PATCH, cv2.COLOR_RGB2GRAY)] * 3)


def encode_rotated():
    exif = Image.Exif()
    exif[0x112] = 6
    return encode(np.rot90(PATCH), "PNG", exif=exif)


def make_animation():
    stream = io.BytesIO()
    first = Image.fromarray(PATCH)
    first.save(stream, "WEBP", save_all=True, lossless=True, append_images=[Image.fromarray(255 - PATCH)])
    return stream.getvalue()


def sixteen_bits():
    return cv2.imencode(".png", PATCH[..., ::-1].astype(np.uint16) * 257)[1].tobytes()


def cut_marker():
    """Return a JPEG with an impossible marker in its data, after which all pixels would be grey."""
    data = bytearray(encode(PATCH, "JPEG", quality=95))
    at = (data.index(b"\xff\xda") + len(data)) // 2
    data[at : at + 2] = b"\xff\xc0"
    return bytes(data)


def lying_chunk(length):
    """A PNG with a chunk that claims more bytes than the file has."""
    data = encode(PATCH, "PNG")
    at = data.index(b"IDAT") - 4
    return data[:at] + struct.pack(">I", length) + b"abCd" + bytes(20) + data[at:]


SOUND = {  # name -> the bytes, and the pixels that they are decoded to
    "plain.png": (encode(PATCH, "PNG"), PATCH),
    "wrong extension.tif": (encode(PATCH, "PNG"), PATCH),
    "grey.png": (encode(GREY, "PNG", "L"), GREY),
    "rgba.png": (encode(np.dstack([PATCH, np.full((96, 96), 255, np.uint8)]), "PNG"), PATCH),
    "sixteen.png": (sixteen_bits(), PATCH),
    "turned.png": (encode_rotated(), PATCH),
    "animated.webp": (make_animation(), PATCH),
    "one pixel.png": (encode(np.full((1, 1, 3), 90, np.uint8), "PNG"), np.full((96, 96, 3), 90, np.uint8)),
    'quotes "and", commas.png': (encode(PATCH, "PNG"), PATCH),
    "two\nlines\r.png": (encode(PATCH, "PNG"), PATCH),
    " spaces .png": (encode(PATCH, "PNG"), PATCH),
    "=cmd|'calc'!A1.png": (encode(PATCH, "PNG"), PATCH),
    "\x1b[2J.png": (encode(PATCH, "PNG"), PATCH),
    "-rf.png": (encode(PATCH, "PNG"), PATCH),
    "n" * 240 + ".png": (encode(PATCH, "PNG"), PATCH),
}
NEAR = {  # lossy, or of another colour space
    "cmyk.jpg": encode(PATCH, "JPEG", "CMYK", quality=98),
    "palette.png": encode(PATCH, "PNG", "P"),
    "lossy.jpg": encode(PATCH, "JPEG", quality=98),
}
BROKEN = {
    "zero bytes.png": b"",
    "text renamed.tif": b"this is no image\n" * 100,
    "page.jpg": b"<!DOCTYPE html><html>quota</html>",
    "truncated.png": encode(PATCH, "PNG")[:-500],
    "truncated.jpg": encode(PATCH, "JPEG")[:-500],
    "truncated.tif": encode(PATCH, "TIFF")[:-5000],
    "damaged.jpg": cut_marker(),
    "transparent.tif": encode(np.dstack([PATCH, PATCH[..., :1]]), "TIFF"),
    "enormous.png": png_header(40_000, 40_000),
    "enormous.tif": tiff_header(40_000, 40_000),
    "enormous.bmp": bmp_header(40_000, 40_000),
    "enormous.jpg": jpeg_header(40_000, 40_000),
    "largest.png": png_header(2**31 - 1, 2**31 - 1),
    "claims 4 GiB.png": lying_chunk(0xFFFFFFF0),
    "claims 1 GiB.png": lying_chunk(0x40000000),
    "header alone.png": b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + b"IHDR",
    "new\nline.png": b"no image",
}


def unreadable(stderr):
    """The warnings of files that cannot be read, without those of images that were changed."""
    warnings = [line for line in stderr.splitlines() if line.startswith("warning: ")]
    return [
        line
        for line in warnings
        if "(the first; others are counted)" not in line and not re.search(r" of \d+ images", line)
    ]


def rows(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.fixture
def strange(tmp_path):
    """Return a folder with every kind of file that a folder of images can contain."""
    folder = tmp_path / "strange"
    (folder / "deep" / "deeper").mkdir(parents=True)
    files = {name: data for name, (data, _) in SOUND.items()} | NEAR | BROKEN
    for name, data in files.items():
        (folder / name).write_bytes(data)
    with open(os.fsencode(folder) + b"/not utf-8 \xff\xe9.png", "wb") as file:  # noqa: PTH123
        file.write(SOUND["plain.png"][0])
    os.mkfifo(folder / "pipe.png")
    (folder / "self.png").symlink_to("self.png")
    (folder / "deep" / "loop").symlink_to(folder)
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "folder.png").mkdir()
    (folder / "deep" / "deeper" / "found.png").write_bytes(SOUND["plain.png"][0])
    return folder


def test_every_file_of_a_mixed_folder_gives_a_score_or_one_error_line(root, strange, tmp_path):
    np.save(tmp_path / "expected.npy", np.stack([pixels for _, pixels in SOUND.values()]))
    expected = [float(row["label"]) for row in rows(histo(root, *PREDICT, tmp_path / "expected.npy").stdout)]
    process = histo(root, *PREDICT, strange, code=4, limits={"memory": 2000 << 20})
    scores = {row["id"]: float(row["label"]) for row in rows(process.stdout)}
    for name, score in zip(SOUND, expected, strict=True):  # whole names, for there are some that differ in suffix alone
        assert scores[name.replace("\r", "\n")] == pytest.approx(score, abs=2e-5), name
    for name in NEAR:
        assert scores[name] == pytest.approx(expected[0], abs=0.2), name
    assert len(scores) == len(SOUND) + len(NEAR) + 2
    broken = [*BROKEN, "gone.png", "self.png"]
    warnings = unreadable(process.stderr)
    assert "warning: 1 of 20 images were not 96x96: 1 padded" in process.stderr
    assert "warning: 1 of 20 images: read as 16-bit integers, 0 to 65,535" in process.stderr
    assert sorted(line.removeprefix("warning: ").partition(": ")[0] for line in warnings) == sorted(
        name.replace("\n", "\\n") for name in broken
    )
    known = ("checkpoint ", "warning: ", "done: ", "cpu ", "error: ", "hint: ", "assumed that ")
    assert [line for line in process.stderr.splitlines() if not line.startswith(known)] == []
    assert f"error: {len(broken)} of {len(scores) + len(broken)} files could not be read" in process.stderr


def test_packing_the_mixed_folder_gives_the_same_pixels(root, strange):
    process = histo(root, "download", "--source", "folder", "--from", strange, "--name", "strange")
    assert len(re.findall(r"^warning: ", process.stderr, re.MULTILINE)) == len(BROKEN) + 2  # two links lead nowhere
    with (root / "manifests" / "strange.csv").open(newline="", encoding="utf-8") as file:
        ids = [row["id"] for row in csv.DictReader(file)]
    store = np.load(root / "data" / "strange" / "patches.npy")
    assert len(ids) == len(store) == len(SOUND) + len(NEAR) + 2
    for name, (_, pixels) in SOUND.items():
        assert np.array_equal(store[ids.index(name)], pixels), name


def test_every_path_on_stdin_gives_a_row_or_one_error_line(root, strange, tmp_path):
    names = sorted(os.fsencode(path) for path in strange.rglob("*") if b"\n" not in os.fsencode(path.name))
    names += [
        b"",
        b"/no/such/file.png",
        b"/" + b"x" * 5000,
        os.fsencode(strange / "loop" / "loop" / "plain.png"),
    ]
    listed = tmp_path / "names"
    listed.write_bytes(b"\n".join(names))
    process = histo(root, *PREDICT, "-", code=4, stdin=listed, limits={"memory": 2000 << 20})
    told = len(unreadable(process.stderr))
    assert len(rows(process.stdout)) + told == len(names) - 1  # of the empty line there is nothing to say
    assert "Traceback" not in process.stderr


@pytest.mark.skipif(shutil.which("setpriv") is None and os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_one_error_line(root, strange, tmp_path):
    (strange / "plain.png").chmod(0)
    command = [sys.executable, "-m", "histocli", "-w", root, *PREDICT, "--errors", "fail", strange / "plain.png"]
    if os.geteuid() == 0:
        command = ["setpriv", "--inh-caps=-all", "--bounding-set=-all", *command]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "id,label\n")
    assert f"error: {strange / 'plain.png'}: Permission denied" in done.stderr


def change_png_data(at):
    """Return a PNG with another bit at this byte of its chunk IDAT, which ends with its checksum."""
    data = bytearray(encode(PATCH, "PNG"))
    start, end = data.index(b"IDAT"), data.index(b"IEND") - 4
    data[end + at if at < 0 else start + at] ^= 1
    return bytes(data)


@pytest.mark.attack
@pytest.mark.parametrize("at", [200, -1], ids=["data", "checksum"])
def test_a_png_with_a_wrong_checksum_is_one_error_without_lines_of_libpng(root, tmp_path, at):
    """libpng printed its own line, and the error of histo said that it is no image."""
    (tmp_path / "x.png").write_bytes(change_png_data(at))
    process = histo(root, *PREDICT, tmp_path / "x.png", code=1)
    assert "x.png: the image is damaged: the checksum of a chunk is wrong" in process.stderr
    assert "libpng" not in process.stderr


@pytest.mark.attack
@pytest.mark.parametrize("is_progressive", [False, True])
@pytest.mark.parametrize("marker", range(0xC0, 0xCC))
def test_a_jpeg_whose_header_names_another_coding_is_read_correctly_or_refused(is_progressive, marker):
    """A progressive JPEG whose header says sequential was decoded to wrong pixels: a mean difference of 75."""
    data = encode(PATCH, "JPEG", progressive=is_progressive)
    at = data.index(b"\xff\xc2" if is_progressive else b"\xff\xc0") + 1
    expected = decode(data, "x.jpg")  # not refused, also if `marker` is the image's own
    with suppress(HistoError):
        assert np.array_equal(decode(data[:at] + bytes([marker]) + data[at + 1 :], "x.jpg"), expected)


@pytest.mark.attack
@pytest.mark.parametrize("marker", [0xC9, 0xCA])
def test_a_jpeg_with_arithmetic_coding_is_refused_by_name(marker):
    data = encode(PATCH, "JPEG").replace(b"\xff\xc0", bytes([0xFF, marker]), 1)
    with pytest.raises(HistoError, match="it is a JPEG with arithmetic coding, which is not read"):
        decode(data, "x.jpg")


@pytest.mark.attack
def test_a_jpeg_with_more_scans_than_an_encoder_writes_is_refused_before_it_is_decoded():
    """Each scan takes the time of a whole image: 5,000 of them are 100 kB in the file."""
    data = encode(PATCH, "JPEG", progressive=True)
    at, end = data.rindex(b"\xff\xda"), data.rindex(b"\xff\xd9")
    with pytest.raises(HistoError, match="the image is damaged: it has more than 100 scans"):
        decode(data[:at] + data[at:end] * 101 + data[end:], "x.jpg")
