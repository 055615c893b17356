"""Malicious archives: nothing is written outside the folder, bombs are refused, and valid members are read."""

import csv
import io
import stat
import struct
import zipfile
import zlib

import numpy as np
import pytest

from tests.faults.processes import histo
from tests.faults.trees import tree
from tests.sources.kaggle_layout import tiff

pytestmark = pytest.mark.attack

MIB = 1 << 20
PIXELS = np.random.default_rng(3).integers(0, 256, (8, 96, 96, 3), np.uint8)
IMAGES = [tiff(pixels) for pixels in PIXELS]
PREDICT = ["predict", "--ckpt", "first", "--device", "cpu"]
CLIMBING = [
    "../up.tif",
    "a/../../up.tif",
    "/tmp/absolute.tif",
    "//server/share.tif",
    "C:\\windows.tif",
    "C:relative.tif",
    "..\\over.tif",
    "a\\..\\..\\over.tif",
]
ODD = [
    "con.tif",
    "aux/nul.tif",
    "lpt1.tif",
    "trailing. /x .tif",
    "a\nb.tif",
    "\x1b[31mred.tif",
    "ünï.tif",
    "./here.tif",
]


def special(name, kind):
    """Return an archive member that is declared as a link, a device, a pipe or a folder."""
    member = zipfile.ZipInfo(name)
    member.external_attr = (kind | 0o777) << 16
    return member


def write_archive(path, members):
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    return path


def rows(process):
    return list(csv.DictReader(io.StringIO(process.stdout, newline="")))


@pytest.fixture
def place(tmp_path):
    """Yield a folder; at the end, check that nothing outside it was changed."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    return tmp_path / "a" / "b"


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_links_and_devices_in_archives_cannot_reach_other_files(root, place, tmp_path):
    members = [(name, IMAGES[0]) for name in CLIMBING]
    kinds = {"link": stat.S_IFLNK, "device": stat.S_IFBLK, "tape": stat.S_IFCHR, "pipe": stat.S_IFIFO}
    members += [(special(f"{name}.tif", kind), b"/etc/passwd") for name, kind in kinds.items()]
    members += [(special("folder.tif", stat.S_IFDIR), b"/etc"), ("good/one.tif", IMAGES[1])]
    archive = write_archive(place / "stranger.zip", members)
    before = {path for path in tmp_path.rglob("*") if root not in path.parents}
    process = histo(root, *PREDICT, archive, code=4)
    assert [row["id"] for row in rows(process)] == ["one"]
    assert f"{len(CLIMBING)} files skipped: {len(CLIMBING)} .tif (path outside the archive)" in process.stderr
    for name in [*kinds, "folder"]:
        assert f"warning: {name}.tif: " in process.stderr
    histo(root, "download", "--source", "folder", "--from", archive, "--name", "theirs")
    assert {path for path in tmp_path.rglob("*") if root not in path.parents} == before
    assert (root / "manifests" / "theirs.csv").read_text().count("\n") == 2
    assert not (place.parent / "up.tif").exists()


def test_names_that_windows_forbids_are_normal_ids(root, place):
    archive = write_archive(place / "odd.zip", zip(ODD, IMAGES, strict=True))
    process = histo(root, *PREDICT, archive)
    assert len(rows(process)) == len(ODD)
    assert {row["id"].rpartition("/")[2] for row in rows(process)} >= {"con", "nul", "lpt1", "a\nb", "ünï", "here"}
    assert "\x1b" not in process.stderr
    histo(root, "download", "--source", "folder", "--from", archive, "--name", "odd")
    assert [path.name for path in sorted((root / "data" / "odd").iterdir())] == ["dataset.json", "patches.npy"]


def declare_size(path, name, size):
    """Let a member's entry in the directory declare another size."""
    data = bytearray(path.read_bytes())
    at = data.rindex(name.encode()) - 46
    data[at + 24 : at + 28] = struct.pack("<I", size)
    path.write_bytes(data)


def test_decompression_bombs_are_refused_by_declared_and_by_real_size(root, place):
    archive = place / "bombs.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for name, size in (("declares.tif", 1), ("hides.tif", 300), ("is.tif", 300)):
            with file.open(name, "w") as member:
                for _ in range(size):
                    member.write(bytes(MIB))
        file.writestr("good.tif", IMAGES[0])
    declare_size(archive, "declares.tif", 2**32 - 2)
    declare_size(archive, "hides.tif", 100)
    assert archive.stat().st_size < 2 * MIB
    process = histo(root, *PREDICT, archive, code=4, limits={"memory": 1000 * MIB})
    assert [row["id"] for row in rows(process)] == ["good"]
    assert "warning: declares.tif: it unpacks to 4,095 MiB, over 256" in process.stderr
    assert "warning: is.tif: it unpacks to 300 MiB, over 256" in process.stderr
    assert "warning: hides.tif: " in process.stderr


def test_a_damaged_archive_names_the_member(root, place):
    """The CRC shows the damage in any image format."""
    archive = write_archive(place / "x.zip", [("a.tif", IMAGES[0]), ("b.tif", IMAGES[1])])
    data = bytearray(archive.read_bytes())
    data[data.index(IMAGES[0]) + 9000] ^= 1
    archive.write_bytes(data)
    process = histo(root, *PREDICT, archive, code=4)
    assert [row["id"] for row in rows(process)] == ["b"]
    assert "warning: a.tif: Bad CRC-32" in process.stderr


def test_a_gzip_bomb_is_stopped_at_the_size_that_the_labels_imply(root, place):
    """PCam's arrays are compressed; unpacking stops at the size that the number of labels implies."""
    import gzip

    import h5py

    for kind, shape in (("y", (20, 1, 1, 1)), ("x", (20, 96, 96, 3))):
        path = place / f"camelyonpatch_level_2_split_valid_{kind}.h5"
        with h5py.File(path, "w") as file:
            file[kind] = np.zeros(shape, np.uint8)
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    bomb = place / "camelyonpatch_level_2_split_valid_x.h5.gz"
    packer = zlib.compressobj(9, wbits=31)
    bomb.write_bytes(b"".join([packer.compress(bytes(MIB)) for _ in range(400)]) + packer.flush())
    before = tree(root)
    process = histo(root, "download", "--source", "pcam", "--from", place, code=1)
    assert f"error: {bomb} unpacks to more than" in process.stderr
    assert tree(root) == before
