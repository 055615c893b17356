"""Patches from folders, archives and image files."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from histocli.class_names import describe_counts, find_label, find_splits_of_folders, parse_classes
from histocli.config import PATCH_MPP
from histocli.enums import IdKind, Resize, SplitName
from histocli.errors import HistoError, UsageError
from histocli.files.archives import is_archive, remove_archive_suffix
from histocli.files.file import File, describe_others, find_images, is_array, split_suffix, to_utf8
from histocli.files.formats import explain_no_images
from histocli.files.listing import list_files
from histocli.labels.classes import find_classes, read_splits, read_splits_in_names
from histocli.labels.find import find_labels
from histocli.labels.patch_tables import ColumnNames, TableOptions
from histocli.labels.slide_names import (
    compile_slide_pattern,
    describe_slides,
    find_slides_by_pattern,
    suggest_pattern,
)
from histocli.labels.splits import describe_splits
from histocli.patch import Patch
from histocli.sources import SourceContext, SourceOptions, SourceReport, SourceType
from histocli.sources.camelyon import find_hospital
from histocli.sources.copies import describe_copies, refuse_masks
from histocli.sources.options import (
    CLASSES,
    FROM,
    HOSPITAL_COLUMN,
    ID_COLUMN,
    LABEL_COLUMN,
    LABELS,
    MPP,
    RESIZE,
    SLIDE_COLUMN,
    SLIDE_PATTERN,
    SLIDES,
    SPLIT_COLUMN,
    parse_mpp,
)

WITHOUT_SLIDE = "without a slide"
_MAGNIFICATION = re.compile(r"\d{1,3}(?:\.\d)?x|x\d{1,3}", re.IGNORECASE)


@dataclass(frozen=True)
class FolderOptions(SourceOptions):
    """The options of a `FolderSource`."""

    locations: Annotated[tuple[str, ...], FROM] = ()
    labels: Annotated[Path | None, LABELS] = None
    slides: Annotated[Path | None, SLIDES] = None
    classes: Annotated[tuple[str, ...], CLASSES] = ()
    slide_pattern: Annotated[str | None, SLIDE_PATTERN] = None
    id_column: Annotated[str | None, ID_COLUMN] = None
    label_column: Annotated[str | None, LABEL_COLUMN] = None
    slide_column: Annotated[str | None, SLIDE_COLUMN] = None
    hospital_column: Annotated[str | None, HOSPITAL_COLUMN] = None
    split_column: Annotated[str | None, SPLIT_COLUMN] = None
    resize: Annotated[Resize, RESIZE] = Resize.CROP
    mpp: Annotated[str | None, MPP] = None

    @property
    def columns(self) -> ColumnNames:
        """The columns that the user named."""
        return ColumnNames(
            self.id_column, self.label_column, self.slide_column, self.hospital_column, self.split_column
        )


class FolderSource:
    """Images of any size, in any format that is read, in folders and their subfolders, or in archives.

    Labels are looked for in this order: the table `labels`; tables in each location, or next to it; class folders such
    as `0` and `1` or `normal` and `tumor`, which can be the locations themselves. If nothing is found, labels are None.
    Folders such as `train`, `val` and `test`, above or below the class folders, give the split.

    Raises:
        HistoError: a location does not exist or has no image; a table is malformed or has no id of an image; folders
            have more than two classes, or contradict each other or a table.
        UsageError: an option is malformed, or two options contradict each other.
    """

    has_sha1_ids = False
    should_drop_duplicates = False

    def __init__(self, options: FolderOptions) -> None:
        locations = [Path(location) for location in options.locations]
        self.report = SourceReport(origin=", ".join(to_utf8(str(location)) for location in locations))
        self._resize, self._mpp = options.resize, parse_mpp(options.mpp, options.resize)
        classes = parse_classes(options.classes)
        pattern = compile_slide_pattern(options.slide_pattern, has_table=bool(options.slides or options.slide_column))
        for location in locations:
            _refuse_array(location)
        found = _name_locations(locations, [list_files(location) for location in locations], classes)
        self._images, others = find_images(file for files in found for file in files)
        if not self._images:
            raise HistoError(f"there are no images in {self.report.origin}", explain_no_images(others))
        refuse_masks([image.name for image in self._images])
        self._ids = make_unique_ids(self._images)
        names = [image.name for image in self._images]
        if len(set(names)) != len(names):
            raise HistoError(
                f"files in {self.report.origin} have the same relative paths",
                "pack each --from as a data set with another --name",
            )
        tables = TableOptions(options.labels, options.slides, classes, options.columns, pattern is not None)
        self._found = find_labels(locations, found, others, names, tables)
        self._splits = self._read_splits(names)
        if pattern:
            slides, has_table = find_slides_by_pattern(pattern, names), bool(self._found.slides)
            self._found.slides = slides
            self._found.notes.append(describe_slides(slides, names, has_table))
        self._describe(others, names)

    @classmethod
    def open(cls, options: FolderOptions, context: SourceContext) -> "FolderSource":
        """Open the locations."""
        if not options.locations:
            raise UsageError("--source folder needs --from PATH", "give a folder, an archive or an image")
        return cls(options)

    @property
    def total(self) -> int:
        """The number of images."""
        return len(self._images)

    @property
    def split_names(self) -> list[str]:
        """The splits of the folders: some of train, valid and test, or none."""
        return sorted(set(self._splits.values()))

    def count_labelled(self, split: SplitName) -> int:
        """Return how many images of a split have a label."""
        return sum(name in self._found.labels for name in self._list_names(split))

    def count_missing(self, split: SplitName) -> dict[str, int]:
        """Return the counts of the report, which are labels without an image, and images of a split without a label.

        If some slides are known, images without one are counted too. There are no zeros.
        """
        found, names = self._found, self._list_names(split)
        counts = {**found.unmatched, "without a label": sum(name not in found.labels for name in names)}
        if found.slides:
            counts[WITHOUT_SLIDE] = sum(name not in found.slides for name in names)
        return {what: count for what, count in counts.items() if count}

    def _list_names(self, split: SplitName) -> list[str]:
        """Return the names of the images of a split."""
        names = [image.name for image in self._images]
        return names if split is SplitName.ALL else [name for name in names if self._splits.get(name) == split.value]

    def read_patches(self) -> Iterator[Patch]:
        """Yield all images, in the order of the locations, and sorted by name in each location."""
        from histocli.images.decode import Preparation
        from histocli.images.image_files import ImageFile, infer_file_ranges

        how, found = Preparation(self._resize, self._mpp, ranges=infer_file_ranges(self._images)), self._found
        for key, file in zip(self._ids, self._images, strict=True):
            slide = found.slides.get(file.name, "")
            # Other data sets can also have slides with names such as tumor_001.
            hospital = found.hospitals.get(file.name) or (find_hospital(slide) if "camelyon16" in slide else "")
            split = self._splits.get(file.name, "")
            yield Patch(key, ImageFile(file.name, file.read, how), found.labels.get(file.name), slide, split, hospital)

    def _read_splits(self, names: list[str]) -> dict[str, str]:
        """Return the splits of the tables; for other images, those of the folders or of the file names."""
        known = self._found.splits
        if len(known) == len(names):
            return known
        folders = read_splits(names)
        if not folders and not known:
            if folders := read_splits_in_names(names):
                counts = describe_splits(list(folders.values()), len(names))
                self.report.notes.append(f"splits by the names of the files: {counts}")
        elif folders:
            splits = [split for name, split in folders.items() if name not in known]
            self.report.notes.append(
                f"splits by the names of folders: {describe_splits(splits, self.total - len(known))}"
            )
        return folders | known

    def _describe(self, others: list[File], images: list[str]) -> None:
        """Add notes to the report: what was found, which files were skipped, and what was guessed."""
        found, report = self._found, self.report
        report.notes += found.notes
        if (names := found.possible_splits) and not self._splits:
            report.notes.append(
                f"each of the folders {', '.join(names)} has both classes, and they are read as one set. If they are "
                "splits, name them train, val and test"
            )
        if skipped := describe_others(file for file in others if file.name not in found.used):
            report.notes.append(skipped)
        if self._mpp is not None:
            report.notes.append(f"rescaled the images from {self._mpp} to {PATCH_MPP} um per pixel")
        if magnifications := _describe_magnifications(images):
            report.notes.append(magnifications)
        if copies := describe_copies(images):
            report.notes.append(copies)
        if not found.slides and (pattern := suggest_pattern(images)):
            report.notes.append(pattern)
        report.counts.update(self.count_missing(SplitName.ALL))


def make_unique_ids(files: Sequence[File]) -> list[str]:
    """Return a unique id for each file: the stem (as in Kaggle's data) if all differ, else the path."""
    kind = choose_id_kind(files)
    return [make_id(file, kind) for file in files]


def choose_id_kind(files: Sequence[File]) -> IdKind:
    """Return the first kind that gives all files different ids."""
    return next((kind for kind in IdKind if len({make_id(file, kind) for file in files}) == len(files)), IdKind.PATH)


def make_id(file: File, kind: IdKind) -> str:
    """Return the id of a file."""
    if kind is IdKind.STEM:
        return file.stem
    return file.name if kind is IdKind.PATH else file.name.removesuffix(split_suffix(file.name)[1])


def _describe_magnifications(names: Sequence[str]) -> str:
    """Return a line that names the folders such as `40X` and `400X`; "" unless there are several of them."""
    found = Counter(part for name in names for part in name.split("/")[:-1] if _MAGNIFICATION.fullmatch(part))
    if len(found) < 2:
        return ""
    return (
        f"folders that look like magnifications: {describe_counts(found)}; their patches are mixed, although a network "
        "needs patches of one magnification: copy those of one to a folder of their own"
    )


def _refuse_array(location: Path) -> None:
    if location.is_file() and is_array(location.name):
        raise HistoError(
            f"{location} is an array, which has no labels that --source folder reads",
            "save patches and labels together: numpy.savez('patches.npz', x=patches, y=labels); PCam: --source pcam",
        )


def _name_locations(locations: Sequence[Path], found: list[list[File]], classes: Mapping[str, int]) -> list[list[File]]:
    """Add the name of a location to the names of its files, if it is the name of a class or split.

    The name of a class is added if there are no class folders in the location; the names of splits are added if the
    locations have different splits: `--from train/ --from test/`.
    """
    names = [remove_archive_suffix(location.absolute().name) for location in locations]
    splits = find_splits_of_folders(names)
    has_splits = len({splits.get(name, "") for name in names}) > 1
    named = []
    for name, location, files in zip(names, locations, found, strict=True):
        is_class = find_label(name, classes) is not None and not find_classes((f.name for f in files), classes).labels
        is_named = (location.is_dir() or is_archive(location.name)) and (is_class or (has_splits and name in splits))
        named.append([File(f"{name}/{file.name}", file.read) for file in files] if is_named else files)
    return named


SOURCE = SourceType(FolderOptions, FolderSource.open, has_user_files=True)
