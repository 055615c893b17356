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


def measure(data: BenchmarkData) -> list[Row]:
    """Measure whole processes, minus the time of one that scores a single patch; and the start itself."""
    checkpoint = data.workspace.run_dir(RUN) / "best.pt"
    compute = choose_compute(Device.AUTO, Precision.AUTO)
    model = load_checkpoint(checkpoint).build().to(compute.device).eval()
    pixels = np.load(data.workspace.patches_path("synthetic"), mmap_mode="r")
    one = next(data.folder.rglob("*.tif"))
    out = data.root / "preds.csv"
    starts: list[float] = []

    def whole() -> float:
        starts.append(data.seconds("predict", one, "--ckpt", checkpoint, stdout=out))
        return data.n / (data.seconds("predict", data.folder, "--ckpt", checkpoint, stdout=out) - starts[-1])

    def measure_exported() -> float:
        line = ("predict", "--ckpt", checkpoint, "--device", "cpu", "--precision", "fp32")
        start, end = (data.seconds(*line, what, stdout=out, root=data.root / "exported") for what in (one, data.folder))
        return data.n / (end - start)

    def forward() -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            for first in range(0, data.n, BATCH):
                images = (
                    torch.from_numpy(np.array(pixels[first : first + BATCH])).permute(0, 3, 1, 2).to(compute.device)
                )
                compute_log_odds(model, images, compute).sigmoid().cpu()
        return data.n / (time.perf_counter() - began)

    def plain() -> float:
        began = time.perf_counter()
        network = load_checkpoint(checkpoint).build().eval()
        with torch.no_grad():
            for images in DataLoader(Files(data.folder), 64, num_workers=2):
                torch.softmax(network(images), 1)[:, 1].tolist()
        return data.n / (time.perf_counter() - began)

    def decode() -> float:
        files = Files(data.folder)
        began = time.perf_counter()
        for path in files.paths[:2000]:
            cv2.imread(str(path))
        return 2000 / (time.perf_counter() - began)

    data.seconds("export", "--ckpt", checkpoint, root=data.root / "exported")
    names = {
        f"`histo predict`, {data.n:,} TIFFs": whole,
        "its forward passes alone": forward,
        "a plain loop: OpenCV, `DataLoader` with 2 workers": plain,
        "OpenCV decoding them, on one core": decode,
        "`histo predict` after `histo export`, by ONNX Runtime in fp32 on the CPU": measure_exported,
    }
    found = alternate(names)
    ours, alone, loop, decoding, onnx = names
    found["start of `histo predict`, one TIFF"] = starts[1:]
    found["4 s"] = [4.0] * len(starts[1:])
    return [
        row(found, ours, alone, "patches/s", "at least 0.90"),
        row(found, ours, loop, "patches/s", "at least 3"),
        row(found, ours, decoding, "patches/s"),
        row(found, onnx, alone, "patches/s"),
        row(found, onnx, loop, "patches/s", "at least 3"),
        row(found, "start of `histo predict`, one TIFF", "4 s", "s", "under 1"),
    ]
