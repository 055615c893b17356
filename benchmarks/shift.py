"""How well a recipe does on patches that look different: `python -m benchmarks.shift ZIP ... --valid ZIP --out FILE`.

The patches of the zips are divided into two groups by appearance, in two ways (`look`: a mixture of two Gaussians over
sharpness and colour; `sharpness`: the less sharp and the sharper 45%). Each recipe is trained on one group and measured
on the other, both ways round, and on the patches of `--valid`, which are of other slides. Writes a line of JSON for
each recipe and seed, and one for the ensemble of the seeds so far (the mean of their probabilities). Prints a table:
AUC with one view and with eight, mean and worst of the four directions.

All trainings have as many steps as 12 epochs of all patches, so a smaller group is trained for more epochs. With 12
epochs of each group, the smallest group had 264 steps, and the benchmark measured how fast a recipe learns.

The probabilities of each training are kept beside FILE, in a folder FILE.probs: the same command goes on where an
interrupted one stopped. Delete the folder after a change of the network or of the training.

On a GPU the recipes take some ten minutes for one seed, on two CPU cores more than two days (estimated).
"""

import argparse
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

from benchmarks.augmenting_loaders import ColourLoader, JpegLoader, RandAugmentLoader
from benchmarks.packaged import load_zip
from benchmarks.steerable import SteerableNet
from histocli.atomic import write_atomically
from histocli.compute.device import Compute, apply_compute_settings, choose_compute
from histocli.data.appearance import find_appearance_groups, measure
from histocli.data.loaders import PatchLoader
from histocli.enums import Augment, Device, Precision, Rotate
from histocli.inference.forward import run_network
from histocli.inference.predictor import BatchPredictor, CalibratedNetwork
from histocli.metrics import evaluate
from histocli.models import Classifier, create_network
from histocli.models.histonet import HistoNet
from histocli.training.trainer import Member, Recipe, Trainer

BATCH = 256
EPOCHS = 12  # of all patches
OUTSIDE = -1  # the group of a patch that is in neither


@dataclass(frozen=True)
class Candidate:
    """A recipe to compare: the network, the options of `Recipe` that differ from the default, loader and trainer."""

    network: Callable[[], nn.Module] = HistoNet
    side: int = 96
    lr: float = 3e-3
    options: dict[str, Any] = field(default_factory=dict)
    loader: type[PatchLoader] = PatchLoader
    trainer: type[Trainer] = Trainer


class SpectralTrainer(Trainer):
    """Trains with spectral decoupling (Pezeshki et al. 2021): a penalty on the logits instead of label smoothing."""

    def _compute_loss(self, member: Member, images: Tensor, labels: Tensor) -> Tensor:
        with self.compute.autocast():
            logits = run_network(member.network, member.augment(images, self.recipe.augment))
            return F.cross_entropy(logits, labels) + 0.01 * logits.square().sum(1).mean()


class PlainNet(nn.Module):
    """Five stages of convolution, batch norm, ReLU and max-pooling: what one would write first."""

    def __init__(self) -> None:
        super().__init__()
        stages: list[nn.Module] = []
        for channels, width in ((3, 32), (32, 64), (64, 128), (128, 256), (256, 512)):
            convolution = nn.Conv2d(channels, width, 3, padding=1, bias=False)
            stages += [convolution, nn.BatchNorm2d(width), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
        self.stages = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.Linear(1024, 128), nn.ReLU(), nn.Linear(128, 2))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N,2) of normalised images (N,3,96,96)."""
        maps = self.stages(images)
        logits: Tensor = self.head(torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], 1))
        return logits


CANDIDATES = {
    "histonet-64, any angle": Candidate(partial(HistoNet, side=64), 64, options={"rotate": Rotate.ANY}),
    "histonet-64, right angles": Candidate(partial(HistoNet, side=64), 64, options={"rotate": Rotate.RIGHT}),
    "histonet-80, any angle": Candidate(partial(HistoNet, side=80), 80, options={"rotate": Rotate.ANY}),
    "histonet-80, right angles": Candidate(partial(HistoNet, side=80), 80, options={"rotate": Rotate.RIGHT}),
    "histonet": Candidate(),
    "histonet, any angle": Candidate(options={"rotate": Rotate.ANY}),
    "histonet, random sharpness": Candidate(options={"augment": Augment.SHARPNESS}),
    "histonet, random JPEG quality": Candidate(loader=JpegLoader),
    "histonet, RandAugment": Candidate(options={"augment": Augment.FLIPS}, loader=RandAugmentLoader),
    "histonet, wider colours": Candidate(loader=ColourLoader),
    "histonet, spectral decoupling": Candidate(trainer=SpectralTrainer),
    "histonet, weight decay 0.2": Candidate(options={"weight_decay": 0.2}),
    "histonet, average over 20%": Candidate(options={"ema_span": 0.2}),
    "histonet-wide": Candidate(partial(create_network, "histonet-wide")),
    "histonet-pair": Candidate(partial(create_network, "histonet-pair")),
    "C8 filters": Candidate(SteerableNet),
    "plain network, AdamW": Candidate(PlainNet, lr=1e-3, options={"muon": False}),
}


def groupings(pixels: np.ndarray, labels: np.ndarray) -> dict[str, np.ndarray]:
    """Return two ways to divide the patches: for each a group of each patch (N,), 0, 1 or `OUTSIDE`."""
    rows = np.arange(len(pixels))
    sharpness = StandardScaler().fit_transform(measure(pixels, rows)[:, :8])
    for label in (0, 1):
        sharpness[labels == label] -= sharpness[labels == label].mean(0)
    axis = PCA(1, random_state=0).fit_transform(sharpness)[:, 0]
    low, high = np.quantile(axis, (0.45, 0.55))
    ends = np.select([axis < low, axis > high], [0, 1], OUTSIDE)
    return {"look": find_appearance_groups(pixels, rows, labels), "sharpness": ends}


def train(
    candidate: Candidate,
    pixels: np.ndarray,
    rows: np.ndarray,
    labels: np.ndarray,
    seed: int,
    compute: Compute,
    epochs: int,
) -> nn.Module:
    """Train on some rows; return the network with the averaged weights of the last step."""
    torch.manual_seed(seed)
    model = Classifier(candidate.network(), "histonet", side=candidate.side).to(memory_format=torch.channels_last)
    loader = candidate.loader(pixels, rows, labels[rows], BATCH, compute.device)
    lr = candidate.lr * (BATCH / 128) ** 0.5
    trainer = candidate.trainer(model, Recipe(lr, loader.steps * epochs, seed=seed, **candidate.options), compute)
    for _ in range(epochs):
        trainer.train_epoch(loader)
    return trainer.ema_model.eval()


def score(model: nn.Module, pixels: np.ndarray, rows: np.ndarray, compute: Compute) -> np.ndarray:
    """Return the probabilities (2,N) of some rows: with one view, and with eight."""
    loader = PatchLoader(pixels, rows, np.zeros(len(rows), int), 512, compute.device)
    network = [CalibratedNetwork(model)]
    return np.stack([BatchPredictor(network, compute, tta=tta).predict_packed(loader).probs for tta in (False, True)])


def measure_scores(labels: np.ndarray, probs: np.ndarray) -> dict[str, Any]:
    """Return AUC, log loss, ECE and accuracy of probabilities (2,N) of one view and of eight."""
    figures = {}
    for name, each in zip(("one", "eight"), probs, strict=True):
        metrics = evaluate(labels, each).metrics
        figures[name] = {key: metrics[key] for key in ("auc", "log_loss", "ece", "accuracy") if key in metrics}
    return figures


def summarise(lines: Iterable[dict[str, Any]]) -> str:
    """Return the table: the mean over seeds of the mean and of the worst AUC of the four directions."""
    rows = [
        "| recipe | seeds | one view, mean (worst) | eight views, mean (worst) | other slides, eight views |",
        "|" + " --- |" * 5,
    ]
    by_name: dict[str, list[dict[str, Any]]] = {}
    for line in lines:
        by_name.setdefault(line["recipe"], []).append(line)
    for name, runs in by_name.items():
        cells = []
        for views in ("one", "eight"):
            aucs = [[each["other group"][views]["auc"] for each in run["directions"].values()] for run in runs]
            cells.append(f"{fmean(map(fmean, aucs)):.4f} ({fmean(map(min, aucs)):.4f})")
        slides = fmean(each["valid"]["eight"]["auc"] for run in runs for each in run["directions"].values())
        rows.append(f"| {name} | {len(runs)} | {' | '.join(cells)} | {slides:.4f} |")
    return "\n".join(rows)


def make_parser(description: str, seeds: int) -> argparse.ArgumentParser:
    """Return a parser of the data, the output, the number of seeds and the device."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("zips", nargs="+", type=Path)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--patches", type=int, help="use only so many patches, to try the script")
    parser.add_argument("--device", type=Device, default=Device.AUTO)
    return parser


def load_data(options: argparse.Namespace) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return the patches and labels of the zips, and those of `--valid`."""
    parts = [load_zip(path) for path in options.zips]
    pixels, labels = (np.concatenate([part[i] for part in parts])[: options.patches] for i in (0, 1))
    return pixels, labels, *load_zip(options.valid)[:2]


@apply_compute_settings()
def main() -> None:
    """Measure the recipes."""
    parser = make_parser(__doc__.splitlines()[0], seeds=1)
    parser.add_argument("--only", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    parser.add_argument("--first-seed", type=int, default=0, help="to add seeds to those that were measured before")
    options = parser.parse_args()
    pixels, labels, valid, valid_labels = load_data(options)
    compute = choose_compute(options.device, Precision.AUTO)
    directions = [(kind, groups, group) for kind, groups in groupings(pixels, labels).items() for group in (0, 1)]
    sums: dict[tuple[str, str], np.ndarray] = {}  # of the probabilities of the seeds so far
    lines = []
    kept = options.out.with_name(f"{options.out.name}.probs")
    kept.mkdir(exist_ok=True)
    for count, seed in enumerate(range(options.first_seed, options.first_seed + options.seeds), start=1):
        for name in options.only:
            start = time.monotonic()
            single: dict[str, dict[str, Any]] = {}
            ensemble: dict[str, dict[str, Any]] = {}
            for kind, groups, group in directions:
                direction = f"{kind}, trained on {group}"
                rows, rest = np.flatnonzero(groups == group), np.flatnonzero(groups == 1 - group)
                epochs = round(EPOCHS * len(pixels) / len(rows))
                sets = {
                    "other group": (pixels, rest, labels[rest]),
                    "valid": (valid, np.arange(len(valid)), valid_labels),
                }
                file = kept / f"{name}, {direction}, seed {seed}.npz"
                if not file.exists():
                    model = train(CANDIDATES[name], pixels, rows, labels, seed, compute, epochs)
                    probs = {key: score(model, array, measured, compute) for key, (array, measured, _) in sets.items()}
                    with write_atomically(file) as temporary, temporary.open("wb") as stream:
                        np.savez(stream, allow_pickle=False, **probs)
                single[direction], ensemble[direction] = {}, {}
                with np.load(file) as probs:
                    for key, (_, _, truth) in sets.items():
                        total = sums[name, direction + key] = sums.get((name, direction + key), 0) + probs[key]
                        single[direction][key] = measure_scores(truth, probs[key])
                        ensemble[direction][key] = measure_scores(truth, total / count)
            lines.append({"recipe": name, "seed": seed, "seconds": time.monotonic() - start, "directions": single})
            written = lines[-1:]
            if count > 1:
                written.append({"recipe": f"{name}, ensemble of {count}", "directions": ensemble})
            if count > 1 and count == options.seeds:
                lines.append(written[-1])
            with options.out.open("a") as file:
                file.writelines(json.dumps(line) + "\n" for line in written)
    print(summarise(lines))


if __name__ == "__main__":
    main()
