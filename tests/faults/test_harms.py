"""Harms that attacks have done, each done again for real: one error, in little time and memory, and nothing is read."""

import csv
import gzip
import io
import json
import os
import struct
import time
import zlib

import cv2
import h5py
import numpy as np
import pytest
import torch

from histocli.errors import HistoError
from histocli.files.file import File
from histocli.images.decode import decode_patch
from histocli.labels import table_files
from histocli.models import packaged
from tests.faults.hostile_checkpoints import members, pack, save
from tests.faults.hostile_images import chunk
from tests.faults.processes import Process, histo
from tests.images.test_tiff import tiff

pytestmark = pytest.mark.attack

MIB = 1 << 20
PATCH = (96, 96, 3)
EVAL = ["eval", "--ckpt", "first", "--device", "cpu"]
LITTLE = {"memory": 600 * MIB}  # of address space
PREDICT = ["predict", "--ckpt", "first", "--device", "cpu"]
PREDICT_APART = ["predict", "--ckpt", packaged.NAME, "--device", "cpu"]  # it tells patches apart, unlike two epochs


@pytest.fixture(scope="module")
def good(trained_workspace):
    return torch.load(trained_workspace / "runs" / "first" / "best.pt", weights_only=True)


def wait(process, seconds=100):
    """Wait for a process that may wait for ever, and return it."""
    end = time.monotonic() + seconds
    while process.alive():
        if time.monotonic() > end:
            process.kill()
            pytest.fail(f"it waits: {process.stderr}")
        time.sleep(0.01)
    return process


def refuses(root, path, *args, limits=LITTLE, seconds=100):
    """Run `predict` on a file, and return its error; it must end in time even where a pipe has no writer."""
    process = wait(Process(root, *PREDICT, *args, path, limits=limits), seconds)
    assert process.code == 1, process.stderr
    assert process.stdout in ("", "id,label\n")
    assert process.stderr.count("error: ") == 1
    assert path.name in process.stderr
    return process.stderr


# HDF5 that leads out of the file


def in_external_file(file, target):
    file.create_dataset("x", (2, *PATCH), "u1", external=[(os.fspath(target), 0, 2 * 27648)])


def behind_external_link(file, target):
    file["x"] = h5py.ExternalLink(os.fspath(target), "/x")


def behind_soft_and_external_link(file, target):
    file["y"] = h5py.ExternalLink(os.fspath(target), "/x")
    file["x"] = h5py.SoftLink("/y")


def virtual(file, target):
    layout = h5py.VirtualLayout((2, *PATCH), "u1")
    layout[:] = h5py.VirtualSource(os.fspath(target), "x", (2, *PATCH))
    file.create_virtual_dataset("x", layout)


@pytest.mark.parametrize("to", ["secret", "pipe"])
@pytest.mark.parametrize("lead", [in_external_file, behind_external_link, behind_soft_and_external_link, virtual])
def test_an_array_outside_its_file_is_not_read(trained_workspace, tmp_path, lead, to):
    target, path = tmp_path / to, tmp_path / "x.h5"
    if to == "pipe":
        os.mkfifo(target)
    elif lead is in_external_file:
        target.write_bytes(b"TOPSECRET" * 6144)
    else:
        with h5py.File(target, "w") as file:
            file["x"] = np.full((2, *PATCH), 7, "u1")
    with h5py.File(path, "w") as file:
        lead(file, target)
    message = refuses(trained_workspace, path)
    assert "links are not followed" in message or "is stored in other files" in message


# images whose lengths are larger than their file


def lying_png(length, kind=b"abCd", *, is_after=False):
    """A PNG of 131 bytes or a few more, in which one chunk says that it has `length` bytes."""
    pixels = chunk(b"IDAT", zlib.compress((b"\0" + bytes(288)) * 96))
    lie = struct.pack(">I", length) + kind + bytes(20)
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">2I5B", 96, 96, 8, 2, 0, 0, 0))
    return head + (pixels + lie if is_after else lie + pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("length", [0x40000000, 0x7FFFFFF0, 0xFFFFFFF0])
@pytest.mark.parametrize("kind", [b"abCd", b"IDAT", b"iCCP", b"acTL", b"fdAT"])
@pytest.mark.parametrize("is_after", [False, True])
def test_a_png_that_claims_gigabytes_is_refused_before_it_is_decoded(tmp_path, length, kind, is_after):
    with pytest.raises(HistoError, match="the image is truncated: it ends before its last chunk"):
        decode_patch(lying_png(length, kind, is_after=is_after), "x.png")


def test_a_folder_of_pngs_that_claim_gigabytes_takes_no_memory(trained_workspace, tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(16):
        (folder / f"{number}.png").write_bytes(lying_png(0x40000000 + number))
    message = histo(trained_workspace, *PREDICT, folder, code=1, limits=LITTLE).stderr
    assert message.count(".png: the image is truncated: it ends before its last chunk") == 16


# images with more than 8 bits


@pytest.fixture(scope="module")
def patches(trained_workspace):
    return np.load(trained_workspace / "data" / "synthetic" / "patches.npy")[:6]


def scores(process):
    rows = csv.DictReader(io.StringIO(process.stdout))
    return [float(row["label"]) for row in sorted(rows, key=lambda row: row["id"])]


CONVERSIONS = {
    "int16 of 15 bits": lambda patch: (patch.astype(np.int16) << 7) | (patch >> 1),
    "int16 of 12 bits": lambda patch: patch.astype(np.int16) << 4 | patch >> 4,
    "uint16": lambda patch: patch.astype(np.uint16) * 257,
    "int32 of 8 bits": lambda patch: patch.astype(np.int32),
    "float32 to 1": lambda patch: (patch / 255).astype(np.float32),
    "float64 to 255": lambda patch: patch.astype(np.float64),
}


@pytest.fixture(scope="module")
def expected_scores(trained_workspace, patches, tmp_path_factory):
    path = save_array(tmp_path_factory.mktemp("expected") / "x.npy", patches)
    return scores(histo(trained_workspace, *PREDICT_APART, path))


@pytest.mark.parametrize("convert", CONVERSIONS.values(), ids=CONVERSIONS)
@pytest.mark.parametrize("form", ["tiff", "npy"])
def test_other_types_score_as_their_8_bit_images(trained_workspace, tmp_path, patches, expected_scores, convert, form):
    """They were read as black."""
    assert max(expected_scores) - min(expected_scores) > 0.1
    folder = tmp_path / "images"
    folder.mkdir()
    for number, patch in enumerate(patches):
        (folder / f"{number}.tif").write_bytes(tiff(convert(patch)))
    given = (
        folder if form == "tiff" else save_array(tmp_path / "x.npy", np.stack([convert(patch) for patch in patches]))
    )
    process = histo(trained_workspace, *PREDICT_APART, given)
    assert scores(process) == pytest.approx(expected_scores, abs=2e-5)


def save_array(path, array):
    np.save(path, array)
    return path


# tables


ROWS = [f"p{i},{i % 2}\n".encode() for i in range(8)]
HALVES = gzip.compress(b"id,label\n" + b"".join(ROWS[:4])), gzip.compress(b"".join(ROWS[4:]))
TABLES = {
    "all members of a gzip file": (b"".join(HALVES), None),
    "a gzip file that is cut": (gzip.compress(b"id,label\n" + b"".join(ROWS), 0)[:-20], "cannot unpack"),
    "a gzip file without its checksum": (HALVES[0][:-8], "cannot unpack"),
    "no gzip file": (b"\x1f\x8b" + bytes(range(99)), "cannot unpack"),
    "a long label": (b"id,label\np0," + b"9" * 100_000, f"line 2, column label: '{'9' * 40} ... {'9' * 40}' is not 0"),
    "many columns": (b"id,label" + b",c" * 300_000 + b"\n", "there are two columns 'c'"),
    "many other columns": (",".join(f"c{i}" for i in range(30_000)).encode(), "no column is known as the label"),
    "a long line": (gzip.compress(b"id,label" + b"," * (50 * MIB), 9), "the line has more than 1,048,576"),
    "a second long line": (gzip.compress(b"id,label\na" + b"," * (50 * MIB), 9), "line 2: the line has more"),
}


@pytest.mark.parametrize(("data", "why"), TABLES.values(), ids=TABLES)
def test_a_table_is_read_whole_or_refused(root, tmp_path, patches, data, why):
    folder, table = tmp_path / "images", tmp_path / "labels.csv.gz"
    folder.mkdir()
    for number in range(8):
        cv2.imwrite(os.fspath(folder / f"p{number}.png"), patches[number % 6])
    table.write_bytes(data)
    line = [*EVAL, "--data", folder, "--labels", table]
    process = histo(root, *line, "--json", code=1 if why else 0, limits=LITTLE)
    if why:
        assert process.stderr.count("error: ") == 1
        assert why in process.stderr
        assert len(process.stderr) < 25_000
    else:
        assert json.loads(process.stdout)["n"] == 8


def test_a_table_that_unpacks_to_more_than_it_may_is_not_cut(monkeypatch):
    monkeypatch.setattr(table_files, "MAX_FILE_BYTES", 100)
    with pytest.raises(HistoError, match="unpacks to more than"):
        table_files.read_labels(File("x.csv.gz", lambda: gzip.compress(b"id,label\n" + b"".join(ROWS) * 4)))


def test_a_table_with_more_rows_than_memory_is_refused(monkeypatch):
    """A gzip file of 250 kB had 50 million rows."""
    monkeypatch.setattr(table_files, "MAX_FIELDS", 16)
    data = b"id,label\n" + b"".join(ROWS)
    assert len(table_files.read_labels(File("x.csv.gz", lambda: gzip.compress(data)))) == 8
    with pytest.raises(HistoError, match=r"x\.csv\.gz has more than 8 rows"):
        table_files.read_labels(File("x.csv.gz", lambda: gzip.compress(data + b"p9,1\n")))


# packed patches


@pytest.mark.parametrize("kind", ["pipe", "order of Fortran"])
@pytest.mark.parametrize(("line", "code"), [(["report"], 0), ([*EVAL, "--data", "synthetic"], 1)], ids=str)
def test_packed_patches_that_histo_cannot_have_written_are_one_error(root, kind, line, code):
    """Of eval; report leaves the pictures out, and says so."""
    if line == ["report"]:
        histo(root, *EVAL)
    path = root / "data" / "synthetic" / "patches.npy"
    pixels = np.load(path)
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    else:
        np.save(path, np.asfortranarray(pixels))
    process = wait(Process(root, *line))
    assert process.code == code, process.stderr
    assert process.stderr.count("error: ") == code
    assert ("The patches are not shown" in " ".join(process.stderr.split())) is (code == 0)


PAIRS = {
    "other rows": lambda pairs: pairs["a"].fill(72),
    "rows without end": lambda pairs: pairs["b"].fill(np.iinfo(pairs["b"].dtype).max),
}


@pytest.mark.parametrize("change", PAIRS.values(), ids=PAIRS)
@pytest.mark.parametrize("is_flat", [True, False])
def test_overlaps_of_other_patches_are_one_error(root, change, is_flat):
    line = ["balance", "--n", 24, "--split", "overlap", "--name", "other"]
    histo(root, *line)
    (path,) = (root / "data" / "synthetic").glob("overlaps-*.npy")
    pairs = np.zeros(4, np.load(path).dtype)
    change(pairs)
    np.save(path, pairs if is_flat else pairs.reshape(2, 2))
    assert f"error: {path} " in histo(root, *line, code=1).stderr


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e400"])
def test_a_record_with_a_number_that_is_not_finite_is_one_error(root, number):
    path = root / "runs" / "first" / "config.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {"val_patches": 0}).replace('"val_patches": 0', f'"val_patches": {number}'))
    line = ["train", "--resume", "--name", "first", "--epochs", 3, "--device", "cpu"]
    assert f"{number} is not a finite number" in histo(root, *line, code=1).stderr


# checkpoints with two directories


def test_an_archive_with_two_directories_is_refused(trained_workspace, good, tmp_path):
    """Python's zipfile reads the last one, and expects each member as much later as the other directory is long."""
    whole = pack(members(save(good)))
    end = whole.rindex(b"PK\5\6")
    _, start = struct.unpack("<2L", whole[end + 12 : end + 20])
    path = tmp_path / "two.pt"
    path.write_bytes(whole[:end] + whole[start:end] + whole[end:])
    line = ["predict", "synthetic", "--ckpt", path, "--device", "cpu"]
    assert "Bad magic number for file header" in histo(trained_workspace, *line, code=1, limits=LITTLE).stderr
