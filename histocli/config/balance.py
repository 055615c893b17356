"""The options of `histo balance`."""

from dataclasses import dataclass

from histocli.config.seeds import check_seed
from histocli.enums import Group, Split
from histocli.errors import UsageError

SUBSET = "balanced"  # the subset that `histo balance` writes and `histo train` uses


@dataclass(frozen=True)
class BalanceConfig:
    """The options of `histo balance`."""

    data: str | None = None  # None: the only data set, else kaggle
    name: str = SUBSET
    n: int | None = 160_000  # None: the largest balanced subset
    val_fraction: float = 0.1
    split: Split | None = None  # None: the folders' own, else by slide where all slides are known, else by overlap
    group: Group | None = None
    audit: bool = False  # search the overlaps with every packed data set
    drop_leaks: bool = False  # drop training patches that share pixels or a slide with patches for evaluation
    seed: int = 0

    def check(self) -> None:
        """Raise `UsageError` naming the option whose value cannot be used, or options that exclude each other."""
        if self.n is not None and (self.n < 2 or self.n % 2):
            raise UsageError(
                f"--n {self.n} is not an even number of patches",
                "half are of each class: give an even number, or max for the largest subset",
            )
        if not 0 < self.val_fraction < 1:
            raise UsageError(f"--val-fraction {self.val_fraction} is not between 0 and 1", "give 0.1, for example")
        check_seed(self.seed)
        if self.group and self.split:
            raise UsageError(
                f"--group {self.group} and --split {self.split} cannot be combined", "leave one of them out"
            )
