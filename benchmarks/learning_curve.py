"""Measure how the AUC grows with the number of training patches.

    python -m benchmarks.learning_curve ZIP ... --valid ZIP --out FILE

Trains `histonet` on random parts of the patches of the zips, and measures on the patches of `--valid`, which are of
other slides. Each part contains the smaller ones of the same seed. Writes a line of JSON for each training.
"""

import json
import time

import numpy as np

from benchmarks.shift import CANDIDATES, load_data, make_parser, measure_scores, score, train
from histocli.compute.device import choose_compute, compute_settings
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


@compute_settings()
def main() -> None:
    """Train on each part, for each seed."""
    options = make_parser(__doc__.splitlines()[0], seeds=3).parse_args()
    pixels, labels, valid, valid_labels = load_data(options)
    compute = choose_compute(options.device, Precision.AUTO)
    for seed in range(options.seeds):
        order = np.random.default_rng(seed).permutation(len(pixels))
        for count, epochs in RUNS:
            start = time.monotonic()
            rows = np.sort(order[:count])
            model = train(CANDIDATES["histonet"], pixels, rows, labels, seed, compute, epochs)
            figures = measure_scores(valid_labels, score(model, valid, np.arange(len(valid)), compute))
            line = {
                "patches": len(rows),
                "epochs": epochs,
                "seed": seed,
                "seconds": time.monotonic() - start,
                **figures,
            }
            print(json.dumps(line), flush=True)
            with options.out.open("a") as file:
                file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
