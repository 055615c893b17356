"""Where patches come from: one module for each source, which declares its options and yields `Patch`es.

A new source is a module here with a `SOURCE` (see `SourceType`), and its name in `SOURCE_NAMES`. These modules are
imported to show the help, so they import whatever is slow to import (numpy, OpenCV, requests) inside their functions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, Protocol, TypeAlias, TypeVar, runtime_checkable

from histocli.sources.retry import DEFAULT_POLICY, RetryPolicy

if TYPE_CHECKING:
    import numpy as np

SOURCE_NAMES = ("kaggle", "pcam", "folder", "synthetic")

Pixels: TypeAlias = "np.ndarray[Any, np.dtype[np.uint8]]"
OnTransfer = Callable[[str, int, int | None], None]  # a file's name, its bytes so far, and in all where that is known


class Patch(NamedTuple):
    """One patch on its way into the store.

    `load` returns its (96,96,3) uint8 RGB pixels; it is called on a worker thread, once, and raises `HistoError`
    if the patch cannot be read. `label` is 1 for tumour in the central 32x32, 0 for none, None where unknown.
    """

    id: str
    load: "Callable[[], Pixels]"
    label: int | None = None
    slide: str = ""
    split: str = ""
    hospital: str = ""


class PlannedFile(NamedTuple):
    """A file that a download would fetch: its size where known, and whether it is here already."""

    name: str
    size: int | None
    is_here: bool
    unit: str = "bytes"


@dataclass
class SourceReport:
    """What packing reports beyond the patches themselves.

    `origin` says where they came from, `checksums` maps file names to digests, `notes` are lines for the summary,
    `counts` are numbers for it (skipped, resized, ...), complete when the patches have been read.
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
        """How many patches will come, where that is known before."""

    @property
    def id_is_sha1(self) -> bool:
        """Whether every id should equal the SHA-1 of the raw pixels, as Kaggle's do."""

    @property
    def drop_duplicates(self) -> bool:
        """Whether the store leaves out a patch whose pixels came before in the same split."""

    def patches(self) -> Iterator[Patch]:
        """Yield every patch, in a stable order."""


@runtime_checkable
class RemoteSource(Source, Protocol):
    """A source whose files may have to be fetched first."""

    @property
    def is_remote(self) -> bool:
        """Whether its files are on a server."""

    def fetch(self) -> None:
        """Fetch what is not here yet."""

    def plan(self) -> list[PlannedFile]:
        """Return what `fetch` would bring."""


@dataclass(frozen=True)
class SourceOptions:
    """The base of each source's options, with fields such as `labels: Annotated[Path | None, LABELS] = None`.

    `LABELS` is the `Option` of the command line that gives the value. A field `n` or `seed` gets the value of this
    option of `histo download`, which every source has.
    """


@dataclass(frozen=True)
class SourceContext:
    """What a source gets besides its options: the folder for its files, and what is called when they arrive."""

    downloads_dir: Path
    force: bool = False
    on_transfer: OnTransfer = lambda name, done, total: None
    policy: RetryPolicy = DEFAULT_POLICY


Options = TypeVar("Options", bound=SourceOptions)


@dataclass(frozen=True)
class SourceType(Generic[Options]):
    """A kind of source: the class of its options, and what opens one.

    `files_may_change` says that it reads files of the user, which may differ from when they were packed.

    `open` raises `HistoError` where an option does not fit, or there is nothing at its location.
    """

    options: type[Options]
    open: Callable[[Options, SourceContext], Source]
    files_may_change: bool = False


@cache
def source_type(name: str) -> SourceType[Any]:
    """Return the source of that name, one of `SOURCE_NAMES`."""
    found: SourceType[Any] = import_module(f"histocli.sources.{name}").SOURCE
    return found
