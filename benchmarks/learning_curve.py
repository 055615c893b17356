"""Measure how the AUC grows with the number of training patches.

    python -m benchmarks.learning_curve ZIP ... --valid ZIP --out FILE

Trains `histonet` on random parts of the patches of the zips, and measures on the patches of `--valid`, which are of
other slides. Each part contains the smaller ones of the same seed. Writes a line of JSON for each training. Prints the
mean AUC for each number of patches and epochs, and an estimate for more patches. If FILE has all trainings already,
only these are printed.
"""

import json
import time
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy import stats

from benchmarks.shift import CANDIDATES, load_data, make_parser, measure_scores, score, train
from histocli.compute.device import apply_compute_settings, choose_compute
from histocli.enums import Precision

RUNS = (
    (2_000, 12),
    (5_000, 12),
    (10_000, 12),
    (20_000, 12),
    (31_157, 12),
    (5_000, 36),
    (31_157, 6),
    (10_000, 36),
    (31_157, 24),
)


ESTIMATED = 144_000  # patches that are trained on after `histo balance --n 160000`
MIN_PATCHES, EPOCHS = 10_000, 12  # of the runs that the estimate uses


def summarise(lines: list[dict[str, Any]]) -> str:
    """Return the table of the AUC for each number of patches and epochs: mean and standard deviation over seeds."""
    rows = ["| patches | epochs | seeds | one view | eight views | log loss, eight views |", "|" + " --- |" * 6]
    for patches, epochs in sorted({(line["patches"], line["epochs"]) for line in lines}):
        runs = [line for line in lines if (line["patches"], line["epochs"]) == (patches, epochs)]
        aucs = [[run[views]["auc"] for run in runs] for views in ("one", "eight")]
        cells = [f"{fmean(each):.4f} ± {stdev(each):.4f}" if len(each) > 1 else f"{each[0]:.4f}" for each in aucs]
        loss = fmean(run["eight"]["log_loss"] for run in runs)
        rows.append(f"| {patches:,} | {epochs} | {len(runs)} | {' | '.join(cells)} | {loss:.3f} |")
    return "\n".join(rows)


def estimate_auc(lines: list[dict[str, Any]], views: str) -> tuple[float, float, float]:
    """Return the AUC with `ESTIMATED` patches, and its 95% interval, if 1 - AUC is a power of the number of patches.

    The interval is that of the fitted line. It says nothing about whether a line is right.
    """
    runs = [line for line in lines if line["patches"] >= MIN_PATCHES and line["epochs"] == EPOCHS]
    x = np.log([run["patches"] for run in runs])
    y = np.log([1 - run[views]["auc"] for run in runs])
    line = stats.linregress(x, y)
    distance = np.log(ESTIMATED) - x.mean()
    residuals = y - line.intercept - line.slope * x
    variance = (residuals**2).sum() / (len(x) - 2) * (1 / len(x) + distance**2 / ((x - x.mean()) ** 2).sum())
    margin = stats.t.ppf(0.975, len(x) - 2) * variance**0.5
    middle = line.intercept + line.slope * np.log(ESTIMATED)
    low, auc, high = (float(1 - np.exp(middle + change)) for change in (margin, 0, -margin))
    return auc, low, high


@apply_compute_settings()
def main() -> None:
    """Train on each part, for each seed, and print the table."""
    options = make_parser(__doc__.splitlines()[0], seeds=3).parse_args()
    out: Path = options.out
    lines = [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []
    done = {(line["patches"], line["epochs"], line["seed"]) for line in lines}
    missing = [(*run, seed) for seed in range(options.seeds) for run in RUNS if (*run, seed) not in done]
    if missing:
        pixels, labels, valid, valid_labels = load_data(options)
        compute = choose_compute(options.device, Precision.AUTO)
    for count, epochs, seed in missing:
        start = time.monotonic()
        rows = np.sort(np.random.default_rng(seed).permutation(len(pixels))[:count])
        model = train(CANDIDATES["histonet"], pixels, rows, labels, seed, compute, epochs)
        figures = measure_scores(valid_labels, score(model, valid, np.arange(len(valid)), compute))
        seconds = time.monotonic() - start
        lines.append({"patches": count, "epochs": epochs, "seed": seed, "seconds": seconds, **figures})
        with out.open("a") as file:
            file.write(json.dumps(lines[-1]) + "\n")
    print(summarise(lines))
    for views in ("one", "eight"):
        auc, low, high = estimate_auc(lines, views)
        print(f"{ESTIMATED:,} patches, {views} view(s): AUC {auc:.4f} (95% interval {low:.4f} to {high:.4f})")


if __name__ == "__main__":
    main()
