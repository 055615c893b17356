"""Measure how long training takes to reach an AUC on unseen slides, compared with a typical training script.

    python -m benchmarks.race TRAIN.zip [TRAIN.zip ...] VALID.zip [--goal 0.9]

`histo train`'s defaults, Muon, clipping and averaged weights among them, against `ImageFolder`, torchvision's
transforms and `DataLoader`, AdamW in fp32: the same patches, network, number of epochs, batch and one-cycle schedule.
Each is scored after every epoch, which is not counted, and stops when it has reached the goal. One seed: it says how
much, not to the minute.
"""

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.data import Histo
from benchmarks.training import BATCH, plain_loader
from histocli.compute.device import apply_compute_settings, choose_compute
from histocli.config import LEARNING_RATE
from histocli.data.dataset import Subset, open_subset, select_labelled
from histocli.data.loaders import PatchLoader
from histocli.enums import Device, Precision, SplitName
from histocli.inference.predictor import BatchPredictor, CalibratedNetwork
from histocli.metrics import compute_auc
from histocli.models import create_model
from histocli.training.trainer import Recipe, Trainer

EPOCHS = 20  # a schedule that both end in less than an hour
Epochs = Iterator[nn.Module]  # the network to predict with, after every epoch


def ours(train: Subset) -> Epochs:
    """Train as `histo train` does."""
    compute = choose_compute(Device.CPU, Precision.AUTO)
    batches = PatchLoader(train.store, train.rows, train.labels.copy(), BATCH, compute.device)
    torch.manual_seed(0)
    trainer = Trainer(create_model("histonet"), Recipe(LEARNING_RATE, batches.steps * EPOCHS, seed=0), compute)
    for _ in range(EPOCHS):
        trainer.train_epoch(batches)
        yield trainer.ema_model


def theirs(folder: Path, patches: int) -> Epochs:
    """Train as tutorials do."""
    torch.manual_seed(0)
    model, steps = create_model("histonet"), patches // BATCH
    optimizer = torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, LEARNING_RATE, steps * EPOCHS, pct_start=Recipe.warmup, div_factor=10, final_div_factor=100
    )
    batches = plain_loader(folder)
    for _ in range(EPOCHS):
        model.train()
        for _ in range(steps):
            images, labels = next(batches)
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels, label_smoothing=0.05).backward()
            optimizer.step()
            schedule.step()
        yield model


def seconds(name: str, epochs: Epochs, score: Callable[[nn.Module], float], goal: float) -> float:
    """Return the seconds of training until the score is reached; infinity if it is not."""
    spent = 0.0
    while True:
        began = time.perf_counter()
        network = next(epochs, None)
        spent += time.perf_counter() - began
        if network is None:
            return float("inf")
        reached = score(network)
        print(f"| {name} | {spent:,.0f} s | {reached:.4f} |", flush=True)
        if reached >= goal:
            return spent


@apply_compute_settings()
def main() -> None:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", nargs="+", type=Path)
    parser.add_argument("valid", type=Path)
    parser.add_argument("--goal", type=float, default=0.9)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        histo = Histo(Path(folder))
        sources = [each for path in options.train for each in ("--from", path)]
        histo.seconds("download", "--source", "folder", *sources, "--name", "train")
        histo.seconds("download", "--source", "folder", "--from", options.valid, "--name", "unseen")
        histo.seconds("balance", "--n", "max", "--data", "train")
        names = "balanced", "unseen"
        subset, unseen = (open_subset(histo.workspace, histo.workspace.manifest_path(name)) for name in names)
        train = select_labelled(subset, SplitName.TRAIN)
        files = Path(folder) / "files"
        for i, (row, label) in enumerate(zip(train.rows, train.labels, strict=True)):
            (files / str(label)).mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(files / str(label) / f"{i:07d}.png"), train.store[row][:, :, ::-1])
        compute = choose_compute(Device.CPU, Precision.AUTO)
        held = PatchLoader(unseen.store, unseen.rows, unseen.labels.copy(), 2 * BATCH, compute.device)

        def score(network: nn.Module) -> float:
            predictor = BatchPredictor([CalibratedNetwork(network)], compute)
            return compute_auc(unseen.labels, predictor.predict_packed(held).probs) or 0.0

        print("| training | seconds | AUC |\n| --- | --- | --- |", flush=True)
        mine = seconds("`histo train`", ours(train), score, options.goal)
        people = seconds("a plain loop", theirs(files, len(train.rows)), score, options.goal)
        print(f"to an AUC of {options.goal}: {mine:,.0f} s and {people:,.0f} s, a ratio of {mine / people:.2f}")


if __name__ == "__main__":
    main()
