"""Decoding in other processes gives the same pixels and errors, in order, and all processes end."""

import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest

from histocli.errors import HistoError
from histocli.files.file import find_images
from histocli.files.listing import list_files
from histocli.images import stream
from histocli.images.decode import Preparation
from histocli.images.image_files import ImageFile, PackedPatch
from histocli.images.processes import DecodingProcesses, decode_all
from histocli.images.remarks import Remark
from histocli.patch import Patch
from tests.cli import REPOSITORY


@pytest.fixture
def folder(tmp_path):
    """Twenty images, of which three cannot be read."""
    rng = np.random.default_rng(5)
    for i in range(20):
        pixels = rng.integers(0, 256, (96, 96 + 8 * (i % 2), 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"{i:02}.png"), pixels)
    for i in (3, 4, 19):
        (tmp_path / f"{i:02}.png").write_bytes(b"no picture")
    return tmp_path


@pytest.fixture
def pool():
    """Two processes that decode."""
    processes = DecodingProcesses(2)
    yield processes
    processes.close()


def loaders(path):
    return [ImageFile(file.name, file.read, Preparation()) for file in find_images(list_files(path)).images]


def patches(path):
    return [Patch(load.name, load) for load in loaders(path)]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def check_same(first, second):
    assert np.array_equal(first.pixels, second.pixels)
    assert {i: (str(e), e.hint) for i, e in first.errors.items()} == {
        i: (str(e), e.hint) for i, e in second.errors.items()
    }
    assert first.remarks == second.remarks


def test_another_process_decodes_the_same_pixels(folder, pool):
    expected = decode_all(loaders(folder))
    assert sorted(expected.errors) == [3, 4, 19]
    assert expected.remarks == {"cut to the centre": Remark(8, "01.png, 104 x 96 pixels", (104, 96), (104, 96))}
    check_same(pool.decode(loaders(folder)), expected)
    check_same(pool.decode(loaders(folder)[3:5]), decode_all(loaders(folder)[3:5]))  # no pixels at all
    check_same(pool.decode([]), decode_all([]))
    assert len(pool._started) <= 2


def test_members_of_an_archive_are_decoded_in_this_process(folder, pool, tmp_path):
    archive = tmp_path / "images.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.glob("*.png")):
            file.write(path, path.name)
    check_same(pool.decode(loaders(archive)), decode_all(loaders(folder)))
    assert pool._started == []


def test_a_process_that_is_killed_is_replaced(folder, pool):
    expected = decode_all(loaders(folder))
    for _ in range(3):
        check_same(pool.decode(loaders(folder)), expected)
        for worker in pool._started:
            worker.process.kill()
            worker.process.wait()
    check_same(pool.decode(loaders(folder)), expected)


def test_a_bug_in_another_process_is_raised(folder, pool):
    with pytest.raises(TypeError, match="len"):
        pool.decode([ImageFile("none.png", len, Preparation()), *loaders(folder)[:2]])
    check_same(pool.decode(loaders(folder)), decode_all(loaders(folder)))


@pytest.mark.parametrize("few", [0, 8, 4096])
def test_processes_and_threads_give_the_same_chunks(folder, monkeypatch, few):
    monkeypatch.setattr(stream, "_THREADED_PATCHES", few)
    expected = list(stream.load_chunks(patches(folder), 3))
    chunks = list(stream.load_chunks(patches(folder), 3, DecodingProcesses(3)))
    assert [[patch.id for patch in chunk.patches] for chunk in chunks] == [
        [patch.id for patch in chunk.patches] for chunk in expected
    ]
    assert all(np.array_equal(first.pixels, second.pixels) for first, second in zip(chunks, expected, strict=True))
    assert [(failed.id, str(error)) for chunk in chunks for failed, error in chunk.failures] == [
        (failed.id, str(error)) for chunk in expected for failed, error in chunk.failures
    ]


def test_rows_of_a_packed_array_are_copied_without_starting_processes(pool, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_THREADED_PATCHES", 4)
    path = tmp_path / "patches.npy"
    np.save(path, np.random.default_rng(0).integers(0, 256, (30, 96, 96, 3), np.uint8))
    store = np.load(path, mmap_mode="r")
    rows = [7, 3, 3, *range(29, -1, -1)]
    chunks = list(stream.load_chunks([Patch(str(row), PackedPatch(store, row)) for row in rows], 4, pool=pool))
    assert not pool.has_started
    assert [patch.id for chunk in chunks for patch in chunk.patches] == [str(row) for row in rows]
    assert np.array_equal(np.concatenate([chunk.pixels for chunk in chunks]), store[rows])


def test_processes_end_when_the_caller_stops_early(folder, monkeypatch):
    monkeypatch.setattr(stream, "_THREADED_PATCHES", 0)
    started = []
    start = DecodingProcesses._start

    def note(self):
        worker = start(self)
        started.append(worker.process.pid)
        return worker

    monkeypatch.setattr(DecodingProcesses, "_start", note)
    chunks = stream.load_chunks(patches(folder) * 50, 3, pool=DecodingProcesses(2))
    next(chunks)
    assert started
    chunks.close()
    assert not any(is_alive(pid) for pid in started)


ENDLESS = """
import sys
from itertools import chain, repeat
from pathlib import Path
from histocli.images.decode import Preparation
from histocli.images import stream
from histocli.images.processes import DecodingProcesses
from histocli.images.image_files import ImageFile
from histocli.signals import raise_on_termination
from histocli.patch import Patch
from histocli.files.file import find_images
from histocli.files.listing import list_files

stream._THREADED_PATCHES = 0
files = find_images(list_files(Path(sys.argv[1]))).images
start = DecodingProcesses._start

def tell(self):
    worker = start(self)
    sys.stdout.write(f"{worker.process.pid}\\n")  # in one piece: two threads start processes
    sys.stdout.flush()
    return worker

DecodingProcesses._start = tell
endless = chain.from_iterable(repeat(files))
patches = (Patch(file.name, ImageFile(file.name, file.read, Preparation())) for file in endless)
with raise_on_termination():
    for chunk in stream.load_chunks(patches, 16, pool=DecodingProcesses(2)):
        pass
"""


@pytest.mark.skipif(os.name == "nt", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_all_processes_promptly(folder, number):
    line = [sys.executable, "-c", ENDLESS, str(folder)]
    env = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env) as process:
        try:
            pids = [int(process.stdout.readline()) for _ in range(2)]
            time.sleep(0.5)
            assert all(map(is_alive, pids))
            process.send_signal(number)
            process.wait(20)
        finally:
            process.kill()
    until = time.monotonic() + 20
    while any(map(is_running, pids)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(is_running, pids))


def is_running(pid):
    """Return whether a process exists and is not a zombie."""
    status = Path(f"/proc/{pid}/stat")
    return is_alive(pid) and not (status.is_file() and status.read_text().rpartition(")")[2].split()[0] == "Z")


def test_an_image_file_names_itself(tmp_path):
    with pytest.raises(HistoError, match=r"a.png: No such file"):
        ImageFile("a.png", lambda: (tmp_path / "a.png").read_bytes(), Preparation())()
