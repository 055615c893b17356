"""The options of `histo download` as one of the sources."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from rich import filesize

from histocli.config import Resize, SourceKind
from histocli.console import OnProgress, Reporter
from histocli.errors import UsageError
from histocli.sources import Source
from histocli.workspace import Workspace

if TYPE_CHECKING:
    from histocli.sources import PlannedFile

OnTransfer = Callable[[str, int, int | None], None]

SYNTHETIC_N = 8_000  # patches where --n does not say


@dataclass(frozen=True)
class SourceOptions:
    """What was asked for."""

    kind: SourceKind
    locations: tuple[str, ...]
    labels: Path | None
    slides: Path | None
    n: int | None
    resize: Resize
    seed: int
    force: bool

    @property
    def on_disk(self) -> bool:
        """Whether the patches come from here, not from a server."""
        return self.kind is SourceKind.SYNTHETIC or any("://" not in location for location in self.locations)

    @property
    def request(self) -> dict[str, Any]:
        """What makes two downloads the same, as `dataset.json` keeps it."""
        paths = {"labels": self.labels, "slides": self.slides}
        return {
            "source": self.kind.value,
            "from": [_absolute(location) for location in self.locations],
            **{name: str(path.absolute()) if path else None for name, path in paths.items()},
            "n": self.n,
            "resize": self.resize.value,
            "seed": self.seed if self.n or self.kind is SourceKind.SYNTHETIC else None,
        }

    def check(self) -> None:
        """Raise `UsageError` for an option that this source has no use for."""
        kind = self.kind
        if self.labels and kind is not SourceKind.FOLDER:
            raise UsageError(f"--labels has no meaning for --source {kind}", "only --source folder takes a table")
        if self.slides and kind not in (SourceKind.FOLDER, SourceKind.KAGGLE):
            raise UsageError(f"--slides has no meaning for --source {kind}", "it knows its slides by itself")
        if kind is SourceKind.FOLDER and not self.locations:
            raise UsageError("--source folder needs --from PATH", "several --from may be given")
        if kind is SourceKind.SYNTHETIC and self.locations:
            raise UsageError("--source synthetic is made here and takes no --from")
        if kind in (SourceKind.KAGGLE, SourceKind.PCAM) and len(self.locations) > 1:
            raise UsageError(f"--source {kind} takes one --from", "only --source folder takes several")
        if self.resize is not Resize.CROP and kind is not SourceKind.FOLDER:
            raise UsageError(f"--resize has no meaning for --source {kind}", "its patches are all 96x96")


def open_source(options: SourceOptions, workspace: Workspace, report: Reporter) -> tuple[Source, Callable[[], None]]:
    """Open the source, and give what then fetches its files, each behind a bar of its own; nothing is written before.

    Raises:
        HistoError: an option does not fit the source, or there is nothing at its location.
    """
    bars: dict[str, OnProgress] = {}  # a file's bar appears with its first bytes, in the place of the one before
    fetching = ExitStack()

    def on_transfer(name: str, done: int, total: int | None) -> None:
        if opened:  # what is unpacked while it is packed has the packing's bar
            report.at_stage(f"unpacking {_short(name)}" + (f" {min(1, done / total):.0%}" if total else ""))
            return
        if name not in bars:
            fetching.close()
            bars[name] = fetching.enter_context(report.bar(_short(name), unit="bytes", total=total))
        bars[name](done, total)

    opened = False
    source = _create(options, workspace, on_transfer)

    def fetch() -> None:
        nonlocal opened
        if isinstance(source, Remote):
            if not options.on_disk:
                report.note(f"fetching {source.report.origin}")
            with fetching:
                source.fetch()
        opened = True

    return source, fetch


def plan(options: SourceOptions, workspace: Workspace) -> list[tuple[str, str, str]]:
    """What a download would bring: rows of a file, its size, and whether it is here already."""
    source = _create(options, workspace, lambda name, done, total: None, tries=2)
    if not isinstance(source, Remote):
        return [(source.report.origin, f"{source.total:,} patches", "yes")]
    return [
        (
            file.name,
            "unknown" if file.size is None else filesize.decimal(file.size),
            "yes" if file.is_here else "no",
        )
        for file in source.plan()
    ]


@runtime_checkable
class Remote(Source, Protocol):
    """A source whose files may have to be fetched first."""

    def fetch(self) -> None:
        """Bring what is not there yet."""

    def plan(self) -> "list[PlannedFile]":
        """Say what `fetch` would bring."""


def _create(
    options: SourceOptions, workspace: Workspace, on_transfer: OnTransfer, *, tries: int | None = None
) -> Source:
    options.check()
    if options.kind is SourceKind.SYNTHETIC:
        from histocli.sources.synthetic import SyntheticSource

        return SyntheticSource(options.n or SYNTHETIC_N, options.seed)
    first = options.locations[0] if options.locations else None
    if options.kind is SourceKind.PCAM:
        from histocli.sources.http import DEFAULT_POLICY
        from histocli.sources.pcam import PcamSource

        policy = DEFAULT_POLICY if tries is None else replace(DEFAULT_POLICY, tries=tries)
        return PcamSource(first, workspace.downloads_dir, on_transfer=on_transfer, force=options.force, policy=policy)
    if options.kind is SourceKind.KAGGLE:
        from histocli.sources.kaggle import KaggleSource

        location = Path(first) if first else None
        return KaggleSource(location, workspace.downloads_dir, slides=options.slides, force=options.force)
    from histocli.sources.folder import FolderSource

    return FolderSource(
        [Path(location) for location in options.locations],
        labels=options.labels,
        slides=options.slides,
        resize=options.resize,
    )


def _short(name: str) -> str:
    """A file's name that leaves room for its bar on 80 columns."""
    return name if len(name) <= 16 else f"...{name[-13:]}"


def _absolute(location: str) -> str:
    """A location as it may be kept: of an address with credentials or a query, which can hold a token, a digest."""
    if "://" not in location:
        return str(Path(location).absolute())
    from histocli.sources.http import redact_url

    public = redact_url(location)
    return public if public == location else f"{public} sha256:{sha256(location.encode()).hexdigest()}"
