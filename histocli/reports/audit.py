"""The report of the leakage audit: what a training subset shares with its validation split and other data sets."""

from dataclasses import dataclass, field

from histocli.errors import HistoError
from histocli.schema import Count


@dataclass(frozen=True)
class Contradictions:
    """Patches whose pixels also occur with the other label: how many, and the ids of some."""

    patches: Count
    ids: list[str]


@dataclass(frozen=True)
class Overlaps:
    """Pairs of patches of one data set that show the same tissue, and the groups that these pairs form."""

    pairs: Count
    groups: Count
    patches: Count
    largest_group: Count


@dataclass(frozen=True)
class Leak:
    """What the patches of `source` share with the split `into`: counts; None where this is not known.

    `source` is a split of the subset, a split that its data set holds out, or a split of another data set. It is
    `held_out` where its name says that it is for evaluation only.
    """

    source: str = field(metadata={"key": "from"})
    into: str
    held_out: bool
    patches: Count
    duplicates: Count
    shared_slides: Count | None
    patches_of_shared_slides: Count | None
    overlaps: Count | None


@dataclass(frozen=True)
class AuditReport:
    """What a subset shares with its own splits and with other packed data sets.

    Attributes:
        data: the data set that the subset is drawn from.
        compared_with: the other data sets.
        duplicates: how many of its patches have the same pixels as an earlier one.
        contradictions: patches of all data sets that have equal pixels and different labels.
        overlaps_searched: the data sets whose overlaps with `data` are known.
        overlaps: the overlaps within `data`, None where they were not searched.
        leaks: what each other part shares with train and with val.

    """

    data: str
    compared_with: list[str]
    duplicates: Count
    contradictions: Contradictions
    overlaps_searched: list[str]
    overlaps: Overlaps | None
    leaks: list[Leak]

    @property
    def parts_not_compared(self) -> list[str]:
        """The parts for evaluation of which neither the slides nor the overlaps shared with train are known."""
        return [
            leak.source for leak in self._held_out_into_train() if leak.overlaps is None and leak.shared_slides is None
        ]

    @property
    def leaks_into_train(self) -> list[str]:
        """A description of each part for evaluation that shares patches or slides with train."""
        leaks = []
        for leak in self._held_out_into_train():
            counts = {
                "exact duplicates": leak.duplicates,
                "overlapping patches": leak.overlaps,
                "shared slides": leak.shared_slides,
            }
            if shared := [f"{what}: {count:,}" for what, count in counts.items() if count]:
                leaks.append(f"{leak.source} ({', '.join(shared)})")
        return leaks

    def refuse_leaks(self) -> None:
        """Raise an error where patches for evaluation leak into train.

        Raises:
            HistoError: they do.

        """
        if leaks := self.leaks_into_train:
            raise HistoError(
                f"patches for evaluation leak into train: {'; '.join(leaks)}",
                "histo balance --audit shows what is shared; --allow-leak trains despite it",
            )

    def _held_out_into_train(self) -> list[Leak]:
        return [leak for leak in self.leaks if leak.held_out and leak.into == "train"]
