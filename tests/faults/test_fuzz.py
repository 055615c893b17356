"""Fuzz tests of every reader: valid files are read, and all others raise one `HistoError`.

`FUZZ=100 pytest tests/faults/test_fuzz.py` tries a hundred times as many inputs, at random; without it they are few,
and the same each time. What it found is kept as examples.
"""

import io
import os
import re
import zipfile
from collections import Counter
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histocli.atomic import read_json
from histocli.commands.download import DownloadConfig, find_dataset
from histocli.data.manifest import read_manifest
from histocli.data.store import map_array, open_store
from histocli.enums import Resize
from histocli.errors import HistoError
from histocli.files.file import File, read_bytes
from histocli.files.listing import list_files
from histocli.images.decode import Preparation, decode_patch
from histocli.inference.inputs import open_inputs
from histocli.inference.score_table import read_scores
from histocli.labels.table_files import read_labels, read_slides
from histocli.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from histocli.sources.camelyon import read_meta
from histocli.sources.hdf5 import open_h5, read_patches
from histocli.sources.hdf5 import read_labels as read_h5_labels
from histocli.sources.synthetic import SyntheticOptions
from histocli.text import escape_control_characters
from histocli.workspace import Workspace

SYNTHETIC = DownloadConfig("synthetic", SyntheticOptions())
MORE = int(os.environ.get("FUZZ", "1"))
TRIED: Counter[str] = Counter()
PIXELS = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8), (0, 0), 2)


def tries(count):
    return settings(
        max_examples=count * MORE,
        deadline=None,
        derandomize=MORE == 1,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@st.composite
def damage(draw, whole):
    """Draw a valid file with a few bytes changed, moved, doubled, inserted or removed."""
    data = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(0, 6))):
        at = draw(st.integers(0, len(data)))
        piece = draw(st.binary(min_size=1, max_size=4) | st.sampled_from([b"\0", b"\xff" * 4, b"\x7f", b"-1"]))
        kind = draw(st.sampled_from(["change", "change", "change", "insert", "cut", "double", "end"]))
        length = draw(st.integers(1, 64))
        if kind == "change":
            data[at : at + len(piece)] = piece
        elif kind == "insert":
            data[at:at] = piece
        elif kind == "cut":
            del data[at : at + length]
        elif kind == "double":
            data[at:at] = data[at : at + length]
        elif at:
            del data[at:]
    return bytes(data)


def reads_or_refuses(what, read, names=""):
    """Whatever comes of it, it is a value or one line; `names` must be in it."""
    TRIED[what] += 1
    try:
        return read()
    except HistoError as error:
        refused = str(error)
    assert refused
    assert escape_control_characters(names) in refused
    return None


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def put(place, name, data):
    path = Path(place) / name
    path.write_bytes(data)
    return path


# images

PLAIN = (".png", ".jpg", ".tif", ".bmp", ".webp", ".ppm")
KINDS = [(kind, []) for kind in PLAIN] + [(".tif", [cv2.IMWRITE_TIFF_COMPRESSION, 1])]
KINDS += [(".jpg", [option, 1]) for option in (cv2.IMWRITE_JPEG_PROGRESSIVE, cv2.IMWRITE_JPEG_RST_INTERVAL)]
IMAGES = [cv2.imencode(kind, PIXELS, options)[1].tobytes() for kind, options in KINDS]
IMAGES += [cv2.imencode(".png", PIXELS.astype(np.uint16) * 257)[1].tobytes()]
IMAGES += [cv2.imencode(".tif", np.dstack([PIXELS, PIXELS[..., 0]]))[1].tobytes()]


@given(damage(IMAGES), st.sampled_from(Resize))
@tries(100)  # test_guided_fuzz.py tries more
def test_damaged_images_are_read_or_refused(data, resize):
    how = Preparation(resize)
    patch = reads_or_refuses("images", lambda: decode_patch(data, "some/patch.png", how), "some/patch.png: ")
    assert patch is None or (patch.shape, patch.dtype) == ((96, 96, 3), np.uint8)


# tables

HEADER = "id,label,slide,hospital,split,sha1,min,max\n"
ROWS = "".join(f"p{i},{i % 2},s{i % 3},RUMC,train,{i:040x},0,255\n" for i in range(6))
TABLES = [
    (HEADER + ROWS).encode(),
    ("\ufeff" + (HEADER + ROWS).replace(",", ";").replace("\n", "\r\n")).encode(),
    b'id,label,split,data,index\n"a,b",1,val,x,0\n"c\nd",0,train,x,1\n',
    b"id,label,prob,data,index\na,1,0.5,x,3\nb,0,0.25,x,\n",
    b",coord_y,coord_x,tumor_patch,center_tumor_patch,wsi\n0,1,2,True,False,camelyon16_train_normal_001\n",
    b"id,wsi\na,s1\nb,s2\n",
]


@given(st.one_of(damage(TABLES), st.binary(max_size=300), st.text(max_size=300).map(str.encode)))
@tries(100)
def test_damaged_tables_are_read_or_refused(place, data):
    path = put(place, "table.csv", data)
    frame = reads_or_refuses("manifests", lambda: read_manifest(path), str(path))
    if frame is not None:
        assert set(frame["label"]) <= {-1, 0, 1}
        assert frame["id"].str.len().min() != 0
    labels = reads_or_refuses("tables of labels", lambda: read_labels(File("t.csv", lambda: data)), "t.csv")
    assert labels is None or set(labels.values()) <= {0, 1}
    reads_or_refuses("tables of slides", lambda: read_slides(File("t.csv", lambda: data)), "t.csv")
    reads_or_refuses("tables of PCam", lambda: read_meta(path), str(path))
    reads_or_refuses("tables of scores", lambda: read_scores(path), str(path))


@given(st.one_of(st.binary(max_size=100), damage([b'{"name": "x", "source": "y", "request": {}, "patches": 3}'])))
@tries(200)
def test_damaged_json_is_read_or_refused(place, data):
    workspace = Workspace(Path(place) / "workspace")
    for path in (workspace.dataset_path("x"), workspace.patches_path("x"), workspace.manifest_path("x")):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    path = workspace.dataset_path("x")
    reads_or_refuses("JSON", lambda: read_json(path), str(path))
    reads_or_refuses("records of data sets", lambda: find_dataset(workspace, "x", SYNTHETIC), "x")


# archives


def archives():
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", method) as archive:
            for name in ("train/a.png", "b c.png", "labels.csv"):
                archive.writestr(zipfile.ZipInfo(name), b"abc" * 30, method)
            archive.comment = b"a comment"
        yield stream.getvalue()


@given(damage(list(archives())))
@tries(300)
def test_damaged_archives_are_read_or_refused(place, data):
    path = put(place, "x.zip", data)
    for file in reads_or_refuses("archives", lambda: list_files(path), str(path)) or []:
        assert not re.search(r"(^|/)\.\.(/|$)|^/", file.name)
        reads_or_refuses("members of archives", file_reader(file), file.name)


def file_reader(file):
    return lambda: read_bytes(file)


# arrays


def npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


ARRAYS = [npy(np.zeros((2, 96, 96, 3), np.uint8)), npy(np.zeros((1, 9, 8, 3), np.uint8)), npy(np.zeros((2, 3)))]
ARRAYS += [npy(np.array([{"a": 1}], object), allow_pickle=True), npy(np.zeros((1, 96, 96, 3), np.uint8, order="F"))]


@given(damage(ARRAYS))
@tries(200)
def test_damaged_arrays_are_read_or_refused(place, data):
    path = put(place, "x.npy", data)
    reads_or_refuses("arrays", lambda: map_array(path), str(path))
    reads_or_refuses("packed arrays", lambda: open_store(path), str(path))
    inputs = reads_or_refuses("arrays as inputs", lambda: open_inputs([str(path)], Workspace(place), Resize.CROP))
    for patch in inputs.patches if inputs and (inputs.total or 0) < 10 else ():
        assert reads_or_refuses("rows of arrays", patch.load).shape == (96, 96, 3)


def h5(**options):
    stream = io.BytesIO()
    with h5py.File(stream, "w") as file:
        file.create_dataset("x", data=np.zeros((3, 96, 96, 3), np.uint8), **options)
        file["y"] = np.array([0, 1, 1], np.uint8).reshape(3, 1, 1, 1)
    return stream.getvalue()


HDF5 = [h5(compression="gzip", chunks=(1, 96, 96, 3)), h5(compression="gzip", shuffle=True, fletcher32=True)]


@given(damage(HDF5))
@tries(200)
def test_damaged_hdf5_files_are_read_or_refused(place, data):
    path = put(place, "x.h5", data)
    reads_or_refuses("labels in HDF5", lambda: read_h5_labels(path, Path(place)), str(path))

    def patches():
        with open_h5(path, Path(place)) as file:
            return list(read_patches(file, path, 3))

    reads_or_refuses("patches in HDF5", patches, str(path))
    inputs = reads_or_refuses("HDF5 as inputs", lambda: open_inputs([str(path)], Workspace(place), Resize.CROP), "x.h5")
    if inputs and (inputs.total or 0) < 10:
        reads_or_refuses("rows of HDF5", lambda: [patch.load() for patch in inputs.patches], str(path))


# checkpoints


@pytest.fixture(scope="module")
def small(place):
    """A valid checkpoint without weights, so that the damage is in the other fields."""
    path = Path(place) / "good.pt"
    save_checkpoint(Checkpoint("histonet", {"a": torch.ones(2)}, "run", 3, {"val_auc": 0.9}, {}, "ab" * 32), path)
    return path.read_bytes()


@given(st.data())
@tries(150)
def test_damaged_checkpoints_are_read_or_refused(place, small, data):
    path = put(place, "x.pt", data.draw(st.one_of(damage([small]), st.binary(max_size=200))))
    checkpoint = reads_or_refuses("checkpoints", lambda: load_checkpoint(path), str(path))
    if checkpoint is not None and checkpoint.arch == "histonet":
        reads_or_refuses("networks of checkpoints", checkpoint.build, str(path))


@given(st.data())
@tries(100)
def test_damaged_pickles_in_checkpoints_are_read_or_refused(place, small, data):
    """The archive is valid; only the pickle in it is damaged."""
    stream = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(small)) as old, zipfile.ZipFile(stream, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, data.draw(damage([content])) if name.endswith("data.pkl") else content)
    path = put(place, "p.pt", stream.getvalue())
    reads_or_refuses("pickles in checkpoints", lambda: load_checkpoint(path), str(path))
