"""The report of `histo balance`: the subset's counts by split and slide, and what it shares with other patches."""

from dataclasses import dataclass
from pathlib import Path

from histocli.config import SUBSET
from histocli.reports.audit import AuditReport
from histocli.schema import Count, Fraction, from_json, to_json
from histocli.workspace import read_json, write_json


@dataclass(frozen=True)
class DroppedPatches:
    """How many patches were not used: of splits for evaluation, without label, without tissue, and copies."""

    held_out: Count = 0
    unlabelled: Count = 0
    outliers: Count = 0
    duplicates: Count = 0

    def by_reason(self) -> dict[str, int]:
        """Return the counts above 0, by reason in words."""
        return {name.replace("_", " "): count for name, count in vars(self).items() if count}


@dataclass(frozen=True)
class PatchCounts:
    """How many patches there are of each class."""

    negative: Count
    positive: Count


@dataclass(frozen=True)
class SplitCounts:
    """How many patches of each class a split has, and on how many known slides."""

    negative: Count
    positive: Count
    slides: Count


@dataclass(frozen=True)
class SlideCounts:
    """The split of a slide, and how many of its patches of each class are in the subset."""

    slide: str
    split: str
    negative: Count
    positive: Count


@dataclass(frozen=True, kw_only=True)
class BalanceReport:
    """A balanced subset of a data set, split into train and validation.

    Attributes:
        data: the data set.
        name: of the subset.
        n: how many patches the subset has.
        seed: of the drawing and the split.
        split: what train and validation do not share: slide, overlap, random or hospital.
        leaks: whether patches of one slide are in both train and validation.
        sharing_pixels: how many patches share pixels with another; None where the split is not by overlap.
        val_fraction: the share of patches that was asked for in validation.
        dropped: patches that were not used.
        available: patches of each class that could be drawn.
        counts: the patches of each split.
        slides: the patches of each slide, None where slides are not known.
        hospitals: the hospitals of each split, None where they are not known.
        audit: what the subset shares with other patches; None in files of early versions.
        manifest_sha256: the SHA-256 of the subset's manifest.

    """

    data: str
    name: str = SUBSET
    n: Count
    seed: Count = 0
    split: str
    leaks: bool
    sharing_pixels: Count | None = None
    val_fraction: Fraction = 0.1
    dropped: DroppedPatches
    available: PatchCounts | None = None
    counts: dict[str, SplitCounts]
    slides: list[SlideCounts] | None
    hospitals: dict[str, list[str]] | None = None
    audit: AuditReport | None = None
    manifest_sha256: str | None = None


def read_balance(path: Path) -> BalanceReport:
    """Read the report of a subset.

    Raises:
        HistoError: the file cannot be read, or a field of it is not what it should be.

    """
    return from_json(BalanceReport, read_json(path), str(path), "histo balance writes it again")


def write_balance(path: Path, report: BalanceReport) -> None:
    """Write the report of a subset atomically."""
    write_json(path, to_json(report))
