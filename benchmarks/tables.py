"""Measure packing, balancing, and the statistics of an evaluation."""

import time
from collections.abc import Callable, Iterable
from functools import partial
from hashlib import sha1
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from sklearn import metrics as sk

from benchmarks.data import BenchmarkData
from benchmarks.pairs import Row, alternate, row
from histocli.atomic import write_json
from histocli.commands.balance import balance
from histocli.config import BalanceConfig
from histocli.metrics import Clusters, estimate_uncertainty, evaluate
from histocli.threads import count_threads
from histocli.workspace import Workspace

KAGGLE_TRAIN, KAGGLE_TEST = 220_025, 57_458
REAL = Path(__file__).parents[2] / "shared" / "data"


def time_call(work: Callable[[], object]) -> Callable[[], float]:
    """Return the seconds that `work` takes."""

    def run() -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    return run


def _call_for_each(function: Callable[[Any], object], values: Iterable[object]) -> None:
    """Call a function with each of the values."""
    for value in values:
        function(value)


def packing(data: BenchmarkData) -> list[Row]:
    """Compare packing a folder (and real patches, if available) with reading its bytes."""
    places = {f"a folder of {data.n:,} TIFFs": data.folder}
    if (REAL / "pcam_train_1.zip").is_file():
        places["the JPEGs of pcam_train_1.zip"] = REAL / "pcam_train_1.zip"
    rows: list[Row] = []
    for what, place in places.items():
        files = sorted(p for p in place.rglob("*") if p.is_file()) if place.is_dir() else [place]
        ways = {
            f"packing {what}": time_call(
                partial(data.seconds, "download", "--source", "folder", "--from", place, "--force")
            ),
            "reading the same bytes": time_call(partial(_call_for_each, Path.read_bytes, files)),
        }
        if place.is_dir():
            ways["decoding them with OpenCV, on one core"] = time_call(
                partial(_call_for_each, cv2.imread, list(map(str, files)))
            )
        found = alternate(ways)
        ours, *others = ways
        rows += [row(found, ours, other, "s") for other in others]
    return rows


def balancing(root: Path) -> list[Row]:
    """Compare `histo balance` on a manifest of Kaggle's size with reading and writing the CSV by pandas."""
    workspace = Workspace(root / "large")
    rng = np.random.default_rng(0)
    n = KAGGLE_TRAIN
    manifest = workspace.manifest_path("large")
    manifest.parent.mkdir(parents=True)
    patches = workspace.patches_path("large")
    patches.parent.mkdir(parents=True)
    pixels = np.lib.format.open_memmap(patches, "w+", np.uint8, (n, 96, 96, 3))  # sparse: a few bytes in each patch
    pixels[:, 0, 0] = rng.integers(0, 256, (n, 3))
    pixels[:, 0, 1:3] = np.arange(n, dtype=np.uint32).view(np.uint8).reshape(n, 1, 4)[..., :3]
    write_json(workspace.dataset_path("large"), {"name": "large", "source": "folder", "patches": n, "sha256": "0" * 64})
    pd.DataFrame(
        {
            "id": [f"{i:040x}" for i in rng.integers(0, 2**62, n)],
            "label": (rng.random(n) < 0.405).astype(int),
            "slide": [f"slide_{i}" for i in rng.integers(0, 200, n)],
            "hospital": "",
            "split": "train",
            "sha1": [sha1(patch.tobytes(), usedforsecurity=False).hexdigest() for patch in pixels],
            "min": rng.integers(0, 100, n),
            "max": rng.integers(150, 256, n),
        }
    ).to_csv(manifest, index=False)
    copy = root / "copy.csv"
    ways = {
        f"`balance` of {n:,} rows": time_call(lambda: balance(workspace, BalanceConfig(data="large"))),
        "pandas reading and writing the same CSV": time_call(lambda: pd.read_csv(manifest).to_csv(copy, index=False)),
    }
    ours, theirs = ways
    return [row(alternate(ways), ours, theirs, "s", "under 2")]


def statistics() -> list[Row]:
    """Compare all metrics of an evaluation with intervals with scikit-learn's functions without intervals."""
    rng = np.random.default_rng(0)
    n = KAGGLE_TEST
    labels = rng.integers(0, 2, n)
    probs = 1 / (1 + np.exp(-1.7 * (2 * labels - 1) - 1.5 * rng.normal(size=n)))
    slides = Clusters("slide", rng.integers(0, 200, n), 200)
    figures = evaluate(labels, probs).metrics

    def plain() -> None:
        called = probs >= 0.5
        for metric in (sk.roc_auc_score, sk.average_precision_score, sk.brier_score_loss, sk.log_loss):
            metric(labels, probs)
        for metric in (sk.accuracy_score, sk.balanced_accuracy_score, sk.f1_score, sk.matthews_corrcoef):
            metric(labels, called)
        sk.confusion_matrix(labels, called)
        sk.roc_curve(labels, probs)
        sk.precision_recall_curve(labels, probs)

    ways = {
        f"`evaluate`, {len(figures)} metrics and curves of {n:,} scores": time_call(lambda: evaluate(labels, probs)),
        "scikit-learn's own calls": time_call(plain),
        "2,000 resamples of them by patch": time_call(
            lambda: estimate_uncertainty(labels, probs, figures, threads=count_threads())
        ),
        "2,000 resamples of them by slide": time_call(
            lambda: estimate_uncertainty(labels, probs, figures, clusters=slides, threads=count_threads())
        ),
    }
    found = alternate(ways)
    ours, theirs, make_patch_clusters, by_slide = ways
    found["5 s"] = [5.0] * len(found[ours])
    return [
        row(found, ours, theirs, "s"),
        row(found, make_patch_clusters, "5 s", "s", "under 1"),
        row(found, by_slide, "5 s", "s", "under 1"),
    ]
