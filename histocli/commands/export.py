"""`histo export`: write a checkpoint as one file that runs without histo."""

import os
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

import histocli
from histocli.atomic import create_folder_atomically
from histocli.compute.device import apply_compute_settings, choose_compute
from histocli.config import ExportConfig
from histocli.data.manifest import hash_file
from histocli.data.store import open_store
from histocli.enums import Device, ExportFormat, Precision
from histocli.errors import HistoError
from histocli.files.outputs import check_output, write_output
from histocli.inference.forward import compute_log_odds
from histocli.metrics.calibration import compute_probabilities
from histocli.models.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from histocli.models.export import Exported, Probability
from histocli.models.export import export as write
from histocli.models.wsinfer import write_wsinfer
from histocli.packages import require_packages
from histocli.patch import Pixels
from histocli.sources.synthetic import SyntheticSource
from histocli.temporary import remove_folder
from histocli.workspace import Workspace

N_CHECKED = 64  # number of patches on which the exported network is compared with the checkpoint
TOLERANCE = 1e-4  # largest allowed difference in probability; another order of summation gives about 1e-6


class Export(NamedTuple):
    """The file, its largest difference in probability from the checkpoint, and the patches that were compared."""

    path: Path
    difference: float
    patches: str


@apply_compute_settings()
def export(workspace: Workspace, config: ExportConfig) -> Export:
    """Write a checkpoint as a network that takes float RGB images (N,3,96,96) in [0, 1].

    Its outputs are calibrated probabilities (N,) and uncalibrated log odds (N,). Before the file gets its final name,
    it scores some patches, in batches of several sizes, and the scores are compared with those of the checkpoint.
    `histo eval` and `histo predict` use an ONNX file with the default name in the workspace.

    Raises:
        HistoError: the checkpoint cannot be used, a package is missing, or the scores differ too much.
    """
    config.check()
    if config.format is ExportFormat.ONNX:
        require_packages("--format onnx", "onnx", "onnxscript", "onnxruntime", extra="onnx")
    source = find_checkpoint(workspace, config.ckpt)
    if config.out is not None and config.format is not ExportFormat.WSINFER:  # which writes a new folder
        check_output(config.out, workspace, [source], is_zip=True)
    sha256, checkpoint = hash_file(source), load_checkpoint(source)
    out = config.out or workspace.export_path(sha256, config.format)
    origin, pixels = _sample_patches(workspace)
    if config.format is ExportFormat.WSINFER:
        is_earlier_export = config.out is None and out.is_dir() and not out.is_symlink()
        if os.path.lexists(out) and not is_earlier_export:  # a dead link too
            raise HistoError(f"{out} exists already", "give a new folder: --out DIR")
        with create_folder_atomically(out) as folder:
            run = write_wsinfer(checkpoint.build(), checkpoint.temperature, folder)
            difference = _compare(run, checkpoint, pixels)
            if is_earlier_export:  # of the same checkpoint
                remove_folder(out)
        return Export(out, difference, origin)
    metadata = {
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
    with write_output(out) as temporary:
        run = write(Probability(checkpoint.build(), checkpoint.temperature), config.format, temporary, metadata)
        difference = _compare(run, checkpoint, pixels)
    return Export(out, difference, origin)


def _compare(run: Exported, checkpoint: Checkpoint, pixels: Pixels) -> float:
    """Return the largest difference in probability between an exported network and its checkpoint.

    `run` returns calibrated probabilities, and log odds before calibration if the format has them.

    Raises:
        HistoError: it is too large.
    """
    images = torch.from_numpy(pixels).permute(0, 3, 1, 2)
    [odds] = compute_log_odds(checkpoint.build(), images, choose_compute(Device.CPU, Precision.FP32)).numpy()
    expected = compute_probabilities(odds.astype(np.float64), checkpoint.temperature), compute_probabilities(odds)
    floats = images.float().div(255).contiguous().numpy()
    outputs = [np.stack(run(part)) for part in np.split(floats, [1, 8]) if len(part)]
    probs, *log_odds = np.concatenate(outputs, 1).astype(np.float64)
    actual = [probs, *map(compute_probabilities, log_odds)]
    difference = float(np.abs(np.stack(actual) - np.stack(expected[: len(actual)])).max())
    if not difference <= TOLERANCE:
        raise HistoError(
            f"the exported network's probabilities differ from the checkpoint's by up to {difference:.2g}",
            "nothing was written; try another --format",
        )
    return difference


def _sample_patches(workspace: Workspace) -> tuple[str, Pixels]:
    """Return a description and patches to compare on: of the first packed data set, else synthetic ones."""
    for name in workspace.list_datasets():
        store = open_store(workspace.patches_path(name))
        if len(store):
            rows = np.unique(np.linspace(0, len(store) - 1, N_CHECKED).astype(int))
            return f"patches of {name}", np.ascontiguousarray(store[rows])
    return "synthetic patches", np.stack([patch.load() for patch in SyntheticSource(N_CHECKED, 0).read_patches()])
