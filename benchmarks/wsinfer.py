"""WSInfer with a network of histo, beside `histo predict`: CPU seconds of both commands, and how their scores differ.

    python -m venv VENV && VENV/bin/pip install wsinfer 'zarr<3' 'tiffslide<3' openslide-python openslide-bin
    OMP_NUM_THREADS=1 python -m benchmarks.wsinfer VENV/bin/python SLIDE [--ckpt histonet-pcam] [--repeats 2]

wsinfer 0.6.1 needs these older packages. When it is imported it fetches the list of published models from a hub; this
list is not read, because only the exported network is run. Each command is a whole process, with its start.
"""

import argparse
import os
import resource
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

_RUN = """
import sys
from types import SimpleNamespace
import wsinfer_zoo.client
wsinfer_zoo.client.load_registry = lambda *a, **k: SimpleNamespace(models={"none": None})
from wsinfer.cli.cli import cli
cli(sys.argv[1:])
"""
_SQUARE = ["x", "y", "width", "height"]


def main() -> None:
    """Measure, and print a line for each command and one for the scores."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("python", help="the Python in whose environment wsinfer is installed")
    parser.add_argument("slide", type=Path)
    parser.add_argument("--ckpt", default="histonet-pcam")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    histo = [sys.executable, "-m", "histocli"]
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "slides").mkdir()
        (folder / "slides" / options.slide.name).symlink_to(options.slide.resolve())
        network = folder / "network"
        seconds([*histo, "export", "--ckpt", options.ckpt, "--format", "wsinfer", "--out", str(network)])
        ours, theirs = [], []
        for number in range(options.repeats):
            out, results = folder / f"histo-{number}", folder / f"wsinfer-{number}"
            predict = ["predict", str(options.slide), "--ckpt", options.ckpt, "--out", str(out)]
            ours.append(seconds([*histo, *predict, "--device", "cpu"]))
            run = ["--backend", "openslide", "run", "--wsi-dir", str(folder / "slides"), "--results-dir", str(results)]
            model = ["--model-path", str(network / "torchscript_model.pt"), "--config", str(network / "config.json")]
            theirs.append(seconds([options.python, "-c", _RUN, *run, *model, "--num-workers", "1"]))
        compare(out / options.slide.stem / "scores.csv", next((results / "model-outputs-csv").iterdir()), ours, theirs)


def seconds(command: list[str]) -> float:
    """Return the CPU seconds (user and system) of a command and its children; raise an error if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"WSINFER_FORCE_CPU": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def compare(path: Path, other: Path, ours: list[float], theirs: list[float]) -> None:
    """Print the times, and the difference of the scores of the squares that both scored."""
    scores = pd.read_csv(path)
    others = pd.read_csv(other).rename(columns={"minx": "x", "miny": "y"})
    for name, table, times in (("histo predict", scores, ours), ("wsinfer run", others, theirs)):
        print(f"{name:14} {len(table):,} squares, CPU seconds: {', '.join(f'{time:.1f}' for time in times)}")
    both = scores.merge(others, on=_SQUARE)
    difference = np.abs(both["probability"] - both["prob_Tumor"])
    print(f"{len(both):,} equal squares: the scores differ by {difference.mean():.2g}, at most {difference.max():.2g}")


if __name__ == "__main__":
    main()
