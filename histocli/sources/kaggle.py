"""Kaggle's Histopathologic Cancer Detection, downloaded with Kaggle's client, or from an archive or folder."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Annotated

from histocli.errors import HistoError
from histocli.files.file import File, describe_others, is_image, read_bytes
from histocli.files.listing import list_files
from histocli.labels.splits import describe_splits
from histocli.labels.table_files import find_table, read_labels, read_slides, remove_suffix
from histocli.patch import Patch, Pixels
from histocli.sources import PlannedFile, SourceContext, SourceOptions, SourceReport, SourceType
from histocli.sources.camelyon import find_hospital
from histocli.sources.kaggle_client import (
    ARCHIVE_BYTES,
    COMPETITION,
    PAGE,
    download_competition,
    find_competition_dir,
)
from histocli.sources.options import FROM, SLIDES, require_single_location


def _make_layout_hint(path: Path) -> str:
    """Return a hint: which files the archive contains, or the folder above `path` if that one contains them."""
    above = path.absolute().parent
    if (above / "train_labels.csv").is_file() or (above / "train_labels.csv.zip").is_file():
        return f"give the folder that contains train_labels.csv, train/ and test/: --from {above}"
    return (
        "Kaggle's archive contains train_labels.csv, train/*.tif and test/*.tif; other layouts: histo download "
        f"--source folder --from {path}"
    )


@dataclass(frozen=True)
class KaggleOptions(SourceOptions):
    """The options of a `KaggleSource`."""

    locations: Annotated[tuple[str, ...], FROM] = ()
    slides: Annotated[Path | None, SLIDES] = None


class KaggleSource:
    """The patches of the competition: the split `train` with labels, and the split `test` without.

    `location` is the archive or its unpacked folder; None downloads it with Kaggle's client into the folder of the
    context (or KAGGLEHUB_CACHE). `slides` is a table `id,wsi`, as CSV or in a zip.

    Raises:
        HistoError: the location does not exist or does not have the layout of Kaggle's archive, a table is malformed,
            or no id of `slides` is an image.
    """

    has_sha1_ids = True
    should_drop_duplicates = False

    def __init__(self, location: Path | None, context: SourceContext, slides: Path | None = None) -> None:
        self._location, self._context = location, context
        self._images: dict[str, list[File]] = {}
        self._labels: dict[str, int] = {}
        self._slides_path = slides
        read = read_slides(find_table(slides)) if slides else {}
        self._slides = {remove_suffix(key): slide for key, slide in read.items()}
        self.report = SourceReport(origin=PAGE if location is None else str(location))
        if location is not None:
            self._index(location)

    @classmethod
    def open(cls, options: KaggleOptions, context: SourceContext) -> "KaggleSource":
        """Open the archive or folder, or prepare a download."""
        location = require_single_location("kaggle", options.locations)
        return cls(Path(location) if location else None, context, options.slides)

    @property
    def is_remote(self) -> bool:
        """Whether the patches are downloaded."""
        return self._location is None

    @property
    def total(self) -> int | None:
        """The number of patches, known after `fetch`."""
        return sum(map(len, self._images.values())) if self._images else None

    def plan(self) -> list[PlannedFile]:
        """Return what `fetch` would download."""
        if self._location is not None:
            size = self._location.stat().st_size if self._location.is_file() else None
            return [PlannedFile(self._location.name, size, True)]
        is_here = not self._context.force and find_competition_dir(self._context.downloads_dir).is_dir()
        return [PlannedFile(f"{COMPETITION}.zip", ARCHIVE_BYTES, is_here)]

    def fetch(self) -> None:
        """Download the archive, unless it is on disk, and list its files; a second call does nothing.

        Raises:
            HistoError: as `download_competition`, or the archive does not have the expected layout.
        """
        if not self._images:
            self._index(download_competition(self._context))

    def read_patches(self) -> Iterator[Patch]:
        """Fetch the files; yield the patches of train, then those of test, each in the order of their ids."""
        self.fetch()
        for split, images in self._images.items():
            for image in images:
                slide = self._slides.get(image.stem, "")
                yield Patch(
                    id=image.stem,
                    load=partial(_decode, image),
                    label=self._labels.get(image.stem) if split == "train" else None,
                    slide=slide,
                    split=split,
                    hospital=find_hospital(slide),
                )

    def _index(self, path: Path) -> None:
        """Find the images and their labels; count images without a label and labels without an image."""
        if path.suffix.lower() == ".csv" and path.is_file():
            raise HistoError(f"{path} is a table, and neither a folder nor an archive", _make_layout_hint(path))
        files = {file.name: file for file in list_files(path)}
        root = _find_root(files, path)
        images = {split: _list_images_in(files, f"{root}{split}/") for split in ("train", "test")}
        labels = read_labels(files[f"{root}train_labels.csv"])
        self._labels = {remove_suffix(key): label for key, label in labels.items()}
        if not images["train"]:
            raise HistoError(f"there are no images in {path}/{root}train", _make_layout_hint(path))
        times = Counter(file.stem for split in images.values() for file in split)
        twice = [key for key, count in times.items() if count > 1]
        if twice:
            raise HistoError(f"{path}: more than one image has the id {twice[0]!r}", "keep one of them")
        if self._slides_path and times.keys().isdisjoint(self._slides):
            raise HistoError(
                f"no id of {self._slides_path} is the id of an image in {path}",
                f"its ids must be the names of the images, such as {images['train'][0].stem}",
            )
        train = {file.stem for file in images["train"]}
        counts = {
            "labels without an image": len(self._labels.keys() - train),
            "train images without a label": len(train - self._labels.keys()),
            "train images without a slide": len(train - self._slides.keys()) if self._slides else 0,
        }
        if sample := files.get(f"{root}sample_submission.csv"):
            wanted, test = set(map(remove_suffix, read_labels(sample))), {file.stem for file in images["test"]}
            counts["ids of sample_submission.csv without an image"] = len(wanted - test)
            counts["test images that are not in sample_submission.csv"] = len(test - wanted)
        self.report.counts.update({name: count for name, count in counts.items() if count})
        self._describe(images, f"{root}train_labels.csv")
        used = {f"{root}train_labels.csv", f"{root}sample_submission.csv"}
        used.update(file.name for split in images.values() for file in split)
        if skipped := describe_others(file for name, file in files.items() if name not in used):
            self.report.notes.append(skipped)
        self._images = images

    def _describe(self, images: Mapping[str, list[File]], table: str) -> None:
        """Add notes to the report: where the splits, the labels and the slides are from."""
        splits = {file.stem: split for split, files in images.items() for file in files}
        labelled = sum(split == "train" and key in self._labels for key, split in splits.items())
        slides = "the slides are not known: --slides TABLE names the slide of each patch"
        if self._slides_path:
            matched = sum(key in self._slides for key in splits)
            slides = f"slides from {self._slides_path}: {_describe_matches(matched, self._slides, splits)}"
        self.report.notes += [
            f"splits by the names of folders: {describe_splits(list(splits.values()), len(splits))}",
            f"labels from {table}: {_describe_matches(labelled, self._labels, splits)}",
            slides,
        ]


def _describe_matches(matched: int, rows: Sized, images: Sized) -> str:
    return f"{matched:,} of {len(rows):,} rows match {matched:,} of {len(images):,} images"


def _find_root(files: Mapping[str, File], path: Path) -> str:
    """Return the folder with train_labels.csv: "" for the top level, or a folder below it, as in some archives."""
    roots = [name.removesuffix("train_labels.csv") for name in files if PurePosixPath(name).name == "train_labels.csv"]
    roots = sorted(roots, key=lambda root: root.count("/"))
    if not roots:
        raise HistoError(f"there is no train_labels.csv in {path}", _make_layout_hint(path))
    if len(roots) > 1 and roots[0].count("/") == roots[1].count("/"):
        raise HistoError(
            f"there are {len(roots)} files train_labels.csv in {path}", "give one of the folders to --from"
        )
    return roots[0]


def _list_images_in(files: Mapping[str, File], folder: str) -> list[File]:
    """Return the images in a folder, or in its subfolders if the folder itself has none, sorted by name.

    Unzipping train.zip in a folder `train` makes `train/train/`; some users sort the patches into class folders.
    """
    below = [file for name, file in files.items() if name.startswith(folder) and is_image(name)]
    direct = [file for file in below if "/" not in file.name[len(folder) :]]
    return direct or sorted(below, key=lambda file: file.stem)


def _decode(file: File) -> Pixels:
    from histocli.images.decode import decode_patch

    return decode_patch(read_bytes(file), file.name)


SOURCE = SourceType(KaggleOptions, KaggleSource.open)
