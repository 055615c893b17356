"""Where patches come from, one module each; all of them speak in `Patch`es."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

Pixels = np.ndarray[Any, np.dtype[np.uint8]]


class Patch(NamedTuple):
    """One patch on its way into the store.

    `load` gives its (96,96,3) uint8 RGB pixels; it is called on a worker thread, once, and raises `HistoError`
    where the patch cannot be read. `label` is 1 for tumour in the central 32x32, 0 for none, None where unknown.
    """

    id: str
    load: Callable[[], Pixels]
    label: int | None = None
    slide: str = ""
    split: str = ""
    hospital: str = ""


class PlannedFile(NamedTuple):
    """A file that a download would fetch: its size in bytes where known, and whether it is here already."""

    name: str
    size: int | None
    is_here: bool


@dataclass
class SourceReport:
    """What packing should know and tell beyond the patches themselves.

    `origin` says where they came from, `checksums` maps file names to digests, `notes` are lines for the summary,
    `counts` are figures for it (skipped, resized, ...), filled while the patches are read.
    """

    origin: str
    checksums: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)


class Source(Protocol):
    """A finite, ordered stream of patches."""

    @property
    def report(self) -> SourceReport:
        """Complete once `patches` is exhausted."""

    @property
    def total(self) -> int | None:
        """How many patches will come, where that is known beforehand."""

    @property
    def id_is_sha1(self) -> bool:
        """Whether every id should equal the SHA-1 of the raw pixels, as Kaggle's do."""

    @property
    def drop_duplicates(self) -> bool:
        """Whether a patch whose pixels came before in the same split is left out of the store."""

    def patches(self) -> Iterator[Patch]:
        """Yield every patch, in a stable order."""
