"""`histo data`: list the packed data sets and the balanced subsets."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from histocli.data.dataset import Dataset, read_dataset
from histocli.data.manifest import UNLABELLED, is_subset, read_manifest
from histocli.errors import HistoError
from histocli.fs import measure_folder
from histocli.reports.balance import read_balance_report
from histocli.schema import Count
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class DatasetSummary:
    """A packed data set: its patches by label, its slides, and its size on the disk.

    `splits` has the number of patches of each split of the data set. `problem` says why a file of it
    cannot be read; the numbers are then 0.
    """

    name: str
    source: str = ""
    origin: str = ""
    patches: Count = 0
    tumour: Count = 0
    normal: Count = 0
    unlabelled: Count = 0
    slides: Count = 0
    splits: dict[str, Count] | None = None
    bytes: Count = 0
    problem: str = ""


@dataclass(frozen=True)
class SubsetSummary:
    """A balanced subset that `histo balance` drew: its data set, its patches, and what its split keeps together."""

    name: str
    data: str = ""
    train: Count = 0
    val: Count = 0
    split: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Inventory:
    """The names that `--data` accepts."""

    datasets: list[DatasetSummary]
    subsets: list[SubsetSummary]


def list_data(workspace: Workspace) -> Inventory:
    """Return the packed data sets and the balanced subsets, by name."""
    return Inventory(
        [_summarise_dataset(workspace, name) for name in (*workspace.list_datasets(), *workspace.list_incomplete())],
        [_summarise_subset(workspace, name) for name in workspace.list_subsets()],
    )


def _summarise_dataset(workspace: Workspace, name: str) -> DatasetSummary:
    """Return the summary of a data set; of one that cannot be read, its size and the error."""
    size = measure_folder(workspace.dataset_dir(name))
    try:
        workspace.check_complete(name)
        record = read_dataset(workspace, name) or Dataset()
        manifest = read_manifest(workspace.manifest_path(name))
    except HistoError as error:
        return DatasetSummary(name, bytes=size, problem=str(error))
    labels = manifest["label"]
    return DatasetSummary(
        name=name,
        source=record.source,
        origin=record.origin,
        patches=len(manifest),
        tumour=int((labels == 1).sum()),
        normal=int((labels == 0).sum()),
        unlabelled=int((labels == UNLABELLED).sum()),
        slides=manifest.loc[manifest["slide"] != "", "slide"].nunique() if "slide" in manifest else 0,
        splits=_count_splits(manifest),
        bytes=size,
    )


def _count_splits(manifest: "pd.DataFrame") -> dict[str, int]:
    if "split" not in manifest.columns:
        return {}
    counts = manifest.loc[manifest["split"] != "", "split"].value_counts(sort=False)
    return {str(split): int(count) for split, count in sorted(counts.items())}


def _summarise_subset(workspace: Workspace, name: str) -> SubsetSummary:
    """Return the summary of a subset; if it cannot be read, its `problem` is the error.

    Of a data set whose folder was removed the manifest may be left. It is listed with the subsets.
    """
    report_path, path = workspace.balance_path(name), workspace.manifest_path(name)
    try:
        if report_path.is_file():
            report = read_balance_report(report_path)
            sizes = {split: counts.negative + counts.positive for split, counts in report.counts.items()}
            return SubsetSummary(name, report.data, sizes.get("train", 0), sizes.get("val", 0), report.split)
        if not is_subset(path) and "data" not in read_manifest(path).columns:
            left = f"this data set is not in data/ any more; only {path} is left of it"
            return SubsetSummary(name, problem=left)
        manifest = read_manifest(path, ("id", "label", "split", "data"))
    except HistoError as error:
        return SubsetSummary(name, problem=str(error))
    splits = _count_splits(manifest)
    return SubsetSummary(name, next(iter(manifest["data"]), ""), splits.get("train", 0), splits.get("val", 0))
