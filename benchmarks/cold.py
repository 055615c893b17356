"""Measure the first epoch from a cold disk: batches in random order, with and without reading ahead.

    python -m benchmarks.cold FOLDER [PATCHES]

FOLDER is on the disk to measure. The file is dropped from the page cache before each measurement. The two ways take
turns, three times.
"""

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

from histocli.data.loaders import PatchLoader
from histocli.data.readahead import read_ahead


def drop(path: Path) -> None:
    """Drop a file from the page cache."""
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


def seconds(path: Path, *, ahead: bool) -> float:
    """Gather every batch of one epoch from a cold file."""
    drop(path)
    began = time.perf_counter()
    if ahead and read_ahead(path) is None:
        raise SystemExit("the file does not fit the memory")
    store = np.load(path, mmap_mode="r")
    rows = np.arange(len(store))
    for batch in PatchLoader(store, rows, rows % 2, 128, torch.device("cpu")).train_batches(0):
        assert len(batch.images)
    return time.perf_counter() - began


def main() -> None:
    """Measure."""
    path, count = Path(sys.argv[1]) / "cold.npy", int(sys.argv[2]) if len(sys.argv) > 2 else 60_000
    array = np.lib.format.open_memmap(path, "w+", np.uint8, (count, 96, 96, 3))
    rng = np.random.default_rng(0)
    for start in range(0, count, 4096):
        array[start : start + 4096] = rng.integers(0, 256, (min(4096, count - start), 96, 96, 3), np.uint8)
    array.flush()
    del array
    try:
        for _ in range(3):
            plain, ahead = seconds(path, ahead=False), seconds(path, ahead=True)
            print(f"random order {plain:.1f} s, reading ahead {ahead:.1f} s: {plain / ahead:.1f} times")
    finally:
        path.unlink()


if __name__ == "__main__":
    main()
