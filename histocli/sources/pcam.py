"""PatchCamelyon: nine files from Zenodo, another server or a folder.

Veeling et al. 2018, doi:10.1007/978-3-030-00934-2_24; the files: doi:10.5281/zenodo.2546921.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from hashlib import sha1
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar
from urllib.parse import urlsplit

from histocli.errors import HistoError
from histocli.locks import hold
from histocli.patch import Patch, Pixels
from histocli.sources import PlannedFile, SourceContext, SourceOptions, SourceReport, SourceType
from histocli.sources.camelyon import find_hospital, read_meta
from histocli.sources.options import FROM, require_single_location
from histocli.sources.pcam_files import (
    MD5,
    SPLITS,
    SplitFiles,
    find_split_files,
    has_split,
    make_file_name,
    parse_location,
)

if TYPE_CHECKING:
    from histocli.sources.hdf5 import Labels

_MAX_OTHER_LABELS = 0.05  # share of labels that may differ from the meta table: with shuffled rows, about half do

T = TypeVar("T")


@dataclass(frozen=True)
class PcamOptions(SourceOptions):
    """The options of a `PcamSource`."""

    locations: Annotated[tuple[str, ...], FROM] = ()


class PcamSource:
    """The patches of PCam's splits, one split after the other.

    `location` is the base address or the folder of the nine files. None means Zenodo; the files must then have the
    published MD5s. The files in a folder may be unpacked (`.h5`). Downloads are saved in the folder of the context, and
    one array at a time is unpacked there.

    Raises:
        HistoError: the folder does not exist, or does not contain a split.
    """

    has_sha1_ids = True
    should_drop_duplicates = True

    def __init__(self, location: str | Path | None, context: SourceContext, splits: Sequence[str] = SPLITS) -> None:
        from histocli.sources.http import redact_url

        self._url, self._folder = parse_location(location)
        self._required = MD5 if location is None else {}
        self._context = context
        self._splits = [name for name in splits if self._folder is None or has_split(self._folder, name)]
        if not self._splits:
            raise HistoError(
                f"there are no files of PCam in {self._folder}",
                f"they have names such as {make_file_name('train', 'x')}",
            )
        self._files: dict[str, SplitFiles] = {}
        self._labels: dict[str, Labels] = {}
        self.report = SourceReport(origin=str(self._folder) if self._folder else redact_url(self._url))
        missing = [name for name in splits if name not in self._splits]
        if missing:
            self.report.notes.append(f"without the split {' and '.join(missing)}, which is not in the folder")

    @classmethod
    def open(cls, options: PcamOptions, context: SourceContext) -> "PcamSource":
        """Open the folder, or prepare a download."""
        return cls(require_single_location("pcam", options.locations), context)

    @property
    def is_remote(self) -> bool:
        """Whether the files are downloaded."""
        return self._folder is None

    @property
    def total(self) -> int | None:
        """The number of patches, including duplicates, known after `fetch`."""
        return sum(len(labels) for labels in self._labels.values()) if self._files else None

    def plan(self) -> list[PlannedFile]:
        """Return what `fetch` would download.

        Raises:
            HistoError: the server cannot be reached, or does not have the files.
        """
        if self._folder is not None:
            found = [path for name in self._splits for path in find_split_files(self._folder, name) if path is not None]
            return [PlannedFile(path.name, path.stat().st_size, True) for path in found]
        return [file for split in self._splits for file in self._for_each_file(split, self._plan_file).values()]

    def fetch(self) -> None:
        """Download all files, one at a time, and read the labels; a second call does nothing.

        Raises:
            HeldError: another process is downloading them.
            HistoError: as `download_file`, or the labels cannot be read.
        """
        from histocli.sources.hdf5 import read_labels

        if self._files:
            return
        folder = self._context.downloads_dir
        # Without the lock, two processes could append to the same file.
        with hold(folder / ".pcam.lock", f"PCam's files in {folder}") if self.is_remote else nullcontext():
            files = {split: self._fetch_split(split) for split in self._splits}
        for split, (_, y, _) in files.items():
            self._labels[split] = read_labels(y, folder, is_download=self.is_remote)
        self._note_checksums()
        self._files = files

    def read_patches(self) -> Iterator[Patch]:
        """Yield the patches of each split in the order of its array, after `fetch`."""
        self.fetch()
        for split in self._splits:
            yield from self._read_split_patches(split)

    def _read_split_patches(self, split: str) -> Iterator[Patch]:
        from histocli.sources.hdf5 import open_h5, read_patches

        files, labels = self._files[split], self._labels[split]
        slides = self._read_slides(split, files.meta)
        on_unpacked = partial(self._context.on_transfer, files.x.name.removesuffix(".gz"))
        folder, is_download = self._context.downloads_dir, self.is_remote
        with open_h5(files.x, folder, rows=len(labels), is_download=is_download, on_progress=on_unpacked) as file:
            for row, pixels in enumerate(read_patches(file, files.x, len(labels), is_download=is_download)):
                yield Patch(
                    id=sha1(pixels.tobytes(), usedforsecurity=False).hexdigest(),
                    load=partial(_return_pixels, pixels),
                    label=int(labels[row]),
                    slide=slides[row],
                    split=split,
                    hospital=find_hospital(slides[row]),
                )

    def _read_slides(self, split: str, meta: Path | None) -> list[str]:
        """Return the slide of each row; count labels of the table that differ from the array."""
        from histocli.sources.hdf5 import make_version_hint

        labels = self._labels[split]
        if meta is None:
            self.report.notes.append(f"{split}: no meta table, so the slides are not known")
            return [""] * len(labels)
        slides, centres = read_meta(meta)
        if len(slides) != len(labels):
            raise HistoError(
                f"{meta} has {len(slides):,} rows, {self._files[split].y.name} {len(labels):,}",
                make_version_hint(self.is_remote),
            )
        wrong = sum(centre not in (None, label) for centre, label in zip(centres, labels.tolist(), strict=True))
        if wrong > _MAX_OTHER_LABELS * len(labels):
            raise HistoError(
                f"{wrong:,} of {len(labels):,} labels in {self._files[split].y.name} differ from the column "
                f"center_tumor_patch of {meta}",
                "the rows of the two files are not the same patches: give the files of one split and version",
            )
        if wrong:
            counts, name = self.report.counts, "labels that differ from center_tumor_patch"
            counts[name] = counts.get(name, 0) + wrong
        return slides

    def _fetch_split(self, split: str) -> SplitFiles:
        from histocli.sources.download import compute_md5, read_recorded_md5

        if self._folder is not None:
            x, y, meta = find_split_files(self._folder, split)
        else:
            fetched = self._for_each_file(split, self._fetch_file)
            x, y, meta = (fetched.get(kind) for kind in ("x", "y", "meta"))
        if x is None or y is None:
            raise HistoError(
                f"{self.report.origin} lacks {make_file_name(split, 'y' if x else 'x')}",
                "a split needs both arrays: add the file, or omit --from to download it from Zenodo",
            )
        for path in (y, meta, x):
            if path is not None:
                self.report.checksums[path.name] = (self._folder is None and read_recorded_md5(path)) or compute_md5(
                    path
                )
        return SplitFiles(x, y, meta)

    def _for_each_file(self, split: str, action: Callable[[str], T]) -> dict[str, T]:
        """Call `action` for the name of each file of a split; return what it returns, by the kind of the file.

        A table of slides that the server does not have is left out.
        """
        from histocli.sources.http import MissingFileError

        results = {}
        for kind in ("y", "meta", "x"):
            try:
                results[kind] = action(make_file_name(split, kind))
            except MissingFileError:
                if kind != "meta":
                    raise
        return results

    def _fetch_file(self, name: str) -> Path:
        """Download a file."""
        from histocli.sources.download import download_file

        return download_file(
            self._find_url(name),
            self._context.downloads_dir / name,
            md5=self._required.get(name),
            on_progress=partial(self._context.on_transfer, name),
            force=self._context.force,
            policy=self._context.policy,
        )

    def _plan_file(self, name: str) -> PlannedFile:
        """Return the name and size of a file, and whether it is already downloaded."""
        from histocli.sources.download import find_remote_size, is_complete

        url, target = self._find_url(name), self._context.downloads_dir / name
        if not self._context.force and is_complete(url, target, self._required.get(name)):
            return PlannedFile(name, target.stat().st_size, True)
        return PlannedFile(name, find_remote_size(url, self._context.policy), False)

    def _find_url(self, name: str) -> str:
        """Return the address of a file: the base address with the name of the file added to its path."""
        parts = urlsplit(self._url)
        return parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()

    def _note_checksums(self) -> None:
        """Add notes that say which files have the published MD5s."""
        checksums, notes = self.report.checksums, self.report.notes
        unpacked = [name for name in checksums if name not in MD5]
        other = [name for name, md5 in checksums.items() if name in MD5 and MD5[name] != md5]
        if unpacked:
            notes.append(f"no MD5 is published for unpacked files, so these were not checked: {', '.join(unpacked)}")
        if other:
            notes.append(f"the MD5 of these files is not the published one: {', '.join(other)}")
        if not unpacked and not other:
            notes.append("all files have the published MD5")


def _return_pixels(pixels: Pixels) -> Pixels:
    return pixels


SOURCE = SourceType(PcamOptions, PcamSource.open)
