"""Measure 2,000 resamples of 57,458 scores with all metrics; compare with code that sorts each resample.

    python benchmarks/intervals.py [PATCHES]

The other code computes only the AUC, with scikit-learn, on a hundredth of the resamples.
"""

import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np
from sklearn.metrics import roc_auc_score

from histocli.metrics import Clusters, estimate_uncertainty, evaluate, make_patch_clusters
from histocli.metrics.intervals import REPLICATES
from histocli.threads import count_threads

KAGGLE = 57_458  # patches in Kaggle's test set
SLIDES = 200
SORTED = REPLICATES // 100


def measure_seconds(compute: Callable[[], object]) -> tuple[float, float]:
    """Return the wall time and the processor time of `compute`, in seconds."""
    clock, processor = time.perf_counter(), time.process_time()
    compute()
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    """Print one line for each method."""
    n = int(sys.argv[1]) if len(sys.argv) > 1 else KAGGLE
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n)
    probs = 1 / (1 + np.exp(-1.7 * (2 * labels - 1) - 1.5 * rng.normal(size=n)))
    metrics = evaluate(labels, probs).metrics
    threads = count_threads()
    for clusters in (make_patch_clusters(n), Clusters("slide", rng.integers(0, SLIDES, n), SLIDES)):
        clock, processor = measure_seconds(
            partial(estimate_uncertainty, labels, probs, metrics, clusters=clusters, threads=threads)
        )
        what = f"{REPLICATES:,} resamples of {n:,} patches by {clusters.by}, {len(metrics)} metrics, {threads} threads"
        print(f"{what}: {clock:.1f} s ({processor:.1f} s of processor time)")

    def sort_each() -> None:
        for _ in range(SORTED):
            drawn = rng.integers(0, n, n)
            roc_auc_score(labels[drawn], probs[drawn])

    clock, processor = (seconds * REPLICATES / SORTED for seconds in measure_seconds(sort_each))
    print(f"the AUC alone, sorted anew each time: {clock:.0f} s ({processor:.0f} s), from {SORTED} resamples")


if __name__ == "__main__":
    main()
