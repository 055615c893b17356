"""The patches of `benchmarks.gpu`: a packed array that is repeated, each time shifted, and the same as TIFF files."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from histocli.errors import HistoError
from histocli.listeners import CommandListener
from histocli.patch import Patch
from histocli.sources import SourceReport
from histocli.workspace import Workspace


class ShiftedPatches:
    """`n` patches: those of a packed array again and again, each time shifted by other offsets, slides apart."""

    has_sha1_ids = should_drop_duplicates = False

    def __init__(self, workspace: Workspace, n: int) -> None:
        self.total = n
        self.pixels = np.load(workspace.patches_path("drawn"), mmap_mode="r")
        self.table = pd.read_csv(workspace.manifest_path("drawn"))
        self.report = SourceReport(origin=f"synthetic patches, shifted: n={n}")

    def read_patches(self) -> Iterator[Patch]:
        """Yield the patches; the label is that of the patch before it was shifted, which is good enough for timing."""
        labels, slides = self.table["label"].tolist(), self.table["slide"].tolist()
        for i in range(self.total):
            copy, base = divmod(i, len(self.pixels))
            load = partial(_shift, self.pixels, base, copy)
            yield Patch(f"p{i:06d}", load, int(labels[base]), f"{slides[base]}_{copy}", "", "")


def _shift(pixels: Any, base: int, copy: int) -> Any:
    """Return a patch shifted and a little darker, so that no two copies of it count as overlapping tissue."""
    return np.roll(np.maximum(pixels[base], copy) - np.uint8(copy), (3 * copy, 5 * copy), (0, 1))


class StrictListener(CommandListener):
    """Raises the error of a patch that cannot be read."""

    def on_unreadable(self, error: HistoError) -> None:
        """Raise it."""
        raise error


def write_tiffs(array: Path, folder: Path, start: int, stop: int) -> None:
    """Write patches `start` to `stop` of an array, which is repeated, as TIFF files in the folders of two classes."""
    patches = np.load(array, mmap_mode="r")
    for i in range(start, stop):
        pixels = patches[i % len(patches)][..., ::-1]
        cv2.imwrite(str(folder / "train" / str(i % 2) / f"{i:06}.tif"), pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 1])
