"""Harms that attacks with new variants found; those of the first attack are tested in the other files."""

import io
import os
import struct
import zlib

import cv2
import h5py
import numpy as np
import pytest
import tifffile
import torch

from histocli.class_names import find_label, find_split_and_class
from histocli.errors import HistoError
from histocli.files.file import make_file
from histocli.images.decode import decode_patch
from histocli.images.remarks import Remarks
from histocli.inference.array_inputs import open_array
from histocli.inference.score_table import read_scores
from histocli.labels.table_files import read_labels, read_patch_table
from histocli.models.checkpoint import load_checkpoint
from tests.faults.hostile_arrays import zeros
from tests.faults.hostile_checkpoints import members, pack, save
from tests.faults.hostile_images import chunk
from tests.faults.processes import histo

MIB = 1 << 20
PATCH = (96, 96, 3)
GZIP, LZF = h5py.h5z.FILTER_DEFLATE, 32000


pytestmark = pytest.mark.attack


def lzf(data):
    """Compress bytes as HDF5 does."""
    with h5py.File.in_memory() as file:
        array = file.create_dataset("x", data=np.frombuffer(data, np.uint8), chunks=(len(data),), compression="lzf")
        return array.id.read_direct_chunk((0,))[1]


def write_chunk(path, chunk, *filters):
    """Write an array of one patch, whose only chunk has these bytes."""
    with h5py.File(path, "w") as file:
        properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
        properties.set_chunk((1, *PATCH))
        for number in filters:
            properties.set_filter(number, 0, (9,) if number == GZIP else ())
        space = h5py.h5s.create_simple((1, *PATCH))
        array = h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_UINT8, space, properties)
        array.write_direct_chunk((0, 0, 0, 0), chunk)


LZF_CHUNKS = {
    "shorter than a patch": (b"\x00a", [LZF]),  # HDF5 fills the rest with what is in its memory
    "longer than a patch": (b"\x00a" + b"\xe0\xff\x00" * 3000, [LZF]),
    "cut off": (b"\x00a\xe0", [LZF]),
    "repeats what is not there": (b"\xe0\xff\x00" * 3, [LZF]),
    "gzip in it": (lzf(zeros(1 << 30)), [GZIP, LZF]),  # 1 GiB
    "in gzip": (zlib.compress(b"\x00a"), [LZF, GZIP]),
}


@pytest.mark.parametrize(("chunk", "filters"), LZF_CHUNKS.values(), ids=LZF_CHUNKS)
def test_a_chunk_of_lzf_has_exactly_its_size(trained_workspace, tmp_path, chunk, filters):
    path = tmp_path / "x.h5"
    write_chunk(path, chunk, *filters)
    line = ["predict", path, "--ckpt", "first", "--device", "cpu"]
    process = histo(trained_workspace, *line, code=1, limits={"memory": 800 * MIB})
    assert process.stdout in ("", "id,label\n")
    assert f"error: cannot read {path} from row 0 on: it is truncated or damaged" in process.stderr


def test_chunks_of_so_many_rows_that_each_is_unpacked_hundreds_of_times_are_refused(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        shapes = {"maxshape": (None, *PATCH), "chunks": (1_000_000, 1, 96, 1), "compression": "gzip"}
        file.create_dataset("x", (2, *PATCH), "u1", **shapes)
    with pytest.raises(HistoError, match=r"chunks of 1,000,000 rows, which are too many to read at once"):
        open_array(path)


@pytest.mark.parametrize("offset", [b"\0\x20\x50\x0d\x0a\x16\x0d\x91", b"\xff" * 8, b"\xff" * 7 + b"\x7f"], ids=str)
@pytest.mark.parametrize("where", ["page", "tag"])
def test_an_offset_of_64_bits_in_a_tiff_is_one_error(tmp_path, offset, where):
    data = b"II+\0\x08\0\0\0" + (offset if where == "page" else (16).to_bytes(8, "little"))
    if where == "tag":
        data += (1).to_bytes(8, "little") + b"\x02\x01\x03\0" + (9).to_bytes(8, "little") + offset + bytes(8)
    with pytest.raises(HistoError, match=r"x\.tif: the image is"):
        decode_patch(data, "x.tif")


def test_a_large_tiff_with_such_an_offset_is_one_error(trained_workspace, tmp_path):
    path = tmp_path / "x.tif"
    path.write_bytes(b"II+\0\x08\0\0\0" + b"\xff" * 8)
    os.truncate(path, 64 * MIB)  # so large that it may be a slide
    process = histo(trained_workspace, "predict", path, "--ckpt", "first", "--device", "cpu", code=1)
    assert "x.tif: the image is truncated: its directory lies outside the file" in process.stderr
    assert process.stderr.count("error: ") == 1


@pytest.mark.parametrize(
    "name", ["train_test_" * 20 + "tumor", "_".join("abcdefghijklmnopqrstuvwxyz" * 4), "no_" * 5000]
)
def test_a_very_long_name_is_read_at_once_and_has_no_label(name):
    assert find_label(name) is None
    assert find_split_and_class(name) is None


def test_names_with_colons_are_printed_as_they_are(trained_workspace, tmp_path):
    path = tmp_path / "a:smile:b.png"
    path.write_bytes(b"no image")
    (tmp_path / "b.png").write_bytes(cv2.imencode(".png", np.zeros(PATCH, np.uint8))[1].tobytes())
    line = ["predict", tmp_path, "--ckpt", "first", "--device", "cpu"]
    assert f"{path.name}: " in histo(trained_workspace, *line, code=4).stderr


def frame(number, side=96):
    """Return the chunk that describes a frame of an animated PNG."""
    return chunk(b"fcTL", struct.pack(">5I2H2B", number, side, side, 0, 0, 1, 10, 0, 0))


ANIMATION = chunk(b"acTL", struct.pack(">2I", 2, 0))
FRAMES = {
    "first frame": ([ANIMATION, frame(0)], True),
    "image that is no frame": ([ANIMATION], False),
    "small first frame": ([ANIMATION, frame(0, side=10)], True),
}


@pytest.mark.parametrize(("before", "is_frame"), FRAMES.values(), ids=FRAMES)
def test_the_first_image_of_an_animated_png_is_read(before, is_frame):
    """OpenCV returned black pixels where the first image is no frame of the animation, or not a whole one."""
    pixels = np.random.default_rng(0).integers(0, 256, PATCH, np.uint8)
    rows = [zlib.compress(b"".join(b"\0" + row.tobytes() for row in one)) for one in (pixels, np.zeros_like(pixels))]
    after = [] if is_frame else [frame(0), chunk(b"fdAT", struct.pack(">I", 1) + rows[1])]
    after += [frame(2), chunk(b"fdAT", struct.pack(">I", 3) + rows[1]), chunk(b"IEND", b"")]
    header = chunk(b"IHDR", struct.pack(">2I5B", 96, 96, 8, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + b"".join([header, *before, chunk(b"IDAT", rows[0]), *after])
    remarks = Remarks()
    assert np.array_equal(decode_patch(data, "x.png", remarks=remarks), pixels)
    assert list(remarks) == ["only the first of several frames was read"]


def fractions(dtype, **options):
    """Return the pixels of a patch as uint8, and a TIFF of them as fractions with a predictor."""
    pixels = np.random.default_rng(0).integers(0, 256, PATCH, np.uint8)
    pixels[0, 0] = 255
    stream = io.BytesIO()
    values = np.moveaxis(pixels, 2, 0) if options else pixels
    tifffile.imwrite(
        stream, (values / 255).astype(dtype), photometric="rgb", compression="zlib", predictor=3, **options
    )
    return pixels, stream.getvalue()


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_fractions_with_a_predictor_are_read(dtype):
    """Those of 64 bits were an error of OpenCV."""
    pixels, data = fractions(dtype)
    assert np.array_equal(decode_patch(data, "x.tif"), pixels)


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_fractions_with_a_predictor_in_separate_planes_are_refused(dtype):
    """OpenCV left some of the pixels unset, and histo used what was in the memory."""
    with pytest.raises(HistoError, match=r"x\.tif: it has fractions in separate planes with a predictor"):
        decode_patch(fractions(dtype, planarconfig="separate")[1], "x.tif")


BYTES, TEN_BITS = (0xFF, 0xFF00, 0xFF0000), (0x3FF << 20, 0x3FF << 10, 0x3FF)


@pytest.mark.parametrize(
    ("size", "masks", "is_read"), [(40, BYTES, False), (56, BYTES, True), (40, TEN_BITS, False), (56, TEN_BITS, False)]
)
def test_a_bmp_with_other_channels_is_read_correctly_or_refused(size, masks, is_read):
    """Red and blue were exchanged, and of 10 bits the lowest were read."""
    pixels = np.random.default_rng(0).integers(0, 256, PATCH, np.uint8)
    shifts = [mask.bit_length() - 8 for mask in masks]
    values = sum(pixels[..., i].astype("<u4") << shift for i, shift in enumerate(shifts))
    head = struct.pack("<I2i2H6I", size, 96, -96, 1, 32, 3, 0, 0, 0, 0, 0) + struct.pack("<4I", *masks, 0)
    head = head[: max(size, 52)]
    data = b"BM" + struct.pack("<I2HI", 0, 0, 0, 14 + len(head)) + head + values.tobytes()
    if is_read:
        assert np.array_equal(decode_patch(data, "x.bmp"), pixels)
    else:
        with pytest.raises(HistoError, match=r"x\.bmp: it is a BMP of an unusual order of channels"):
            decode_patch(data, "x.bmp")


@pytest.fixture(scope="module")
def good(trained_workspace):
    return torch.load(trained_workspace / "runs" / "first" / "best.pt", weights_only=True)


def with_validation(good, count):
    return {**good, "validation": {"labels": torch.zeros(count, dtype=torch.uint8), "log_odds": torch.zeros(count)}}


def with_more_pickle(good):
    pairs = members(save(good))
    return pack([(name, data + b"\x80\2}." if name.endswith("data.pkl") else data) for name, data in pairs])


def with_two_types(good):
    """The storage of one tensor, as bytes, is also that of another one, as floats: PyTorch would read bytes twice."""
    pairs = members(save({**good, "training": {"a": torch.zeros(8, dtype=torch.uint8), "b": torch.zeros(2)}}))
    last = sum("/data/" in name for name, _ in pairs) - 1  # the number of the storage of "b"
    keys = [b"X" + struct.pack("<I", len(str(key))) + str(key).encode() for key in (last, last - 1)]
    assert sum(data.count(keys[0]) for name, data in pairs if name.endswith("data.pkl")) == 1
    return pack([(name, data.replace(*keys) if name.endswith("data.pkl") else data) for name, data in pairs])


def with_attributes(good):
    name = next(iter(good["model"]))
    return save({**good, "model": good["model"] | {name: torch._neg_view(good["model"][name])}})


def with_changed_weight(good):
    data = bytearray(save(good))
    data[data.index(good["model"]["mean"].numpy().tobytes())] ^= 1
    return bytes(data)


def with_changed(good, name, change):
    """Return the content of a checkpoint with one tensor of the validation patches changed."""
    return {**good, "validation": {**good["validation"], name: change(good["validation"][name])}}


def with_appearance(**changes):
    """Return a function that writes a checkpoint whose training patches have another appearance."""
    return lambda good: save({**good, "appearance": good["appearance"] | changes})


CHECKPOINTS = {
    "appearance of 5 colours": (with_appearance(colour_mean=[0.5] * 5), "does not have 6 colours"),
    "appearance of texts": (
        with_appearance(colour_mean=["0.5"] * 6),
        "colour_mean[0] is '0.5', not a number",
    ),
    "appearance NaN": (with_appearance(focus_mean=float("nan")), "appearance.focus_mean is nan, not a number"),
    "appearance without deviation": (with_appearance(focus_deviation=0.0), "appearance.focus_deviation is 0.0, not"),
    "appearance of large colours": (with_appearance(colour_mean=[1e200] * 6), "has colours that are too large"),
    "appearance without distances": (
        with_appearance(colour_precision=[[-1.0] * 6] * 6),
        "has a colour_precision that is no precision matrix",
    ),
    "a changed weight": (with_changed_weight, "Bad CRC-32 for file"),
    "run ..": (lambda good: save({**good, "run": "../../up"}), "the field run: '../../up' cannot name a run"),
    "run of a device": (lambda good: save({**good, "run": "CON"}), "the field run: 'CON' cannot name a run"),
    "many validation patches": (lambda good: save(with_validation(good, 10_000_001)), "has 10,000,001 patches"),
    "labels of another type": (lambda good: save(with_changed(good, "labels", torch.Tensor.int)), "labels uint8 (N,)"),
    "a label too few": (lambda good: save(with_changed(good, "labels", lambda t: t[1:])), "labels and"),
    "the label 2": (
        lambda good: save(with_changed(good, "labels", lambda t: t * 0 + 2)),
        "has the label 2",
    ),
    "infinite log odds": (lambda good: save(with_changed(good, "log_odds", lambda t: t + 1e39)), "are not finite"),
    "threshold 2": (lambda good: save({**good, "threshold": 2.0}), "threshold"),
    "temperature 0": (lambda good: save({**good, "temperature": 0.0}), "temperature"),
    "epoch -1": (lambda good: save({**good, "epoch": -1}), "epoch"),
    "another field": (lambda good: save({**good, "surprise": 1}), "it has the field 'surprise'"),
    "two pickles": (with_more_pickle, "its data.pkl has bytes after its end"),
    "two types of one storage": (with_two_types, "two tensors of different types share a member"),
    "attributes": (with_attributes, "a tensor has hooks or attributes"),
}


@pytest.mark.parametrize(("write", "why"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint_that_histo_cannot_have_written_is_refused(good, tmp_path, write, why):
    path = tmp_path / "x.pt"
    path.write_bytes(write(good))
    with pytest.raises(HistoError) as refused:
        load_checkpoint(path)
    assert str(path) in str(refused.value)
    assert why in str(refused.value)


def test_a_large_file_that_is_no_checkpoint_is_refused_before_it_is_read(trained_workspace, tmp_path):
    path = tmp_path / "x.pt"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 1 << 40)  # a sparse file: to read a terabyte takes many minutes
    process = histo(trained_workspace, "predict", "synthetic", "--ckpt", path, "--device", "cpu", code=1)
    assert f"error: {path} cannot be read safely as a checkpoint" in process.stderr


def test_scores_with_two_columns_of_one_name_are_refused(tmp_path):
    """The first one was read, and the second one ignored."""
    path = tmp_path / "x.csv"
    path.write_text("id,label,prob,data,index,prob\na,1,0.9,d,0,0.1\n")
    with pytest.raises(HistoError, match=r"x\.csv, line 1: there are two columns 'prob'"):
        read_scores(path)


def test_a_message_is_one_printable_line_whatever_a_table_contains(tmp_path):
    """The command line escapes messages; in Python they had the line breaks and control characters of the file."""
    path = tmp_path / "x.csv"
    path.write_text('id,"a\n\x1b[2Jb"\n1,2\n')
    with pytest.raises(HistoError, match=r"known as the label; the columns are id, a\\n\\x1b\[2Jb") as found:
        read_labels(make_file(path))
    assert str(found.value).isprintable()
    with pytest.raises(HistoError, match="there is no column") as found:
        read_patch_table(make_file(path)).require("label", "y")
    assert found.value.hint == r"it has id, a\n\x1b[2Jb"
