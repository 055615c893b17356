"""Squares per second of a whole slide, from the file to the scores, against plain loops, reading and the network alone.

    python -m benchmarks.slides --ckpt best.pt [--slide FILE] [--step 96] [--repeats 3]

Without `--slide` a synthetic slide of 10,000 x 10,000 pixels is drawn; with `--flat`, without the level at a quarter of
the resolution, so that the finest level must be read, as in slides of 40x by Aperio. Measured in turn, and the best of
the repeats counts, for the seconds and for the CPU seconds (user and system) each:

- reading: the same squares with OpenSlide alone, one thread, one `read_region` each
- network: the same number of patches that are in memory already
- plain loop, 1 or 64: `read_region`, resize with Pillow, and the network as PyTorch runs it, on batches of 1 or 64
- histo: tissue mask, reading and scoring, as `histo predict` does it, without writing the files
"""

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import openslide
import torch
from PIL import Image

from histocli.enums import Device, Precision
from histocli.inference.checkpoints import load_predictor
from histocli.inference.predictor import BatchPredictor
from histocli.models import Classifier
from histocli.models.checkpoint import find_checkpoint, load_checkpoint
from histocli.patch import PATCH_SIDE
from histocli.slides.grid import Box, Grid
from histocli.slides.reading import open_slide
from histocli.slides.scoring import plan_slide, score_squares
from histocli.slides.synthetic import draw_slide, plan_synthetic_slide
from histocli.threads import count_threads
from histocli.workspace import find_workspace

_SIDE = 10_000


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ckpt", default="best.pt")
    parser.add_argument("--slide", type=Path)
    parser.add_argument("--flat", action="store_true")
    parser.add_argument("--step", type=int, default=PATCH_SIDE)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    workspace = find_workspace()
    predictor = load_predictor(workspace, [options.ckpt], Device.CPU, Precision.FP32)
    network = load_checkpoint(find_checkpoint(workspace, options.ckpt)).build()
    with TemporaryDirectory() as folder:
        path = options.slide or Path(folder, "slide.tif")
        if options.slide is None:
            factors = (1, 16) if options.flat else (1, 4, 16)
            draw_slide(plan_synthetic_slide(0, 0, _SIDE, True), path, factors=factors)
        measure(path, predictor, network, options.step, options.repeats)


def measure(path: Path, predictor: BatchPredictor, network: Classifier, step: int, repeats: int) -> None:
    """Print the squares per second, and per CPU second, of each way."""
    with open_slide(path) as slide:
        assert slide.mpp is not None
        mpp = slide.mpp
        plan = plan_slide(slide, mpp, step, None, True)
        boxes = [plan.grid.find_box(row, column) for row, column in np.argwhere(plan.needed).tolist()]
        patches = np.random.default_rng(0).integers(0, 255, (len(boxes), PATCH_SIDE, PATCH_SIDE, 3), np.uint8)
        ways: dict[str, Callable[[], object]] = {
            "reading alone, one thread": partial(read, path, plan.grid, boxes),
            "network alone": partial(predictor.predict_array, patches, 64),
            "plain loop, 1": partial(plain_loop, path, plan.grid, boxes, network, 1),
            "plain loop, 64": partial(plain_loop, path, plan.grid, boxes, network, 64),
            "histo": partial(whole, path, mpp, step, predictor),
        }
        best = dict.fromkeys(ways, (1000000000.0, 1000000000.0))
        for _ in range(repeats):
            for name, run in ways.items():
                start = time.perf_counter(), time.process_time()
                run()
                took = time.perf_counter() - start[0], time.process_time() - start[1]
                best[name] = min(best[name][0], took[0]), min(best[name][1], took[1])
    print(f"{path.name}: {len(boxes):,} squares, level {plan.grid.level}, {count_threads()} threads")
    print(f"{'':28}{'squares/s':>12}{'squares/CPU s':>15}")
    for name, (seconds, cpu) in best.items():
        print(f"{name:28}{len(boxes) / seconds:12,.0f}{len(boxes) / cpu:15,.0f}")


def read(path: Path, grid: Grid, boxes: list[Box]) -> None:
    """Read the patch around every square with one call of OpenSlide."""
    with openslide.OpenSlide(path) as slide:
        for box in boxes:
            read_patch(slide, grid, box)


def read_patch(slide: openslide.OpenSlide, grid: Grid, box: Box) -> Image.Image:
    """Return the pixels of the patch around a square on the level that histo reads."""
    width, height = (round(PATCH_SIDE * scale) for scale in grid.scale)
    x = box.x + box.width / 2 - width * grid.downsample / 2
    y = box.y + box.height / 2 - height * grid.downsample / 2
    return slide.read_region((round(x), round(y)), grid.level, (width, height)).convert("RGB")


@torch.inference_mode()
def plain_loop(path: Path, grid: Grid, boxes: list[Box], network: Classifier, batch: int) -> list[float]:
    """Read, resize and score one batch after the other."""
    scores: list[float] = []
    with openslide.OpenSlide(path) as slide:
        for start in range(0, len(boxes), batch):
            images = [read_patch(slide, grid, box) for box in boxes[start : start + batch]]
            size = PATCH_SIDE, PATCH_SIDE
            pixels = np.stack([np.asarray(image.resize(size, Image.Resampling.BOX)) for image in images])
            logits = network(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255)
            scores += logits.softmax(1)[:, 1].tolist()
    return scores


def whole(path: Path, mpp: tuple[float, float], step: int, predictor: BatchPredictor) -> None:
    """Find the tissue and score it, as `histo predict` does."""
    with open_slide(path) as slide:
        plan = plan_slide(slide, mpp, step, None, True)
        score_squares(slide, plan.grid, plan.needed, predictor, predictor.choose_chunk_size(1024))


if __name__ == "__main__":
    main()
