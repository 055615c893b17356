"""The options of `histo download` that every source has. The options of each source are in its module in `sources/`."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Which patches of a source are packed, and whether they replace a data set of the same name."""

    n: int | None = None  # None: all patches
    seed: int = 0
    force: bool = False
