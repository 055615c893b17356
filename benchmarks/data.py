"""Make the data of the benchmarks: a workspace with synthetic patches, also as files, and a short training run."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from histocli.workspace import Workspace

RUN = "bench"


class Histo:
    """Runs commands on the workspace `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.workspace = Workspace(root)

    def seconds(self, *args: object, stdout: Path | None = None, root: Path | None = None) -> float:
        """Run `histo` in another process to its end, optionally in another workspace; return the seconds."""
        line = [sys.executable, "-m", "histocli", "-q", "-w", str(root or self.root), *map(str, args)]
        began = time.perf_counter()
        with Path(stdout or os.devnull).open("wb") as out:
            subprocess.run(line, check=True, stdout=out)
        return time.perf_counter() - began


class BenchmarkData(Histo):
    """A workspace in `root` with n packed patches, a balanced subset, and a run of one epoch."""

    def __init__(self, root: Path, n: int) -> None:
        super().__init__(root)
        self.n = n
        self.seconds("download", "--source", "synthetic", "--n", n)
        self.seconds("balance", "--n", "max")
        self.seconds("train", "--epochs", 1, "--augment", "none", "--batch-size", 256, "--name", RUN)
        self.folder = root / "files"
        # Write every patch as a TIFF in the folder of its class, as most loaders need them.
        labels = pd.read_csv(self.workspace.manifest_path("synthetic"))["label"]
        folders = [self.folder / str(int(label)) for label in labels]
        write_tiffs(self.workspace.patches_path("synthetic"), folders)


def write_tiffs(array: Path, folders: Sequence[Path]) -> None:
    """Write each patch of a packed array as a TIFF without compression, as Kaggle's are, into its folder."""
    for folder in set(folders):
        folder.mkdir(parents=True)
    for i, (pixels, folder) in enumerate(zip(np.load(array, mmap_mode="r"), folders, strict=True)):
        cv2.imwrite(str(folder / f"{i:07d}.tif"), pixels[:, :, ::-1], [cv2.IMWRITE_TIFF_COMPRESSION, 1])
