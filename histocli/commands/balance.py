"""`histo balance`: the balanced subset, split into train and validation, and what it shares with other patches."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from histocli.config import Group, Split
from histocli.data.dataset import open_packed
from histocli.data.groups import OVERLAP, connected_components
from histocli.data.leakage import audit, audited_sets
from histocli.data.manifest import SUBSET_COLUMNS, file_sha256, write_manifest
from histocli.data.overlap_cache import search_overlaps
from histocli.data.overlaps import OnStage, overlap_groups
from histocli.data.splits import clean, draw_balanced, split_by_group, split_random
from histocli.errors import HistoError, UsageError
from histocli.fs import hold
from histocli.reports.balance import (
    BalanceReport,
    PatchCounts,
    SlideCounts,
    SplitCounts,
    write_balance,
)
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

SUBSET = "balanced"


@dataclass(frozen=True)
class BalanceConfig:
    """The options of `histo balance`; `n` None takes the largest balanced subset, `split` None slides where known.

    `audit` searches the overlaps with every packed data set; without it what has been searched is counted.
    """

    data: str
    n: int | None = 160_000
    val_fraction: float = 0.1
    seed: int = 0
    split: Split | None = None
    group: Group | None = None
    audit: bool = False


def balance(
    workspace: Workspace, config: BalanceConfig, on_stage: OnStage = lambda what, done, total: None
) -> BalanceReport:
    """Write `manifests/balanced.csv` and `metrics/balance.json`, and return what the latter holds.

    `on_stage(what, done, total)` is told how a search for overlaps goes, where there is one.

    Raises:
        HistoError: no such data set, too few patches of a class, or slides or hospitals asked for that are not known.
    """
    manifest = _read(workspace, config)
    cleaned, dropped = clean(manifest)
    unit = _unit(config, cleaned)
    sizes = np.bincount(cleaned["label"], minlength=2)
    n = 2 * int(sizes.min()) if config.n is None else config.n
    subset = draw_balanced(cleaned, n, config.seed)
    groups = None
    if config.audit or unit is Split.OVERLAP:
        others = audited_sets(workspace, config.data)[1:] if config.audit else []
        groups = overlap_groups(search_overlaps(workspace, config.data, others, on_stage), len(manifest))
    subset = _split(config, unit, subset, groups)
    sharing = int((subset[OVERLAP] != "").sum()) if unit is Split.OVERLAP else None
    path = workspace.manifest_path(SUBSET)
    report = BalanceReport(
        data=config.data,
        n=n,
        seed=config.seed,
        split=unit.value,
        leaks=unit is Split.RANDOM or (sharing == 0 and not (subset["slide"] != "").any()),
        sharing_pixels=sharing,
        val_fraction=config.val_fraction,
        dropped=dropped,
        available=PatchCounts(int(sizes[0]), int(sizes[1])),
        counts=_counts(subset),
        slides=_slides(subset) if _all_known(cleaned, "slide") else None,
        hospitals=_hospitals(subset) if _all_known(cleaned, "hospital") else None,
        audit=audit(workspace, subset, manifest),
    )
    with hold(workspace.manifests_dir / f".{SUBSET}.lock", SUBSET, wait=True):  # so that both are of one drawing
        workspace.tidy()
        write_manifest(path, subset)
        report = replace(report, manifest_sha256=file_sha256(path))
        write_balance(workspace.metrics_dir / "balance.json", report)
    return report


def _read(workspace: Workspace, config: BalanceConfig) -> "pd.DataFrame":
    """The data set's manifest, with the columns that a subset has besides."""
    if not 0 < config.val_fraction < 1:
        raise UsageError(f"--val-fraction {config.val_fraction} is not between 0 and 1", "0.1 is usual")
    known = workspace.dataset_names()
    if config.data not in known:
        raise HistoError(
            f"there is no data set {config.data!r}",
            f"choose --data from {', '.join(known)}" if known else "histo download makes one",
        )
    _, manifest = open_packed(
        workspace, config.data, ("id", "label", "slide", "hospital", "split", "sha1", "min", "max")
    )
    manifest["data"], manifest["index"] = config.data, range(len(manifest))
    return manifest


def _unit(config: BalanceConfig, cleaned: "pd.DataFrame") -> Split | Group:
    """What stays on one side: what was asked for, else slides where all are known, else what shows the same tissue."""
    if config.group and config.split:
        raise UsageError(f"--group {config.group} and --split {config.split} are two splits", "leave one of them out")
    if config.group and not _all_known(cleaned, config.group):
        raise HistoError(
            f"the hospitals of {config.data} are not known for every patch",
            "they follow from Camelyon16's slide names, which histo download --slides CSV joins",
        )
    if config.split is Split.SLIDE and not _all_known(cleaned, "slide"):
        raise HistoError(
            f"the slides of {config.data} are not known for every patch",
            "histo download --slides CSV joins them; --split overlap keeps together what shows the same tissue",
        )
    return config.group or config.split or (Split.SLIDE if _all_known(cleaned, "slide") else Split.OVERLAP)


def _all_known(rows: "pd.DataFrame", column: str) -> bool:
    return bool(len(rows)) and bool((rows[column] != "").all())


def _split(
    config: BalanceConfig, unit: Split | Group, subset: "pd.DataFrame", groups: "np.ndarray | None"
) -> "pd.DataFrame":
    """Mark the rows `train` and `val`; by overlap, name the group of each that has another patch in it.

    Where ids do not name the pixels, as Kaggle's do, SHA-1s beside them do.
    """
    labels: np.ndarray = subset["label"].to_numpy()
    columns = [*SUBSET_COLUMNS, "sha1"] if (subset["sha1"] != subset["id"]).any() else [*SUBSET_COLUMNS]
    if unit is Split.RANDOM:
        val = split_random(labels, config.val_fraction, config.seed)
    elif unit is Split.OVERLAP and groups is not None:
        ours = groups[subset["index"]]
        alone = np.bincount(ours)[ours] == 1
        subset, columns = subset.assign(**{OVERLAP: np.where(alone, "", ours.astype(str))}), [*columns, OVERLAP]
        together = connected_components(subset).codes if (subset["slide"] != "").any() else ours
        val = split_by_group(together, labels, config.val_fraction, config.seed, "overlap group")
    else:
        val = split_by_group(subset[unit].to_numpy(), labels, config.val_fraction, config.seed, unit)
    return subset.assign(split=np.where(val, "val", "train"))[columns]


def _counts(subset: "pd.DataFrame") -> dict[str, SplitCounts]:
    """Negative and positive patches and slides of each split."""
    counts = {}
    for split, rows in subset.groupby("split", sort=True):
        slides = rows.loc[rows["slide"] != "", "slide"].nunique()
        negative, positive = int((rows["label"] == 0).sum()), int((rows["label"] == 1).sum())
        counts[str(split)] = SplitCounts(negative, positive, int(slides))
    return counts


def _slides(subset: "pd.DataFrame") -> list[SlideCounts]:
    """Each slide's split and counts by class."""
    table = subset.groupby(["slide", "split"], sort=True)["label"].agg(["size", "sum"])
    return [
        SlideCounts(slide, split, int(size - positive), int(positive))
        for (slide, split), size, positive in zip(table.index, table["size"], table["sum"], strict=True)
    ]


def _hospitals(subset: "pd.DataFrame") -> dict[str, list[str]]:
    """The hospitals of each split."""
    return {str(split): sorted(rows["hospital"].unique()) for split, rows in subset.groupby("split", sort=True)}
