"""Measure the time and memory of the search for overlaps, and count the found, missed and false pairs (Linux).

`python -m benchmarks.overlaps [n]` cuts n patches out of synthetic slides, at any place, so densely that each overlaps
with some 66 others, which is what 97 pairs among 800 of Kaggle's 220,025 patches come to. The truth is where they were
cut.
"""

import sys
import tempfile
import time
from threading import Event, Thread
from typing import Self

import cv2
import numpy as np

from benchmarks.memory import measure_anonymous
from histocli.data.overlaps import MIN_OVERLAP, find_overlaps, group_overlaps

PER_SLIDE, NEIGHBOURS = 1000, 66


def cut_patches(rng: np.random.Generator, n: int, side: int, array: np.ndarray) -> np.ndarray:
    """Fill `array` with patches of one random texture; return the pairs that overlap, as rows (a, b, dy, dx)."""
    coarse = cv2.resize(rng.integers(0, 256, (side // 8, side // 8, 3), np.uint8), (side, side))
    slide = cv2.addWeighted(coarse, 0.7, rng.integers(0, 256, (side, side, 3), np.uint8), 0.3, 0)
    at = rng.integers(0, side - 96 + 1, (n, 2))
    for i, (y, x) in enumerate(at):
        array[i] = slide[y : y + 96, x : x + 96]
    shift = at[None] - at[:, None]  # (a,b,2): where b lies, seen from a
    a, b = np.nonzero(np.triu(np.abs(shift).max(2) <= 96 - MIN_OVERLAP, 1))
    return np.column_stack([a, b, shift[a, b]])


class PeakMemory(Thread):
    """The highest resident memory that is not a file's, in MB, looked at twenty times a second."""

    def __enter__(self) -> Self:
        self.before, self.peak, self.stop = measure_anonymous(), 0.0, Event()
        self.start()
        return self

    def run(self) -> None:
        """Measure until the block ends."""
        while not self.stop.wait(0.05):
            self.peak = max(self.peak, measure_anonymous())

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        self.join()


def main() -> None:
    """Cut the patches, search them, compare."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 4_000
    rng = np.random.default_rng(0)
    side = 96 + round((PER_SLIDE / NEIGHBOURS) ** 0.5 * (2 * (96 - MIN_OVERLAP) + 1))
    with tempfile.NamedTemporaryFile(suffix=".npy") as file, PeakMemory() as memory:
        array = np.lib.format.open_memmap(file.name, "w+", np.uint8, (n, 96, 96, 3))
        cut = []
        for first in range(0, n, PER_SLIDE):
            pairs = cut_patches(rng, min(PER_SLIDE, n - first), side, array[first : first + PER_SLIDE])
            cut.append(pairs + np.array([first, first, 0, 0]))
        truth = {tuple(pair) for pair in np.concatenate(cut).tolist()}
        array.flush()
        ends: dict[str, float] = {}
        began, busy, memory.before = time.perf_counter(), time.process_time(), measure_anonymous()
        pairs = find_overlaps([array], lambda what, done, total: ends.update({what: time.perf_counter() - began}))
        seconds, busy = time.perf_counter() - began, time.process_time() - busy
    found = {tuple(pair) for pair in pairs.tolist()}
    groups = np.bincount(group_overlaps(pairs, n))
    print(f"{n:,} patches, {len(truth):,} pairs; {len(groups):,} groups, the largest of {groups.max():,}")
    print(f"found {len(found & truth):,}, missed {len(truth - found):,}, false {len(found - truth):,}")
    print(f"{seconds:.1f} s ({', '.join(f'{what} until {at:.1f} s' for what, at in ends.items())})")
    print(
        f"{busy / n * 1e6:,.0f} us of processor time a patch, {memory.peak - memory.before:,.0f} MB besides the cache"
    )


if __name__ == "__main__":
    main()
