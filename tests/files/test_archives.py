"""Archives: tar, compressed tar, archives in archives, and arrays of patches."""

import gzip
import io
import json
import random
import sys
import tarfile

import numpy as np
import pytest

from histocli.errors import HistoError
from histocli.files import file as files_module
from histocli.files.file import describe_others, find_images, read_bytes
from histocli.files.listing import list_files
from histocli.files.streams import StreamReader
from histocli.images.stream import map_ordered
from histocli.sources import SourceContext
from histocli.sources.folder import FolderOptions, FolderSource
from histocli.sources.kaggle import KaggleSource
from tests.sources.kaggle_layout import check_all, layout_files, make_zip, tiff, write_folder, write_zip

MODES = {".tar": "w", ".tar.gz": "w:gz", ".tgz": "w:gz", ".tar.bz2": "w:bz2", ".tar.xz": "w:xz"}
PIXELS = np.random.default_rng(0).integers(0, 256, (6, 96, 96, 3), np.uint8)


def make_tar(files, mode="w"):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            if isinstance(data, str):  # the target of a hard link
                member.type, member.linkname = tarfile.LNKTYPE, data
                archive.addfile(member)
                continue
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def write_parquet(path, columns):
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("pyarrow.parquet").write_table(pa.table(columns), path)


def contents(path):
    return {file.name: read_bytes(file) for file in list_files(path)}


@pytest.mark.parametrize("suffix", MODES)
def test_every_kind_of_tar_is_read_without_hidden_and_outside_files(tmp_path, suffix):
    files = {f"{name}.png": name.encode() * 9 for name in "dacb"} | {"./sub/e.png": b"e", "sub\\f.png": b"f"}
    hidden = {".hidden.png": b"", "../up.png": b"", "/etc/abs.png": b"", "__MACOSX/x.png": b""}
    path = tmp_path / f"x{suffix}"
    path.write_bytes(make_tar(files | hidden, MODES[suffix]))
    wanted = {name.removeprefix("./").replace("\\", "/"): data for name, data in files.items()}
    images, others = find_images(list_files(path))
    assert {file.name: read_bytes(file) for file in images} == wanted
    assert describe_others(others) == "2 files skipped: 2 .png (path outside the archive)"
    names = [file.name for file in images]
    assert names == (sorted(names) if suffix == ".tar" else list(wanted))


@pytest.mark.parametrize("suffix", MODES)
def test_kaggles_archive_may_be_a_tar(tmp_path, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_bytes(make_tar(dict(sorted(layout_files().items())), MODES[suffix]))
    check_all(KaggleSource(path, SourceContext(tmp_path)))


def test_members_of_a_compressed_tar_are_read_in_any_order_and_from_many_threads(tmp_path, monkeypatch):
    files = {f"{i:03}.png": np.random.default_rng(i).bytes(3000) for i in range(200)}
    path = tmp_path / "x.tar.gz"
    members = {key: value for name, data in files.items() for key, value in ((name, data), (f"link-{name}", name))}
    path.write_bytes(make_tar(members, "w:gz"))
    files |= {f"link-{name}": data for name, data in files.items()}
    opened = []
    make = gzip.GzipFile
    monkeypatch.setattr(gzip, "GzipFile", lambda **options: opened.append(1) or make(**options))
    listed = list_files(path)
    assert len(listed) == len(files)
    assert list(map_ordered(read_bytes, listed, 4)) == [files[file.name] for file in listed]
    assert len(opened) <= 3  # once to list, once to read: not once for each member
    shuffled = random.Random(0).sample(listed, 50)
    assert [read_bytes(file) for file in shuffled] == [files[file.name] for file in shuffled]


def test_members_of_an_uncompressed_tar_are_found_without_reading_those_before_them(tmp_path, monkeypatch):
    (tmp_path / "x.tar").write_bytes(make_tar({name: name.encode() * 999 for name in ("c.png", "b.png", "a.png")}))
    read = []
    method = StreamReader._read_at
    monkeypatch.setattr(StreamReader, "_read_at", lambda *args: read.append(args[1]) or method(*args))
    first, second, _ = list_files(tmp_path / "x.tar")
    assert (read_bytes(first)[:1], read_bytes(second)[:1]) == (b"a", b"b")
    assert len(read) == 2


def test_only_some_parts_of_a_stream_are_kept(monkeypatch):
    monkeypatch.setattr("histocli.files.streams._KEPT_BYTES", 6400)
    data = np.random.default_rng(0).bytes(100_000)
    reader = StreamReader(lambda: io.BytesIO(data), [(i, 100) for i in range(0, 100_000, 100)])
    for offset in (99_900, 0, 50_000, 49_900, 100):
        assert reader.read(offset, 100) == data[offset : offset + 100]
        assert reader._kept_bytes <= 6400


def test_hard_links_are_read_and_other_links_devices_and_folders_are_skipped(tmp_path):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = 3
        archive.addfile(member, io.BytesIO(b"abc"))
        for name, kind, target in (
            ("hard.png", tarfile.LNKTYPE, "a.png"),
            ("./dot.png", tarfile.LNKTYPE, "./a.png"),
            ("a.png", tarfile.LNKTYPE, "./a.png"),  # as GNU tar stores a file that is given twice
            ("soft.png", tarfile.SYMTYPE, "/a.png"),
            ("device.png", tarfile.BLKTYPE, ""),
            ("lost.png", tarfile.LNKTYPE, "/etc/passwd"),
            ("folder.png", tarfile.DIRTYPE, ""),
        ):
            other = tarfile.TarInfo(name)
            other.type, other.linkname = kind, target
            archive.addfile(other)
        sparse = tarfile.TarInfo("sparse.png")
        sparse.pax_headers = {"GNU.sparse.map": "0,0"}
        archive.addfile(sparse)
    (tmp_path / "x.tar").write_bytes(stream.getvalue())
    images, others = find_images(list_files(tmp_path / "x.tar"))
    assert {file.name: file.read() for file in images} == dict.fromkeys(["a.png", "dot.png", "hard.png"], b"abc")
    reasons = "2 .png (link to a file that is not in the archive), 1 .png (sparse file)"
    assert describe_others(others) == f"3 files skipped: {reasons}"


@pytest.mark.parametrize("suffix", MODES)
def test_a_truncated_or_damaged_tar_is_an_error_that_names_it(tmp_path, suffix):
    data = make_tar({f"{i}.png": np.random.default_rng(i).bytes(2000) for i in range(20)}, MODES[suffix])
    path = tmp_path / f"x{suffix}"
    for cut in (0, 100, 5120, len(data) // 2, len(data) * 3 // 4):
        path.write_bytes(data[:cut])
        with pytest.raises(HistoError, match=r"cannot read .*x\.t"):
            list_files(path)
    path.write_bytes(b"<html>quota exceeded</html>" * 50)
    with pytest.raises(HistoError, match=r"cannot read .*x\.t"):
        list_files(path)


def test_a_damaged_header_in_the_middle_is_not_treated_as_the_end(tmp_path):
    data = bytearray(make_tar({f"{i}.png": bytes(100) for i in range(10)}))
    data[5 * 1024 + 10] ^= 0xFF
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(HistoError, match="truncated or damaged"):
        list_files(tmp_path / "x.tar")


def test_of_a_tar_only_the_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "MAX_FILE_BYTES", 1 << 20)
    (tmp_path / "x.tar.gz").write_bytes(make_tar({"bomb.png": bytes((1 << 20) + 1), "good.png": b"1"}, "w:gz"))
    bomb, good = list_files(tmp_path / "x.tar.gz")
    with pytest.raises(HistoError, match=r"bomb\.png: it unpacks to 1 MiB, over 1"):
        read_bytes(bomb)
    assert read_bytes(good) == b"1"


def test_a_tar_with_two_files_of_the_same_name_is_an_error(tmp_path):
    data = make_tar({"a.png": b"1", "./a.png": b"2"})
    (tmp_path / "x.tar").write_bytes(data)
    with pytest.raises(HistoError, match=r"contains 'a\.png' twice"):
        list_files(tmp_path / "x.tar")


# archives in folders and archives


def parts():
    files = layout_files()
    return {
        "train.zip": make_zip({n.removeprefix("train/"): d for n, d in files.items() if n.startswith("train/")}),
        "test.zip": make_zip({n.removeprefix("test/"): d for n, d in files.items() if n.startswith("test/")}),
        "train_labels.csv.zip": make_zip({"train_labels.csv": files["train_labels.csv"]}),
        "sample_submission.csv": files["sample_submission.csv"],
    }


def test_kaggles_nested_zips_of_2019_are_read(tmp_path):
    check_all(KaggleSource(write_folder(tmp_path / "folder", parts()), SourceContext(tmp_path)))
    check_all(KaggleSource(write_zip(tmp_path / "nested.zip", parts()), SourceContext(tmp_path)))
    (tmp_path / "nested.tar.gz").write_bytes(make_tar(parts(), "w:gz"))
    check_all(KaggleSource(tmp_path / "nested.tar.gz", SourceContext(tmp_path)))


def test_archives_beside_images_are_skipped_and_reported(tmp_path):
    files = {"0/a.tif": tiff(PIXELS[0]), "1/b.tif": tiff(PIXELS[1]), "old.zip": make_zip({"0/a.tif": tiff(PIXELS[0])})}
    source = FolderSource(FolderOptions((str(write_folder(tmp_path / "x", files)),)))
    assert [patch.id for patch in source.read_patches()] == ["a", "b"]
    assert "1 file skipped: 1 .zip" in source.report.notes


def test_archives_in_an_inner_archive_are_not_opened(tmp_path):
    inner = make_zip({"deep.zip": make_zip({"a.tif": b"1"}), "b.tif": b"2"})
    assert set(contents(write_zip(tmp_path / "x.zip", {"inner.zip": inner}))) == {"inner/deep.zip", "inner/b.tif"}


def test_an_inner_archive_that_is_a_decompression_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(files_module, "MAX_FILE_BYTES", 1 << 16)
    path = tmp_path / "x.zip"
    import zipfile

    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("inner.zip", bytes(5 << 20))
    with pytest.raises(HistoError, match=r"inner\.zip unpacks to more than 20 times its size"):
        list_files(path)


def test_the_webdataset_shards_of_a_folder_are_read_together(tmp_path):
    shard = {}
    for i in range(4):
        shard |= {f"s{i}.png": tiff(PIXELS[i]), f"s{i}.cls": str(i % 2).encode()}
    files = {"wds-000000.tar": make_tar(shard), "wds-000001.tar.gz": make_tar(shard, "w:gz")}
    source = FolderSource(FolderOptions((str(write_folder(tmp_path / "x", files)),)))
    assert [(patch.id, patch.label) for patch in source.read_patches()] == [
        (f"wds-00000{shard}/s{i}", i % 2) for shard in (0, 1) for i in range(4)
    ]
    assert np.array_equal([patch.load() for patch in source.read_patches()], PIXELS[[0, 1, 2, 3] * 2])


@pytest.mark.parametrize("are_locations", [False, True])
@pytest.mark.parametrize("name", ["{}-000000.tar", "{}_00001.zip", "pcam-{}-000"])
def test_shards_and_folders_with_the_names_of_splits_give_the_splits(tmp_path, name, are_locations):
    for i, split in enumerate(("train", "val", "test")):
        shard = {f"s{j}.png": tiff(PIXELS[2 * i + j]) for j in range(2)}
        shard |= {f"s{j}.cls": str(j).encode() for j in range(2)}
        path = tmp_path / "x" / name.format(split)
        make = {".tar": make_tar, ".zip": make_zip}.get(path.suffix)
        write_folder(path.parent if make else path, {path.name: make(shard)} if make else shard)
    locations = sorted((tmp_path / "x").iterdir()) if are_locations else [tmp_path / "x"]
    source = FolderSource(FolderOptions(tuple(map(str, locations))))
    assert sorted((patch.split, patch.label) for patch in source.read_patches()) == [
        (split, label) for split in ("test", "train", "valid") for label in (0, 1)
    ]


def test_a_numbered_folder_test_alone_is_no_split(tmp_path):  # the slides of Camelyon16 are test_001, tumor_001, ...
    images = {f"{name}/x{i}.png": tiff(PIXELS[i]) for i, name in enumerate(("normal_001", "tumor_001", "test_001"))}
    source = FolderSource(FolderOptions((str(write_folder(tmp_path / "x", images)),)))
    assert {patch.split for patch in source.read_patches()} == {""}


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("x.7z", "a 7z archive"),
        ("x.rar", "a RAR archive"),
        ("x.tar.zst", "a Zstandard"),
        ("x.tfrecord", "a TensorFlow"),
        ("x.mat", "a MATLAB"),
        ("x.svs", "a whole slide"),
        ("x.jxl", "a JPEG XL"),
        ("data.mdb", "an LMDB database"),
        ("x.arrow", "an Arrow file"),
    ],
)
def test_formats_that_are_not_read_are_named(tmp_path, name, what):
    (tmp_path / name).write_bytes(b"data")
    with pytest.raises(HistoError, match=f"is {what}.*which histo does not read") as raised:
        list_files(tmp_path / name)
    assert raised.value.hint


# arrays


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_patches_and_labels_of_an_npz_are_read(tmp_path, save):
    save(tmp_path / "x.npz", x=PIXELS, y=np.arange(6) % 2)
    source = FolderSource(FolderOptions((str(tmp_path / "x.npz"),)))
    patches = list(source.read_patches())
    assert [(patch.id, patch.label) for patch in patches] == [(str(i), i % 2) for i in range(6)]
    assert np.array_equal([patch.load() for patch in patches], PIXELS)


@pytest.mark.parametrize(
    ("dtype", "factor"),
    [
        ("<f4", 1 / 255),
        (">f4", 1 / 255),
        ("f2", 1 / 255),
        ("f8", 1 / 255),
        ("f4", 1),
        ("u2", 257),
        (">i4", 1),
        ("i8", 1),
    ],
)
def test_fractions_and_other_integers_of_an_npz_become_8_bits(tmp_path, dtype, factor):
    np.savez(tmp_path / "x.npz", x=(PIXELS.astype(float) * factor).astype(dtype), y=np.arange(6) % 2)
    patches = list(FolderSource(FolderOptions((str(tmp_path / "x.npz"),))).read_patches())
    assert [(patch.id, patch.label) for patch in patches] == [(str(i), i % 2) for i in range(6)]
    assert np.array_equal([patch.load() for patch in patches], PIXELS)


def test_the_splits_of_an_npz_of_medmnist_are_read(tmp_path):
    arrays = {}
    for at, name in enumerate(("train", "val", "test")):
        arrays |= {f"{name}_images": PIXELS[2 * at : 2 * at + 2], f"{name}_labels": np.array([[1], [0]])}
    np.savez(tmp_path / "x.npz", **arrays)
    patches = list(FolderSource(FolderOptions((str(tmp_path / "x.npz"),))).read_patches())
    assert [(patch.split, patch.label) for patch in patches] == [
        (s, y) for s in ("train", "valid", "test") for y in (1, 0)
    ]
    assert np.array_equal([patch.load() for patch in patches], PIXELS)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": PIXELS > 99}, "has no patches: x bool"),
        ({"a": PIXELS, "b": PIXELS}, "has several arrays of patches: a and b"),
        ({"x": PIXELS.transpose(0, 3, 1, 2)}, r"has no patches: x uint8 \(6, 3, 96, 96\)"),
        ({"x": PIXELS, "y": np.zeros(5, int)}, r"holds int64 \(5,\)"),
        ({"x": PIXELS, "y": np.arange(6)}, "'2' is not 0 or 1"),
        ({"x": np.array([{}])}, "has no patches: x object"),
    ],
)
def test_an_npz_without_patches_is_an_error(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(HistoError, match=message):
        FolderSource(FolderOptions((str(tmp_path / "x.npz"),)))


def test_the_hint_for_several_arrays_of_patches_can_be_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", images=PIXELS, masks=PIXELS // 2)
    with pytest.raises(HistoError, match="has several arrays of patches: images and masks") as caught:
        FolderSource(FolderOptions(("x.npz",)))
    code = caught.value.hint.removeprefix("save the one to use: ").rpartition(", with y=")[0]
    exec(code, {"numpy": np})
    assert np.array_equal(
        [patch.load() for patch in FolderSource(FolderOptions(("patches.npz",))).read_patches()], PIXELS
    )


@pytest.mark.parametrize(
    ("arrays", "hint"),
    [
        ({"x": PIXELS.transpose(0, 3, 1, 2)}, "moveaxis"),
        ({"x": PIXELS[..., [0, 1, 2, 2]]}, "fourth channel"),
        ({"x": PIXELS[..., 0]}, "is grey"),
        ({"x": np.asfortranarray(PIXELS)}, "ascontiguousarray"),
        ({"x": PIXELS, "y": np.eye(6)[:, :2]}, "argmax"),
        ({"x": PIXELS, "y": np.array([0, 1] * 3, object)}, "astype"),
    ],
)
def test_an_npz_of_another_shape_says_how_to_convert_it(tmp_path, arrays, hint):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(HistoError) as caught:
        FolderSource(FolderOptions((str(tmp_path / "x.npz"),)))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    "labels",
    [
        {"Y": np.arange(6) % 2},
        {"y": np.arange(6) % 2 > 0},
        {"y": (np.arange(6) % 2).astype(np.float32)},
        {"labels": np.array(["normal", "tumor"] * 3)},
        {"target": np.array([b"normal", b"tumor"] * 3)},
        {"tumor": (np.arange(6) % 2)[:, None]},
    ],
)
def test_labels_in_an_npz_have_any_type_and_usual_name(tmp_path, labels):
    np.savez(tmp_path / "x.npz", X=PIXELS, **labels)
    patches = list(FolderSource(FolderOptions((str(tmp_path / "x.npz"),))).read_patches())
    assert [(patch.id, patch.label) for patch in patches] == [(str(i), i % 2) for i in range(6)]


def test_an_npz_with_damaged_pixels_is_refused_as_a_whole(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, x=PIXELS, y=np.arange(6) % 2)
    with path.open("r+b") as file:
        file.seek(PIXELS[0].nbytes)  # without compression, only the checksum of the array shows the damage
        file.write(bytes(1000))
    with pytest.raises(HistoError, match=r"cannot read .*x\.npz: Bad CRC-32") as caught:
        FolderSource(FolderOptions((str(path),)))
    assert caught.value.hint == "check that the download is complete"


@pytest.mark.parametrize("name", ["y", "y_train", "Labels"])
def test_a_wrong_label_in_an_npz_is_named_by_array_and_row(tmp_path, name):
    images = "x_train" if name == "y_train" else "x"
    np.savez(tmp_path / "x.npz", **{images: PIXELS, name: np.array([0, 1, 0, 5, 1, 1])})
    with pytest.raises(HistoError, match=rf"x\.npz, array {name}, row 3: '5' is not 0 or 1"):
        FolderSource(FolderOptions((str(tmp_path / "x.npz"),)))


def test_other_arrays_of_an_npz_are_slides_or_named_or_counted(tmp_path):
    others = {"slide": np.arange(6) // 3, "age": np.arange(6.0), "id": np.arange(6), "other": np.zeros((2, 2))}
    np.savez(tmp_path / "x.npz", x=PIXELS, y=np.arange(6) % 2, **others)
    source = FolderSource(FolderOptions((str(tmp_path / "x.npz"),)))
    assert [patch.slide for patch in source.read_patches()] == ["0"] * 3 + ["1"] * 3
    assert "labels from x.npz, array y: 6 of 6 rows match 6 of 6 images" in str(source.report.notes)
    assert "columns of x.npz that are not used: 'age', 'id (2)'" in source.report.notes
    assert "1 file skipped: 1 .npy" in source.report.notes


def test_arrays_without_names_are_named_and_an_option_chooses_the_labels(tmp_path):
    np.savez(tmp_path / "x.npz", PIXELS, np.arange(6) % 2)
    source = FolderSource(FolderOptions((str(tmp_path / "x.npz"),)))
    assert any("x.npz has images, but no known column" in note and "'arr_1'" in note for note in source.report.notes)
    source = FolderSource(FolderOptions((str(tmp_path / "x.npz"),), label_column="arr_1"))
    assert [patch.label for patch in source.read_patches()] == [0, 1] * 3


def test_columns_of_parquet_are_labels_and_slides(tmp_path):
    columns = {"is_cancer": [False, True] * 3, "slide_id": list("aaabbb"), "image_id": list("uvwxyz")}
    write_parquet(tmp_path / "x.parquet", {"image": [tiff(pixels) for pixels in PIXELS], **columns})
    source = FolderSource(FolderOptions((str(tmp_path / "x.parquet"),)))
    patches = list(source.read_patches())
    assert [(patch.label, patch.slide) for patch in patches] == list(zip([0, 1] * 3, "aaabbb", strict=True))
    assert any("that are not used: 'image_id'" in note for note in source.report.notes)


@pytest.mark.parametrize(
    ("missing", "written"), [(None, ""), (-1, " (written as -1)"), (float("nan"), " (written as nan)"), (" ", "")]
)
def test_rows_of_parquet_without_a_label_keep_their_slide_and_split(tmp_path, missing, written):
    labels = [0, 1, 0, 1, missing, missing]
    columns = {"label": list(map(str, labels)) if missing == " " else labels, "slide": list("aabbcc"), "x": [*range(6)]}
    columns["split"] = ["train"] * 4 + ["test", "unlabeled"]
    for names in (["label", "slide", "split", "x"], ["label", "x"]):
        images = {"image": [tiff(pixels) for pixels in PIXELS]}
        write_parquet(tmp_path / "x.parquet", images | {name: columns[name] for name in names})
        source = FolderSource(FolderOptions((str(tmp_path / "x.parquet"),)))
        patches = list(source.read_patches())
        assert [patch.label for patch in patches] == [0, 1, 0, 1, None, None]
        has_others = "slide" in names
        assert [patch.slide for patch in patches] == (columns["slide"] if has_others else [""] * 6)
        assert [patch.split for patch in patches] == ([*columns["split"][:5], ""] if has_others else [""] * 6)
        splits = "splits from x.parquet, column split: test (1), train (4); 1 without a label have no split (unlabeled)"
        assert source.report.notes == [
            "labels from x.parquet, column label: 6 of 6 rows match 6 of 6 images",
            *(["slides from x.parquet, column slide", splits] if has_others else []),
            "columns of x.parquet that are not used: 'x'",
            f"2 images without a label{written}: 'x-4', 'x-5'",
        ]


def test_a_parquet_without_any_label_says_so(tmp_path):
    table = {"image": [tiff(pixels) for pixels in PIXELS], "label": [None] * 6, "slide": list("aabbcc")}
    write_parquet(tmp_path / "x.parquet", table)
    source = FolderSource(FolderOptions((str(tmp_path / "x.parquet"),)))
    assert [(patch.label, patch.slide) for patch in source.read_patches()] == [(None, slide) for slide in "aabbcc"]
    assert source.report.notes[0].startswith("no labels in x.parquet, column label: all rows are empty")


def test_of_several_columns_of_images_the_one_with_the_usual_name_is_read(tmp_path):
    images, masks = ([tiff(pixels) for pixels in array] for array in (PIXELS, PIXELS // 2))
    write_parquet(tmp_path / "x.parquet", {"mask": masks, "image": images})
    source = FolderSource(FolderOptions((str(tmp_path / "x.parquet"),)))
    assert np.array_equal([patch.load() for patch in source.read_patches()], PIXELS)
    write_parquet(tmp_path / "y.parquet", {"mask": masks, "photo": images})
    with pytest.raises(HistoError, match=r"y\.parquet has several columns of images: mask and photo") as caught:
        FolderSource(FolderOptions((str(tmp_path / "y.parquet"),)))
    assert "drop_columns(['photo'])" in caught.value.hint


def test_a_wrong_label_in_a_parquet_file_is_named_by_column_and_row(tmp_path):
    table = {"image": [tiff(pixels) for pixels in PIXELS], "Label": [0, None, 1, 1, 7, 0]}
    write_parquet(tmp_path / "x.parquet", table)
    with pytest.raises(HistoError, match=r"x\.parquet, column Label, row 4: '7' is not 0 or 1"):
        FolderSource(FolderOptions((str(tmp_path / "x.parquet"),)))


@pytest.mark.parametrize(("flag", "method", "message"), [(1, 8, "encrypted with a password"), (0, 9, "number 9")])
def test_a_zip_that_python_cannot_unpack_is_refused_as_a_whole(tmp_path, flag, method, message):
    data = bytearray(make_zip({"normal/a.tif": tiff(PIXELS[0]), "tumor/b.tif": tiff(PIXELS[1])}))
    for start, at in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        place = -1
        while (place := data.find(start, place + 1)) >= 0:
            data[place + at] |= flag
            data[place + at + 2] = method
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(HistoError, match=message):
        list_files(tmp_path / "x.zip")


@pytest.mark.parametrize(
    ("name", "hint"),
    [("a.npy", "numpy.savez"), ("a.dcm", "PNG"), ("a.heic", "PNG"), ("a.zip.001", "join the parts"), ("a.mat", "PNG")],
)
def test_a_folder_of_files_that_are_not_read_says_what_to_do(tmp_path, name, hint):
    write_folder(tmp_path / "x", {name: b"data"})
    with pytest.raises(HistoError, match="there are no images") as caught:
        FolderSource(FolderOptions((str(tmp_path / "x"),)))
    assert hint in caught.value.hint


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\n", "a pointer of Git LFS"),
        (b"\n<!DOCTYPE html><html>404</html>", "a web page"),
        (bytes(128) + b"DICM" + bytes(99), "a DICOM file"),
    ],
)
def test_a_file_that_is_something_else_is_named(tmp_path, data, what):
    write_folder(tmp_path / "x", {"normal/a.png": data, "tumor/b.png": data})
    patch = next(FolderSource(FolderOptions((str(tmp_path / "x"),))).read_patches())
    with pytest.raises(HistoError, match=f"it is {what}, which is not read as an image"):
        patch.load()


def test_the_parquet_of_hugging_face_is_read(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")
    images = [{"bytes": tiff(pixels), "path": None} for pixels in PIXELS]
    table = pa.table({"image": images, "label": [0, 1, 0, 1, -1, 1]})
    features = {"label": {"names": ["tumor", "normal"], "_type": "ClassLabel"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    (tmp_path / "x").mkdir()
    pq.write_table(table.slice(0, 4), tmp_path / "x" / "train-00000-of-00001.parquet", row_group_size=3)
    pq.write_table(table.slice(4), tmp_path / "x" / "test-00000-of-00001.parquet")
    patches = list(FolderSource(FolderOptions((str(tmp_path / "x"),))).read_patches())
    assert [(patch.split, patch.label) for patch in patches] == [
        ("test", None),
        ("test", 0),
        *[("train", 1), ("train", 0)] * 2,
    ]
    assert np.array_equal([patch.load() for patch in patches], PIXELS[[4, 5, 0, 1, 2, 3]])


def test_a_damaged_parquet_file_is_refused(tmp_path):
    pytest.importorskip("pyarrow")
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(HistoError, match=r"cannot read .*x\.parquet"):
        list_files(tmp_path / "x.parquet")


def test_a_parquet_file_without_pyarrow_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "x.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(HistoError, match=r"^reading .*x\.parquet needs the package pyarrow$") as caught:
        list_files(tmp_path / "x.parquet")
    assert caught.value.hint == "pip install 'histocli[parquet]'"


@pytest.mark.parametrize("suffix", MODES)
def test_a_zip_may_contain_any_kind_of_tar(tmp_path, suffix):
    inner = {"normal/a.tif": tiff(PIXELS[0]), "tumor/b.tif": tiff(PIXELS[1])}
    path = write_zip(tmp_path / "x.zip", {f"data{suffix}": make_tar(inner, MODES[suffix])})
    assert contents(path) == {f"data/{name}": data for name, data in inner.items()}


@pytest.mark.parametrize(("name", "is_zip", "right"), [("x.zip", False, ".tar.gz"), ("x.tar", True, ".zip")])
def test_an_archive_with_the_suffix_of_another_format_says_which_it_is(tmp_path, name, is_zip, right):
    files = {"normal/a.tif": tiff(PIXELS[0])}
    (tmp_path / name).write_bytes(make_zip(files) if is_zip else make_tar(files, "w:gz"))
    with pytest.raises(HistoError, match="cannot read") as caught:
        list_files(tmp_path / name)
    assert caught.value.hint == f"its content is that of a {right}: rename it"


def test_a_folder_of_packed_images_gets_a_hint_to_unpack_them(tmp_path):
    write_folder(tmp_path / "x", {"a.png.gz": gzip.compress(b"x"), "b.png.gz": gzip.compress(b"x")})
    with pytest.raises(HistoError, match="there are no images") as caught:
        FolderSource(FolderOptions((str(tmp_path / "x"),)))
    assert caught.value.hint == "2 files skipped: 2 .gz; unpack the archives, and give the folder"
