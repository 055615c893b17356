"""Decoding processes that are started before torch is imported, only if they are useful; all of them end."""

from contextlib import nullcontext

import pytest

from histocli.enums import Device
from histocli.images import early
from histocli.images.early import start_processes_early
from tests.images.test_processes import is_alive


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Return a folder with twelve files in two subfolders; pretend four cores, a GPU, and that ten files are many."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(early, "MIN_FILES_FOR_PROCESSES", 10)
    monkeypatch.setattr(early, "count_threads", lambda: 4)
    monkeypatch.setattr(early, "_GPU_DRIVERS", ("none", "null"))
    for i in range(12):
        path = tmp_path / str(i % 2) / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        path.touch()
    return tmp_path


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_processes_start_at_once_and_end_with_the_block(folder, error):
    with pytest.raises(error) if error else nullcontext(), start_processes_early([str(folder)], Device.AUTO) as pool:
        pids = [worker.process.pid for worker in pool._started]
        assert len(pids) == 2
        assert all(map(is_alive, pids))
        if error:
            raise error
    assert not any(map(is_alive, pids))


def test_several_folders_are_counted_together(folder):
    with start_processes_early([str(folder / "0"), str(folder / "1")], Device.CUDA) as pool:
        assert pool.has_started


@pytest.mark.parametrize("names", [["0"], ["0/0.png"], ["missing"], []])
def test_few_files_start_no_processes(folder, names):
    with start_processes_early([str(folder / name) for name in names], Device.AUTO) as pool:
        assert pool is None


@pytest.mark.parametrize(
    ("device", "change"),
    [
        (Device.AUTO, lambda patch: patch.setattr(early, "_GPU_DRIVERS", ("none",))),
        (Device.AUTO, lambda patch: patch.setattr(early, "count_threads", lambda: 3)),
        (Device.AUTO, lambda patch: patch.setenv("CUDA_VISIBLE_DEVICES", "")),
        (Device.CPU, lambda patch: None),
    ],
)
def test_no_processes_start_for_the_cpu_without_a_gpu_or_with_few_cores(folder, monkeypatch, device, change):
    change(monkeypatch)
    with start_processes_early([str(folder)], device) as pool:
        assert pool is None
