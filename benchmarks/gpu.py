"""What `histo` does on a GPU: start to exit of a training, step rates, and scoring of image files.

    python -m benchmarks.gpu OUT [--device cuda] [--patches 220025] [--seconds 400] [--timm TRAIN_PY]

Writes OUT/gpu.jsonl, one line after each stage, so that a run that is cut off still reports. With `--device cpu
--patches 800` it rehearses every stage on a CPU in under two minutes. TRAIN_PY is timm's own training script, from
https://github.com/huggingface/pytorch-image-models.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu_data import ShiftedPatches, StrictListener, write_tiffs
from benchmarks.gpu_steps import measure_steps
from histocli.commands.download import DownloadConfig, pack_source
from histocli.sources.synthetic import SyntheticOptions
from histocli.workspace import Workspace

DRAWN = 8192  # synthetic patches drawn; the data set repeats them, shifted
TIFFS = 57_458  # as many as Kaggle's test images
EPOCHS = 10


class Bench:
    """The stages, each of which notes its figures in `out`/gpu.jsonl."""

    def __init__(self, out: Path, device: str, n: int, seconds: float, timm: Path | None) -> None:
        self.out, self.device, self.n, self.timm = out, device, n, timm
        self.full = n >= 100_000
        self.began, self.limit = time.monotonic(), seconds
        self.start: float | None = None  # seconds that scoring one patch takes
        memory = Path("/dev/shm")
        self.root = (memory if memory.is_dir() else out) / "histo-gpu-bench"
        shutil.rmtree(self.root, ignore_errors=True)
        out.mkdir(parents=True, exist_ok=True)
        self.workspace = Workspace(self.root)

    def note(self, stage: str, **figures: Any) -> None:
        """Write one line of results."""
        line = json.dumps({"stage": stage, "at": round(time.monotonic() - self.began, 1), **figures})
        with (self.out / "gpu.jsonl").open("a") as file:
            file.write(line + "\n")
        print(line, flush=True)

    def histo(self, stage: str, *args: object, stdout: Path | None = None) -> float | None:
        """Run a command of histo from start to exit; note its seconds, or how it failed."""
        return self.command(stage, [sys.executable, "-m", "histocli", "-w", self.root, *args], stdout)

    def command(self, stage: str, line: list[object], stdout: Path | None = None, **environment: str) -> float | None:
        """Run a command from start to exit; note its seconds, or how it failed."""
        left = self.limit - (time.monotonic() - self.began)
        if left < 5:
            self.note(stage, skipped="no time left")
            return None
        began = time.monotonic()
        words, variables = [str(word) for word in line], {**os.environ, **environment}
        # Python keeps the compiled files of its packages, as it does where they can be written.
        variables["PYTHONPYCACHEPREFIX"] = str(self.root / "pycache")
        variables.pop("PYTHONDONTWRITEBYTECODE", None)
        try:
            with (stdout or Path(os.devnull)).open("wb") as file:
                done = subprocess.run(
                    words, stdout=file, stderr=subprocess.PIPE, timeout=left, check=False, env=variables
                )
        except subprocess.TimeoutExpired:
            self.note(stage, failed="out of time")
            return None
        seconds = time.monotonic() - began
        if done.returncode:
            self.note(stage, failed=done.returncode, end=done.stderr.decode(errors="replace")[-1200:])
            return None
        self.note(stage, seconds=round(seconds, 2))
        return seconds

    def run(self) -> None:
        """Run all stages, the most important ones first."""
        self.facts()
        self.make_data()
        self.train("default", ())
        self.predict()
        self.predict_more()
        self.step_rates()
        self.train_in_other_ways()
        self.train_with_timm()
        self.note("done")

    def facts(self) -> None:
        """Note the machine."""
        facts: dict[str, Any] = {"torch": torch.__version__, "cores": os.cpu_count()}
        if torch.cuda.is_available():
            facts |= {"gpu": torch.cuda.get_device_name(), "capability": torch.cuda.get_device_capability()}
        self.note("facts", **facts)

    def make_data(self) -> None:
        """Pack the patches, and balance them."""
        drawn = min(DRAWN, self.n)
        self.histo(f"draw {drawn} patches", "download", "--source", "synthetic", "--n", drawn, "--name", "drawn")
        began = time.monotonic()
        source = ShiftedPatches(self.workspace, self.n)
        pack_source(
            self.workspace, "bench", DownloadConfig("shifted", SyntheticOptions()), source, listener=StrictListener()
        )
        self.note(f"pack {self.n} patches", seconds=round(time.monotonic() - began, 1))
        self.histo("balance", "balance", "--data", "bench", "--n", 160_000 if self.full else "max")

    def train(self, name: str, options: tuple[object, ...]) -> None:
        """Train from start to exit."""
        run, epochs = name.replace(" ", "-"), EPOCHS if self.full else 1
        line = "train", "--epochs", epochs, "--device", self.device, "--name", run, "--seed", 0, *options
        seconds = self.histo(f"train {epochs} epochs, {name}", *line)
        path = self.workspace.run_dir(run) / "history.jsonl"
        if seconds and path.is_file():
            rows = [json.loads(line) for line in path.read_text().splitlines()]
            figures = {
                "patches_per_second": [round(row["patches_per_second"]) for row in rows],
                "seconds": [round(row["seconds"], 2) for row in rows],
                "auc": [round(row["val_auc"], 4) for row in rows],
            }
            self.note(f"epochs, {name}", outside_steps=round(seconds - sum(figures["seconds"]), 1), **figures)

    def step_rates(self) -> None:
        """Time one step: as it is, and over one batch that stays; as a CUDA graph, and eager."""
        for stage, figures in measure_steps(self.device, is_full=self.full):
            self.note(stage, **figures)

    def train_in_other_ways(self) -> None:
        """Train on fewer patches under torchrun, also as two processes on one GPU, compiled, and with other options."""
        few = 20_000 if self.full else 200
        self.histo(f"balance {few}", "balance", "--data", "bench", "--n", few, "--name", "few")
        train = ["train", "--data", "few", "--epochs", 2, "--device", self.device]
        histo, torchrun = ["-m", "histocli", "-w", self.root], [sys.executable, "-m", "torch.distributed.run"]
        single = [*torchrun, "--standalone", "--nproc-per-node", 1, *histo, *train, "--name", "torchrun-1"]
        self.command("torchrun, one process", single)
        two = [*torchrun, "--standalone", "--nproc-per-node", 2, *histo, *train, "--name", "torchrun-2"]
        visible = {"CUDA_VISIBLE_DEVICES": "0"} if self.device == "cuda" else {}
        self.command("torchrun, two processes on one GPU", two, None, HISTO_DISTRIBUTED_BACKEND="gloo", **visible)
        self.histo("train, batch size auto", *train, "--batch-size", "auto", "--name", "auto")
        self.histo("train, batch size 128", *train, "--batch-size", 128, "--name", "b128")
        self.histo("train, resnet18", *train, "--arch", "resnet18", "--name", "resnet18")
        if self.full:
            self.histo("train --compile", *train, "--compile", "--name", "compiled")

    def train_with_timm(self) -> None:
        """Train the same network for two epochs by timm's script, on the TIFFs as an ImageFolder; note its rate."""
        if self.timm is None:
            self.note("timm", skipped="no --timm TRAIN_PY")
            return
        line = [sys.executable, "-m", "benchmarks.timm_train", self.timm, "--data-dir", self.root / "tiffs"]
        line += ["--model", "histonet", "--num-classes", 2, "--input-size", 3, 96, 96, "--epochs", 2]
        line += ["--batch-size", 512 if self.full else 64, "--workers", os.cpu_count() or 1, "--opt", "adamw"]
        line += ["--lr", "0.003", "--warmup-epochs", 0, "--cooldown-epochs", 0, "--vflip", "0.5", "--model-ema"]
        line += ["--scale", "0.7", 1, "--color-jitter", "0.1", "--val-split", "", "--train-split", "train"]
        line += ["--log-interval", 10, "--output", self.root / "timm", "--device", self.device, "--channels-last"]
        line += ["--mean", 0.7, 0.55, 0.7, "--std", 0.24, 0.28, 0.22, "--pin-mem"]
        line += ["--amp", "--amp-dtype", "bfloat16"] if self.device == "cuda" else []
        began = time.monotonic()
        done = subprocess.run(list(map(str, line)), capture_output=True, text=True, check=False)  # logs on stderr
        rates = re.findall(r"Train: 1 .*?\([\d.]+s, +([\d.]+)/s\)", done.stderr)
        rate = float(rates[-1]) if rates else None
        self.note("timm", code=done.returncode, per_second=rate, seconds=round(time.monotonic() - began, 1))

    def predict(self) -> None:
        """Score TIFF files and the packed array."""
        folder, count = self.root / "tiffs", TIFFS if self.full else 200
        for label in "01":
            (folder / "train" / label).mkdir(parents=True)
        edges = np.linspace(0, count, (os.cpu_count() or 1) + 1).astype(int).tolist()
        array = self.workspace.patches_path("bench")
        with ProcessPoolExecutor() as pool:
            list(pool.map(partial(write_tiffs, array, folder), edges[:-1], edges[1:]))
        tiff = folder / "train" / "0" / "000000.tif"
        self.start = self.score("predict 1 TIFF", tiff, 1)
        whole = self.score(f"predict {count} TIFFs", folder, count)
        half = self.score(f"predict {count // 2} TIFFs", folder / "train" / "0", count // 2)
        if whole and half:  # what the second half took, when every process has started
            self.note("predict TIFFs: rate of the second half", per_second=round((count - count // 2) / (whole - half)))

    def predict_more(self) -> None:
        """Score the TIFF files in eight views, and the packed array."""
        count = TIFFS if self.full else 200
        self.score(f"predict {count} TIFFs --tta", self.root / "tiffs", count, "--tta")
        self.score(f"predict {self.n} packed patches", "bench", self.n)

    def score(self, stage: str, inputs: object, count: int, *options: object) -> float | None:
        """Score patches from start to exit; note the rate, with and without the time that one patch takes."""
        line = "predict", inputs, "--ckpt", "default", "--device", self.device, *options
        seconds = self.histo(stage, *line, stdout=self.root / "scores.csv")
        if seconds and count > 1:
            after = seconds - (self.start or 0)
            self.note(f"{stage}: rate", per_second=round(count / seconds), after_start=round(count / after))
        return seconds


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--patches", type=int, default=220_025)
    parser.add_argument("--seconds", type=float, default=400)
    parser.add_argument("--timm", type=Path, help="timm's train.py")
    options = parser.parse_args()
    Bench(options.out, options.device, options.patches, options.seconds, options.timm).run()


if __name__ == "__main__":
    main()
