"""What is known of the tumour of slides: annotations or labels, for `histo eval --maps`."""

from pathlib import Path

from histocli.errors import HistoError, UsageError
from histocli.files.file import make_file
from histocli.labels.table_files import read_labels
from histocli.slides.annotations import TumourAreas, check_inside, read_tumour
from histocli.slides.detection import SlideFile
from histocli.slides.records import FinishedSlide
from histocli.slides.resolution import list_keys
from histocli.slides.slide_files import FoundAnnotation, NoAnnotationError, describe_found, find_annotation
from histocli.text import format_count


class SlideAnnotations:
    """A folder with an annotation file for each slide."""

    def __init__(self, folder: Path, files: dict[str, SlideFile]) -> None:
        """Check that `folder` is one; `files` has the file of each slide, by its path."""
        if not folder.is_dir():
            raise UsageError(f"--annotations {folder} is not a folder", "give the folder of the annotations")
        self._folder = folder
        self._files = files
        self._found: list[FoundAnnotation | None] = []  # None for a slide that is normal by its name
        self._problems: list[str] = []

    def find(self, slide: FinishedSlide) -> TumourAreas | None:
        """Return the annotated tumour of a slide; None if the slide has no annotation file."""
        try:
            annotation = find_annotation(self._files[slide.path], self._folder)
        except NoAnnotationError:
            return None
        self._found.append(annotation)
        if annotation is None:
            return TumourAreas([], [])
        areas = read_tumour(annotation.path, slide.origin)
        check_inside(areas, annotation.path, Path(slide.path), (slide.width, slide.height))
        self._problems += areas.describe_problems(annotation.path)
        return areas

    @property
    def notes(self) -> list[str]:
        """What was left out of the files, which slides are normal by their names, and which have several files."""
        return [*self._problems, *describe_found(self._found)]


class SlideLabels:
    """A table of the labels of slides. An id is the name of a slide, with or without its suffix."""

    def __init__(self, path: Path, files: dict[str, SlideFile]) -> None:
        """Read the table; `files` has the file of each slide, by its path."""
        if not path.is_file():
            raise HistoError(f"there is no file {path}", "give a table with the columns id,label")
        self._path = path
        self._files = files
        self._labels = read_labels(make_file(path))

    def find(self, slide: FinishedSlide) -> int | None:
        """Return the label of a slide; None if the table does not have the slide."""
        found = {self._labels[key] for key in list_keys(self._files[slide.path]) if key in self._labels}
        if len(found) > 1:
            name = slide.record.slide
            raise HistoError(f"{self._path} has different labels for the slide {name}", "keep one of them")
        return min(found, default=None)

    @property
    def notes(self) -> list[str]:
        """How many ids of the table have no map."""
        unknown = set(self._labels).difference(*(list_keys(file) for file in self._files.values()))
        if not unknown:
            return []
        has = "has" if len(unknown) == 1 else "have"
        known = min(file.name for file in self._files.values())
        return [
            f"{format_count(len(unknown), 'id')} in the table of labels {has} no map, such as {min(unknown)}; "
            f"ids are names of slides, such as {known}"
        ]
