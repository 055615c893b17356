"""Small copies of PCam's nine files, from a folder and over HTTP."""

import gzip
import hashlib
import re

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from histocli.data.store import open_store, pack
from histocli.errors import HistoError
from histocli.sources import PlannedFile, SourceContext, pcam
from histocli.sources.camelyon import find_hospital
from histocli.sources.hdf5 import open_h5, read_labels, read_patches
from histocli.sources.pcam import PcamSource
from histocli.sources.pcam_files import MD5
from histocli.sources.retry import RetryPolicy
from histocli.workspace import Workspace
from tests.sources.pcam_layout import HOSPITALS, ROWS, file_name, labels_of, pixels_of, slides_of, write_h5, write_meta
from tests.sources.server import FileServer, Reply


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")


@pytest.fixture
def downloads(tmp_path):
    return tmp_path / "downloads"


def expected_rows(split):
    pixels, slides = pixels_of(split), slides_of(split)
    return [
        (hashlib.sha1(p).hexdigest(), int(y), slide, split, HOSPITALS[slide])
        for p, y, slide in zip(pixels, labels_of(split), slides, strict=True)
    ]


def rows_of(source):
    rows = []
    for patch in source.read_patches():
        assert hashlib.sha1(patch.load()).hexdigest() == patch.id
        rows.append((patch.id, patch.label, patch.slide, patch.split, patch.hospital))
    return rows


ALL_ROWS = [row for split in ROWS for row in expected_rows(split)]


def test_the_nine_names_and_checksums_are_those_of_the_publishers():
    assert len(MD5) == 9
    assert set(MD5) == {
        file_name(split, kind) + (".csv" if kind == "meta" else ".h5.gz")
        for split in ROWS
        for kind in ("x", "y", "meta")
    }
    assert len(set(MD5.values())) == 9


def test_a_folder_gives_every_row_in_order(pcam_folder, downloads):
    source = PcamSource(pcam_folder, SourceContext(downloads))
    assert source.total is None
    assert rows_of(source) == ALL_ROWS
    assert source.total == 100
    assert source.report.origin == str(pcam_folder)
    checksums = source.report.checksums
    assert len(checksums) == 9
    assert source.report.notes == [f"the MD5 of these files is not the published one: {', '.join(checksums)}"]
    assert list(downloads.iterdir()) == []  # what was unpacked is gone


def test_a_server_that_cuts_connections_gives_the_same_rows(pcam_files, downloads):
    seen = {}
    x = file_name("train", "x") + ".h5.gz"
    with FileServer({f"some/where/{name}": data for name, data in pcam_files.items()}) as server:
        server.script(f"some/where/{x}", Reply(cut_after=300_000), Reply(status=503), Reply(cut_after=300_000))
        context = SourceContext(
            downloads,
            on_transfer=lambda name, done, total: seen.__setitem__(name, (done, total)),
            policy=RetryPolicy(sleep=lambda seconds: None),
        )
        source = PcamSource(server.url("some/where/?download=1"), context)
        assert rows_of(source) == ALL_ROWS
        assert server.ranges(f"some/where/{x}") == [None, *["bytes=300000-"] * 2, "bytes=600000-"]
        paths = [request.path for request in server.requests]
        assert len(set(paths)) == 9
    assert seen[x] == (len(pcam_files[x]),) * 2
    again = PcamSource(server.url("some/where/?download=1"), SourceContext(downloads))
    assert rows_of(again) == ALL_ROWS  # and now without a server
    assert all(file.is_here for file in again.plan())
    assert again.report.origin == server.url("some/where/")


def test_packing_drops_duplicates_within_a_split(pcam_folder, downloads, tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    packed = pack(PcamSource(pcam_folder, SourceContext(downloads)), workspace, "pcam")
    assert (packed.patches, packed.duplicates_dropped, packed.sha1_mismatches) == (85, 15, 0)
    expected = np.concatenate([pixels_of(split)[:-5] for split in ROWS])
    assert np.array_equal(open_store(workspace.patches_path("pcam")), expected)


def test_zenodo_files_must_have_the_published_md5(pcam_files, downloads, monkeypatch):
    with FileServer(pcam_files) as server:
        monkeypatch.setattr("histocli.sources.pcam_files.ZENODO", server.url("?download=1"))
        source = PcamSource(None, SourceContext(downloads))
        with pytest.raises(HistoError, match="has the MD5"):
            source.fetch()
        assert list(downloads.iterdir()) == []
        monkeypatch.setattr(pcam, "MD5", {n: hashlib.md5(data).hexdigest() for n, data in pcam_files.items()})
        source = PcamSource(None, SourceContext(downloads))
        source.fetch()
    assert source.report.notes == ["all files have the published MD5"]
    assert source.report.checksums == pcam.MD5


def test_force_fetches_again(pcam_files, downloads):
    with FileServer(pcam_files) as server:
        PcamSource(server.url(), SourceContext(downloads)).fetch()
        PcamSource(server.url(), SourceContext(downloads)).fetch()
        assert len(server.requests) == 9
        PcamSource(server.url(), SourceContext(downloads, force=True)).fetch()
        assert len(server.requests) == 18


def test_plan_says_what_would_be_fetched(pcam_files, pcam_folder, downloads):
    names = [file_name("valid", kind) + end for kind, end in (("y", ".h5.gz"), ("meta", ".csv"), ("x", ".h5.gz"))]
    with FileServer(pcam_files) as server:
        source = PcamSource(server.url(), SourceContext(downloads), splits=["valid"])
        assert source.plan() == [PlannedFile(name, len(pcam_files[name]), False) for name in names]
        source.fetch()
        assert [file.is_here for file in source.plan()] == [True] * 3
        assert {request.range for request in server.requests[:3]} == {"bytes=0-0"}
        del server.files[names[1]]
        absent = PcamSource(server.url(), SourceContext(downloads / "other"), splits=["valid"])
        assert [file.name for file in absent.plan()] == [names[0], names[2]]
    assert all(file.is_here for file in PcamSource(pcam_folder, SourceContext(downloads)).plan())


def test_unpacked_arrays_are_read_as_they_are(pcam_folder, downloads):
    for path in pcam_folder.glob("*.gz"):
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    source = PcamSource(pcam_folder, SourceContext(downloads))
    assert rows_of(source) == ALL_ROWS
    with open_h5(pcam_folder / (file_name("test", "x") + ".h5"), downloads) as file:
        assert file.id.get_access_plist().get_file_locking() == (True, True)  # locks, if the file system has them
    arrays = [file_name(split, kind) + ".h5" for split in ROWS for kind in ("y", "x")]
    tables = [file_name(split, "meta") + ".csv" for split in ROWS]
    assert source.report.notes == [
        f"no MD5 is published for unpacked files, so these were not checked: {', '.join(arrays)}",
        f"the MD5 of these files is not the published one: {', '.join(tables)}",
    ]


def test_some_of_the_splits_can_be_read(pcam_folder, downloads):
    assert rows_of(PcamSource(pcam_folder, SourceContext(downloads), splits=["test"])) == expected_rows("test")
    for path in pcam_folder.glob("*train*"):
        path.unlink()
    source = PcamSource(pcam_folder, SourceContext(downloads))
    assert rows_of(source) == expected_rows("valid") + expected_rows("test")
    assert "without the split train" in source.report.notes[0]


@pytest.mark.parametrize("options", [{"chunks": (7, 96, 96, 3), "compression": "gzip"}, {"chunks": (1024, 96, 96, 3)}])
def test_chunked_and_compressed_arrays_are_read(tmp_path, options):
    pixels = pixels_of("train")
    write_h5(tmp_path / "x.h5", "x", pixels, maxshape=(None, 96, 96, 3), **options)
    with open_h5(tmp_path / "x.h5.gz", tmp_path, rows=60) as file:
        assert np.array_equal(np.stack(list(read_patches(file, tmp_path / "x.h5.gz", 60))), pixels)


@pytest.fixture(scope="session")
def small_h5(tmp_path_factory):
    path = tmp_path_factory.mktemp("fuzz") / "x.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=pixels_of("valid")[:4], chunks=(3, 96, 96, 3), compression="gzip")
        file["y"] = np.zeros((4, 1, 1, 1), np.uint8)
    return path


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=6), end=st.integers(0, 200_000))
def test_any_bytes_in_the_file_are_read_or_refused(small_h5, tmp_path, changes, end):
    data = bytearray(small_h5.read_bytes())
    for place, value in changes:
        data[place] = value
    path = tmp_path / "x.h5"
    path.write_bytes(data[: max(end, 100)])
    try:
        labels = read_labels(path, tmp_path)
        with open_h5(path, tmp_path) as file:
            assert sum(pixels.shape == (96, 96, 3) for pixels in read_patches(file, path, len(labels))) == len(labels)
    except HistoError as error:
        refusal = str(error)
        assert str(path) in refusal


def test_without_the_meta_table_the_slides_are_not_known(pcam_folder, downloads, pcam_files):
    (pcam_folder / (file_name("valid", "meta") + ".csv")).unlink()
    source = PcamSource(pcam_folder, SourceContext(downloads), splits=["valid"])
    assert {row[2] for row in rows_of(source)} == {""}
    assert "valid: no meta table, so the slides are not known" in source.report.notes
    served = {name: data for name, data in pcam_files.items() if "meta" not in name}
    with FileServer(served) as server:
        assert {row[2] for row in rows_of(PcamSource(server.url(), SourceContext(downloads), splits=["valid"]))} == {""}


@pytest.mark.parametrize("kind", ["x", "y"])
def test_a_missing_array_is_an_error(pcam_folder, downloads, pcam_files, kind):
    name = file_name("valid", kind) + ".h5.gz"
    (pcam_folder / name).unlink()
    with pytest.raises(HistoError, match=name):
        PcamSource(pcam_folder, SourceContext(downloads)).fetch()
    served = {key: data for key, data in pcam_files.items() if key != name}
    with FileServer(served) as server, pytest.raises(HistoError, match=name):
        PcamSource(server.url(), SourceContext(downloads)).fetch()


def test_a_location_without_any_of_the_files_is_an_error(tmp_path, downloads):
    with pytest.raises(HistoError, match="there are no files of PCam"):
        PcamSource(tmp_path, SourceContext(downloads))
    with pytest.raises(HistoError, match="no folder"):
        PcamSource(tmp_path / "absent", SourceContext(downloads))


def test_labels_that_differ_from_the_meta_table_are_counted(pcam_folder, downloads):
    flipped = labels_of("valid")
    flipped[:1] = 1 - flipped[:1]
    write_meta(pcam_folder / (file_name("valid", "meta") + ".csv"), "valid", flipped)
    source = PcamSource(pcam_folder, SourceContext(downloads), splits=["valid"])
    assert rows_of(source) == expected_rows("valid")
    assert source.report.counts == {"labels that differ from center_tumor_patch": 1}


def labels_of_other_rows(pcam_folder):
    write_meta(pcam_folder / (file_name("valid", "meta") + ".csv"), "valid", 1 - labels_of("valid"))


def replace(pcam_folder, split, kind, values, **options):
    write_h5(pcam_folder / (file_name(split, kind) + ".h5"), kind, values, **options)


def lose_an_image(pcam_folder):
    replace(pcam_folder, "valid", "x", pixels_of("valid")[:-1])


def lose_a_label(pcam_folder):
    replace(pcam_folder, "valid", "y", labels_of("valid")[:-1].reshape(-1, 1, 1, 1))


def lose_a_slide(pcam_folder):
    path = pcam_folder / (file_name("valid", "meta") + ".csv")
    path.write_text("\n".join(path.read_text().splitlines()[:-1]) + "\n")


def smaller_images(pcam_folder):
    replace(pcam_folder, "valid", "x", pixels_of("valid")[:, :64, :64])


def wider_pixels(pcam_folder):
    replace(pcam_folder, "valid", "x", pixels_of("valid").astype(np.uint16))


def third_label(pcam_folder):
    replace(pcam_folder, "valid", "y", labels_of("valid").reshape(-1, 1, 1, 1) * 2)


def two_labels_each(pcam_folder):
    replace(pcam_folder, "valid", "y", np.zeros((20, 2), np.uint8))


def other_set(pcam_folder):
    write_h5(pcam_folder / (file_name("valid", "x") + ".h5"), "images", pixels_of("valid"))


def cut_short(pcam_folder):
    path = pcam_folder / (file_name("valid", "x") + ".h5.gz")
    path.write_bytes(path.read_bytes()[:-1000])


def flipped_bits(pcam_folder):
    path = pcam_folder / (file_name("valid", "x") + ".h5.gz")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)


def not_gzip(pcam_folder):
    (pcam_folder / (file_name("valid", "y") + ".h5.gz")).write_bytes(b"\x89HDF\r\n\x1a\n" + b"\0" * 100)


def not_hdf5(pcam_folder):
    (pcam_folder / (file_name("valid", "y") + ".h5.gz")).write_bytes(gzip.compress(b"labels"))


def bomb(pcam_folder):
    (pcam_folder / (file_name("valid", "x") + ".h5.gz")).write_bytes(gzip.compress(b"\0" * 5_000_000) * 30)


def no_wsi(pcam_folder):
    (pcam_folder / (file_name("valid", "meta") + ".csv")).write_text("id,slide\n")


def odd_truth(pcam_folder):
    (pcam_folder / (file_name("valid", "meta") + ".csv")).write_text("center_tumor_patch,wsi\nTrue,a\nperhaps,a\n")


def meta_not_text(pcam_folder):
    (pcam_folder / (file_name("valid", "meta") + ".csv")).write_bytes(b"\xff\xfe\x00wsi\n")


def open_quote(pcam_folder):
    (pcam_folder / (file_name("valid", "meta") + ".csv")).write_text('wsi,center_tumor_patch\n"a,True\nb,True\n')


def empty_row(pcam_folder):
    (pcam_folder / (file_name("valid", "meta") + ".csv")).write_text("wsi,center_tumor_patch\na,True\n,\nb,True\n")


def short_row(pcam_folder):
    (pcam_folder / (file_name("valid", "meta") + ".csv")).write_text("center_tumor_patch,wsi\nTrue,a\nTrue\n")


def long_row(pcam_folder):
    (pcam_folder / (file_name("valid", "meta") + ".csv")).write_text("center_tumor_patch,wsi\nTrue,a,1\n")


def enormous_chunks(pcam_folder):
    with h5py.File(pcam_folder / (file_name("valid", "x") + ".h5"), "w") as file:
        file.create_dataset("x", (20, 96, 96, 3), np.uint8, chunks=(50_000, 96, 96, 3), maxshape=(None, 96, 96, 3))
    (pcam_folder / (file_name("valid", "x") + ".h5.gz")).unlink()


def linked_elsewhere(pcam_folder):
    with h5py.File(pcam_folder / (file_name("valid", "x") + ".h5"), "w") as file:
        file["x"] = h5py.ExternalLink("/etc/passwd", "x")
    (pcam_folder / (file_name("valid", "x") + ".h5.gz")).unlink()


def bytes_elsewhere(pcam_folder):
    secret = pcam_folder / "secret"
    secret.write_bytes(bytes(20 * 96 * 96 * 3))
    with h5py.File(pcam_folder / (file_name("valid", "x") + ".h5"), "w") as file:
        file.create_dataset("x", (20, 96, 96, 3), np.uint8, external=[(str(secret), 0, secret.stat().st_size)])
    (pcam_folder / (file_name("valid", "x") + ".h5.gz")).unlink()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lose_an_image, "19 patches for 20 labels"),
        (lose_a_label, "20 rows, .*_y.h5.gz 19"),
        (
            labels_of_other_rows,
            "20 of 20 labels in .*_y.h5.gz differ from the column center_tumor_patch of .*_meta.csv",
        ),
        (lose_a_slide, "19 rows, .*_y.h5.gz 20"),
        (smaller_images, r"uint8 \(20, 64, 64, 3\), not"),
        (wider_pixels, "uint16"),
        (third_label, "label 2 in row 0"),
        (two_labels_each, "not one label for each patch"),
        (other_set, "no array 'x'"),
        (cut_short, "_x.h5.gz: it is truncated or damaged"),
        (flipped_bits, "_x.h5.gz: it is truncated or damaged"),
        (not_gzip, "_y.h5.gz: it is truncated or damaged"),
        (not_hdf5, "_y.h5.gz: it is truncated or damaged"),
        (bomb, "unpacks to more than"),
        (no_wsi, "line 1: there is no column 'wsi'"),
        (odd_truth, "line 3, column center_tumor_patch: 'perhaps'"),
        (meta_not_text, "not a CSV table"),
        (open_quote, "not a CSV table"),
        (empty_row, "line 3, column center_tumor_patch: ''"),  # without it, the slides would be those of other rows
        (short_row, "line 3: the row has more or fewer fields than the header"),
        (long_row, "line 2: the row has more or fewer fields than the header"),
        (enormous_chunks, "chunks of .* too large"),
        (linked_elsewhere, "no array 'x'"),
        (bytes_elsewhere, "is stored in other files"),
    ],
)
def test_a_damaged_file_is_one_error_that_names_it(pcam_folder, downloads, harm, message):
    harm(pcam_folder)
    with pytest.raises(HistoError, match=message):
        rows_of(PcamSource(pcam_folder, SourceContext(downloads), splits=["valid"]))
    assert not downloads.exists() or list(downloads.iterdir()) == []


@pytest.mark.parametrize("harm", [cut_short, not_gzip, lose_an_image, lose_a_slide])
def test_the_hint_never_says_to_delete_a_file_of_the_user(pcam_folder, downloads, harm):
    harm(pcam_folder)
    with pytest.raises(HistoError) as caught:
        rows_of(PcamSource(pcam_folder, SourceContext(downloads), splits=["valid"]))
    assert caught.value.hint in (
        "copy or download this file again: it may be incomplete",
        "the files are from different versions: give the files of one split and version",
    )


@pytest.mark.parametrize("harm", [cut_short, not_gzip])
def test_the_hint_says_to_delete_a_damaged_download(pcam_folder, downloads, harm):
    harm(pcam_folder)
    files = {path.name: path.read_bytes() for path in pcam_folder.iterdir()}
    with FileServer(files) as server, pytest.raises(HistoError) as caught:
        rows_of(PcamSource(server.url(), SourceContext(downloads), splits=["valid"]))
    assert re.fullmatch(
        r"delete camelyonpatch_level_2_split_valid_[xy]\.h5\.gz and run the same command again, or give --force",
        caught.value.hint,
    )


def test_files_unpacked_by_a_killed_process_are_removed(pcam_folder, downloads):
    downloads.mkdir()
    (downloads / f".{file_name('valid', 'x')}.h5.0123456789abcdef.tmp").write_bytes(b"left")
    rows_of(PcamSource(pcam_folder, SourceContext(downloads), splits=["valid"]))
    assert list(downloads.iterdir()) == []


def test_stopping_early_removes_unpacked_files(pcam_folder, downloads):
    patches = PcamSource(pcam_folder, SourceContext(downloads)).read_patches()
    next(patches)
    assert len(list(downloads.iterdir())) == 1
    patches.close()
    assert list(downloads.iterdir()) == []


@pytest.mark.parametrize(
    ("slide", "hospital"),
    [
        ("camelyon16_train_normal_001", "RUMC"),
        ("camelyon16_train_normal_100", "RUMC"),
        ("camelyon16_train_normal_101", "UMCU"),
        ("camelyon16_train_tumor_070", "RUMC"),
        ("camelyon16_train_tumor_071", "UMCU"),
        ("normal_160", "UMCU"),
        ("tumor_1", "RUMC"),
        ("camelyon16_test_001", ""),
        ("abnormal_001", ""),
        ("", ""),
    ],
)
def test_the_name_of_a_slide_gives_its_hospital(slide, hospital):
    assert find_hospital(slide) == hospital
