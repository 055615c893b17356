"""Reading a packed array before training asks for it."""

from pathlib import Path

import pytest

from histocli.compute import memory
from histocli.data import readahead

IO = Path("/proc/self/io")


def count_read_bytes():
    """Return how many bytes this process has read from files."""
    return int(IO.read_text().split("rchar:")[1].split()[0])


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "patches.npy"
    path.write_bytes(bytes(range(256)) * 100_000)  # 25.6 MB
    return path


@pytest.mark.parametrize("available", [None, 40_000_000])
def test_a_file_larger_than_the_memory_is_not_read_ahead(file, monkeypatch, available):
    monkeypatch.setattr(readahead, "find_available_memory", lambda: available)
    assert readahead.read_ahead(file) is None


@pytest.mark.skipif(not IO.is_file(), reason="only Linux counts what a process has read")
def test_a_file_that_fits_into_memory_is_read_to_its_end(file, monkeypatch):
    monkeypatch.setattr(readahead, "find_available_memory", lambda: 60_000_000)
    before = count_read_bytes()
    thread = readahead.read_ahead(file)
    thread.join(30)
    assert not thread.is_alive()
    assert thread.daemon
    assert count_read_bytes() - before >= file.stat().st_size


def test_the_available_memory_is_read_from_linux(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    assert memory.find_available_memory() is None
    (tmp_path / "meminfo").write_text("MemTotal:  24000000 kB\nMemAvailable:   1000 kB\n")
    assert memory.find_available_memory() == 1_024_000
