"""Patches from folders, zip archives and single image files."""

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from histocli.choices import Resize
from histocli.data.images import PATCH_SIZE, decode, fit
from histocli.data.sources import Patch, Pixels, SourceReport
from histocli.data.sources.files import File, is_image, list_files, read_bytes, read_labels, read_slides
from histocli.errors import HistoError

_CLASSES = {
    0: "0 negative neg normal benign healthy no_tumor no_tumour non_tumor non_tumour nontumor class0",
    1: "1 positive pos tumor tumour cancer cancerous malignant metastasis metastatic class1",
}
_LABEL_OF = {name: label for label, names in _CLASSES.items() for name in names.split()}


class FolderSource:
    """Images in any nesting, any size, of any format OpenCV reads.

    Labels come from `labels`, else from `*labels*.csv` tables inside or beside each location, else from class
    folders such as `0/1`, `negative/positive` or `normal/tumor`, else they are unknown.

    Raises:
        HistoError: a location is not there or holds no image, or a table is malformed.
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
        files = [file for location in locations for file in list_files(location)]
        self._images = [file for file in files if is_image(file.name)]
        if not self._images:
            raise HistoError(f"there are no images in {self.report.origin}", "give a folder or .zip that holds some")
        self._labels = self._read_labels(files, locations, labels)
        self._slides = read_slides(_the_file(slides)) if slides else {}
        self._ids = unique_ids(self._images)
        if len(self._ids) != len(set(self._ids)):
            raise HistoError(
                f"files in {self.report.origin} share their relative paths", "pack them one by one (--name)"
            )

    @property
    def total(self) -> int:
        """How many images there are."""
        return len(self._images)

    def patches(self) -> Iterator[Patch]:
        """Yield every image in the order of the locations and, within one, of its name."""
        unlabelled = 0
        for key, file in zip(self._ids, self._images, strict=True):
            label = self.label_of(file)
            unlabelled += label is None
            yield Patch(key, self._loader(file), label, self._slides.get(file.stem, ""))
        if unlabelled > 0:
            self.report.counts["without a label"] = unlabelled

    def label_of(self, file: File) -> int | None:
        """The file's label: from the table by its stem, its name or its path; else from the innermost class folder."""
        if self._labels is not None:
            found = (self._labels.get(key) for key in (file.stem, PurePosixPath(file.name).name, file.name))
            return next((label for label in found if label is not None), None)
        folders = PurePosixPath(file.name).parent.parts
        return next((_LABEL_OF[part.lower()] for part in reversed(folders) if part.lower() in _LABEL_OF), None)

    def _loader(self, file: File):  # type: ignore[no-untyped-def]
        def load() -> Pixels:
            image = decode(read_bytes(file), file.name)
            if image.shape[:2] != (PATCH_SIZE, PATCH_SIZE):
                verb = "cut to the centre" if self._resize is Resize.CROP else "scaled"
                self.report.counts[verb] = self.report.counts.get(verb, 0) + 1
            return fit(image, self._resize)

        return load

    def _read_labels(self, files: list[File], locations: Sequence[Path], given: Path | None) -> dict[str, int] | None:
        tables = [_the_file(given)] if given else [file for file in files if _is_label_table(file.name)]
        if not tables:
            tables = [
                _the_file(path)
                for where in locations
                for path in sorted(where.absolute().parent.glob("*.csv"))
                if _is_label_table(path.name)
            ]
        if not tables:
            return None
        labels: dict[str, int] = {}
        for table in tables:
            self.report.notes.append(f"labels from {table.name}")
            labels.update(read_labels(table))
        images = {file.stem for file in self._images} | {file.name for file in self._images}
        missing = sum(key not in images and PurePosixPath(key).stem not in images for key in labels)
        if missing:
            self.report.counts["labels without an image"] = missing
        return labels


def unique_ids(files: Sequence[File]) -> list[str]:
    """An id per file: its stem, as Kaggle's are, where all stems differ; else its path without the suffix, or with it."""
    for name in (lambda f: f.stem, lambda f: str(PurePosixPath(f.name).with_suffix("")), lambda f: f.name):
        ids = [name(file) for file in files]
        if len(set(ids)) == len(ids):
            break
    return ids


def _is_label_table(name: str) -> bool:
    base = PurePosixPath(name).name.lower()
    return base.endswith(".csv") and "labels" in base


def _the_file(path: Path) -> File:
    if not path.is_file():
        raise HistoError(f"there is no {path}")
    return File(str(path), path.read_bytes)
