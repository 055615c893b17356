"""Run every benchmark whose result is a ratio: `make bench`, or `python -m benchmarks.bench [PART ...]`.

Writes `benchmarks/results/<machine>.json` and the table in `benchmarks/README.md`. Parts: training, prediction,
packing, balancing, statistics, memory; without any, all of them.
"""

import argparse
import json
import os
import platform
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks import memory, prediction, tables, training
from benchmarks.data import BenchmarkData
from benchmarks.pairs import PAIRS, Row, record
from histocli.compute.device import apply_compute_settings
from histocli.threads import count_threads
from histocli.training.provenance import find_git_commit, find_versions

HERE = Path(__file__).parent
BEGIN, END = "<!-- results -->", "<!-- end of results -->"
PATCHES = 10_000
PARTS: dict[str, Callable[[BenchmarkData], list[Row]]] = {
    "training": training.measure,
    "prediction": prediction.measure,
    "packing": tables.packing,
    "balancing": lambda data: tables.balancing(data.root),
    "statistics": lambda data: tables.statistics(),
    "memory": lambda data: memory.rows(3 * data.n // 10, data.root),
}


def processor() -> str:
    """Return the name of the processor, and of the GPU if there is one."""
    info = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", info.read_text()) if info.is_file() else None
    name = named[1] if named else platform.processor() or platform.machine()
    return f"{name}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else name


def machine() -> dict[str, object]:
    """Return a description of this machine and its versions."""
    return {
        "processor": processor(),
        "threads": count_threads(),
        "versions": find_versions(),
        "load_before": os.getloadavg()[0],
        "pairs": PAIRS,
    }


def table(results: dict[str, object]) -> str:
    """Return the results as the table of the README."""
    head = ["measured", "compared with", "value", "value compared with", "unit", "ratio: median (range)", "aim"]
    lines = [head, ["---"] * len(head)]
    for part in results["parts"].values():  # type: ignore[attr-defined]
        lines += [Row(**each).cells() for each in part]
    facts = results["machine"]
    about = f"{facts['processor']}, {facts['threads']} threads; " + ", ".join(  # type: ignore[index]
        f"{name} {version}"
        for name, version in facts["versions"].items()  # type: ignore[index]
    )
    commits: dict[str, list[str]] = {}
    for part, commit in results["commits"].items():  # type: ignore[attr-defined]
        commits.setdefault(str(commit)[:12], []).append(part)
    measured = "; ".join(f"{', '.join(parts)} at commit {commit}" for commit, parts in commits.items())
    heading = f"{about}. {PAIRS} pairs of each, in turn. Measured {measured}."
    return "\n".join([heading, "", *(f"| {' | '.join(cells)} |" for cells in lines)])


@apply_compute_settings()
def main() -> None:
    """Run the benchmarks, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--n", type=int, default=PATCHES, help="synthetic patches to measure on")
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        raise SystemExit(f"there is no part {', '.join(unknown)}: choose of {', '.join(PARTS)}")
    name = re.sub(r"[^a-z0-9]+", "-", f"{processor()}-{count_threads()}-threads".lower()).strip("-")
    file = HERE / "results" / f"{name}.json"
    before = json.loads(file.read_text()) if file.is_file() and options.parts else {"parts": {}, "commits": {}}
    commit = find_git_commit()  # of the code that is loaded, whatever is committed meanwhile
    results = {"machine": machine(), **{key: before[key] for key in ("parts", "commits")}}
    with tempfile.TemporaryDirectory() as folder:
        print(f"making {options.n:,} patches", flush=True)
        data = BenchmarkData(Path(folder), options.n)
        for part in options.parts or PARTS:
            print(f"measuring {part}", flush=True)
            rows = PARTS[part](data)
            results["parts"][part], results["commits"][part] = record(rows), commit
            for each in rows:
                print("  " + " | ".join(each.cells()), flush=True)
            file.parent.mkdir(exist_ok=True)
            file.write_text(json.dumps(results, indent=2) + "\n")
            write_table(results)


def write_table(results: dict[str, object]) -> None:
    """Replace the table in the README."""
    readme = HERE / "README.md"
    text = readme.read_text()
    before, rest = text.split(BEGIN)
    readme.write_text(f"{before}{BEGIN}\n{table(results)}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
