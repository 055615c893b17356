"""Image files in folders and archives, and tables of labels and slides."""

import os
import shutil
import stat
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocli.errors import HistoError
from histocli.files import file as files_module
from histocli.files.file import MAX_FILE_BYTES, File, describe_others, find_images, is_image, make_file, read_bytes
from histocli.files.listing import list_files, walk_folder
from histocli.files.outputs import find_record_path
from histocli.labels.table_files import read_labels, read_slides
from histocli.text import escape_control_characters
from tests.sources.kaggle_layout import write_folder, write_zip

TREE = {
    "b.png": b"1",
    "a/z.TIF": b"2",
    "a/b/c/deep.jpg": b"3",
    "a.png": b"4",
    'with space, comma\nand "quote".png': b"5",
    "ünï.png": b"6",
    "labels.csv": b"7",
    ".hidden.png": b"8",
    ".git/x.png": b"9",
    "__MACOSX/x.png": b"10",
}
SEEN = sorted(name for name in TREE if not name.startswith((".", "__MACOSX")))


def contents(files):
    return {file.name: read_bytes(file) for file in files}


def test_a_folder_and_a_zip_list_the_same_sorted_files_without_hidden_ones(tmp_path):
    tree = {name: data for name, data in TREE.items() if not name.startswith("__MACOSX")}
    folder, archive = write_folder(tmp_path / "folder", tree), write_zip(tmp_path / "archive.ZIP", TREE)
    for path in (folder, archive):
        files = list_files(path)
        assert [file.name for file in files] == SEEN
        assert contents(files) == {name: TREE[name] for name in SEEN}
        assert [file.name for file in find_images(files).images] == [name for name in SEEN if name != "labels.csv"]


def test_a_single_file_is_a_list_of_one(tmp_path):
    (tmp_path / "x.jpg").write_bytes(b"data")
    assert contents(list_files(tmp_path / "x.jpg")) == {"x.jpg": b"data"}


def test_images_are_recognised_by_their_suffix():
    assert all(map(is_image, ("a.TIF", "a/b.jpeg", "x.y.png", "a.webp")))
    assert not any(map(is_image, ("a.csv", "png", "a.tif.gz", ".png/a", "a.svs")))
    assert File("train/ab.c.tif", bytes).stem == "ab.c"


def test_to_find_images_only_the_first_bytes_of_files_are_read(tmp_path, monkeypatch):
    def refuse(self):
        raise AssertionError("the whole file is read")

    tree = {"image": b"\x89PNG\r\n" + bytes(99), "text": bytes(99)}
    for path in (write_folder(tmp_path / "folder", tree), write_zip(tmp_path / "archive.zip", tree)):
        files = list_files(path)
        monkeypatch.setattr(type(files[0].read), "__call__", refuse)
        assert [file.name for file in find_images(files).images] == ["image"]


def test_links_loops_pipes_and_sockets_do_not_hang(tmp_path):
    folder = write_folder(tmp_path / "folder", {"a.png": b"1", "sub/b.png": b"2"})
    os.mkfifo(folder / "pipe.png")
    (folder / "sub" / "loop").symlink_to(folder)
    (folder / "self.png").symlink_to(folder / "self.png")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "link.png").symlink_to(folder / "a.png")
    (folder / "folder.png").mkdir()
    files = list_files(folder)
    broken = [file for file in files if file.name in ("gone.png", "self.png")]
    assert len(broken) == 2
    for file in broken:  # they are not skipped: an image is missing
        with pytest.raises(HistoError, match=file.name):
            read_bytes(file)
    others = [file for file in files if file not in broken]
    assert contents(others) == {"a.png": b"1", "link.png": b"1", "sub/b.png": b"2"}


def test_a_link_to_a_folder_is_followed_once(tmp_path):
    elsewhere = write_folder(tmp_path / "elsewhere", {"b.png": b"2", "deep/c.png": b"3"})
    folder = write_folder(tmp_path / "folder", {"normal/a.png": b"1"})
    (folder / "tumor").symlink_to(elsewhere)
    (folder / "again").symlink_to(folder / "normal")
    assert contents(list_files(folder)) == {"normal/a.png": b"1", "tumor/b.png": b"2", "tumor/deep/c.png": b"3"}


def test_a_folder_that_is_removed_while_it_is_listed_counts_as_empty(tmp_path):
    write_folder(tmp_path, {"a.png": b"1", "sub/b.png": b"2"})
    walk = walk_folder(str(tmp_path))
    assert next(walk) == "a.png"
    shutil.rmtree(tmp_path / "sub")
    assert list(walk) == []


def test_a_pipe_or_device_as_input_is_an_error(tmp_path):
    os.mkfifo(tmp_path / "pipe.zip")
    for path in (tmp_path / "pipe.zip", "/dev/zero"):
        with pytest.raises(HistoError, match="is not a file or folder"):
            list_files(tmp_path / path)
        with pytest.raises(HistoError, match="not a regular file"):
            read_bytes(make_file(tmp_path / path))


def test_names_that_are_not_utf8_are_escaped_and_still_read(tmp_path):
    with open(os.fsencode(tmp_path) + b"/caf\xe9.png", "wb") as file:  # noqa: PTH123
        file.write(b"data")
    assert contents(list_files(tmp_path)) == {r"caf\xe9.png": b"data"}


@pytest.mark.parametrize("name", ["nothing", "no/such/folder", "nul\0", "x" * 300])
def test_a_missing_path_is_an_error_that_names_it(tmp_path, name):
    with pytest.raises(HistoError, match=r"there is no|cannot read"):
        list_files(tmp_path / name)


def test_a_file_deleted_before_reading_is_an_error_that_names_it(tmp_path):
    files = list_files(write_folder(tmp_path, {"sub/a.png": b"1"}))
    (tmp_path / "sub" / "a.png").unlink()
    with pytest.raises(HistoError, match=r"^sub/a\.png: No such file"):
        read_bytes(files[0])


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_path_without_permission_is_an_error_that_names_it(tmp_path):
    folder = write_folder(tmp_path, {"a.png": b"1", "sub/b.png": b"2"})
    (folder / "a.png").chmod(0)
    with pytest.raises(HistoError, match=r"^a\.png: Permission denied"):
        read_bytes(list_files(folder)[0])
    (folder / "sub").chmod(0)
    try:
        with pytest.raises(HistoError, match=r"cannot read .*sub: Permission denied"):
            list_files(folder)
    finally:
        (folder / "sub").chmod(0o700)


def test_a_file_larger_than_any_patch_is_refused(tmp_path):
    with (tmp_path / "large.tif").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)  # a hole: it takes no room
    with pytest.raises(HistoError, match=r"large\.tif: larger than 256 MiB"):
        read_bytes(list_files(tmp_path)[0])


# archives


@pytest.mark.parametrize("data", [b"", b"PK\3\4 nothing", b"<html>quota exceeded</html>", bytes(1000)])
def test_a_broken_archive_is_an_error_that_names_it(tmp_path, data):
    (tmp_path / "x.zip").write_bytes(data)
    with pytest.raises(HistoError, match=r"cannot read .*x\.zip"):
        list_files(tmp_path / "x.zip")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("second", ["a/b.png", "a\\b.png", "./a/b.png"])
def test_a_duplicate_name_is_an_error(tmp_path, second):
    repeated = ("a/", ".DS_Store")  # a folder, and a file that is not read
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for name in (*repeated, *repeated, "a/b.png", "c.png"):
            archive.writestr(name, name)
    assert [file.name for file in list_files(tmp_path / "x.zip")] == ["a/b.png", "c.png"]
    with zipfile.ZipFile(tmp_path / "x.zip", "a") as archive:
        archive.writestr(second, "")
    with pytest.raises(HistoError, match=r"x\.zip contains 'a/b\.png' twice"):
        list_files(tmp_path / "x.zip")


def test_members_with_paths_outside_the_archive_are_skipped_and_counted(tmp_path):
    names = [
        "../up.png",
        "a/../../up.png",
        "/etc/abs.png",
        "C:\\win.png",
        "..\\over.png",
        "c:rel.png",
        "good/a.png",
        "b\\c.png",
    ]
    path = write_zip(tmp_path / "x.zip", dict.fromkeys(names, b"1"))
    images, others = find_images(list_files(path))
    assert [file.name for file in images] == ["b/c.png", "good/a.png"]
    assert describe_others(others) == "6 files skipped: 6 .png (path outside the archive)"


def test_links_in_an_archive_are_read_as_files(tmp_path):
    link = zipfile.ZipInfo("passwd.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
        archive.mkdir("folder.png")
    assert contents(list_files(tmp_path / "x.zip")) == {"passwd.png": b"/etc/passwd"}


def central(path, name, offset, packed):
    """Overwrite bytes of a member's entry in the archive's directory."""
    data = bytearray(path.read_bytes())
    at = data.rindex(name.encode()) - 46
    assert data[at : at + 4] == b"PK\1\2"
    data[at + offset : at + offset + len(packed)] = packed
    path.write_bytes(data)
    return path


def write_deflated(path, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path


def test_a_member_that_unpacks_to_more_than_it_declares_is_refused(tmp_path, monkeypatch):
    path = central(write_deflated(tmp_path / "x.zip", bomb=bytes(5_000_000)), "bomb", 24, struct.pack("<I", 100))
    with pytest.raises(HistoError, match=r"^bomb: "):
        read_bytes(list_files(path)[0])
    monkeypatch.setattr(files_module, "MAX_FILE_BYTES", 1 << 20)
    path = write_deflated(tmp_path / "y.zip", honest=bytes((1 << 20) + 1), fits=bytes(1 << 20))
    fits, honest = list_files(path)
    assert read_bytes(fits) == bytes(1 << 20)
    with pytest.raises(HistoError, match=r"^honest: "):
        read_bytes(honest)


def test_an_encrypted_member_is_an_error_that_names_it(tmp_path):
    path = write_deflated(tmp_path / "x.zip", secret=b"data" * 10, open=b"1")
    data = bytearray(path.read_bytes())
    data[6] |= 1
    path.write_bytes(data)
    opened, secret = list_files(central(path, "secret", 8, b"\1"))
    assert read_bytes(opened) == b"1"
    with pytest.raises(HistoError, match=r"^secret: .*encrypted"):
        read_bytes(secret)


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_a_damaged_archive_is_an_error_never_a_crash(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(path, "w") as archive:
        for method in methods:
            archive.writestr(zipfile.ZipInfo(f"é{method}.png"), b"abc" * 20, compress_type=method)
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        files = list_files(path)
    except HistoError as error:
        assert "damaged.zip" in str(error)  # noqa: PT017 - both ends are right
        return
    for file in files:
        try:
            assert read_bytes(file) == b"abc" * 20
        except HistoError as error:
            assert str(error).startswith(escape_control_characters(file.name))  # noqa: PT017 - both ends are right


# tables


def table(text):
    return File("dir/labels.csv", lambda: text if isinstance(text, bytes) else text.encode())


@pytest.mark.parametrize(
    "text",
    [
        "id,label\n007,1\nb,0\n",
        "\ufeffID;Label;x\r\n007;1.0;,\r\nb;0.0;,\r\n",
        'label,id\n"1"," 007 "\n\n0,b\n',
    ],
)
def test_a_table_of_labels_may_be_written_in_several_ways(text):
    assert read_labels(table(text)) == {"007": 1, "b": 0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\na,1\n\nb,2\n", "line 4, column label: '2' is not 0 or 1"),
        ('id,label,x\na,1,"\n"\nb,,\n', "line 4, column label: '' is not 0 or 1"),
        ("id,label\na,1\na,1\n", "line 3, column id: 'a' occurs twice"),
        ("id,size\na,1\n", "line 1: no column is known as the label; the columns are id, size"),
        ("", "line 1: no column is known as the id; the columns are none"),
        ("id,label\na\n", "line 2: this line has 1 field, but line 1 names 2 columns"),
        (b"id,label\n\xff,1\n", "is not UTF-8 text"),
        ('id,label\n"a,1\n', "line 2: a quote is not closed"),
    ],
)
def test_a_malformed_table_is_an_error_with_its_line(text, message):
    with pytest.raises(HistoError) as raised:
        read_labels(table(text))
    assert str(raised.value).startswith("dir/labels.csv")
    assert message in str(raised.value)


def test_a_table_of_slides_is_read_and_checked():
    assert read_slides(table("id,wsi\na,s1\nb,s2\na,s1\n")) == {"a": "s1", "b": "s2"}
    assert read_slides(table("slide;id\ns1;a\n")) == {"a": "s1"}
    with pytest.raises(HistoError, match="line 3, column id: 'a' occurs twice, with two slides"):
        read_slides(table("id,wsi\na,s1\na,s2\n"))
    with pytest.raises(HistoError, match="no column is known as the slide; the columns are id, label"):
        read_slides(table("id,label\na,1\n"))


def test_members_are_read_from_many_threads(tmp_path):
    from histocli.images.stream import map_ordered

    members = {f"{i}.png": np.random.default_rng(i).bytes(5000) for i in range(60)}
    files = list_files(write_zip(tmp_path / "x.zip", members))
    assert list(map_ordered(read_bytes, files, 4)) == [members[file.name] for file in files]


@pytest.mark.parametrize("name", ["@eaDir/a.png/SYNOFILE_THUMB_M.png", "$RECYCLE.BIN/b.png", "x/#recycle/c.png"])
def test_folders_of_the_system_are_skipped(tmp_path, name):
    for path in (name, "x/good.png"):
        (tmp_path / "in" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / path).write_bytes(b"1")
    assert [file.name for file in list_files(tmp_path / "in")] == ["x/good.png"]
    path = write_zip(tmp_path / "x.zip", {name: b"1", "x/good.png": b"1"})
    assert [file.name for file in list_files(path)] == ["x/good.png"]


def test_symbolic_links_in_a_tar_are_read_as_the_member_that_they_lead_to_or_counted(tmp_path):
    (tmp_path / "in/b").mkdir(parents=True)
    (tmp_path / "in/a.png").write_bytes(b"the image")
    (tmp_path / "in/b/up.png").symlink_to("../a.png")
    (tmp_path / "in/again.png").symlink_to("b/up.png")
    (tmp_path / "in/folder").symlink_to("b")
    (tmp_path / "in/self.png").symlink_to("self.png")
    (tmp_path / "in/out.png").symlink_to("/etc/passwd")
    (tmp_path / "in/latest").symlink_to("/etc/passwd")
    (tmp_path / "in/through.png").symlink_to("folder/../folder/up.png")
    (tmp_path / "in/third.png").symlink_to("again.png")
    (tmp_path / "in/fourth.png").symlink_to("./third.png")
    for top in (".", "in"):
        with tarfile.open(tmp_path / "x.tar", "w") as archive:
            archive.add(tmp_path / "in", arcname=top)
        images, others = find_images(list_files(tmp_path / "x.tar"))
        found = {file.name.removeprefix("in/"): file.read() for file in images}
        names = ["a.png", "again.png", "b/up.png", "fourth.png", "third.png", "through.png"]
        assert found == dict.fromkeys(names, b"the image")
        lost = "(link to a file that is not in the archive)"
        assert describe_others(others) == f"3 files skipped: 2 .png {lost}, 1 without a suffix {lost}"


def test_names_in_a_tar_that_are_not_utf8_are_escaped(tmp_path):
    with tarfile.open(tmp_path / "x.tar", "w", encoding="latin-1", format=tarfile.GNU_FORMAT) as archive:
        archive.addfile(tarfile.TarInfo("tumor/é.png"))
    assert [file.name for file in list_files(tmp_path / "x.tar")] == [r"tumor/\xe9.png"]
    damaged = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.tar"))
    damaged.write_bytes(b"no tar")
    with pytest.raises(HistoError, match=r"cannot read .*/caf\\xe9\.tar"):
        list_files(damaged)


def test_outputs_with_long_names_that_begin_alike_have_their_own_records(tmp_path):
    first, second = (find_record_path(tmp_path / f"{'x' * 220}{end}.csv") for end in (1, 2))
    assert first.name != second.name
    first.write_text("{}")  # the file system takes the name
    assert find_record_path(tmp_path / f"{'x' * 196}.csv").name == f".{'x' * 196}.csv.made-with.json"
