"""Patches from folders, zip archives and image files."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, TypeVar

from histocli.config import Resize
from histocli.errors import HistoError, UsageError
from histocli.sources import Patch, SourceContext, SourceOptions, SourceReport, SourceType
from histocli.sources.files import File, file_at, is_image, list_files, read_labels, read_slides
from histocli.sources.options import FROM, LABELS, RESIZE, SLIDES
from histocli.sources.slides import hospital_of

_CLASSES = {
    0: "0 negative neg normal benign healthy no_tumor no_tumour non_tumor non_tumour nontumor class0",
    1: "1 positive pos tumor tumour cancer cancerous malignant metastasis metastatic class1",
}
_LABEL_OF = {name: label for label, names in _CLASSES.items() for name in names.split()}

T = TypeVar("T")


@dataclass(frozen=True)
class FolderOptions(SourceOptions):
    """The options of a `FolderSource`."""

    locations: Annotated[tuple[str, ...], FROM] = ()
    labels: Annotated[Path | None, LABELS] = None
    slides: Annotated[Path | None, SLIDES] = None
    resize: Annotated[Resize, RESIZE] = Resize.CROP


class FolderSource:
    """Images of any size, in any format that OpenCV reads, in folders and their subfolders.

    Labels are looked for in this order: the table `labels`; tables `*labels*.csv` in each location or next to it, if
    they contain an id of an image; class folders such as `0` and `1` or `normal` and `tumor`, which can also be the
    locations themselves. If nothing is found, labels are None.

    Raises:
        HistoError: a location does not exist or has no image, a table is malformed, or `labels` has no id of an image.
    """

    id_is_sha1 = False
    drop_duplicates = False

    def __init__(
        self,
        locations: Sequence[Path],
        *,
        labels: Path | None = None,
        slides: Path | None = None,
        resize: Resize = Resize.CROP,
    ) -> None:
        self.report = SourceReport(origin=", ".join(map(str, locations)))
        self._resize = resize
        found = [list_files(location) for location in locations]
        tables = [_require_file(labels)] if labels else _label_tables(locations, found)
        known = _read_tables(tables)
        images = [file for files in found for file in files if is_image(file.name)]
        if not images:
            raise HistoError(
                f"there are no images in {self.report.origin}", "give a folder or .zip that contains images"
            )
        if not any(_key_of(image, known) for image in images):
            if labels:
                raise HistoError(
                    f"{labels} has no label of any image", "its ids must be the names or paths of the images"
                )
            known = {}
            found = [_add_class_folder(location, files) for location, files in zip(locations, found, strict=True)]
        else:
            self.report.notes += [f"labels from {table.name}" for table in tables]
        self._images = [file for files in found for file in files if is_image(file.name)]
        self._ids = unique_ids(self._images)
        if len(self._ids) != len(set(self._ids)):
            raise HistoError(
                f"files in {self.report.origin} have the same relative paths",
                "pack each --from as a data set with another --name",
            )
        self._labels = self._match_images(known, "labels") if known else self._class_folders()
        self._slides = self._match_images(read_slides(_require_file(slides)), "slides") if slides else {}

    @classmethod
    def open(cls, options: FolderOptions, context: SourceContext) -> "FolderSource":
        """Open the locations."""
        if not options.locations:
            raise UsageError("--source folder needs --from PATH", "--from may be repeated")
        locations = [Path(location) for location in options.locations]
        return cls(locations, labels=options.labels, slides=options.slides, resize=options.resize)

    @property
    def total(self) -> int:
        """The number of images."""
        return len(self._images)

    def patches(self) -> Iterator[Patch]:
        """Yield all images, in the order of the locations, and sorted by name in each location."""
        from histocli.data.image_files import ImageFile, ranges_of
        from histocli.data.images import Preparation

        how = Preparation(self._resize, ranges=ranges_of(self._images))
        for key, file in zip(self._ids, self._images, strict=True):
            slide = self._slides.get(file.name, "")
            # Other data sets can also have slides with names such as tumor_001.
            hospital = hospital_of(slide) if "camelyon16" in slide else ""
            yield Patch(
                key, ImageFile(file.name, file.read, how), self._labels.get(file.name), slide, hospital=hospital
            )
        counts = {
            "without a label": self.total - len(self._labels),
            "without a slide": self.total - len(self._slides) if self._slides else 0,
        }
        self.report.counts.update({name: count for name, count in counts.items() if count})

    def _class_folders(self) -> dict[str, int]:
        """Return the label of each image in a class folder; of nested class folders the innermost is used."""
        labels = {}
        for file in self._images:
            folders = [part.lower() for part in PurePosixPath(file.name).parent.parts if part.lower() in _LABEL_OF]
            if folders:
                labels[file.name] = _LABEL_OF[folders[-1]]
        return labels

    def _match_images(self, table: dict[str, T], what: str) -> dict[str, T]:
        """Return the value of each image that a table contains, by the image's name."""
        found: dict[str, T] = {}
        owners: dict[str, str] = {}
        for image in self._images:
            key = _key_of(image, table)
            if key is None:
                continue
            if owners.setdefault(key, image.name) != image.name:
                raise HistoError(
                    f"the id {key!r} in the table of {what} is that of two images, {owners[key]} and {image.name}",
                    "use the paths of the images as ids in the table",
                )
            found[image.name] = table[key]
        if missing := len(table) - len(owners):
            self.report.counts[f"{what} without an image"] = missing
        return found


def _read_tables(tables: list[File]) -> dict[str, int]:
    """Return the labels of all tables, by id."""
    labels: dict[str, int] = {}
    for table in tables:
        for key, label in read_labels(table).items():
            if labels.setdefault(key, label) != label:
                raise HistoError(
                    f"{table.name}: another table has a different label for {key!r}", "correct one of the tables"
                )
    return labels


def _key_of(image: File, table: dict[str, T]) -> str | None:
    """Return the key of an image in a table (its path or file name, with or without suffix), or None."""
    path = PurePosixPath(image.name)
    keys = (image.name, str(path.with_suffix("")), path.name, path.stem)
    return next((key for key in keys if key in table), None)


def unique_ids(files: Sequence[File]) -> list[str]:
    """Return a unique id for each file: the stem (as in Kaggle's data) if all differ, else the path."""
    for name in (lambda f: f.stem, lambda f: str(PurePosixPath(f.name).with_suffix("")), lambda f: f.name):
        ids = [name(file) for file in files]
        if len(set(ids)) == len(ids):
            break
    return ids


def _add_class_folder(location: Path, files: list[File]) -> list[File]:
    """Add the name of the location to the names of its files, if the location is a class folder itself."""
    name = location.absolute().name
    if name.lower() not in _LABEL_OF or not location.is_dir():
        return files
    return [File(f"{name}/{file.name}", file.read) for file in files]


def _label_tables(locations: Sequence[Path], found: list[list[File]]) -> list[File]:
    """List the tables of labels in each location, or next to it if the location contains none."""
    inside: list[File] = []
    outside: dict[Path, None] = {}
    for location, files in zip(locations, found, strict=True):
        tables = [file for file in files if _is_label_table(file.name)]
        inside += tables
        if not tables:
            outside.update(dict.fromkeys(sorted(location.absolute().parent.glob("*.csv"))))
    return inside + [file_at(path) for path in outside if _is_label_table(path.name) and path.is_file()]


def _is_label_table(name: str) -> bool:
    base = PurePosixPath(name).name.lower()
    return base.endswith(".csv") and "labels" in base


def _require_file(path: Path) -> File:
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a folder may not be entered
        raise HistoError(f"there is no {path}", "give a table in CSV")
    return file_at(path)


SOURCE = SourceType(FolderOptions, FolderSource.open, files_may_change=True)
