"""Compare ways to explain scores by the deletion and insertion test: `python -m benchmarks.explanations PCAM_ZIP`.

After Petsiuk et al., "RISE", 2018 (arXiv:1806.07421). Deletion: pixels are blurred, the most important ones first, and
the probability of the class that the network called should fall fast. Insertion: they appear on the blurred patch, and
it should rise fast. Both are areas under the curve of the probability over the fraction of pixels, in `STEPS` steps.
The network is the one that comes with histo; the patches are drawn at random, as many called tumour as called normal.
The zip has folder/ID.jpg and a CSV with the columns id,label, as in benchmarks.packaged.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.packaged import load_zip
from histocli.compute.cores import map_pieces
from histocli.compute.device import apply_compute_settings
from histocli.inference.explain import compute_hires_cam, compute_maps, find_feature_maps
from histocli.models import Classifier, packaged
from histocli.models.checkpoint import load_checkpoint

STEPS, BLUR = 8, 8  # BLUR: standard deviation in pixels
BOX, STRIDE = 16, 8  # of the occlusion, in pixels
SIDE = 96
PIECE = 40  # patches that are explained at a time


def grad_cam(activation: Tensor, gradient: Tensor) -> Tensor:
    """Return the contributions of Grad-CAM: each channel has one weight, its mean gradient. They keep their sign."""
    return activation * gradient.mean((2, 3), keepdim=True)


def log_odds(network: Classifier, images: Tensor) -> Tensor:
    """Return the log odds of tumour (N,) of float images (N,3,96,96)."""

    @torch.inference_mode()
    def compute(piece: Tensor) -> Tensor:
        logits: Tensor = network(piece)
        return logits[:, 1] - logits[:, 0]

    return map_pieces(compute, images)


def occlusion(network: Classifier, images: Tensor, blurred: Tensor) -> Tensor:
    """Return how much the log odds of one view fall where a square is blurred: (N,96,96)."""
    whole = log_odds(network, images)
    total, count = torch.zeros(len(images), SIDE, SIDE), torch.zeros(SIDE, SIDE)
    corners = range(STRIDE - BOX, SIDE, STRIDE)
    for y, x in ((y, x) for y in corners for x in corners):
        box = slice(max(y, 0), y + BOX), slice(max(x, 0), x + BOX)
        changed = images.clone()
        changed[:, :, *box] = blurred[:, :, *box]
        total[:, *box] += (whole - log_odds(network, changed))[:, None, None]
        count[box] += 1
    return total / count


def area(network: Classifier, maps: Tensor, start: Tensor, end: Tensor, sign: Tensor, temperature: float) -> Tensor:
    """Return the area (N,) under the probability of the called class while `start` turns into `end`, map by map."""
    rank = maps.flatten(1).argsort(1, descending=True).argsort(1).view(-1, 1, SIDE, SIDE)
    curve = []
    for step in range(STEPS + 1):
        mixed = torch.where(rank < SIDE**2 * step / STEPS, end, start)
        curve.append(torch.sigmoid(sign * log_odds(network, mixed) / temperature))
    return torch.trapezoid(torch.stack(curve), dim=0) / STEPS


def to_images(pixels: np.ndarray) -> Tensor:
    """Return patches, uint8 (N,96,96,3), as float images (N,3,96,96)."""
    return torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2).float() / 255


def sample(network: Classifier, pixels: np.ndarray, count: int, skip: int) -> tuple[np.ndarray, Tensor]:
    """Draw `count` patches that the network predicts as tumour and as many others; return them, and 1 or -1 for each.

    The first `skip` of each kind are left out.
    """
    rng = np.random.default_rng(0)
    pixels = pixels[rng.permutation(len(pixels))[: 8 * (skip + count)]]
    is_tumour = (log_odds(network, to_images(pixels)) >= 0).numpy()
    kinds = (np.flatnonzero(is_tumour), np.flatnonzero(~is_tumour))
    rows = np.concatenate([kind[skip : skip + count] for kind in kinds])
    return pixels[rows], torch.from_numpy(np.where(is_tumour[rows], 1.0, -1.0)).float()


@apply_compute_settings()
def main() -> None:
    """Measure each way, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zip", type=Path)
    parser.add_argument("--count", type=int, default=100, help="patches called tumour, and patches called normal")
    parser.add_argument(
        "--skip", type=int, default=0, help="patches of each kind to leave out, for example the first run's"
    )
    parser.add_argument("--json", type=Path, help="write the means and standard errors there")
    options = parser.parse_args()
    checkpoint = load_checkpoint(packaged.PATH)
    network = checkpoint.build()
    pixels, sign = sample(network, load_zip(options.zip)[0], options.count, options.skip)
    images = to_images(pixels)
    blurred = to_images(np.stack([cv2.GaussianBlur(patch, (0, 0), BLUR) for patch in pixels]))
    parts = network.split_members()
    fine, coarse, both = ([find_feature_maps(part, sides) for part in parts] for sides in ([12], [6], [12, 6]))

    def explain(maps: list[list[nn.Module]], contribution: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """Return the mean of the maps (N,96,96) of the networks whose probabilities are averaged."""
        pieces = images.split(PIECE)  # all at once need gigabytes
        return torch.stack(
            [
                torch.cat([compute_maps(part, modules, piece, contribution) for piece in pieces])
                for part, modules in zip(parts, maps, strict=True)
            ]
        ).mean(0)

    noise = torch.randn(len(images), 1, 12, 12, generator=torch.Generator().manual_seed(0))
    ways: dict[str, Callable[[], Tensor]] = {
        "random places": lambda: F.interpolate(noise, (SIDE, SIDE), mode="bilinear")[:, 0],
        "Grad-CAM, last map (6x6)": lambda: explain(coarse, grad_cam),
        "Grad-CAM, 12x12": lambda: explain(fine, grad_cam),
        "HiResCAM, last map (6x6)": lambda: explain(coarse, compute_hires_cam),
        "HiResCAM, 12x12": lambda: explain(fine, compute_hires_cam),
        "HiResCAM, 6x6 and 12x12": lambda: explain(both, compute_hires_cam),
        "occlusion, 169 passes": lambda: occlusion(network, images, blurred),
    }
    print(f"{options.count} patches called tumour, {options.count} called normal: mean (standard error)")
    print("| | tumour: deletion | insertion | normal: deletion | insertion | insertion - deletion, all |")
    print("| --- | --- | --- | --- | --- | --- |")
    results = {}
    for name, way in ways.items():
        maps = way() * (1 if name.startswith("random") else sign[:, None, None])
        deletion = area(network, maps, images, blurred, sign, checkpoint.temperature)
        insertion = area(network, maps, blurred, images, sign, checkpoint.temperature)
        columns = [each[sign == s] for s in (1, -1) for each in (deletion, insertion)] + [insertion - deletion]
        results[name] = [(float(each.mean()), float(each.std() / len(each) ** 0.5)) for each in columns]
        print(f"| {name} | " + " | ".join(f"{m:.3f} ({e:.3f})" for m, e in results[name]) + " |", flush=True)
    if options.json:
        options.json.write_text(json.dumps({"count": options.count, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
