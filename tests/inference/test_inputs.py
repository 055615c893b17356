"""Inputs to score, as a stream of patches."""

import gzip
import io
import os
import re
import sys
import tarfile

import h5py
import numpy as np
import pytest

import histocli.files.file
import histocli.files.hdf5_array
import histocli.inference.array_inputs
from histocli.atomic import write_json
from histocli.data.store import pack
from histocli.enums import Resize, SplitName
from histocli.errors import HistoError
from histocli.images.stream import load_chunks
from histocli.inference.inputs import open_inputs
from histocli.inference.patterns import expand_patterns
from histocli.sources.folder import FolderOptions, FolderSource
from histocli.workspace import Workspace
from tests.sources.kaggle_layout import tiff, write_folder, write_zip

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 96, 96, 3), np.uint8)
TIFFS = [tiff(pixels) for pixels in PIXELS]
TREE = {f"{name}/{name}{i}.tif": TIFFS[i] for name in "b" for i in (3, 4)} | {
    f"a/a{i}.tif": TIFFS[i] for i in (0, 1, 2)
}
IDS = ["a0", "a1", "a2", "b3", "b4"]


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "workspace")


def read_all(workspace, *names, resize=Resize.CROP):
    inputs = open_inputs(list(map(str, names)), workspace, resize)
    patches = list(inputs.patches)
    assert inputs.total in (None, len(patches))
    return [patch.id for patch in patches], [patch.load() for patch in patches]


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_a_folder_and_an_archive_give_the_same_ids_and_pixels(tmp_path, workspace, write):
    path = write(tmp_path / "x.zip", TREE | {"a/readme.txt": b"", "a/.b.tif": b""})
    ids, pixels = read_all(workspace, path)
    assert ids == IDS
    assert np.array_equal(pixels, PIXELS[:5])


def test_a_match_of_a_pattern_that_is_removed_meanwhile_is_an_unreadable_file(tmp_path, workspace):
    folder = write_folder(tmp_path / "x", {"a.tif": TIFFS[0], "b.tif": TIFFS[1]})
    names, _ = expand_patterns([f"{folder}/*.tif"])
    (folder / "a.tif").unlink()
    for some in (names, names[:1]):
        removed, *others = open_inputs(some, workspace, Resize.CROP).patches
        assert removed.id == "a"
        with pytest.raises(HistoError, match=r"a\.tif: No such file"):
            removed.load()
        assert len(others) == len(some) - 1


def test_a_single_file_may_have_any_suffix(tmp_path, workspace):
    (tmp_path / "scan.data").write_bytes(TIFFS[0])
    ids, pixels = read_all(workspace, tmp_path / "scan.data")
    assert ids == ["scan"]
    assert np.array_equal(pixels[0], PIXELS[0])


@pytest.mark.parametrize("side", [96, 128])
def test_arrays_of_any_size_are_cropped_to_patches(tmp_path, workspace, side):
    array = np.pad(PIXELS, ((0, 0), *[((side - 96) // 2,) * 2] * 2, (0, 0)))
    np.save(tmp_path / "x.npy", array)
    np.save(tmp_path / "fortran.npy", np.asfortranarray(array))
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"], file["y"] = array, np.zeros(6)
    with h5py.File(tmp_path / "single.HDF5", "w") as file:
        file.create_dataset("pixels", data=array, compression="gzip", chunks=(2, side, side, 3))
    for name in ("x.npy", "fortran.npy", "x.h5", "single.HDF5"):
        ids, pixels = read_all(workspace, tmp_path / name)
        assert ids == list("012345")
        assert np.array_equal(pixels, PIXELS)


def test_a_large_array_is_read_in_several_blocks(tmp_path, workspace):
    side = 1024  # 3 MB a patch
    with h5py.File(tmp_path / "x.h5", "w") as file:
        x = file.create_dataset("x", (13, side, side, 3), np.uint8, chunks=(1, side, side, 3), compression="gzip")
        for i in range(13):
            x[i, 500:524, 500:524] = i + 1
    ids, pixels = read_all(workspace, tmp_path / "x.h5")
    assert ids == [str(i) for i in range(13)]
    assert [int(patch[48, 48, 0]) for patch in pixels] == list(range(1, 14))


def pack_dataset(workspace, tmp_path, name="mine"):
    source = FolderSource(FolderOptions((str(write_folder(tmp_path / "tree", TREE)),)))
    pack(source, workspace, name)
    write_json(workspace.dataset_path(name), {})


def test_a_path_is_preferred_to_a_data_set_of_the_same_name(tmp_path, workspace, monkeypatch):
    pack_dataset(workspace, tmp_path)
    monkeypatch.chdir(tmp_path)
    ids, pixels = read_all(workspace, "mine")
    assert ids == IDS
    assert np.array_equal(pixels, PIXELS[:5])
    write_folder(tmp_path / "mine", {"z.tif": TIFFS[5]})
    assert read_all(workspace, "mine")[0] == ["z"]
    shadowed = f"mine means the path {tmp_path / 'mine'}; the workspace also has a data set of this name: "
    for names in (["mine"], ["mine", str(tmp_path / "mine")]):
        assert open_inputs(names, workspace, Resize.CROP).notes[0] == f"{shadowed}--split all scores the data set"
    assert open_inputs(["./mine"], workspace, Resize.CROP).notes == ()
    split = open_inputs(["mine"], workspace, Resize.CROP, split=SplitName.ALL)  # only a data set has splits
    assert [patch.id for patch in split.patches] == IDS


@pytest.mark.parametrize("edit", [lambda rows: rows[:-1], lambda rows: [rows[0], *rows[:0:-1]]])
def test_a_data_set_whose_manifest_was_edited_is_an_error(tmp_path, workspace, edit):
    pack_dataset(workspace, tmp_path)
    path = workspace.manifest_path("mine")
    path.write_text("".join(edit(path.read_text().splitlines(keepends=True))))
    with pytest.raises(HistoError, match="mine") as raised:
        open_inputs(["mine"], workspace, Resize.CROP)
    assert "histo download --name mine --force" in raised.value.hint


def on_stdin(monkeypatch, data):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data), "utf-8"))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_paths_on_stdin_are_read_in_order(tmp_path, workspace, monkeypatch, end):
    write_folder(tmp_path, TREE | {'odd, "name" ü.tif': TIFFS[5]})
    names = ["b/b4.tif", "a/a0.tif", 'odd, "name" ü.tif', "a/a0.tif"]
    monkeypatch.chdir(tmp_path)
    on_stdin(monkeypatch, end.join([*map(str.encode, names), b"", b"a/a1.tif"]))
    ids, pixels = read_all(workspace, "-")
    assert ids == [*names, "a/a1.tif"]
    assert np.array_equal(pixels, PIXELS[[4, 0, 5, 0, 1]])


def test_every_unusual_path_in_a_list_gives_one_failure_and_does_not_hang(tmp_path, workspace, monkeypatch):
    write_folder(tmp_path, TREE | {"text.tif": b"text"})
    os.mkfifo(tmp_path / "pipe.tif")
    monkeypatch.chdir(tmp_path)
    good, bad = (
        [b"a/a0.tif", b"a/a1.tif"],
        [b"gone.tif", b"a", b"pipe.tif", b"text.tif", b"\xff.tif", b"x" * 300],
    )
    on_stdin(monkeypatch, b"\n".join([good[0], *bad, good[1]]))
    (chunk,) = load_chunks(open_inputs(["-"], workspace, Resize.CROP).patches)
    assert [patch.id for patch in chunk.patches] == ["a/a0.tif", "a/a1.tif"]
    named = ["gone.tif", "a", "pipe.tif", "text.tif", r"\xff.tif", "x" * 300]
    assert [patch.id for patch, _ in chunk.failures] == named
    assert all(str(error).startswith(f"{patch.id}: ") for patch, error in chunk.failures)


def test_several_inputs_are_read_in_order(tmp_path, workspace):
    np.save(tmp_path / "x.npy", PIXELS[:2])
    archive = write_zip(tmp_path / "x.zip", {"z.tif": TIFFS[5]})
    ids, pixels = read_all(workspace, archive, tmp_path / "x.npy", write_folder(tmp_path / "x", TREE))
    names = [(tmp_path / name).as_posix() for name in ("x.zip", "x.npy", "x")]
    assert ids == [f"{names[0]}/z", f"{names[1]}/0", f"{names[1]}/1", *(f"{names[2]}/{key}" for key in IDS)]
    assert np.array_equal(pixels, PIXELS[[5, 0, 1, 0, 1, 2, 3, 4]])


def test_resize_scale_resizes_the_whole_image(tmp_path, workspace):
    doubled = np.repeat(np.repeat(PIXELS[0], 2, 0), 2, 1)
    np.save(tmp_path / "x.npy", doubled[None])
    (patch,) = read_all(workspace, tmp_path / "x.npy", resize=Resize.SCALE)[1]
    assert np.array_equal(patch, PIXELS[0])


# errors


def test_an_input_that_is_neither_a_path_nor_a_data_set_is_an_error(tmp_path, workspace):
    pack_dataset(workspace, tmp_path)
    for name in ("theirs", "x" * 300):
        with pytest.raises(HistoError, match=f"there is no file, folder or data set '{name}'") as raised:
            open_inputs([name], workspace, Resize.CROP)
        assert raised.value.hint == "data sets: mine"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("ptaches", "did you mean patches?"),
        ("./PATCH", "did you mean patches?"),
        ("{}/ptaches/", "did you mean {}/patches?"),
        ("patches/2.png", ""),  # another patch is not meant
        ("other/ptaches", ""),
    ],
)
def test_a_misspelt_path_is_answered_with_the_one_that_was_meant(tmp_path, workspace, monkeypatch, name, meant):
    write_folder(tmp_path / "patches", {"1.png": b""})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(HistoError, match="there is no file") as raised:
        open_inputs([name.format(tmp_path)], workspace, Resize.CROP)
    assert raised.value.hint == (meant.format(tmp_path) or "there are no data sets yet: histo download packs one")


def test_locations_without_images_are_an_error(tmp_path, workspace):
    for path in (tmp_path, write_zip(tmp_path / "x.zip", {"readme.txt": b""})):
        with pytest.raises(HistoError, match="there are no images in"):
            open_inputs([str(path)], workspace, Resize.CROP)
    os.mkfifo(tmp_path / "pipe.npy")
    with pytest.raises(HistoError, match="not a file or folder"):
        open_inputs([str(tmp_path / "pipe.npy")], workspace, Resize.CROP)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 96, 96, 3), np.float32),
        np.zeros((2, 96, 96, 4), np.uint8),
        np.zeros((96, 96, 3), np.uint8),
        np.zeros((0, 96, 96, 3), np.uint8),
        np.zeros((2, 0, 96, 3), np.uint8),
    ],
    ids=lambda array: f"{array.dtype}{array.shape}",
)
def test_arrays_without_patches_are_refused(tmp_path, workspace, array):
    np.save(tmp_path / "x.npy", array)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = array
    for name in ("x.npy", "x.h5"):
        with pytest.raises(HistoError, match=f"{name} contains") as raised:
            open_inputs([str(tmp_path / name)], workspace, Resize.CROP)
        assert raised.value.hint


def test_an_array_of_enormous_patches_is_refused(tmp_path, workspace):
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint8, (1, 40_000, 40_000, 3))  # a hole: it takes no room
    stored = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    stored.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    stored.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(tmp_path / "x.h5", "w") as file:  # another hole
        space = h5py.h5s.create_simple((1, 40_000, 40_000, 3))
        h5py.h5d.create(file.id, b"x", h5py.h5t.NATIVE_UINT8, space, stored)
    for name in ("x.npy", "x.h5"):
        with pytest.raises(HistoError, match=rf"{name} contains patches of shape \(1, 40000, 40000, 3\)"):
            open_inputs([str(tmp_path / name)], workspace, Resize.CROP)


@pytest.mark.parametrize("name", ["x.npy", "x.h5"])
@pytest.mark.parametrize("data", [b"", b"text" * 100, bytes(5000)])
def test_files_that_are_not_arrays_are_refused(tmp_path, workspace, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(HistoError, match=f"cannot read .*{name}"):
        open_inputs([str(tmp_path / name)], workspace, Resize.CROP)


def test_truncated_arrays_and_arrays_of_objects_are_refused(tmp_path, workspace):
    np.save(tmp_path / "x.npy", PIXELS)
    np.save(tmp_path / "objects.npy", np.array([{}]), allow_pickle=True)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = PIXELS
    for name in ("x.npy", "x.h5"):
        os.truncate(tmp_path / name, 50_000)
    for name in ("x.npy", "x.h5", "objects.npy"):
        with pytest.raises(HistoError, match=f"cannot read .*{name}"):
            open_inputs([str(tmp_path / name)], workspace, Resize.CROP)


def test_errors_of_an_array_in_gzip_name_the_file_that_was_given(tmp_path, workspace):
    path = tmp_path / "x.h5.gz"
    path.write_bytes(gzip.compress(b"text" * 100))
    with pytest.raises(HistoError, match=f"cannot read {re.escape(str(path))}: it is truncated or damaged"):
        open_inputs([str(path)], workspace, Resize.CROP)


def test_a_damaged_chunk_of_an_array_is_an_error(tmp_path, workspace):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=PIXELS, chunks=(1, 96, 96, 3), compression="gzip", fletcher32=True)
    data = bytearray(path.read_bytes())
    data[len(data) // 2 : len(data) // 2 + 64] = bytes(64)
    path.write_bytes(data)
    inputs = open_inputs([str(path)], workspace, Resize.CROP)
    with pytest.raises(HistoError, match=r"cannot read .*x\.h5 from row 0 on"):
        list(inputs.patches)


def test_the_dataset_of_an_hdf5_file_is_chosen(tmp_path, workspace):
    with h5py.File(tmp_path / "none.h5", "w") as file:
        file.create_group("x")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["a"], file["b"] = PIXELS, PIXELS
        file["x"] = h5py.SoftLink("/nowhere")
    with h5py.File(tmp_path / "null.h5", "w") as file:
        file["x"] = h5py.Empty("u1")
    for name, message in (("none", "contains no arrays"), ("two", "contains a, b"), ("null", r"null\.h5")):
        with pytest.raises(HistoError, match=message):
            open_inputs([str(tmp_path / f"{name}.h5")], workspace, Resize.CROP)
    with h5py.File(tmp_path / "images.h5", "w") as file:  # as CLAM and others write it
        file["imgs"], file["coords"], file["labels"] = PIXELS, np.zeros((len(PIXELS), 2), int), np.zeros(len(PIXELS))
    inputs = open_inputs([str(tmp_path / "images.h5")], workspace, Resize.CROP)
    assert np.array_equal(np.stack([patch.load() for patch in inputs.patches]), PIXELS)


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((2, 3, 96, 96), "its channels come first"),
        ((2, 3, 96, 3), "its channels"),
        ((2, 96, 96, 4), "fourth channel"),
        ((96, 96, 3, 3), "its images are on the last axis"),
        ((96, 96, 3, 5), "its images are on the last axis"),
    ],
)
def test_an_array_of_another_order_says_how_to_mend_it(tmp_path, workspace, shape, hint):
    np.save(tmp_path / "x.npy", np.zeros(shape, np.uint8))
    with pytest.raises(HistoError) as caught:
        open_inputs([str(tmp_path / "x.npy")], workspace, Resize.CROP)
    assert hint in caught.value.hint


@pytest.mark.parametrize("name", ["paths.txt", "paths.csv"])
def test_a_list_of_paths_says_to_pipe_it(tmp_path, workspace, name):
    (tmp_path / name).write_text("a.png\n")
    with pytest.raises(HistoError, match="which histo does not read") as caught:
        open_inputs([str(tmp_path / name)], workspace, Resize.CROP)
    assert "histo predict - < FILE" in caught.value.hint


def test_files_with_the_same_name_in_several_inputs_have_different_ids(tmp_path, workspace):
    for folder in ("0", "1"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.tif").write_bytes(tiff(np.zeros((96, 96, 3), np.uint8)))
    expected = [f"{tmp_path.as_posix()}/{folder}/x" for folder in ("0", "1")]
    for names in ([str(tmp_path / "0"), str(tmp_path / "1")], [str(tmp_path / f / "x.tif") for f in ("0", "1")]):
        inputs = open_inputs(names, workspace, Resize.CROP)
        assert [patch.id for patch in inputs.patches] == expected


def write_array(path, pixels):
    """Write patches in the format of the path's suffix."""
    if path.name.endswith(".npy"):
        np.save(path, pixels)
    elif path.name.endswith(".npz"):
        np.savez(path, x=pixels)
    elif path.name.endswith(".h5"):
        with h5py.File(path, "w") as file:
            file.create_dataset("x", data=pixels)
    else:
        with tarfile.open(path, "w:gz" if path.name.endswith("gz") else "w") as archive:
            for i, patch in enumerate(pixels):
                data = tiff(patch)
                info = tarfile.TarInfo(f"{i:03}.tif")
                info.size = len(data)
                archive.addfile(info, io.BytesIO(data))


@pytest.mark.parametrize("how", ["overwritten", "truncated", "replaced", "removed"])
@pytest.mark.parametrize("name", ["x.npy", "x.npz", "x.h5", "x.tar", "x.tar.gz"])
def test_no_pixels_of_a_file_that_changes_while_it_is_read_are_taken(tmp_path, workspace, monkeypatch, name, how):
    monkeypatch.setattr(histocli.inference.array_inputs, "_SLICE_BYTES", PIXELS[0].nbytes)
    monkeypatch.setattr(histocli.files.hdf5_array, "_BLOCK", PIXELS[0].nbytes)
    path, other = tmp_path / name, tmp_path / f"other-{name}"
    write_array(path, PIXELS)
    write_array(other, PIXELS[::-1])
    os.utime(path, (1, 1))  # as if it was written long ago: the clock of a file system ticks every few milliseconds
    patches = iter(open_inputs([str(path)], workspace, Resize.CROP).patches)
    assert np.array_equal(next(patches).load(), PIXELS[0])
    if how == "overwritten":
        path.write_bytes(other.read_bytes())
    elif how == "truncated":
        os.truncate(path, path.stat().st_size // 2)
    elif how == "replaced":
        other.replace(path)
    else:
        path.unlink()
    read, error = {0}, None
    try:
        for row, patch in enumerate(patches, start=1):
            try:
                assert np.array_equal(patch.load(), PIXELS[row])
                read.add(row)
            except HistoError as damage:
                error = damage
    except HistoError as damage:
        error = damage
    is_kept = how in ("replaced", "removed")  # the open file is the old one
    assert (error is None) == is_kept
    assert is_kept == (len(read) == len(PIXELS))
    if how == "overwritten":
        assert "was changed while it was read" in str(error)


def test_a_file_of_a_folder_that_is_written_while_it_is_read_is_an_error(tmp_path, workspace, monkeypatch):
    path = write_folder(tmp_path / "x", {"a.tif": TIFFS[0]}) / "a.tif"
    [patch] = open_inputs([str(path.parent)], workspace, Resize.CROP).patches
    check = histocli.files.file.check_unchanged

    def write_and_check(*args):
        os.utime(path, (1, 1))
        check(*args)

    monkeypatch.setattr(histocli.files.file, "check_unchanged", write_and_check)
    with pytest.raises(HistoError, match=r"a\.tif: the file was changed while it was read"):
        patch.load()
