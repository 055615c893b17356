"""Peak anonymous memory of download, train and predict on n and on 10 n patches (Linux).

Anonymous memory leaves out the page cache, through which the packed array is mapped: it is what a process cannot give
back. `python benchmarks/memory.py [n]` prints a Markdown table.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def peak_anonymous(command: list[str]) -> int:
    """Run a command to its end and return the highest RssAnon seen, in bytes, looking twenty times a second."""
    peak = 0
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    status = Path(f"/proc/{process.pid}/status")
    while process.poll() is None:
        found = re.search(r"RssAnon:\s+(\d+) kB", status.read_text())
        peak = max(peak, int(found[1]) * 1024 if found else 0)
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed: {process.stderr.read().decode()}")
    return peak


def measure(n: int, folder: Path) -> dict[str, int]:
    """Peaks of the three commands on n synthetic patches; a TIFF folder of them is what predict reads."""
    histo = [sys.executable, "-m", "histocli", "--workspace", str(folder)]
    peaks = {"download": peak_anonymous([*histo, "download", "--source", "synthetic", "--n", str(n)])}
    subprocess.run([*histo, "--quiet", "balance", "--n", "max"], check=True)
    peaks["train"] = peak_anonymous([*histo, "train", "--epochs", "1"])
    images = folder / "patches"
    write_tiffs(folder / "data" / "synthetic" / "patches.npy", images)
    peaks["predict"] = peak_anonymous([*histo, "predict", str(images), "--out", str(folder / "preds.csv")])
    return peaks


def write_tiffs(array: Path, folder: Path) -> None:
    """Write every patch of a packed array as a TIFF, as Kaggle's are."""
    import cv2
    import numpy as np

    folder.mkdir()
    for i, pixels in enumerate(np.load(array, mmap_mode="r")):
        cv2.imwrite(str(folder / f"{i:07d}.tif"), pixels[:, :, ::-1])


def main() -> None:
    """Measure n and 10 n, and print both with their ratio."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000
    with tempfile.TemporaryDirectory() as small, tempfile.TemporaryDirectory() as large:
        one, ten = measure(n, Path(small)), measure(10 * n, Path(large))
    print(f"| peak anonymous memory | {n:,} patches | {10 * n:,} patches | ratio |\n| --- | --- | --- | --- |")
    for command, peak in one.items():
        print(f"| {command} | {peak / 1e6:.0f} MB | {ten[command] / 1e6:.0f} MB | {ten[command] / peak:.2f} |")


if __name__ == "__main__":
    main()
