"""The time of one training step on a device, for `benchmarks.gpu`."""

import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from histocli.compute.device import choose_compute, make_deterministic
from histocli.data.loaders import Batch, PatchLoader
from histocli.enums import Augment, Device, Precision
from histocli.models import create_model
from histocli.training.trainer import Recipe, Trainer


def measure_steps(device: str, *, is_full: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the title and the figures of each measured step: as it is, and over one batch that stays on the device.

    The step is measured as a CUDA graph, where that is possible, and eager. Without `is_full`, small batches and few
    steps are used.
    """
    for size in (128, 512) if is_full else (64,):
        for graph in (True, False) if size < 512 else (True,):  # eager is bound by the launches, whatever the size
            is_graph, full, fixed = _measure_size(size, device, graph=graph, is_full=is_full)
            kind = "graph" if is_graph else "eager"
            yield f"step of {size}, {kind}", {"milliseconds": full, "fixed": fixed, "ratio": round(fixed / full, 3)}
            if not is_graph:
                break


def _measure_size(size: int, device: str, *, graph: bool, is_full: bool) -> tuple[bool, float, float]:
    """Return whether the step was a CUDA graph, its milliseconds, and those over one batch without augmentation."""
    compute = choose_compute(Device(device), Precision.AUTO)
    count = 20_000 if is_full else 300
    pixels = np.random.default_rng(0).integers(0, 256, (count, 96, 96, 3), np.uint8)
    batches = PatchLoader(pixels, np.arange(count), np.arange(count) % 2, size, compute.device)
    torch.manual_seed(0)
    with make_deterministic(False):
        trainer = Trainer(create_model("histonet"), Recipe(1e-3, 10_000, seed=0, cuda_graph=graph), compute)
        epochs = _repeat_epochs(batches)
        full = _measure(lambda: trainer.train_step(next(epochs)), device, is_full)
        batch = next(epochs)
        plain = Recipe(1e-3, 10_000, seed=0, augment=Augment.NONE, cuda_graph=graph)
        fixed = _measure(partial(Trainer(create_model("histonet"), plain, compute).train_step, batch), device, is_full)
    return trainer.graph is not None, full, fixed


def _repeat_epochs(batches: PatchLoader) -> Iterator[Batch]:
    """Yield the batches of one epoch after another, without end."""
    epoch = 0
    while True:
        yield from batches.train_batches(epoch)
        epoch += 1


def _measure(step: Callable[[], Any], device: str, is_full: bool) -> float:
    """Return the mean milliseconds of a step, after some steps that are not measured."""
    warm_up, count = (30, 200) if is_full else (2, 4)
    for _ in range(warm_up):
        step()
    _wait(device)
    began = time.perf_counter()
    for _ in range(count):
        step()
    _wait(device)
    return round((time.perf_counter() - began) / count * 1e3, 3)


def _wait(device: str) -> None:
    """Wait until the device has done its work."""
    if device == "cuda":
        torch.cuda.synchronize()
