"""Find the file that belongs to a slide in a folder of the user: its annotation, or its mask."""

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from histocli.errors import HistoError
from histocli.slides.annotations import MASK_SUFFIXES
from histocli.slides.detection import SlideFile
from histocli.text import format_count, join_first

_POLYGON_SUFFIXES = (".xml", ".geojson", ".json")
_MASK_NAMES = ("", "_mask", "_Mask")  # after the name of the slide; the last is Camelyon16's
_ENDS = (*_POLYGON_SUFFIXES, *(f"{end}{suffix}" for end in _MASK_NAMES for suffix in MASK_SUFFIXES))
_NORMAL_NAME = re.compile(r"normal(?![^\W\d_])", re.IGNORECASE)  # no letter follows: `normalized_7` may have tumour
_MAX_LISTED = 3  # slides in a message
TISSUE_MASK_SUFFIXES = (".geojson", ".json", ".png")


class NoAnnotationError(HistoError):
    """A slide has no annotation, and is not said to be normal."""


class FoundAnnotation(NamedTuple):
    """The annotation of a slide, and other annotations of it in the folder, which are not read."""

    path: Path
    others: list[Path]


def find_annotation(slide: SlideFile, folder: Path) -> FoundAnnotation | None:
    """Return the annotation of a slide, None for a normal slide of Camelyon, which has none.

    Raises:
        NoAnnotationError: there is none, and the name of the slide does not begin with `normal`, or a letter follows.
        HistoError: as `find_files`.
    """
    found = [path for path in find_files(slide, folder, _ENDS) if path.absolute() != slide.path.absolute()]
    if found:
        return FoundAnnotation(found[0], found[1:])
    if _NORMAL_NAME.match(slide.path.stem):
        return None
    raise NoAnnotationError(
        f"{slide.path}: there is no annotation {slide.keys[-1]}.xml, .geojson, .tif or .png in {folder}",
        f"for a slide without tumour, write the file {slide.keys[-1]}.geojson with this content: "
        '{"type": "FeatureCollection", "features": []}',
    )


def describe_found(found: Sequence[FoundAnnotation | None]) -> list[str]:
    """Return notes: how many slides (None) are normal because of their names, and which have several annotations."""
    notes = []
    if count := found.count(None):
        verb, reason = ("counts", "its name begins") if count == 1 else ("count", "their names begin")
        notes.append(f'{format_count(count, "slide")} without a file {verb} as normal, because {reason} with "normal"')
    if several := [annotation for annotation in found if annotation is not None and annotation.others]:
        names = [
            f"{annotation.path.name} was read, not {', '.join(path.name for path in annotation.others)}"
            for annotation in several
        ]
        read = join_first(names, _MAX_LISTED, "; ")
        notes.append(f"{format_count(len(several), 'slide')} with several annotations: {read}")
    return notes


def find_tissue_mask(slide: SlideFile, folder: Path) -> Path:
    """Return the user's mask of the tissue of a slide.

    Raises:
        HistoError: the folder has none for this slide.
    """
    found = find_files(slide, folder, TISSUE_MASK_SUFFIXES)
    if not found:
        raise HistoError(
            f"{slide.path}: there is no mask {slide.keys[-1]}.geojson or .png in {folder}",
            "draw one, or leave --mask out",
        )
    if len(found) > 1:
        raise HistoError(
            f"{slide.path}: there are several masks: {', '.join(path.name for path in found)}", "keep one of them"
        )
    return found[0]


def find_files(slide: SlideFile, folder: Path, ends: Sequence[str]) -> list[Path]:
    """Return the files of a folder that have the name of a slide and one of these ends, in the order of the ends.

    An end may be in capital letters. The name may not: it could be that of another slide.

    Raises:
        HistoError: there is none, but one whose name differs in capital letters.
    """
    similar = []
    for key in slide.keys:
        place = (folder / key).parent
        stem = Path(key).name
        names = os.listdir(place) if place.is_dir() else []  # noqa: PTH208 - names are enough
        by_end = {name[len(stem) :].lower(): place / name for name in sorted(names) if name.startswith(stem)}
        found = [by_end[end] for end in dict.fromkeys(map(str.lower, ends)) if end in by_end]
        if files := [path for path in found if path.is_file()]:
            return files
        wanted = {f"{stem}{end}".lower() for end in ends}
        similar += [place / name for name in sorted(names) if name.lower() in wanted]
    if similar:
        raise HistoError(
            f"{slide.path}: there is {similar[0]}, whose name differs in capital letters",
            f"rename it to {slide.keys[-1]}{similar[0].suffix}, if it belongs to this slide",
        )
    return []
