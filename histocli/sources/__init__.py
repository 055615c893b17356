"""Sources of patches: each is one module, which declares its options and yields objects of type `Patch`.

To add a source, write a module with a `SOURCE` (see `SourceType`), and add its name to `SOURCE_NAMES`. `histo download
--help` imports all these modules, so import slow packages (numpy, OpenCV, requests) inside functions.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

from histocli.patch import Patch
from histocli.sources.retry import DEFAULT_POLICY, RetryPolicy

SOURCE_NAMES = ("kaggle", "pcam", "folder", "synthetic", "slides", "synthetic-slides")

OnProgress = Callable[[int, int | None], None]  # bytes so far, and bytes in all if known
OnTransfer = Callable[[str, int, int | None], None]  # name of the file, bytes so far, and bytes in all if known


class PlannedFile(NamedTuple):
    """A file that a download would fetch: its size (None if not known), and whether it is already on this machine."""

    name: str
    size: int | None
    is_here: bool
    unit: str = "bytes"


@dataclass
class SourceReport:
    """Information about the patches of a source, for `dataset.json` and the summary of `histo download`.

    `origin` is a path, an address or a description, `checksums` maps file names to hashes, `notes` are lines of text,
    and `counts` are numbers of patches (skipped, resized, ...). It is complete after all patches were read.
    """

    origin: str
    checksums: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    has_positions: bool = False  # whether each patch has its position in its slide


class Source(Protocol):
    """An ordered sequence of patches, which are read one after the other."""

    @property
    def report(self) -> SourceReport:
        """Information about the patches; complete after `read_patches` has yielded all."""

    @property
    def total(self) -> int | None:
        """The number of patches; None if it is not known in advance."""

    @property
    def has_sha1_ids(self) -> bool:
        """Whether each id must be the SHA-1 of the pixels, as Kaggle's ids are; packing counts the others."""

    @property
    def should_drop_duplicates(self) -> bool:
        """Whether packing drops a patch that has the same pixels as an earlier patch of the same split."""

    def read_patches(self) -> Iterator[Patch]:
        """Yield all patches, always in the same order."""


@runtime_checkable
class RemoteSource(Source, Protocol):
    """A source that must be prepared first: files are downloaded or drawn, or slides are searched for tissue."""

    @property
    def is_remote(self) -> bool:
        """Whether its files are on a server."""

    def fetch(self) -> None:
        """Prepare the source; download or draw the files that are missing."""

    def plan(self) -> list[PlannedFile]:
        """Return the files that `fetch` downloads or draws, and those that are here already."""


@dataclass(frozen=True)
class SourceOptions:
    """The base class of the options of a source, with fields such as `labels: Annotated[Path | None, LABELS] = None`.

    Here `LABELS` is an `Option`: it describes the option of `histo download` that sets the field. The fields `n` and
    `seed` need no `Option`: they get the values of `--n` and `--seed`.
    """


@dataclass(frozen=True)
class SourceContext:
    """The folder for downloads, whether to download again, a progress callback, and the policy for retries."""

    downloads_dir: Path
    force: bool = False
    on_transfer: OnTransfer = lambda name, done, total: None
    policy: RetryPolicy = DEFAULT_POLICY


Options = TypeVar("Options", bound=SourceOptions)


@dataclass(frozen=True)
class SourceType(Generic[Options]):
    """A kind of source: the class of its options, and a function that opens it.

    `open` raises `HistoError` if an option is not possible or the location does not exist. `has_user_files` is true
    if the source reads files of the user, which can change after they were packed.
    """

    options: type[Options]
    open: Callable[[Options, SourceContext], Source]
    has_user_files: bool = False


@cache
def find_source_type(name: str) -> SourceType[Any]:
    """Return the kind of source with this name, one of `SOURCE_NAMES`: the `SOURCE` of the module of this name."""
    source: SourceType[Any] = import_module(f"histocli.sources.{name.replace('-', '_')}").SOURCE
    return source
