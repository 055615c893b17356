"""`histo export`: a checkpoint as one file that runs without this tool."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import histocli
from histocli.compute.device import choose_compute, compute_settings
from histocli.config import Device, ExportConfig, Precision
from histocli.data.manifest import file_sha256
from histocli.data.store import open_store
from histocli.errors import HistoError, UsageError
from histocli.inference.forward import batch_log_odds
from histocli.metrics.calibration import probability
from histocli.models.checkpoint import find_checkpoint, load_checkpoint
from histocli.models.export import Probability, require
from histocli.models.export import export as write
from histocli.sources import Pixels
from histocli.sources.synthetic import SyntheticSource
from histocli.workspace import Workspace, atomic_path

CHECKED = 64  # patches that the exported network and the checkpoint must agree on
TOLERANCE = 1e-4  # of probability, calibrated or not: convolutions summed in another order differ by about 1e-6


class Export(NamedTuple):
    """What was written, the largest difference in probability that was found, and on which patches."""

    path: Path
    difference: float
    patches: str


@compute_settings()
def export(workspace: Workspace, config: ExportConfig) -> Export:
    """Write a checkpoint as a network that takes float RGB images (N,3,96,96) in [0, 1].

    It gives probabilities (N,), calibrated by the checkpoint's temperature, and log odds before that (N,). Before the
    file has its name, what is in it scores some patches, in batches of several sizes, and is compared with the
    checkpoint. Under the name that it has in the workspace by default, `histo eval` and `histo predict` use it.

    Raises:
        HistoError: the checkpoint cannot be used, a package is missing, or the two do not agree.
    """
    require(config.format)
    if config.out is not None and config.out.is_dir():
        raise UsageError(f"--out {config.out} is a folder", "name the file to write")
    source = find_checkpoint(workspace, config.ckpt)
    sha256, checkpoint = file_sha256(source), load_checkpoint(source)
    out = config.out or workspace.export_path(sha256, config.format)
    module = Probability(checkpoint.build(), checkpoint.temperature)
    facts = {
        "histo": histocli.__version__,
        "run": checkpoint.run,
        "arch": checkpoint.arch,
        "checkpoint_sha256": sha256,
        "temperature": repr(checkpoint.temperature),
        "threshold": repr(checkpoint.threshold),
        "input": "RGB in [0, 1], float32, (N,3,96,96), 10x",
        "output": "probability of tumour in the central 32x32, and its log odds before calibration",
        "use": "research only: not a medical device",
    }
    origin, pixels = _patches(workspace)
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    [odds] = batch_log_odds(module.model, images, choose_compute(Device.CPU, Precision.FP32)).numpy()
    expected = np.stack([probability(odds.astype(np.float64), checkpoint.temperature), probability(odds)])
    with atomic_path(out) as temporary:
        run = write(module, config.format, temporary, facts)
        floats = images.float().div(255).contiguous().numpy()
        parts = [np.stack(run(part)) for part in np.split(floats, [1, 8]) if len(part)]
        probs, log_odds = np.concatenate(parts, 1).astype(np.float64)
        found = np.stack([probs, probability(log_odds)])
        difference = float(np.abs(found - expected).max())
        if not difference <= TOLERANCE:
            raise HistoError(
                f"the exported network's probabilities differ from the checkpoint's by up to {difference:.2g}",
                "nothing was written; another --format may do",
            )
    return Export(out, difference, origin)


def _patches(workspace: Workspace) -> tuple[str, Pixels]:
    """Some patches to compare on: of the first packed data set, or else synthetic ones."""
    for name in workspace.dataset_names():
        store = open_store(workspace.patches_path(name))
        if len(store):
            rows = np.unique(np.linspace(0, len(store) - 1, CHECKED).astype(int))
            return f"patches of {name}", np.ascontiguousarray(store[rows])
    return "synthetic patches", np.stack([patch.load() for patch in SyntheticSource(CHECKED, 0).patches()])
