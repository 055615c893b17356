"""Compare this version of `histo` with another checkout: `python -m benchmarks.versions OTHER [--n 10000]`.

Both versions run the same commands as separate processes, in turn, on the same machine, each in a workspace of its own.
Writes `benchmarks/results/versions.json` and prints a table. A ratio above 1 means that this version is faster.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks.data import BenchmarkData
from benchmarks.pairs import Row, alternate, record, row
from histocli.workspace import Workspace

HERE = Path(__file__).parent
ROUNDS = 5
NAMES = {"this": "this version", "other": "the other version"}


@dataclass
class Version:
    """A checkout of `histo` and the workspace that it works in. The methods return rates, so more is better."""

    checkout: Path
    arch: str
    root: Path
    data: BenchmarkData

    def seconds(self, *args: object) -> float:
        """Return how long a command of this version takes from start to exit."""
        line = [sys.executable, "-m", "histocli", "-q", "-w", str(self.root), *map(str, args)]
        environment = {**os.environ, "PYTHONPATH": str(self.checkout)}
        began = time.perf_counter()
        subprocess.run(line, check=True, stdout=subprocess.DEVNULL, env=environment, cwd=self.root)
        return time.perf_counter() - began

    @property
    def download(self) -> tuple[object, ...]:
        """The command that packs the image files."""
        return "download", "--source", "folder", "--from", self.data.folder, "--name", "packed"

    def prepare(self) -> None:
        """Pack and balance the patches, and train for one epoch, so that each command has what it reads."""
        self.root.mkdir()
        self.seconds(*self.download)
        self.seconds("balance", "--n", "max")
        self.seconds("train", "--epochs", 1, "--augment", "none", "--arch", self.arch, "--name", "scored")

    def pack(self) -> float:
        """Return the patches packed per second, with start and exit."""
        return self.data.n / self.seconds(*self.download, "--force")

    def train(self) -> float:
        """Return the patches trained on per second, without start, validation and exit: the second epoch's rate."""
        run = f"timed-{time.time_ns()}"
        self.seconds("train", "--epochs", 2, "--arch", self.arch, "--name", run, "--seed", 0)
        history = Workspace(self.root).run_dir(run) / "history.jsonl"
        return float(json.loads(history.read_text().splitlines()[-1])["patches_per_second"])

    def predict(self) -> float:
        """Return the image files scored per second, with start and exit."""
        return self.data.n / self.seconds("predict", self.data.folder, "--ckpt", "scored")

    def evaluate(self) -> float:
        """Return the packed patches evaluated per second, with start, intervals and exit."""
        return self.data.n / self.seconds("eval", "--ckpt", "scored", "--data", "packed")


def measure(versions: dict[str, Version]) -> list[Row]:
    """Return a row for each command."""
    rows = []
    for name, method in {
        "`train`, the second epoch": Version.train,
        "`predict` on TIFFs, start to exit": Version.predict,
        "`eval` on packed patches, start to exit": Version.evaluate,
        "`download --source folder`, start to exit": Version.pack,
    }.items():
        ways: dict[str, Callable[[], float]] = {
            f"{name}, {NAMES[key]}": partial(method, version) for key, version in versions.items()
        }
        this, other = ways
        rows.append(row(alternate(ways, ROUNDS), this, other, "patches/s", "at least 0.97"))
        print(" | ".join(rows[-1].cells()), flush=True)
    return rows


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--n", type=int, default=10_000, help="synthetic patches to measure on")
    names = "the architectures of this version and of the other"
    parser.add_argument("--arch", nargs=2, default=("histonet-64", "histonet"), help=names)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = BenchmarkData(root / "data", options.n)
        versions = {
            key: Version(checkout.resolve(), options.arch[key == "other"], root / key, data)
            for key, checkout in {"this": HERE.parent, "other": options.other}.items()
        }
        for version in versions.values():
            version.prepare()
        rows = measure(versions)
    commits = {
        key: subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=version.checkout, text=True).strip()
        for key, version in versions.items()
    }
    results = {"commits": commits, "load_after": os.getloadavg()[0], "rows": record(rows)}
    (HERE / "results" / "versions.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
