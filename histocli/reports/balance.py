"""The report of `histo balance`: counts of the subset by split and slide, and the leakage audit."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from histocli.atomic import read_json
from histocli.reports.audit import AuditReport
from histocli.schema import Count, Fraction, from_json

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class DroppedPatches:
    """The number of patches that were not used.

    They are in a split for evaluation, have no label, show no tissue, are copies of another patch, or share pixels or a
    slide with a patch for evaluation.
    """

    held_out: Count = 0
    unlabelled: Count = 0
    outliers: Count = 0
    duplicates: Count = 0
    leaking: Count = 0

    def list_reasons(self) -> dict[str, int]:
        """Return the counts above 0, by the reason in words."""
        counts = {
            "in a split for evaluation": self.held_out,
            "without a label": self.unlabelled,
            "without tissue": self.outliers,
            "duplicates of another patch": self.duplicates,
            "sharing pixels or a slide with patches for evaluation": self.leaking,
        }
        return {reason: count for reason, count in counts.items() if count}


@dataclass(frozen=True)
class PatchCounts:
    """The number of patches of each class."""

    negative: Count
    positive: Count


@dataclass(frozen=True)
class SplitCounts(PatchCounts):
    """The number of patches of each class in a split, and the number of its known slides."""

    slides: Count


@dataclass(frozen=True)
class SlideCounts:
    """The split of a slide, and the number of its patches of each class in the subset."""

    slide: str
    split: str
    negative: Count
    positive: Count


@dataclass(frozen=True, kw_only=True)
class BalanceReport:
    """A balanced subset of a data set, split into train and validation.

    Attributes:
        data: the data set.
        name: the name of the subset.
        n: the number of patches in the subset.
        seed: the seed of the draw and of the split.
        split: how the subset is split: by slide, overlap or hospital, by the data set's own folders, or random.
        can_leak: whether patches of one slide are, or may be, in both train and validation.
        sharing_pixels: the number of patches that overlap with another; None if the split is not by overlap.
        val_fraction: the requested share of validation patches.
        dropped: the numbers of patches that were not used.
        available: the numbers of patches of each class that could be drawn.
        counts: the numbers of patches of each split.
        slides: the numbers of patches of each slide; None if slides are not known.
        hospitals: the hospitals of each split; None if they are not known.
        appearance: the patches of each appearance group; None unless the split keeps these together.
        audit: the leakage audit.
        manifest_sha256: the SHA-256 of the subset's manifest.
    """

    data: str
    name: str
    n: Count
    seed: Count
    split: str
    can_leak: bool
    sharing_pixels: Count | None
    val_fraction: Fraction
    dropped: DroppedPatches
    available: PatchCounts
    counts: dict[str, SplitCounts]
    slides: list[SlideCounts] | None
    hospitals: dict[str, list[str]] | None
    appearance: dict[str, PatchCounts] | None
    audit: AuditReport
    manifest_sha256: str


def read_balance_report(path: Path) -> BalanceReport:
    """Read the report of a subset.

    Raises:
        HistoError: the file cannot be read, or a field is missing or has a wrong type or value.
    """
    hint = "draw the subset again with histo balance and its options, or remove the file"
    return from_json(BalanceReport, read_json(path), str(path), hint)


def count_patches(subset: "pd.DataFrame") -> dict[str, SplitCounts]:
    """Return the number of patches of each class and of slides in each split."""
    counts = {}
    for split, rows in subset.groupby("split", sort=True):
        slides = rows.loc[rows["slide"] != "", "slide"].nunique()
        negative, positive = int((rows["label"] == 0).sum()), int((rows["label"] == 1).sum())
        counts[str(split)] = SplitCounts(negative, positive, int(slides))
    return counts


def count_slides(subset: "pd.DataFrame") -> list[SlideCounts]:
    """Return the split and the number of patches of each class of each slide."""
    table = subset.groupby(["slide", "split"], sort=True)["label"].agg(["size", "sum"])
    return [
        SlideCounts(slide, split, int(size - positive), int(positive))
        for (slide, split), size, positive in zip(table.index, table["size"], table["sum"], strict=True)
    ]


def count_groups(subset: "pd.DataFrame") -> dict[str, PatchCounts]:
    """Return the number of patches of each class in each group."""
    counts = {}
    for name, rows in subset.groupby("appearance", sort=True):
        tumour = int((rows["label"] == 1).sum())
        counts[str(name)] = PatchCounts(len(rows) - tumour, tumour)
    return counts


def list_hospitals(subset: "pd.DataFrame") -> dict[str, list[str]]:
    """Return the hospitals of each split."""
    return {str(split): sorted(rows["hospital"].unique()) for split, rows in subset.groupby("split", sort=True)}
