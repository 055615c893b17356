"""Trains a network without batch norm for some steps, and writes its losses and weights.

In one process, or in several, which share every batch. Without ARCH, the network is a small one. In that of ARCH,
batch norm is replaced, because its statistics are those of a process's share.
"""

from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import nn

from histocli.compute.ddp import connect_processes
from histocli.compute.device import apply_compute_settings, choose_compute
from histocli.data.loaders import PatchLoader
from histocli.enums import Augment, Device, Precision
from histocli.inference.predictor import BatchPredictor, CalibratedNetwork
from histocli.models import create_model
from histocli.training.trainer import Recipe, Trainer

PATCHES, BATCH, STEPS = 23, 7, 3  # 7 patches do not go evenly into 2 or 3 shares


def make_network(arch):
    """Return the network of an architecture with group norm instead of batch norm, or a small network for ""."""
    if not arch:
        return nn.Sequential(nn.Conv2d(3, 4, 5, 4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 23 * 23, 2))
    model = create_model(arch)
    for module in list(model.modules()):
        for name, part in module.named_children():
            if isinstance(part, nn.BatchNorm2d):
                setattr(module, name, nn.GroupNorm(1, part.num_features))
    return model


@apply_compute_settings()
def train(path, arch=""):
    """Train, and write the result on rank 0; all processes must have the same weights."""
    compute = choose_compute(Device.CPU, Precision.FP32)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (PATCHES, 96, 96, 3), np.uint8)
    labels = rng.integers(0, 2, PATCHES)
    with connect_processes() as ranks:
        batches = PatchLoader(pixels, np.arange(PATCHES), labels, BATCH, compute.device, ranks=ranks)
        torch.manual_seed(1)
        trainer = Trainer(make_network(arch), Recipe(1e-3, 2 * STEPS, seed=0, augment=Augment.NONE), compute, ranks)
        losses = [trainer.train_epoch(batches), trainer.train_epoch(batches)]
        predictor = BatchPredictor([CalibratedNetwork(trainer.ema_model)], compute)
        probs = torch.from_numpy(predictor.predict_packed(batches).probs)
        weights = torch.cat([p.detach().flatten() for p in trainer.ema_model.parameters()])
        ranks.check_equal(sha256(weights.numpy()).hexdigest(), "weights")
        if ranks.is_rank0:
            torch.save({"losses": losses, "weights": weights, "probs": probs, "processes": ranks.size}, path)


def main(path, arch=""):
    """Train as one of several processes, and check that the group has ended.

    A thread of the group's that still frees a tensor while Python ends aborts the process.
    """
    train(path, arch)
    threads = [comm.read_text() for comm in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in name for name in threads), threads
