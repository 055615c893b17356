"""`histo balance`: draw a balanced subset, split it into train and validation, and count what leaks."""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from histocli.atomic import write_json
from histocli.config import SUBSET, BalanceConfig
from histocli.data.appearance import GROUP_NAMES, find_appearance_groups
from histocli.data.dataset import find_source_name, open_packed
from histocli.data.folds import is_fold
from histocli.data.groups import OVERLAP, find_connected_components
from histocli.data.leakage import audit, find_leaking, list_audited_names
from histocli.data.manifest import SUBSET_COLUMNS, hash_file, is_subset, write_manifest
from histocli.data.overlap_cache import search_overlaps
from histocli.data.overlaps import OnStage, group_overlaps, name_groups
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
from histocli.locks import hold
from histocli.patch import Pixels
from histocli.reports.balance import (
    BalanceReport,
    DroppedPatches,
    PatchCounts,
    count_groups,
    count_patches,
    count_slides,
    list_hospitals,
)
from histocli.schema import to_json
from histocli.workspace import Workspace, check_name

if TYPE_CHECKING:
    import pandas as pd

_MAX_CHECKED = 30_000  # with more patches, the search that checks slides takes more than about 10 seconds


def balance(
    workspace: Workspace, config: BalanceConfig, on_stage: OnStage = lambda what, done, total: None
) -> BalanceReport:
    """Draw a balanced subset, write it to `manifests/NAME.csv` and a report to `metrics/`, and return the report.

    `on_stage(what, done, total)` is called during the search for overlaps.

    Raises:
        HistoError: the data set does not exist, a class has too few patches, or slides or hospitals are not known.
    """
    _check_options(workspace, config)
    data = config.data or choose_dataset(workspace)
    store, manifest = _open_dataset(workspace, data)
    has_own_splits = _keeps_own_splits(workspace, config, data, manifest)
    others = list_audited_names(workspace, data)[1:] if config.audit or config.drop_leaks else []
    usable, dropped = _select_drawable(manifest, has_own_splits)
    pairs = None
    if config.drop_leaks:
        pairs = search_overlaps(workspace, data, others, on_stage)
        is_leaking = find_leaking(workspace, data, manifest)[usable["index"]]
        # If the data set's own splits train and val overlap, only train is reduced.
        is_leaking &= ~usable["split"].isin(VALIDATION).to_numpy()
        usable, dropped = usable[~is_leaking], replace(dropped, leaking=int(is_leaking.sum()))
    unit = Split.FOLDERS if has_own_splits else _choose_unit(config, data, usable)
    available = PatchCounts(*np.bincount(usable["label"], minlength=2).tolist())
    if not (available.negative and available.positive):
        raise _make_missing_class_error(data, available, dropped)
    subset = _draw(store, config, unit, usable)
    # They are needed for the split, or to check the slides that it keeps together.
    needs_overlaps = unit in (Split.OVERLAP, Split.FOLDERS) or (unit is Split.SLIDE and len(manifest) <= _MAX_CHECKED)
    if pairs is None and (config.audit or needs_overlaps):
        pairs = search_overlaps(workspace, data, others, on_stage)
    groups = None if pairs is None else group_overlaps(pairs, len(manifest))
    subset = _assign_splits(config, unit, subset, groups)
    n_overlapping = int((subset[OVERLAP] != "").sum()) if unit is Split.OVERLAP else None
    report = BalanceReport(
        data=data,
        name=config.name,
        n=len(subset),
        seed=config.seed,
        split=unit.value,
        can_leak=_can_leak(unit, subset),
        sharing_pixels=n_overlapping,
        val_fraction=config.val_fraction,
        dropped=dropped,
        available=available,
        counts=count_patches(subset),
        slides=count_slides(subset) if _has_all(usable, "slide") else None,
        appearance=count_groups(subset) if unit is Group.APPEARANCE else None,
        hospitals=list_hospitals(subset) if _has_all(usable, "hospital") else None,
        audit=audit(workspace, subset, manifest),
        manifest_sha256="",  # `_write` sets it
    )
    return _write(workspace, subset, report)


def _select_drawable(manifest: "pd.DataFrame", has_own_splits: bool) -> "tuple[pd.DataFrame, DroppedPatches]":
    """Return the patches that can be drawn, and the number of the others by reason.

    With the data set's own splits, patches of the split `valid` can be drawn too; in the result their split is `val`.
    """
    if not has_own_splits:
        return drop_unusable(manifest, HELD_OUT)
    held_out = frozenset(set(manifest["split"]) - {"", "train"} - VALIDATION)
    usable, dropped = drop_unusable(manifest, held_out)
    return usable.assign(split=np.where(usable["split"].isin(VALIDATION), "val", "train")), dropped


def _draw(store: Pixels, config: BalanceConfig, unit: Split | Group, usable: "pd.DataFrame") -> "pd.DataFrame":
    """Draw the patches of the subset; for `--group appearance`, with each patch's group in the column `appearance`.

    Raises:
        HistoError: a class has fewer patches than are asked for.
    """
    if unit is Split.FOLDERS:
        return draw_by_split(usable, config.n, config.seed)
    subset = draw_balanced(usable, config.n, config.seed)
    if unit is not Group.APPEARANCE:
        return subset
    codes = find_appearance_groups(store, subset["index"].to_numpy(), subset["label"].to_numpy())
    return subset.assign(**{Group.APPEARANCE.value: np.array(GROUP_NAMES)[codes]})


def _write(workspace: Workspace, subset: "pd.DataFrame", report: BalanceReport) -> BalanceReport:
    """Write a subset and its report, and return the report with the SHA-256 of the subset's manifest."""
    path = workspace.manifest_path(report.name)
    lock = workspace.manifests_dir / f".{report.name}.lock"
    with hold(lock, report.name, wait=True):  # so that the subset and its report always match
        workspace.tidy()
        write_manifest(path, subset)
        report = replace(report, manifest_sha256=hash_file(path))
        write_json(workspace.balance_path(report.name), to_json(report))
    return report


def _make_missing_class_error(data: str, available: PatchCounts, dropped: DroppedPatches) -> HistoError:
    """Return the error for a data set that has no patches of one of the classes."""
    reasons = ", ".join(f"{reason} ({count:,})" for reason, count in dropped.list_reasons().items())
    classes = {"normal": available.negative, "tumour": available.positive}
    hint = f"pack {' and '.join(name for name, count in classes.items() if not count)} patches too: histo download"
    if dropped.unlabelled:
        hint = "give the labels: histo download --labels TABLE, or --classes"
    elif dropped.held_out:
        hint = "patches of a split for evaluation are not trained on: pack training patches too"
    counts = f"{data} has {available.negative:,} normal and {available.positive:,} tumour patches"
    return HistoError(
        f"{counts}, and both classes are needed" + (f"; dropped patches: {reasons}" if reasons else ""),
        hint,
    )


def _can_leak(unit: Split | Group, subset: "pd.DataFrame") -> bool:
    """Return whether one slide may have patches in train and in validation."""
    train, val = (set(subset.loc[subset["split"] == name, "slide"]) for name in ("train", "val"))
    if (train & val) - {""}:
        return True
    return "" in train | val and unit not in (Split.SLIDE, Group.HOSPITAL)  # a slide is of one hospital


def _keeps_own_splits(workspace: Workspace, config: BalanceConfig, data: str, manifest: "pd.DataFrame") -> bool:
    """Return whether to use the data set's own splits: with `--split folders`, or if a folder has them.

    Raises:
        HistoError: `--split folders` is given, and the data set has no splits train and valid.
    """
    splits = set(manifest["split"])
    has_both = "train" in splits and bool(splits & VALIDATION)
    if config.split is Split.FOLDERS and not has_both:
        raise HistoError(
            f"{data} has no splits train and valid; its splits: {', '.join(sorted(splits - {''})) or 'none'}",
            "folders such as train/ and val/ give them; --split slide or overlap splits the patches",
        )
    is_allowed = config.split is Split.FOLDERS or (config.split is None and config.group is None)
    is_folder = config.split is Split.FOLDERS or find_source_name(workspace, data) == "folder"
    return has_both and is_allowed and is_folder


def choose_dataset(workspace: Workspace) -> str:
    """Return the name of the only data set; if there are none or several, return "kaggle"."""
    names = workspace.list_datasets() or workspace.list_incomplete()
    return names[0] if len(names) == 1 else "kaggle"


def _check_options(workspace: Workspace, config: BalanceConfig) -> None:
    """Check the options before anything is read.

    Raises:
        UsageError: a value cannot be used, `name` is the name of a data set, or two options exclude each other.
    """
    config.check()
    check_name(config.name, "subset")
    if is_fold(config.name):
        raise UsageError(f"--name {config.name} is the name of a fold of histo train --folds", "use another name")
    is_taken = workspace.manifest_path(config.name).is_file() and not is_subset(workspace.manifest_path(config.name))
    if config.name in workspace.list_datasets() or (is_taken and config.name != SUBSET):
        raise UsageError(f"--name {config.name} is the name of a data set", "give the subset another name")


def _open_dataset(workspace: Workspace, data: str) -> "tuple[Pixels, pd.DataFrame]":
    """Open the array of the data set, and its manifest with the two columns that only a subset has."""
    known = workspace.list_datasets()
    if data not in known:
        workspace.check_complete(data)
        raise HistoError(
            f"there is no data set {data!r}",
            f"choose --data from {', '.join(known)}" if known else "histo download makes one",
        )
    store, manifest = open_packed(workspace, data, ("id", "label", "slide", "hospital", "split", "sha1", "min", "max"))
    manifest["data"], manifest["index"] = data, range(len(manifest))
    return store, manifest


def _choose_unit(config: BalanceConfig, data: str, cleaned: "pd.DataFrame") -> Split | Group:
    """Return what the split keeps together: the option, else slides if all are known, else overlapping patches."""
    if config.group is Group.HOSPITAL and not _has_all(cleaned, config.group):
        raise HistoError(
            f"the hospitals of {data} are not known for every patch",
            "histo download reads them from a column such as hospital (--hospital-column names another), and from the "
            "names of Camelyon16's slides; --group appearance finds two groups by sharpness and colour",
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

    `unit` is what is kept in one split. The column `sha1`, which identifies the pixels, is added unless the ids already
    are the SHA-1 of the pixels, as those of Kaggle.
    """
    labels: np.ndarray = subset["label"].to_numpy()
    columns = [*SUBSET_COLUMNS, "sha1"] if (subset["sha1"] != subset["id"]).any() else [*SUBSET_COLUMNS]
    if unit is Split.FOLDERS:
        val = (subset["split"] == "val").to_numpy()
    elif unit is Split.RANDOM:
        val = split_random(labels, config.val_fraction, config.seed)
    elif unit is Split.OVERLAP and groups is not None:
        group_of = groups[subset["index"]]
        subset = subset.assign(**{OVERLAP: name_groups(groups, subset["index"].to_numpy())})
        columns = [*columns, OVERLAP]
        has_slides = (subset["slide"] != "").any()
        units = find_connected_components(subset, should_trust_slides=False).codes if has_slides else group_of
        val = split_by_group(units, labels, config.val_fraction, config.seed, "overlap group")
    else:
        columns = [*columns, unit.value] if unit is Group.APPEARANCE else columns
        val = split_by_group(subset[unit].to_numpy(), labels, config.val_fraction, config.seed, unit)
    return subset.assign(split=np.where(val, "val", "train"))[columns]
