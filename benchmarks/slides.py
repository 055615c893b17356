"""Squares per second of a whole slide, from the file to the scores, against a plain loop and against reading alone.

    python -m benchmarks.slides --ckpt best.pt [--slide FILE] [--repeats 3]

Without `--slide` a synthetic slide of 12,000 x 12,000 pixels is drawn. Measured in turn, and the best of the repeats
counts:

- reading: the same squares with OpenSlide alone, one thread, one `read_region` each
- plain loop: `read_region`, resize, and the network on batches of 64
- histo: tissue mask, reading and scoring, as `histo predict` does it, without writing the files
- network: the same number of patches that are in memory already
"""

import argparse
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import openslide

from histocli.enums import Device, Precision
from histocli.inference.checkpoints import load_predictor
from histocli.inference.predictor import Predictor
from histocli.slides.grid import Box
from histocli.slides.reading import open_slide
from histocli.slides.scoring import Plan, plan_slide, score_squares
from histocli.slides.synthetic import draw_slide
from histocli.slides.synthetic import plan_slide as plan_synthetic
from histocli.threads import thread_count
from histocli.workspace import default_workspace

_BATCH = 64
_SIDE = 12_000


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", default="best.pt")
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    predictor = load_predictor(default_workspace(), [options.ckpt], Device.CPU, Precision.FP32)
    with TemporaryDirectory() as folder:
        path = options.slide or Path(folder, "slide.tif")
        if options.slide is None:
            draw_slide(plan_synthetic(0, 0, _SIDE, True), path)
        measure(path, predictor, options.repeats)


def measure(path: Path, predictor: Predictor, repeats: int) -> None:
    """Print the squares per second of each way."""
    with ThreadPoolExecutor(thread_count()) as pool, open_slide(path) as slide:
        assert slide.mpp is not None
        mpp = slide.mpp
        plan = plan_slide(slide, mpp, 96, None, True, pool)
        boxes = [plan.grid.box(row, column) for row, column in np.argwhere(plan.needed).tolist()]
        patches = np.random.default_rng(0).integers(0, 255, (len(boxes), 96, 96, 3), np.uint8)
        ways: dict[str, Callable[[], object]] = {
            "reading alone, one thread": lambda: read(path, plan, boxes),
            "plain loop": lambda: plain_loop(path, plan, boxes, predictor),
            "histo": lambda: whole(path, mpp, predictor, pool),
            "network alone": lambda: predictor.predict_array(patches, _BATCH),
        }
        best = dict.fromkeys(ways, 1e9)
        for _ in range(repeats):
            for name, run in ways.items():
                start = time.perf_counter()
                run()
                best[name] = min(best[name], time.perf_counter() - start)
    print(f"{path.name}: {len(boxes):,} squares, {thread_count()} threads")
    for name, seconds in best.items():
        print(f"{name:28}{len(boxes) / seconds:10,.0f} squares/s")


def read(path: Path, plan: Plan, boxes: list[Box]) -> None:
    """Read every square with one call of OpenSlide."""
    with openslide.OpenSlide(path) as slide:
        for box in boxes:
            read_square(slide, plan, box)


def read_square(slide: openslide.OpenSlide, plan: Plan, box: Box) -> np.ndarray:
    """Return the pixels of a square on the level that histo reads."""
    x, y, width, height = box
    ratio = plan.grid.downsample
    size = max(1, round(width / ratio)), max(1, round(height / ratio))
    return np.asarray(slide.read_region((x, y), plan.grid.level, size).convert("RGB"))


def plain_loop(path: Path, plan: Plan, boxes: list[Box], predictor: Predictor) -> None:
    """Read, resize and score one batch after the other."""
    with openslide.OpenSlide(path) as slide:
        for start in range(0, len(boxes), _BATCH):
            images = [
                cv2.resize(read_square(slide, plan, box), (96, 96), interpolation=cv2.INTER_AREA)
                for box in boxes[start : start + _BATCH]
            ]
            predictor.predict_array(np.stack(images), _BATCH)


def whole(path: Path, mpp: tuple[float, float], predictor: Predictor, pool: ThreadPoolExecutor) -> None:
    """Find the tissue and score it, as `histo predict` does."""
    with open_slide(path) as slide:
        plan = plan_slide(slide, mpp, 96, None, True, pool)
        score_squares(slide, plan.grid, plan.needed, predictor, predictor.chunk_size(1024), pool)


if __name__ == "__main__":
    main()
