"""Measure the peak anonymous memory of download, train and predict on n and on 10 n patches (Linux).

Anonymous memory does not include the page cache, through which the packed array is mapped. One
pair: `python -m benchmarks.bench memory`.
"""

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.data import write_tiffs
from benchmarks.pairs import Row


def measure_anonymous(process: int | str = "self") -> float:
    """Return the anonymous memory (RssAnon) of a process in MB; the default is this process."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def run_and_measure(command: list[str], interval: float = 0.05, stdin: Path | None = None) -> tuple[float, list[float]]:
    """Run a command to its end; return its seconds, and its anonymous memory in MB at each interval."""
    start, memory = time.perf_counter(), [0.0]
    with (stdin or Path(os.devnull)).open("rb") as source, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(command, stdin=source, stdout=subprocess.DEVNULL, stderr=errors)
        while process.poll() is None:
            memory.append(measure_anonymous(process.pid))
            time.sleep(interval)
        if process.returncode:
            errors.seek(0)
            raise SystemExit(f"{' '.join(command)} failed: {errors.read().decode()}")
    return time.perf_counter() - start, memory


def measure(n: int, folder: Path) -> dict[str, float]:
    """Peaks of the three commands on n synthetic patches; a TIFF folder of them is what predict reads."""
    folder.mkdir()
    histo = [sys.executable, "-m", "histocli", "--workspace", str(folder)]
    peaks = {"download": max(run_and_measure([*histo, "download", "--source", "synthetic", "--n", str(n)])[1])}
    subprocess.run([*histo, "--quiet", "balance", "--n", "max"], check=True)
    peaks["train"] = max(run_and_measure([*histo, "train", "--epochs", "1"])[1])
    images = folder / "patches"
    packed = folder / "data" / "synthetic" / "patches.npy"
    write_tiffs(packed, [images] * len(np.load(packed, mmap_mode="r")))
    peaks["predict"] = max(run_and_measure([*histo, "predict", str(images), "--out", str(folder / "preds.csv")])[1])
    return peaks


def rows(n: int, folder: Path) -> list[Row]:
    """Measure n and 10 n patches in folders of their own; a row for each command."""
    small, large = (measure(count, folder / f"memory-{count}") for count in (n, 10 * n))
    return [
        Row(
            what=f"peak memory of `{command}` on {10 * n:,} patches, without the page cache",
            against=f"on {n:,} patches",
            unit="MB",
            ours=large[command],
            theirs=peak,
            ratio=large[command] / peak,
            lowest=large[command] / peak,
            highest=large[command] / peak,
            goal="at most 1.05",
        )
        for command, peak in small.items()
    ]
