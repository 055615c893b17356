"""The options of `histo download` that every source has. The options of each source are in its module in `sources/`."""

from dataclasses import dataclass

from histocli.config.seeds import check_seed
from histocli.errors import UsageError

MIN_PACKED = 1  # the smallest number of patches that can be asked for


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Which patches of a source are packed, and whether they replace a data set of the same name."""

    n: int | None = None  # None: all patches
    seed: int = 0
    force: bool = False

    def check(self) -> None:
        """Raise `UsageError` naming the option whose value cannot be used."""
        if self.n is not None and self.n < MIN_PACKED:
            raise UsageError(f"--n {self.n}: at least {MIN_PACKED} is needed")
        check_seed(self.seed)
