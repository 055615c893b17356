"""Patches packed once into one memory-mapped array."""

import csv
import hashlib
import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from histocli.data.manifest import read_manifest
from histocli.data.store import map_array, open_store, pack
from histocli.errors import HistoError
from histocli.patch import Patch
from histocli.sources import SourceReport
from histocli.workspace import Workspace
from tests.listeners import RecordingListener

PIXELS = np.random.default_rng(0).integers(0, 256, (200, 96, 96, 3), np.uint8)


class ListSource:
    """Patches from a list; those whose pixels are an exception raise it when they are loaded."""

    def __init__(
        self, pixels, *, ids=None, splits=None, known=True, has_sha1_ids=False, should_drop_duplicates=False, fall=None
    ):
        self.report = SourceReport(origin="a list")
        self.has_sha1_ids, self.should_drop_duplicates = has_sha1_ids, should_drop_duplicates
        self._pixels, self._fall = list(pixels), fall
        self._ids = ids or [f"p{i}" for i in range(len(self._pixels))]
        self._splits = splits or [""] * len(self._pixels)
        self.total = len(self._pixels) if known else None

    def read_patches(self):
        for i, (key, pixels, split) in enumerate(zip(self._ids, self._pixels, self._splits, strict=True)):
            if i == self._fall:
                raise HistoError("the connection was cut")
            yield Patch(
                key, lambda pixels=pixels: self._load(pixels), i % 2 if i % 3 else None, f"s{i % 5}", split, "RUMC"
            )

    @staticmethod
    def _load(pixels):
        if isinstance(pixels, Exception):
            raise pixels
        return pixels


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "workspace")


def rows_of(workspace, name="data"):
    with workspace.manifest_path(name).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def names_below(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_rows_of_the_manifest_are_rows_of_the_array(workspace):
    listener = RecordingListener()
    packed = pack(ListSource(PIXELS), workspace, "data", listener=listener)
    assert packed[:6] == (200, 0, 0, 0, {None: 67, 0: 66, 1: 67}, hashlib.sha256(PIXELS.tobytes()).hexdigest())
    assert listener.progress == [64, 128, 192, 200]
    store, rows = open_store(workspace.patches_path("data")), rows_of(workspace)
    assert np.array_equal(store, PIXELS)
    assert isinstance(store, np.memmap)
    assert not store.flags.writeable
    for i, row in enumerate(rows):
        label = "" if i % 3 == 0 else str(i % 2)
        assert (row["id"], row["label"], row["slide"], row["hospital"]) == (f"p{i}", label, f"s{i % 5}", "RUMC")
        assert row["sha1"] == hashlib.sha1(PIXELS[i].tobytes()).hexdigest()
        assert (int(row["min"]), int(row["max"])) == (PIXELS[i].min(), PIXELS[i].max())
    assert read_manifest(workspace.manifest_path("data"))["label"].tolist()[:4] == [-1, 1, 0, -1]
    assert names_below(workspace.root) == ["data/data/patches.npy", "manifests/data.csv"]


def test_minimum_and_maximum_are_over_all_values(workspace):
    patches = np.full((3, 96, 96, 3), 100, np.uint8)
    patches[0, 95, 95, 2], patches[1, 0, 0, 0], patches[2, 5, 5, 1] = 255, 0, 7
    pack(ListSource(patches), workspace, "data")
    assert [(row["min"], row["max"]) for row in rows_of(workspace)] == [("100", "255"), ("0", "100"), ("7", "100")]


@pytest.mark.parametrize("count", [1, 9, 10, 64, 65, 130])
def test_the_file_is_a_plain_npy_of_any_length(workspace, count):
    pack(ListSource(PIXELS[:count]), workspace, "data")
    path = workspace.patches_path("data")
    assert np.array_equal(np.load(path), PIXELS[:count])
    assert path.stat().st_size == 128 + count * 96 * 96 * 3


def test_duplicates_are_dropped_within_a_split_if_the_source_wants_it(workspace):
    pixels = [*PIXELS[:70], PIXELS[3], PIXELS[69], PIXELS[3], PIXELS[70]]
    splits = ["train"] * 72 + ["valid"] * 2
    packed = pack(ListSource(pixels, splits=splits, should_drop_duplicates=True), workspace, "data")
    assert (packed.patches, packed.duplicates_dropped) == (72, 2)
    assert np.array_equal(open_store(workspace.patches_path("data")), [*PIXELS[:70], PIXELS[3], PIXELS[70]])
    assert [row["id"] for row in rows_of(workspace)] == [f"p{i}" for i in (*range(70), 72, 73)]
    kept = pack(ListSource(pixels, splits=splits), workspace, "all")
    assert (kept.patches, kept.duplicates_dropped) == (74, 0)


def test_ids_that_are_not_the_pixels_sha1_are_counted(workspace):
    ids = [hashlib.sha1(pixels.tobytes()).hexdigest() for pixels in PIXELS[:10]]
    ids[4], ids[7] = "0" * 40, ids[7].upper()
    assert pack(ListSource(PIXELS[:10], ids=ids, has_sha1_ids=True), workspace, "data").sha1_mismatches == 2
    assert pack(ListSource(PIXELS[:10], ids=ids), workspace, "other").sha1_mismatches == 0


@pytest.mark.parametrize("broken", [{0}, {199}, {5, 6, 70}, set(range(64)), set(range(64, 199))])
def test_unreadable_patches_are_skipped_and_reported(workspace, broken):
    listener = RecordingListener()
    source = ListSource([HistoError(f"bad {i}") if i in broken else PIXELS[i] for i in range(200)])
    packed = pack(source, workspace, "data", listener=listener)
    good = [i for i in range(200) if i not in broken]
    assert (packed.patches, packed.unreadable) == (len(good), len(broken))
    assert listener.errors == [f"bad {i}" for i in sorted(broken)]
    assert listener.progress[-1] == 200
    assert np.array_equal(open_store(workspace.patches_path("data")), PIXELS[good])
    assert [row["id"] for row in rows_of(workspace)] == [f"p{i}" for i in good]


@pytest.mark.parametrize("pixels", [[], [HistoError("bad")] * 3])
def test_no_readable_patch_is_an_error_and_leaves_no_files(workspace, pixels):
    with pytest.raises(HistoError, match="no patch could be read from a list"):
        pack(ListSource(pixels), workspace, "data")
    assert names_below(workspace.root) == []


def test_a_failing_source_does_not_change_existing_files(workspace):
    with pytest.raises(HistoError, match="connection was cut"):
        pack(ListSource(PIXELS, fall=150), workspace, "data")
    assert names_below(workspace.root) == []
    pack(ListSource(PIXELS[:5]), workspace, "data")
    before = {name: (workspace.root / name).read_bytes() for name in names_below(workspace.root)}
    with pytest.raises(ZeroDivisionError):
        pack(ListSource([*PIXELS[:100], ZeroDivisionError("a bug"), *PIXELS[100:]]), workspace, "data")
    assert {name: (workspace.root / name).read_bytes() for name in names_below(workspace.root)} == before
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("histo-decode")]


def test_n_draws_patches_by_the_seed_without_replacement_and_keeps_their_order(workspace):
    def drawn(name, n, seed, **options):
        pack(ListSource(PIXELS, **options), workspace, name, n=n, seed=seed)
        rows = [int(row["id"][1:]) for row in rows_of(workspace, name)]
        assert np.array_equal(open_store(workspace.patches_path(name)), PIXELS[rows])
        return rows

    first = drawn("a", 50, 1)
    assert len(set(first)) == 50
    assert first == sorted(first)
    assert drawn("b", 50, 1) == first
    assert drawn("c", 50, 2) != first
    assert drawn("d", 1000, 1) == list(range(200))


def test_only_drawn_patches_are_loaded(workspace):
    pixels = [HistoError("loaded") for _ in range(200)]
    chosen = np.sort(np.random.default_rng(7).choice(200, 20, replace=False))
    for i in chosen:
        pixels[i] = PIXELS[i]
    packed = pack(ListSource(pixels), workspace, "data", n=20, seed=7)
    assert (packed.patches, packed.unreadable) == (20, 0)


# opening


def test_a_file_that_is_not_a_store_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "patches.npy"
    with pytest.raises(HistoError, match=r"no packed patches at .*patches\.npy"):
        open_store(path)
    for array in (
        np.zeros((2, 96, 96, 3), np.int8),
        np.zeros((2, 64, 96, 3), np.uint8),
        np.zeros((96, 96, 3), np.uint8),
    ):
        np.save(path, array)
        with pytest.raises(HistoError, match=r"patches\.npy holds .*not uint8 \(N,96,96,3\)"):
            open_store(path)
    np.save(path, np.array([{}]), allow_pickle=True)
    with pytest.raises(HistoError, match="cannot read"):
        open_store(path)
    with path.open("wb") as file:
        np.savez(file, patches=PIXELS[:2])
    with pytest.raises(HistoError, match="cannot read"):
        open_store(path)


@given(st.data())
@settings(max_examples=120, deadline=None)
def test_a_damaged_header_is_an_error_never_a_crash(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.npy"
    np.save(path, PIXELS[:1])
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 5))):
        damaged[data.draw(st.integers(0, 127))] = data.draw(st.sampled_from(b"0123456789()[]{}',:|uO<>-+\n\0\xff TF"))
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)) | st.just(len(damaged)))])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy warns of files that Python 2 wrote
        try:
            map_array(path)
        except HistoError as error:
            assert "damaged.npy" in str(error)  # noqa: PT017 - both ends are right


MEASURE = """
import resource, sys
import numpy as np
from pathlib import Path
from histocli.patch import Patch
from histocli.sources import SourceReport
from histocli.data.store import pack
from histocli.workspace import Workspace

class Numbers:
    report, has_sha1_ids, should_drop_duplicates, total = SourceReport("numbers"), False, True, None
    def read_patches(self):
        for i in range(int(sys.argv[2])):
            yield Patch(str(i), lambda i=i: np.full((96, 96, 3), (i % 256, i // 256, 0), np.uint8))

pack(Numbers(), Workspace(Path(sys.argv[1])), "data")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_patches(tmp_path):
    def measure_peak_memory(count):
        command = [sys.executable, "-c", MEASURE, str(tmp_path / str(count)), str(count)]
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        return int(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)

    small, large = measure_peak_memory(400), measure_peak_memory(4000)  # 11 MB and 110 MB of pixels
    assert large - small < 30_000
