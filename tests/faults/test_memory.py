"""Memory: constant for any number of patches; and without enough memory, an error with a hint."""

import csv
import io
import os
import re
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from histocli.models import create_model
from histocli.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from tests.cli import REPOSITORY
from tests.faults.conftest import TINY
from tests.faults.processes import ALONE, Process, histo
from tests.faults.trees import tree

MIB = 1 << 20
PREDICT = ["predict", "--ckpt", "first", "--device", "cpu"]


LITTLE = 150 * MIB  # for one forward pass of 64 patches it is too little


def sparse(path, shape):
    """Write a sparse array of zeros, which takes no space on the disk."""
    np.lib.format.open_memmap(path, "w+", np.uint8, shape)
    return path


def peak(process):
    """Return the peak anonymous memory of a process, which does not include the page cache of mapped arrays."""
    highest = 0
    status = f"/proc/{process.pid}/status"
    while process.alive():
        with open(status) as file:  # noqa: PTH123
            found = re.search(r"RssAnon:\s+(\d+) kB", file.read())
        highest = max(highest, int(found[1]) * 1024 if found else 0)
        time.sleep(0.002)
    assert process.wait() == 0, process.stderr
    return highest


linux = pytest.mark.skipif(sys.platform != "linux", reason="anonymous memory is read from /proc")


@linux
def test_an_array_ten_times_as_long_takes_no_more_memory(root, tmp_path):
    """Arrays of 90 MB and 900 MB, of which only a few batches are in memory at a time."""
    small, large = (sparse(tmp_path / f"{n}.npy", (n, 1024, 1024, 3)) for n in (30, 300))
    peaks = [peak(Process(root, *PREDICT, path, "--batch-size", 8)) for path in (small, large)]
    assert peaks[0] > 50 * MIB, peaks  # the memory was measured
    assert peaks[1] - peaks[0] < 60 * MIB, peaks


@linux
def test_a_list_of_paths_ten_times_as_long_takes_no_more_memory(root, tmp_path):
    image, pixels = tmp_path / "large.png", np.random.default_rng(0).integers(0, 256, (1000, 1000, 3), np.uint8)
    image.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    peaks = []
    for n in (20, 200):
        listed = tmp_path / f"{n}"
        listed.write_text(f"{image}\n" * n)
        peaks.append(peak(Process(root, *PREDICT, "-", "--batch-size", 8, stdin=listed)))
    assert peaks[0] > 50 * MIB, peaks  # the memory was measured
    assert peaks[1] - peaks[0] < 60 * MIB, peaks


@pytest.fixture
def wide(tmp_path):
    """Rows enough for two forward passes."""
    return sparse(tmp_path / "wide.npy", (72, 96, 96, 3))


@pytest.fixture
def hungry(root):
    """The options for a network that takes far more memory than the default."""
    model = create_model("p4m-densenet")
    save_checkpoint(Checkpoint(model.arch, model.state_dict(), "hungry", 1, {}, {}, "ab" * 32), root / "hungry.pt")
    return ["predict", "--ckpt", root / "hungry.pt", "--device", "cpu", "--precision", "fp32"]


def test_too_large_a_batch_is_an_error_that_suggests_a_smaller_one(root, wide, hungry):
    process = histo(root, *hungry, wide, "--batch-size", 64, code=1, limits={"memory": LITTLE})
    assert "error: there is not enough memory for 64 patches at a time" in process.stderr
    assert "hint: use --batch-size 32, or --batch-size auto" in process.stderr
    assert "Traceback" not in process.stderr


def test_auto_halves_the_batch_until_it_fits(root, wide, hungry):
    process = histo(root, *hungry, wide, "--batch-size", "auto", limits={"memory": LITTLE})
    rows = list(csv.DictReader(io.StringIO(process.stdout)))
    assert [row["id"] for row in rows] == [str(i) for i in range(72)]
    enough = histo(root, *hungry, wide)
    assert [float(row["label"]) for row in rows] == pytest.approx(
        [float(row["label"]) for row in csv.DictReader(io.StringIO(enough.stdout))], abs=2e-6
    )


def test_training_without_enough_memory_is_an_error_and_leaves_no_run(root):
    histo(root, "download", "--source", "synthetic", "--n", 400, "--name", "more")
    histo(root, "balance", "--data", "more", "--n", "max", "--val-fraction", 0.2)
    line = ["train", "--device", "cpu", "--epochs", 1, "--name", "large", "--arch", "p4m-densenet"]  # takes gigabytes
    before = tree(root / "checkpoints")
    process = histo(root, *line, "--batch-size", 128, code=1, limits={"memory": 300 * MIB})
    assert "error: there is not enough memory for 128 patches at a time" in process.stderr
    assert "hint: use --batch-size 64, or --batch-size auto" in process.stderr
    assert tree(root / "checkpoints") == before


def test_auto_keeps_the_default_batch_if_it_fits(root):
    histo(root, *["train", *TINY, "--epochs", 1, "--batch-size", "auto", "--name", "auto"])
    histo(root, *["train", *TINY, "--epochs", 1, "--batch-size", 128, "--name", "usual"])
    first, second = (load_checkpoint(root / "runs" / name / "best.pt") for name in ("auto", "usual"))
    assert first.config["batch_size"] == second.config["batch_size"] == 128
    assert tree(root / "runs" / "auto")["best.pt"]["model"] == tree(root / "runs" / "usual")["best.pt"]["model"]


@pytest.mark.parametrize("value", ["0", "-1", "half", "1.5"])
def test_an_invalid_batch_size_is_refused(root, value):
    assert "--batch-size" in histo(root, *PREDICT, "synthetic", "--batch-size", value, code=2).stderr


DECODE_WITH_LITTLE_MEMORY = """
import resource, sys
from pathlib import Path
from histocli.images.decode import decode
data = Path(sys.argv[1]).read_bytes()
decode(Path(sys.argv[2]).read_bytes(), "small")  # the libraries are loaded
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (8 << 20),) * 2)
try:
    decode(data, "large")
except MemoryError:
    print("memory is short")
"""


@pytest.mark.attack
@linux
@pytest.mark.parametrize("suffix", [".png", ".jpg", ".jp2", ".webp", ".bmp", ".tif"])
def test_an_image_for_which_memory_is_short_is_not_called_damaged(tmp_path, suffix):
    pixels = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)
    paths = [tmp_path / f"{name}{suffix}" for name in ("large", "small")]
    for path, image in zip(paths, (pixels, pixels[:96, :96]), strict=True):
        path.write_bytes(cv2.imencode(suffix, image)[1].tobytes())
    line = [sys.executable, "-c", DECODE_WITH_LITTLE_MEMORY, *map(str, paths)]
    process = subprocess.run(line, capture_output=True, text=True, env=os.environ | ALONE, cwd=REPOSITORY)
    assert process.stdout == "memory is short\n", process.stderr
