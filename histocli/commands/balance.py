"""`histo balance`: the balanced subset, split into train and validation."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from histocli.choices import Split
from histocli.data.manifest import SUBSET_COLUMNS, file_sha256, read_manifest, write_manifest
from histocli.data.splits import clean, draw_balanced, split_by_group, split_random
from histocli.errors import HistoError, UsageError
from histocli.workspace import Workspace, write_json

if TYPE_CHECKING:
    import pandas as pd

SUBSET = "balanced"


@dataclass(frozen=True)
class BalanceConfig:
    """The options of `histo balance`; `n` None takes the largest balanced subset, `split` None slides where known."""

    data: str
    n: int | None = 160_000
    val_fraction: float = 0.1
    seed: int = 0
    split: Split | None = None


def balance(workspace: Workspace, config: BalanceConfig) -> dict[str, Any]:
    """Write `manifests/balanced.csv` and `metrics/balance.json`, and return what the latter holds.

    Raises:
        HistoError: no such data set, too few patches of a class, or slides asked for that are not known.
    """
    if not 0 < config.val_fraction < 1:
        raise UsageError(f"--val-fraction {config.val_fraction} is not between 0 and 1", "0.1 is usual")
    known = workspace.dataset_names()
    if config.data not in known:
        raise HistoError(
            f"there is no data set {config.data!r}",
            f"choose --data from {', '.join(known)}" if known else "histo download makes one",
        )
    source = workspace.manifest_path(config.data)
    manifest = read_manifest(source, ("id", "label", "slide", "hospital", "split", "sha1", "min", "max"))
    manifest["data"], manifest["index"] = config.data, range(len(manifest))
    cleaned, dropped = clean(manifest)
    slides_known = bool(len(cleaned)) and bool((cleaned["slide"] != "").all())
    split = config.split or (Split.SLIDE if slides_known else Split.RANDOM)
    if split is Split.SLIDE and not slides_known:
        raise HistoError(
            f"the slides of {config.data} are not known for every patch",
            "histo download --slides CSV joins them; --split random goes without (and leaks)",
        )
    sizes = np.bincount(cleaned["label"], minlength=2)
    n = 2 * int(sizes.min()) if config.n is None else config.n
    subset = draw_balanced(cleaned, n, config.seed)
    labels: np.ndarray = subset["label"].to_numpy()
    if split is Split.SLIDE:
        val = split_by_group(subset["slide"].to_numpy(), labels, config.val_fraction, config.seed)
    else:
        val = split_random(labels, config.val_fraction, config.seed)
    subset = subset.assign(split=["val" if held else "train" for held in val])[list(SUBSET_COLUMNS)]
    path = workspace.manifest_path(SUBSET)
    write_manifest(path, subset)
    report = {
        "data": config.data,
        "n": n,
        "seed": config.seed,
        "split": split.value,
        "leaks": split is Split.RANDOM,
        "val_fraction": config.val_fraction,
        "dropped": dropped._asdict(),
        "available": {"negative": int(sizes[0]), "positive": int(sizes[1])},
        "counts": _counts(subset),
        "slides": _slides(subset) if slides_known else None,
        "manifest_sha256": file_sha256(path),
    }
    write_json(workspace.metrics_dir / "balance.json", report)
    return report


def _counts(subset: "pd.DataFrame") -> dict[str, dict[str, int]]:
    """Negative and positive patches and slides of each split."""
    counts = {}
    for split, rows in subset.groupby("split", sort=True):
        slides = rows.loc[rows["slide"] != "", "slide"].nunique()
        negative, positive = int((rows["label"] == 0).sum()), int((rows["label"] == 1).sum())
        counts[str(split)] = {"negative": negative, "positive": positive, "slides": int(slides)}
    return counts


def _slides(subset: "pd.DataFrame") -> list[dict[str, Any]]:
    """Each slide's split and counts by class."""
    table = subset.groupby(["slide", "split"], sort=True)["label"].agg(["size", "sum"])
    return [
        {"slide": slide, "split": split, "negative": int(size - positive), "positive": int(positive)}
        for (slide, split), size, positive in zip(table.index, table["size"], table["sum"], strict=True)
    ]
