"""Memory and time of `histo predict` on a slide of 100,000 x 100,000 pixels, a fifth of which is tissue.

    python -m benchmarks.large_slide [--ckpt histonet-pcam] [--side 100000] [--step 96] [--out FOLDER]

Three synthetic blocks of 4,096 x 4,096 pixels are drawn: glass, tissue, and tumour. The slide repeats their encoded
tiles, so it is written in seconds: a disc of tissue with blocks of tumour. While the command runs, the memory of its
process is read twice a second, without the page cache.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import tifffile

from benchmarks.memory import run_and_measure
from histocli.slides.polygons import Polygon
from histocli.slides.synthetic import TILE, SyntheticSlide, draw_slide, write_level

_BLOCK, _FACTORS = 4096, (1, 4, 16)
_TISSUE, _TUMOUR_BLOCKS = 0.2, 0.15  # the share of tissue in the slide, and of tumour in the tissue
_PARTS = 10  # the run is divided into this number of parts of equal time

Kinds = np.ndarray[Any, np.dtype[np.int64]]


def main() -> None:
    """Write the slide, score it, and print the memory over time, the time and the sizes of the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", default="histonet-pcam")
    parser.add_argument("--side", type=int, default=100_000)
    parser.add_argument("--step", type=int, default=96)
    parser.add_argument("--out", type=Path, help="keep the slide and its maps in this folder")
    options = parser.parse_args()
    with TemporaryDirectory() as temporary:
        folder = options.out or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        slide = folder / "large.tif"
        if not slide.exists():
            start = time.perf_counter()
            write_slide(slide, options.side)
            print(f"{slide.name}: {slide.stat().st_size / 1e6:,.0f} MB, written in {time.perf_counter() - start:.0f} s")
        predict = ["predict", str(slide), "--ckpt", options.ckpt, "--step", str(options.step), "--out"]
        line = [sys.executable, "-m", "histocli", *predict, str(folder / "maps"), "--device", "cpu"]
        report(*run_and_measure(line, interval=0.5))
        for path in sorted((folder / "maps" / slide.stem).iterdir()):
            print(f"{path.name:16}{path.stat().st_size / 1e6:8,.1f} MB")


def write_slide(path: Path, side: int) -> None:
    """Write a square slide with `side` level-0 pixels from the encoded tiles of three blocks."""
    with TemporaryDirectory() as folder:
        blocks = []
        for number, kind in enumerate(("glass", "tissue", "tumour")):
            square = [Polygon(np.array([[0, 0], [_BLOCK, 0], [_BLOCK, _BLOCK], [0, _BLOCK]], float), [])]
            tissue, lesions = square if number else [], square if number == 2 else []
            block = Path(folder, f"{kind}.tif")
            draw_slide(SyntheticSlide(kind, "", _BLOCK, _BLOCK, tissue, lesions, (0, 0)), block, factors=_FACTORS)
            blocks.append(read_encoded_tiles(block))
    kinds = place_blocks(-(-side // _BLOCK))
    with tifffile.TiffWriter(path, bigtiff=True) as file:
        for level, factor in enumerate(_FACTORS):
            shape = -(-side // factor), -(-side // factor)
            tiles = repeat_tiles(kinds, [block[level] for block in blocks], shape)
            write_level(file, tiles, shape, factor, is_first=level == 0)


def read_encoded_tiles(path: Path) -> list[list[bytes]]:
    """Return the encoded tiles of each level of a TIFF file."""
    with tifffile.TiffFile(path) as file:
        handle = file.filehandle
        levels = []
        for page in file.pages:
            places = zip(page.dataoffsets, page.databytecounts, strict=True)  # type: ignore[union-attr]
            levels.append([handle.read_array("u1", size, offset=offset).tobytes() for offset, size in places])
    return levels


def place_blocks(count: int) -> Kinds:
    """Return the kind of each block (count,count): 0 is glass, 1 tissue, 2 tumour; the tissue is a disc."""
    y, x = np.mgrid[:count, :count] - (count - 1) / 2
    disc = np.hypot(x, y) <= count * np.sqrt(_TISSUE / np.pi)
    tumour = np.random.default_rng(0).random(disc.shape) < _TUMOUR_BLOCKS
    kinds: Kinds = disc + (disc & tumour).astype(np.int64)
    return kinds


def repeat_tiles(kinds: Kinds, tiles: list[list[bytes]], shape: tuple[int, int]) -> Iterator[bytes]:
    """Yield the tiles of a level, row by row, each from its place in a block."""
    across = round(len(tiles[0]) ** 0.5)  # tiles in a row of a block
    for row in range(-(-shape[0] // TILE)):
        for column in range(-(-shape[1] // TILE)):
            kind = kinds[row // across, column // across]
            yield tiles[kind][row % across * across + column % across]


def report(seconds: float, memory: list[float]) -> None:
    """Print the seconds, and the highest memory in each tenth of them."""
    print(f"{seconds:,.0f} s, at most {max(memory):,.0f} MB; the highest in each tenth of the time:")
    print(", ".join(f"{max(part):,.0f}" for part in np.array_split(np.array(memory), _PARTS) if part.size))


if __name__ == "__main__":
    main()
