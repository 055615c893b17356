"""Run the commands on large data, and check that nothing is lost and that memory does not grow (Linux).

    python -m benchmarks.load files [500000]       so many image files through `predict`, by a folder and by stdin
    python -m benchmarks.load pipeline [220025]    so many synthetic patches through everything, for one epoch
    python -m benchmarks.load array [20]           a sparse .npy of so many GB through `predict`

Every output row is compared with the input. The network is the smallest that torchvision has for 96x96, on
the CPU. The data is in a temporary folder (`TMPDIR`) and is removed.
"""

import argparse
import csv
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.memory import run_and_measure

ARCH = "shufflenet_v2_x0_5"
IMAGES = 256  # different pictures among the files; the others are further names of these
PER_FOLDER = 1000


class Histo:
    """Runs commands on one workspace, and prints the time and peak anonymous memory of each."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self, *args: object, stdin: Path | None = None) -> None:
        """Run a command to its end."""
        line = [sys.executable, "-m", "histocli", "-q", "-w", str(self.root), *map(str, args)]
        seconds, memory = run_and_measure(line, stdin=stdin)
        print(f"| {' '.join(map(str, args[:3]))} | {seconds:,.0f} s | {max(memory):,.0f} MB |", flush=True)


def train_small_network(root: Path) -> Histo:
    """Return a workspace with a small network that was trained for a short time."""
    histo = Histo(root / "workspace")
    histo("download", "--source", "synthetic", "--n", 64)
    histo("balance", "--n", "max")
    histo("train", "--arch", ARCH, "--epochs", 1, "--batch-size", 16, "--device", "cpu")
    return histo


def ids(path: Path) -> Iterator[str]:
    """Return the ids of a table of results or of a manifest."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            yield row["id"]


def count_lost(expected: Iterator[str], path: Path) -> int:
    """Return the number of ids that are missing, added or in another row."""
    before, after = list(expected), list(ids(path))
    print(f"{len(before):,} in, {len(after):,} out", flush=True)
    return abs(len(before) - len(after)) + sum(a != b for a, b in zip(before, after, strict=False))


def files(root: Path, count: int) -> int:
    """Score many files: a folder, then a list of their paths on stdin."""
    import cv2

    histo, folder, rng = train_small_network(root), root / "images", np.random.default_rng(0)
    folder.mkdir()
    pictures = [cv2.imencode(".png", rng.integers(0, 256, (96, 96, 3), np.uint8))[1].tobytes() for _ in range(IMAGES)]
    names: list[Path] = []
    for i in range(count):
        path = folder / f"{i // PER_FOLDER:05}" / f"{i:09}.png"
        if i % PER_FOLDER == 0:
            path.parent.mkdir()
        if i < IMAGES:
            path.write_bytes(pictures[i])
        else:
            os.link(names[i % IMAGES], path)
        names.append(path)
    out, listed = root / "preds.csv", root / "names"
    histo("predict", folder, "--device", "cpu", "--out", out)
    wrong = count_lost((path.stem for path in names), out)
    listed.write_text("".join(f"{path}\n" for path in names))
    histo("predict", "-", "--device", "cpu", "--out", out, stdin=listed)
    return wrong + count_lost(map(str, names), out)


def pipeline(root: Path, count: int) -> int:
    """Pack, balance, train on, evaluate and score many synthetic patches."""
    histo, out = Histo(root / "workspace"), root / "preds.csv"
    histo("download", "--source", "synthetic", "--n", count)
    histo("balance", "--split", "overlap", "--n", "max")
    histo("balance", "--split", "slide", "--n", "max")
    histo("train", "--arch", ARCH, "--epochs", 1, "--device", "cpu")
    histo("eval", "--device", "cpu")
    histo("predict", "synthetic", "--device", "cpu", "--out", out)
    packed = histo.root / "manifests" / "synthetic.csv"
    wrong = abs(count - sum(1 for _ in ids(packed)))
    if len(np.load(packed.parents[1] / "data" / "synthetic" / "patches.npy", mmap_mode="r")) != count:
        wrong += 1
    return wrong + count_lost(ids(packed), out)


def array(root: Path, gigabytes: int) -> int:
    """Score a large sparse array of zeros, which takes no space on the disk."""
    histo, path, out = train_small_network(root), root / "large.npy", root / "preds.csv"
    count = gigabytes * 10**9 // (96 * 96 * 3)
    np.lib.format.open_memmap(path, "w+", np.uint8, (count, 96, 96, 3))
    histo("predict", path, "--device", "cpu", "--out", out)
    return count_lost(map(str, range(count)), out)


def main() -> None:
    """Run one of the three parts; exit with an error if anything was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["files", "pipeline", "array"])
    parser.add_argument("count", type=int, nargs="?")
    args = parser.parse_args()
    print("| command | time | peak anonymous memory |\n| --- | --- | --- |", flush=True)
    with tempfile.TemporaryDirectory(prefix="histo-load-") as folder:
        root = Path(folder)
        part, count = {"files": (files, 500_000), "pipeline": (pipeline, 220_025), "array": (array, 20)}[args.what]
        wrong = part(root, args.count or count)
    print(f"{wrong:,} rows lost")
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
