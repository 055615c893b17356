"""Make the network that comes with `histo`: `python -m benchmarks.packaged TRAIN_ZIP ... --valid VALID_ZIP`.

Trains `histonet-pair` on all patches of the zips of PCam's training slides, without validation, for a fixed number of
epochs. `VALID_ZIP` has patches of other slides; the temperature and the threshold are chosen on them. Writes the
checkpoint and its model card into histocli/models/weights/. Each zip has folder/ID.jpg and a CSV with the columns
id,label.
"""

import argparse
import csv
import io
from collections.abc import Sequence
from datetime import date
from hashlib import sha1
from pathlib import Path
from zipfile import ZipFile

import cv2
import numpy as np
import torch

from histocli.compute.device import apply_compute_settings, choose_compute
from histocli.config import PACKAGED_ARCH
from histocli.data.loaders import PatchLoader
from histocli.data.quality import Reference
from histocli.enums import Device, Precision
from histocli.inference.predictor import BatchPredictor, CalibratedNetwork
from histocli.metrics import Measurement, estimate_uncertainty, evaluate
from histocli.metrics.intervals import Interval
from histocli.models import create_model, packaged
from histocli.models.checkpoint import Checkpoint, save_checkpoint
from histocli.training.calibrate import calibrate
from histocli.training.trainer import Recipe, Trainer

EPOCHS, BATCH, SEED, LEARNING_RATE = 20, 256, 0, 3e-3 * 2**0.5
CARD = """# histonet-pcam

The network that comes with `histo`. **Research use only: it is not a medical device.**

- Network: `{arch}`, {parameters:,} parameters, stored in 16 bits.
- Trained on {patches:,} patches of PatchCamelyon's training slides (CC0), {tumour:,} of them with tumour in the central
  32x32 pixels; JPEG, quality 75. All of these were used: {epochs} epochs, batches of {batch}, seed {seed},
  otherwise the defaults of `histo train`, on {device}.
  SHA-1 of the sorted patch ids: `{sha1}`.
- The temperature ({temperature:.3f}), the threshold ({threshold:.3f}, Youden's J) and the architecture were chosen on
  {valid:,} patches of other slides (PCam's validation slides). So the numbers below are a little too good.
- Command: `python -m benchmarks.packaged pcam_train_1.zip pcam_train_2.zip pcam_train_3.zip --valid pcam_valid.zip`.
  A GPU, or another kind of processor, does not give the same bits again.

| {valid:,} patches of other slides | one view (95% interval) | eight views, `--tta` (95% interval) |
| --- | --- | --- |
{rows}

Intervals are by patch, so they are too narrow where patches of a slide are alike.

Limits: lymph nodes, H&E, 10x (0.972 µm per pixel), two hospitals in the Netherlands. Kaggle's training images are
patches of the slides that it was trained on, so results on them are too good. Slides of other scanners and stains
were not measured. Made on {today}.
"""
NAMES = {"auc": "AUC", "accuracy": "accuracy", "sensitivity": "sensitivity", "specificity": "specificity", "ece": "ECE"}


def decode_image(data: bytes) -> np.ndarray:
    """Return the pixels (H,W,3) of an image file, RGB."""
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    if pixels is None:
        raise SystemExit("an image of the zip cannot be decoded: download it again")
    return pixels[..., ::-1]


def load_zip(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return the patches (N,96,96,3), their labels (N,) and ids of a zip."""
    with ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.endswith(".jpg")]
        table = next(name for name in archive.namelist() if name.endswith(".csv"))
        rows = csv.DictReader(io.TextIOWrapper(archive.open(table)))
        labels = {row["id"]: int(row["label"]) for row in rows}
        images = [decode_image(archive.read(name)) for name in names]
    ids = [Path(name).stem for name in names]
    return np.stack(images), np.array([labels[each] for each in ids]), ids


def train(pixels: np.ndarray, labels: np.ndarray, device: Device) -> dict[str, torch.Tensor]:
    """Train on all patches; return the averaged weights, in 16 bits."""
    compute = choose_compute(device, Precision.AUTO)
    torch.manual_seed(SEED)
    loader = PatchLoader(pixels, np.arange(len(pixels)), labels, BATCH, compute.device)
    recipe = Recipe(LEARNING_RATE, loader.steps * EPOCHS, seed=SEED)
    trainer = Trainer(create_model(PACKAGED_ARCH), recipe, compute)
    for epoch in range(EPOCHS):
        print(f"epoch {epoch + 1}: loss {trainer.train_epoch(loader):.4f}", flush=True)
    state = trainer.ema_model.state_dict()
    return {name: (value.half() if value.is_floating_point() else value).cpu() for name, value in state.items()}


def write_checkpoint(
    weights: dict[str, torch.Tensor],
    train_set: tuple[np.ndarray, np.ndarray, list[str]],
    valid_set: tuple[np.ndarray, np.ndarray, list[str]],
    device: str,
) -> None:
    """Choose temperature and threshold; write the checkpoint and its model card."""
    pixels, labels, ids = train_set
    valid, valid_labels, _ = valid_set
    model = create_model(PACKAGED_ARCH)
    model.load_state_dict(weights)
    compute = choose_compute(Device.CPU, Precision.FP32)
    loader = PatchLoader(valid, np.arange(len(valid)), valid_labels, 256, compute.device)
    raw = BatchPredictor([CalibratedNetwork(model.eval())], compute).predict_packed(loader).raw
    calibration = calibrate(valid_labels, raw, "youden", is_weak=False)
    network = [CalibratedNetwork(model, calibration.temperature)]
    scores = [BatchPredictor(network, compute, tta=tta).predict_packed(loader).probs for tta in (False, True)]
    measured = [evaluate(valid_labels, probs, calibration.threshold) for probs in scores]
    sha1_of_ids = sha1("\n".join(sorted(ids)).encode()).hexdigest()
    checkpoint = Checkpoint(
        arch=PACKAGED_ARCH,
        model=weights,
        run=packaged.NAME,
        epoch=EPOCHS,
        metrics={"val_auc": measured[0].metrics["auc"], "val_accuracy": measured[0].metrics["accuracy"]},
        config={"arch": PACKAGED_ARCH, "epochs": EPOCHS, "batch_size": BATCH, "seed": SEED},
        manifest_sha256=sha1_of_ids,
        threshold=calibration.threshold,
        temperature=calibration.temperature,
        validation=calibration.validation,
        appearance=Reference.measure(pixels, np.arange(len(pixels))),
    )
    packaged.PATH.parent.mkdir(exist_ok=True)
    save_checkpoint(checkpoint, packaged.PATH)
    facts = {"parameters": sum(p.numel() for p in model.parameters()), "sha1": sha1_of_ids, "device": device}
    card = CARD.format(
        arch=PACKAGED_ARCH,
        patches=len(pixels),
        tumour=int(labels.sum()),
        epochs=EPOCHS,
        batch=BATCH,
        seed=SEED,
        valid=len(valid),
        temperature=calibration.temperature,
        threshold=calibration.threshold,
        rows="\n".join(_make_rows(valid_labels, scores, measured, calibration.threshold)),
        today=date.today().isoformat(),
        **facts,
    )
    packaged.PATH.with_suffix(".md").write_text(card, encoding="utf-8")


def _make_rows(
    labels: np.ndarray, scores: Sequence[np.ndarray], measured: Sequence[Measurement], threshold: float
) -> list[str]:
    """Return the rows of the table of metrics: one column for each way to score, with intervals."""
    ranges = [
        estimate_uncertainty(labels, probs, each.metrics, threshold).intervals
        for probs, each in zip(scores, measured, strict=True)
    ]
    pairs = list(zip(measured, ranges, strict=True))
    return [
        f"| {label} | " + " | ".join(_cell(each.metrics[name], r[name]) for each, r in pairs) + " |"
        for name, label in NAMES.items()
    ]


def _cell(value: float | None, interval: Interval | None) -> str:
    return f"{value:.4f} ({interval[0]:.4f} to {interval[1]:.4f})" if interval else f"{value:.4f}"


@apply_compute_settings()
def main() -> None:
    """Train, and write the checkpoint."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("zips", nargs="+", type=Path)
    parser.add_argument("--valid", type=Path, required=True)
    parser.add_argument("--device", type=Device, default=Device.AUTO)
    parser.add_argument("--weights", type=Path, help="weights that were trained before, instead of training")
    parser.add_argument("--made-on", help="the device that they were trained on")
    options = parser.parse_args()
    parts = [load_zip(path) for path in options.zips]
    pixels, labels = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
    train_set = pixels, labels, [each for part in parts for each in part[2]]
    if options.weights:
        weights = torch.load(options.weights, weights_only=True)
    else:
        weights = train(pixels, labels, options.device)
    device = options.made_on or choose_compute(options.device, Precision.AUTO).reason
    write_checkpoint(weights, train_set, load_zip(options.valid), device)


if __name__ == "__main__":
    main()
