"""The places of the images of a call, for the record of a file of predictions: folders, archives and arrays."""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from histocli.enums import IdKind
from histocli.errors import HistoError
from histocli.files.file import DiskReader, File, to_utf8
from histocli.files.listing import list_files
from histocli.inference.path_list import read_path_list

_MAX_PLACES = 10_000  # of one call, in the record


class PlaceKind(StrEnum):
    """The kind of a place: a folder with its subfolders, or an archive; single files of a folder; or an array."""

    FOLDER = "folder"
    FILES = "files"
    ARRAY = "array"


@dataclass(frozen=True)
class Place:
    """A place of images.

    `path` is its real path. The id of an image is `prefix` and what `make_id` makes of the file's path in the place; in
    an array, it is `prefix` and the number of the row. `rows` is the number of rows, None if it is not an array. Two
    places are equal even if `rows` differs: the array has grown.
    """

    path: str
    kind: PlaceKind
    prefix: str = ""
    rows: int | None = field(default=None, compare=False)

    def has_row(self, key: str) -> bool:
        """Return whether an id is the number of a row of this array."""
        number = key.removeprefix(self.prefix)
        is_number = number.isdecimal() and len(number) < 20 and number == str(int(number))
        return key.startswith(self.prefix) and is_number and (self.rows is None or int(number) < self.rows)

    def list_files(self) -> list[File]:
        """List the files in a folder or archive; none if it does not exist any more."""
        try:
            if self.kind is PlaceKind.FOLDER or not Path(self.path).is_dir():
                return list_files(Path(self.path))
            names = sorted(os.listdir(self.path))  # noqa: PTH208 - may be 100,000s
            return [File(to_utf8(name), DiskReader(self.path, name)) for name in names]
        except (HistoError, OSError, ValueError):
            return []


def make_place(path: Path, kind: PlaceKind, rows: int | None = None) -> Place:
    """Return the place of an input; its path does not change if a link is later pointed to another folder."""
    return Place(os.path.realpath(path), kind, rows=rows)


def find_places(files: Mapping[str, Sequence[File]], kind: IdKind) -> tuple[Place, ...]:
    """Return the places of the image files of several inputs; `kind` is that of their ids.

    An id with a path begins in the current folder. So this folder is the place of all files on disk, and archives, or
    folders of archives, are places of their own. With stems, the place of a single file is its folder. Of more than
    10,000 places, only the first are returned.
    """
    packed = [name for name, images in files.items() if not all(isinstance(image.read, DiskReader) for image in images)]
    if kind is not IdKind.STEM:
        inner = (
            Place(os.path.realpath(name), PlaceKind.FOLDER, to_utf8(f"{Path(name).as_posix()}/")) for name in packed
        )
        return (make_place(Path(), PlaceKind.FILES), *inner)
    folders = {name for name in files if os.path.isdir(name)}.union(packed)  # noqa: PTH112 - may be 100,000s
    parents = {os.path.dirname(name) for name in files if name not in folders}  # noqa: PTH120 - the same
    places = {Place(os.path.realpath(name), PlaceKind.FOLDER): None for name in sorted(folders)}
    places |= {Place(os.path.realpath(name), PlaceKind.FILES): None for name in sorted(parents)}
    return tuple(places)[:_MAX_PLACES]


def find_listed_places(lines: Iterable[bytes], kind: IdKind) -> tuple[Place, ...]:
    """Return the places of the files in a list of paths, as `find_places` does."""
    listed = read_path_list(lines) if kind is IdKind.STEM else ()
    return find_places({path: (file,) for path, file in listed if isinstance(file.read, DiskReader)}, kind)


def read_places(record: Mapping[str, Any]) -> tuple[Place, ...]:
    """Return the places in the record of a file of predictions."""
    places = record.get("places")
    listed = places if isinstance(places, list) else []
    return tuple(place for value in listed if (place := _read_place(value)))


def _read_place(value: object) -> Place | None:
    """Return a place in a record; None if it is damaged. The path may contain bytes that are not UTF-8."""
    values = value if isinstance(value, dict) else {}
    path, kind, prefix, rows = (values.get(name) for name in ("path", "kind", "prefix", "rows"))
    if not isinstance(path, str) or not isinstance(prefix, str) or kind not in list(PlaceKind):
        return None
    return Place(path, PlaceKind(kind), prefix, rows if isinstance(rows, int) else None)
