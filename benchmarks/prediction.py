"""`histo predict` on a folder of TIFFs, the whole process, against its forward passes alone and a plain loop."""

import time
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from benchmarks.data import RUN, BenchmarkData
from benchmarks.pairs import Row, alternate, row
from histocli.compute.device import choose_compute
from histocli.enums import Device, Precision
from histocli.inference.forward import compute_log_odds
from histocli.models.checkpoint import load_checkpoint

BATCH = 256


class Files(Dataset[torch.Tensor]):
    """A data set that reads one image file per sample, as in many tutorials."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(folder.rglob("*.tif"))

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, i: int) -> torch.Tensor:
        pixels = cv2.imread(str(self.paths[i]))
        assert pixels is not None
        pixels = cv2.cvtColor(pixels, cv2.COLOR_BGR2RGB)
        return torch.from_numpy(pixels).permute(2, 0, 1).float() / 255


class Prediction:
    """Ways to score the files of a folder; each method returns how many patches it scores in a second."""

    def __init__(self, data: BenchmarkData) -> None:
        self.data = data
        self.checkpoint = data.workspace.run_dir(RUN) / "best.pt"
        self.compute = choose_compute(Device.AUTO, Precision.AUTO)
        self.model = load_checkpoint(self.checkpoint).build().to(self.compute.device).eval()
        self.pixels = np.load(data.workspace.patches_path("synthetic"), mmap_mode="r")
        self.single_file = next(data.folder.rglob("*.tif"))
        self.out = data.root / "preds.csv"
        self.starts: list[float] = []  # seconds that `predict` takes for a single file

    def predict(self) -> float:
        """Run `histo predict`."""
        rate, start = self._run_command()
        self.starts.append(start)
        return rate

    def predict_exported(self) -> float:
        """Run `histo predict` in a workspace with an ONNX file."""
        return self._run_command("--device", "cpu", "--precision", "fp32", root=self.data.root / "exported")[0]

    def _run_command(self, *options: str, root: Path | None = None) -> tuple[float, float]:
        """Return the patches per second of `histo predict` without its start, and the seconds of its start."""
        start, end = (
            self.data.seconds("predict", "--ckpt", self.checkpoint, *options, files, stdout=self.out, root=root)
            for files in (self.single_file, self.data.folder)
        )
        return self.data.n / (end - start), start

    def compute_scores(self) -> float:
        """Compute the scores of patches in memory."""
        began = time.perf_counter()
        with torch.inference_mode():
            for first in range(0, self.data.n, BATCH):
                patches = torch.from_numpy(np.array(self.pixels[first : first + BATCH]))
                images = patches.permute(0, 3, 1, 2).to(self.compute.device)
                compute_log_odds(self.model, images, self.compute).sigmoid().cpu()
        return self.data.n / (time.perf_counter() - began)

    def predict_in_plain_loop(self) -> float:
        """Read and score the files as many tutorials do."""
        began = time.perf_counter()
        network = load_checkpoint(self.checkpoint).build().eval()
        with torch.no_grad():
            for images in DataLoader(Files(self.data.folder), 64, num_workers=2):
                torch.softmax(network(images), 1)[:, 1].tolist()
        return self.data.n / (time.perf_counter() - began)

    def decode(self) -> float:
        """Read some of the files, without scoring them."""
        paths = Files(self.data.folder).paths[:2000]
        began = time.perf_counter()
        for path in paths:
            cv2.imread(str(path))
        return len(paths) / (time.perf_counter() - began)


def measure(data: BenchmarkData) -> list[Row]:
    """Measure whole processes, minus the time of one that scores a single patch; and the start itself."""
    prediction = Prediction(data)
    data.seconds("export", "--ckpt", prediction.checkpoint, root=data.root / "exported")
    names = {
        f"`histo predict`, {data.n:,} TIFFs": prediction.predict,
        "its forward passes alone": prediction.compute_scores,
        "a plain loop: OpenCV, `DataLoader` with 2 workers": prediction.predict_in_plain_loop,
        "OpenCV decoding them, on one core": prediction.decode,
        "`histo predict` after `histo export`, by ONNX Runtime in fp32 on the CPU": prediction.predict_exported,
    }
    found = alternate(names)
    ours, alone, loop, decoding, onnx = names
    start = "start of `histo predict`, one TIFF"
    found[start] = prediction.starts[1:]
    found["4 s"] = [4.0] * len(prediction.starts[1:])
    return [
        row(found, ours, alone, "patches/s", "at least 0.90"),
        row(found, ours, loop, "patches/s", "at least 3"),
        row(found, ours, decoding, "patches/s"),
        row(found, onnx, alone, "patches/s"),
        row(found, onnx, loop, "patches/s", "at least 3"),
        row(found, start, "4 s", "s", "under 1"),
    ]
