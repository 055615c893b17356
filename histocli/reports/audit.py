"""The report of the leakage audit: what a training subset shares with its validation split and other data sets."""

from dataclasses import dataclass, field

from histocli.errors import HistoError
from histocli.schema import Count
from histocli.text import format_count

_MAX_LEAKS = 3  # splits that leak, which a message names
# What train and validation share, by the unit that `histocli.data.groups.find_split_unit` returns.
SPLIT_SENTENCES = {
    "slide": "Train and validation share no slide.",
    "overlap group": "Patches that overlap are in the same split. Patches of one slide that do not overlap may be in "
    "both splits, so the validation metrics are slightly too good.",
    "patch": "The split is by patch: patches of one slide are in both splits, so the validation metrics are too good.",
}


@dataclass(frozen=True)
class Contradictions:
    """Patches that have the same pixels as another patch but a different label: the number, and some of them.

    `ids` has their data set and id, such as `kaggle: 0a1b`.
    """

    patches: Count
    ids: list[str]


@dataclass(frozen=True)
class Overlaps:
    """Pairs of patches of one data set that show the same tissue, and the groups that these pairs form.

    `across_slides` is the number of pairs whose patches are of different slides by the manifest, which cannot be;
    `examples` names some of them.
    """

    pairs: Count
    groups: Count
    patches: Count
    largest_group: Count
    across_slides: Count
    examples: list[str]


@dataclass(frozen=True)
class Leak:
    """Counts of what the patches of `source` share with the split `into`; None if a count is not known.

    `source` is a split of the subset, a held-out split of its data set, or a split of another data set. `held_out` says
    whether it is for evaluation only; its name then contains test or valid.
    """

    source: str = field(metadata={"key": "from"})
    into: str
    held_out: bool
    patches: Count
    duplicates: Count
    shared_slides: Count | None
    patches_of_shared_slides: Count | None
    overlaps: Count | None

    def describe(self) -> str:
        """Return in a sentence what these patches share, and what is not known."""
        of_slides = f" ({self.patches_of_shared_slides:,} patches)" if self.patches_of_shared_slides else ""
        counts = {
            "exact copies": (self.duplicates, ""),
            "overlapping patches": (self.overlaps, ""),
            "slides": (self.shared_slides, of_slides),
        }
        shared = [f"{count:,} {what}{more}" for what, (count, more) in counts.items() if count]
        unknown = [what for what, (count, _) in counts.items() if count is None]
        who = f"The {format_count(self.patches, 'patch')} of {self.source}"
        if self.held_out:
            who += " (for evaluation only)"
        text = f"{who} {'shares' if self.patches == 1 else 'share'} {', '.join(shared) or 'nothing'} with {self.into}."
        return text + (f" Not compared: {', '.join(unknown)}." if unknown else "")


@dataclass(frozen=True)
class AuditReport:
    """What the splits of a subset share with each other and with other packed data sets.

    Attributes:
        data: the data set that the subset is drawn from.
        compared_with: the other data sets.
        duplicates: the number of patches of `data` that have the same pixels as an earlier one.
        contradictions: patches of all data sets that have equal pixels and different labels.
        overlaps_searched: the data sets that were searched for overlaps with `data`.
        overlaps: the overlaps within `data`; None if they were not searched.
        leaks: what each other split shares with train and with val.
    """

    data: str
    compared_with: list[str]
    duplicates: Count
    contradictions: Contradictions
    overlaps_searched: list[str]
    overlaps: Overlaps | None
    leaks: list[Leak]

    def describe(self) -> list[str]:
        """Return in sentences what was compared, and what was found."""
        others = self.contradictions
        ids = f": {', '.join(others.ids)}{', ...' if others.patches > len(others.ids) else ''}" if others.ids else ""
        return [
            self.describe_duplicates(),
            f"{_format_count(others.patches, 'patch')} {'has' if others.patches <= 1 else 'have'} the same pixels as a "
            f"patch with the other label{ids}.",
            self.describe_overlaps(),
            f"Compared with the data sets {', '.join(self.compared_with)}."
            if self.compared_with
            else "There was no other data set in the workspace to compare with.",
            *(leak.describe() for leak in self.leaks),
        ]

    def describe_duplicates(self) -> str:
        """Return in a sentence how many patches of the data set are exact copies."""
        are_copies = "is an exact copy" if self.duplicates <= 1 else "are exact copies"
        return f"{_format_count(self.duplicates, 'patch')} of {self.data} {are_copies} of an earlier one."

    def describe_overlaps(self) -> str:
        """Return in sentences how many patches of the data set overlap, and the groups that they form."""
        overlaps = self.overlaps
        if overlaps is None:
            return f"The patches of {self.data} were not searched for overlaps: histo balance --audit does it."
        if not overlaps.pairs:
            return f"No two patches of {self.data} overlap."
        return (
            f"{overlaps.patches:,} patches of {self.data} overlap with another one "
            f"({_format_count(overlaps.pairs, 'pair')}). They form {_format_count(overlaps.groups, 'group')}, the "
            f"largest of {overlaps.largest_group:,} patches."
        )

    @property
    def slide_contradiction(self) -> str:
        """Say that the manifest's slides contradict the pixels; "" if no overlap is of different slides."""
        if not self.overlaps or not self.overlaps.across_slides:
            return ""
        count = self.overlaps.across_slides
        pairs = f"{count:,} pair{'s' if count > 1 else ''} of overlapping patches of {self.data}"
        return f"{pairs} are of different slides, so the slides are wrong: {'; '.join(self.overlaps.examples)}"

    @property
    def parts_not_compared(self) -> list[str]:
        """The splits for evaluation for which shared slides and overlaps with train are both unknown."""
        return [
            leak.source for leak in self._held_out_into_train() if leak.overlaps is None and leak.shared_slides is None
        ]

    def describe_leaks(self) -> str:
        """Describe the splits for evaluation that share patches or slides with train; "" if there are none.

        The first ones are named, and the others are counted.
        """
        leaks = []
        for leak in self._held_out_into_train():
            counts = {
                "exact duplicates": leak.duplicates,
                "overlapping patches": leak.overlaps,
                "shared slides": leak.shared_slides,
            }
            if shared := [f"{what}: {count:,}" for what, count in counts.items() if count]:
                leaks.append(f"{leak.source} ({', '.join(shared)})")
        if not leaks:
            return ""
        others = [f"{len(leaks) - _MAX_LEAKS:,} more"] if len(leaks) > _MAX_LEAKS else []
        return f"patches for evaluation leak into train: {'; '.join(leaks[:_MAX_LEAKS] + others)}"

    def refuse_leaks(self) -> None:
        """Check that no patches for evaluation are in train.

        Raises:
            HistoError: patches for evaluation leak into train.
        """
        if leaks := self.describe_leaks():
            raise HistoError(
                leaks,
                f"histo balance --data {self.data} --n max --drop-leaks leaves them out of train; --allow-leak trains "
                "anyway",
            )

    def _held_out_into_train(self) -> list[Leak]:
        return [leak for leak in self.leaks if leak.held_out and leak.into == "train"]


def _format_count(count: int, noun: str) -> str:
    """Return a number and a noun, such as "3 patches"; "No patch" for 0."""
    return format_count(count, noun) if count else f"No {noun}"
