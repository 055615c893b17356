"""`histo balance`: draw a balanced subset, split it into train and validation, and count what leaks."""

import re
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histocli.config import SUBSET, BalanceConfig
from histocli.data.appearance import NAMES as GROUP_NAMES
from histocli.data.appearance import appearance_groups
from histocli.data.dataset import open_packed
from histocli.data.groups import OVERLAP, connected_components
from histocli.data.leakage import audit, find_leaking, names_to_audit
from histocli.data.manifest import SUBSET_COLUMNS, file_sha256, write_manifest
from histocli.data.overlap_cache import search_overlaps
from histocli.data.overlaps import OnStage, overlap_groups
from histocli.data.splits import (
    HELD_OUT,
    VALIDATION,
    draw_balanced,
    draw_by_split,
    drop_unusable,
    split_by_group,
    split_random,
)
from histocli.enums import Group, Split
from histocli.errors import HistoError, UsageError
from histocli.fs import hold
from histocli.reports.balance import (
    BalanceReport,
    DroppedPatches,
    PatchCounts,
    SlideCounts,
    SplitCounts,
    write_balance,
)
from histocli.workspace import Workspace, read_json

if TYPE_CHECKING:
    import pandas as pd

_COMPARED_SLIDES = 30_000  # patches up to which slides are compared with overlapping pixels unasked: about 10 seconds


def balance(
    workspace: Workspace, config: BalanceConfig, on_stage: OnStage = lambda what, done, total: None
) -> BalanceReport:
    """Draw a balanced subset, write it to `manifests/NAME.csv` and a report to `metrics/`, and return the report.

    `on_stage(what, done, total)` is called during the search for overlaps.

    Raises:
        HistoError: the data set does not exist, a class has too few patches, or the split needs slides or hospitals
            that are not known.
    """
    data = config.data or default_dataset(workspace)
    _check_options(workspace, config)
    manifest = _read_manifest(workspace, data)
    by_folders = _keeps_own_splits(workspace, config, data, manifest)
    own_splits = {"", "train"} | VALIDATION
    cleaned, dropped = drop_unusable(
        manifest, frozenset(set(manifest["split"]) - own_splits) if by_folders else HELD_OUT
    )
    unit = Split.FOLDERS if by_folders else _choose_unit(config, data, cleaned)
    others = names_to_audit(workspace, data)[1:] if config.audit or config.drop_leaks else []
    if config.drop_leaks:
        search_overlaps(workspace, data, others, on_stage)
        is_leaking = find_leaking(workspace, data, manifest)[cleaned["index"]]
        is_leaking &= ~cleaned["split"].isin(VALIDATION).to_numpy()  # of two splits that overlap, train is reduced
        cleaned, dropped = cleaned[~is_leaking], replace(dropped, leaking=int(is_leaking.sum()))
    sizes = np.bincount(cleaned["label"], minlength=2)
    if not sizes.all():
        raise _classes_error(data, sizes, dropped)
    if by_folders:
        cleaned = cleaned.assign(split=np.where(cleaned["split"].isin(VALIDATION), "val", "train"))
        subset = draw_by_split(cleaned, config.n, config.seed)
    else:
        subset = draw_balanced(cleaned, 2 * int(sizes.min()) if config.n is None else config.n, config.seed)
    if unit is Group.APPEARANCE:
        subset = _add_appearance(workspace, data, subset)
    groups = None
    is_small = unit is Split.SLIDE and len(manifest) <= _COMPARED_SLIDES
    if config.audit or config.drop_leaks or unit in (Split.OVERLAP, Split.FOLDERS) or is_small:
        groups = overlap_groups(search_overlaps(workspace, data, others, on_stage), len(manifest))
    subset = _assign_splits(config, unit, subset, groups)
    sharing = int((subset[OVERLAP] != "").sum()) if unit is Split.OVERLAP else None
    path = workspace.manifest_path(config.name)
    report = BalanceReport(
        data=data,
        name=config.name,
        n=len(subset),
        seed=config.seed,
        split=unit.value,
        leaks=_has_leak(unit, subset, sharing),
        sharing_pixels=sharing,
        val_fraction=config.val_fraction,
        dropped=dropped,
        available=PatchCounts(int(sizes[0]), int(sizes[1])),
        counts=_count_patches(subset),
        slides=_count_slides(subset) if _has_all(cleaned, "slide") else None,
        appearance=_count_groups(subset) if unit is Group.APPEARANCE else None,
        hospitals=_list_hospitals(subset) if _has_all(cleaned, "hospital") else None,
        audit=audit(workspace, subset, manifest),
    )
    lock = workspace.manifests_dir / f".{config.name}.lock"
    with hold(lock, config.name, wait=True):  # so that the subset and its report always match
        workspace.tidy()
        write_manifest(path, subset)
        report = replace(report, manifest_sha256=file_sha256(path))
        write_balance(workspace.balance_path(config.name), report)
    return report


def _classes_error(data: str, sizes: "np.ndarray", dropped: DroppedPatches) -> HistoError:
    """Return the error for a data set with patches of one class or none, and what to do."""
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.by_reason().items())
    hint = "pack more patches with histo download"
    if dropped.unlabelled:
        hint = "give the labels: histo download --labels TABLE, or --classes"
    elif dropped.held_out:
        hint = "patches of a split for evaluation are not trained on: pack training patches too"
    return HistoError(
        f"{sizes[0]:,} negative and {sizes[1]:,} positive patches of {data}: both classes are needed"
        + (f" (dropped: {reasons})" if reasons else ""),
        hint,
    )


def _has_leak(unit: Split | Group, subset: "pd.DataFrame", sharing: int | None) -> bool:
    """Return whether one slide may have patches in train and in validation."""
    if unit is Split.FOLDERS:
        parts = [set(subset.loc[subset["split"] == name, "slide"]) for name in ("train", "val")]
        return "" in parts[0] | parts[1] or not parts[0].isdisjoint(parts[1])
    return unit is Split.RANDOM or (sharing == 0 and not (subset["slide"] != "").any())


def _keeps_own_splits(workspace: Workspace, config: BalanceConfig, data: str, manifest: "pd.DataFrame") -> bool:
    """Return whether to use the data set's own splits: if asked for, or if a folder has them.

    Raises:
        HistoError: they are asked for, and there are no splits train and valid.
    """
    splits = set(manifest["split"])
    has_both = "train" in splits and bool(splits & VALIDATION)
    if config.split is Split.FOLDERS and not has_both:
        raise HistoError(
            f"{data} has no splits train and valid; its splits: {', '.join(sorted(splits - {''})) or 'none'}",
            "folders such as train/ and val/ give them; --split slide or overlap splits the patches",
        )
    is_asked = config.split is Split.FOLDERS or (config.split is None and config.group is None)
    is_folder = config.split is Split.FOLDERS or read_json(workspace.dataset_path(data)).get("source") == "folder"
    return has_both and is_asked and is_folder


def default_dataset(workspace: Workspace) -> str:
    """Return the name of the only data set; if there are none or several, return "kaggle"."""
    names = workspace.dataset_names()
    return names[0] if len(names) == 1 else "kaggle"


def is_subset(workspace: Workspace, name: str) -> bool:
    """Return whether `manifests/NAME.csv` is the manifest of a subset, and not of a data set."""
    path = workspace.manifest_path(name)
    if not path.is_file():
        return False
    with path.open(encoding="utf-8-sig", errors="replace") as file:
        return "index" in re.split(r"[,;]", file.readline().strip())


def _check_options(workspace: Workspace, config: BalanceConfig) -> None:
    """Check the options before anything is read.

    Raises:
        UsageError: `name` is the name of a data set, or `val_fraction` is not between 0 and 1.
    """
    is_taken = workspace.manifest_path(config.name).is_file() and not is_subset(workspace, config.name)
    if config.name in workspace.dataset_names() or (is_taken and config.name != SUBSET):
        raise UsageError(f"--name {config.name} is the name of a data set", "give the subset another name")
    if not 0 < config.val_fraction < 1:
        raise UsageError(f"--val-fraction {config.val_fraction} is not between 0 and 1", "give 0.1, for example")


def _read_manifest(workspace: Workspace, data: str) -> "pd.DataFrame":
    """Return the manifest of the data set, with the two columns that only a subset has."""
    known = workspace.dataset_names()
    if data not in known:
        raise HistoError(
            f"there is no data set {data!r}",
            f"choose --data from {', '.join(known)}" if known else "histo download makes one",
        )
    _, manifest = open_packed(workspace, data, ("id", "label", "slide", "hospital", "split", "sha1", "min", "max"))
    manifest["data"], manifest["index"] = data, range(len(manifest))
    return manifest


def _choose_unit(config: BalanceConfig, data: str, cleaned: "pd.DataFrame") -> Split | Group:
    """Return what the split keeps together: the option, else slides if all are known, else overlapping patches."""
    if config.group and config.split:
        raise UsageError(
            f"--group {config.group} and --split {config.split} cannot be combined", "leave one of them out"
        )
    if config.group is Group.HOSPITAL and not _has_all(cleaned, config.group):
        raise HistoError(
            f"the hospitals of {data} are not known for every patch",
            "histo reads them from the names of Camelyon16's slides: add these with histo download --slides CSV; or "
            "choose --group appearance, which finds two groups by sharpness and colour",
        )
    if config.split is Split.SLIDE and not _has_all(cleaned, "slide"):
        raise HistoError(
            f"the slides of {data} are not known for every patch",
            "histo download --slides CSV adds them; --split overlap keeps overlapping patches together",
        )
    return config.group or config.split or (Split.SLIDE if _has_all(cleaned, "slide") else Split.OVERLAP)


def _has_all(rows: "pd.DataFrame", column: str) -> bool:
    return bool(len(rows)) and bool((rows[column] != "").all())


def _assign_splits(
    config: BalanceConfig, unit: Split | Group, subset: "pd.DataFrame", groups: "np.ndarray | None"
) -> "pd.DataFrame":
    """Return the subset with the column `split` (train or val); a split by overlap also adds the overlap groups.

    The column `sha1` is added if the ids are not the SHA-1 of the pixels. Kaggle's ids are.
    """
    labels: np.ndarray = subset["label"].to_numpy()
    columns = [*SUBSET_COLUMNS, "sha1"] if (subset["sha1"] != subset["id"]).any() else [*SUBSET_COLUMNS]
    if unit is Split.FOLDERS:
        val = (subset["split"] == "val").to_numpy()
    elif unit is Split.RANDOM:
        val = split_random(labels, config.val_fraction, config.seed)
    elif unit is Split.OVERLAP and groups is not None:
        group_of = groups[subset["index"]]
        is_single = np.bincount(group_of)[group_of] == 1
        subset, columns = subset.assign(**{OVERLAP: np.where(is_single, "", group_of.astype(str))}), [*columns, OVERLAP]
        has_slides = (subset["slide"] != "").any()
        units = connected_components(subset, trust_slides=False).codes if has_slides else group_of
        val = split_by_group(units, labels, config.val_fraction, config.seed, "overlap group")
    else:
        columns = [*columns, unit.value] if unit is Group.APPEARANCE else columns
        val = split_by_group(subset[unit].to_numpy(), labels, config.val_fraction, config.seed, unit)
    return subset.assign(split=np.where(val, "val", "train"))[columns]


def _add_appearance(workspace: Workspace, data: str, subset: "pd.DataFrame") -> "pd.DataFrame":
    """Return the subset with the column `appearance`, in which each patch has the name of its group."""
    store, _ = open_packed(workspace, data)
    codes = appearance_groups(store, subset["index"].to_numpy(), subset["label"].to_numpy())
    return subset.assign(**{Group.APPEARANCE.value: np.array(GROUP_NAMES)[codes]})


def _count_patches(subset: "pd.DataFrame") -> dict[str, SplitCounts]:
    """Return the number of patches of each class and of slides in each split."""
    counts = {}
    for split, rows in subset.groupby("split", sort=True):
        slides = rows.loc[rows["slide"] != "", "slide"].nunique()
        negative, positive = int((rows["label"] == 0).sum()), int((rows["label"] == 1).sum())
        counts[str(split)] = SplitCounts(negative, positive, int(slides))
    return counts


def _count_slides(subset: "pd.DataFrame") -> list[SlideCounts]:
    """Return the split and the number of patches of each class of each slide."""
    table = subset.groupby(["slide", "split"], sort=True)["label"].agg(["size", "sum"])
    return [
        SlideCounts(slide, split, int(size - positive), int(positive))
        for (slide, split), size, positive in zip(table.index, table["size"], table["sum"], strict=True)
    ]


def _count_groups(subset: "pd.DataFrame") -> dict[str, PatchCounts]:
    """Return the number of patches of each class in each group."""
    counts = {}
    for name, rows in subset.groupby(Group.APPEARANCE.value, sort=True):
        normal, tumour = np.bincount(rows["label"], minlength=2).tolist()
        counts[str(name)] = PatchCounts(normal, tumour)
    return counts


def _list_hospitals(subset: "pd.DataFrame") -> dict[str, list[str]]:
    """Return the hospitals of each split."""
    return {str(split): sorted(rows["hospital"].unique()) for split, rows in subset.groupby("split", sort=True)}
