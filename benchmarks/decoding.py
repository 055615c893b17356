"""Measure the processor time per patch of the process that scores: `python -m benchmarks.decoding [N] [BATCH_SIZE]`.

Two other processes decode, as on a machine with a GPU, and the network answers at once. `threads` is the time of the
threads that wait for these processes and copy the pixels, most of it without Python's lock.
"""

import gc
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.data import write_tiffs
from histocli.commands import predict as command
from histocli.commands import predict_job
from histocli.compute.device import choose_compute
from histocli.config import PredictConfig
from histocli.enums import Device, Precision
from histocli.images.processes import DecodingProcesses
from histocli.inference import inputs
from histocli.inference.checkpoints import CheckpointPredictor
from histocli.inference.predictor import BatchPredictor, CalibratedNetwork
from histocli.workspace import Workspace

_seconds: dict[str, float] = defaultdict(float)


class InstantPredictor(CheckpointPredictor):
    """Returns the same log odds for all patches at once, and receives the patches like a GPU."""

    has_gpu = True

    def __init__(self, *args: object, **options: object) -> None:
        BatchPredictor.__init__(self, [CalibratedNetwork(torch.abs)], choose_compute(Device.CPU, Precision.FP32))
        self.members = []

    def _forward(self, images: Tensor) -> Tensor:
        return torch.zeros(1, 1, len(images))


def measure(step: str, owner: Any, name: str) -> None:
    """Measure the processor time of the calls of `owner.name`; `owner` is a module or a class."""
    function = getattr(owner, name)

    def timed_call(*args: Any, **options: Any) -> Any:
        began = time.thread_time()
        result = function(*args, **options)
        _seconds[step] += time.thread_time() - began
        return result

    setattr(owner, name, timed_call)


def main(n: int = 20_000, batch_size: int = PredictConfig.batch_size) -> None:
    """Score n files."""
    vars(predict_job)["load_from_config"] = InstantPredictor
    measure("list the folder", inputs, "_list_input_images")
    measure("make the ids", inputs, "_make_file_inputs")
    measure("copy the pixels to the device", BatchPredictor, "_start_scoring")
    measure("convert log odds to scores", BatchPredictor, "_compute_scores")
    measure("write rows", predict_job.Job, "write")
    with tempfile.TemporaryDirectory() as folder:
        pixels = np.random.default_rng(0).integers(0, 256, (512, 96, 96, 3), np.uint8)
        np.save(f"{folder}/pixels.npy", np.resize(pixels, (n, 96, 96, 3)))
        write_tiffs(Path(folder, "pixels.npy"), [Path(folder, "files")] * n)
        config = PredictConfig(inputs=(f"{folder}/files",), out=Path(folder, "out.csv"), batch_size=batch_size)
        pool = DecodingProcesses(2)
        pool.start()
        gc.freeze()  # as the command does
        process, thread = time.process_time(), time.thread_time()
        command.predict(Workspace(Path(folder)), config, sys.stdout, pool=pool)
        process, thread = time.process_time() - process, time.thread_time() - thread
    _seconds.update({"all else": thread - sum(_seconds.values()), "this thread": thread, "threads": process - thread})
    for step, seconds in _seconds.items():
        print(f"{seconds / n * 1e6:8.1f} us  {step}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
