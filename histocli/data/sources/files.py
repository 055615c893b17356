"""Image files in folders and zip archives, and the tables beside them that say their labels and slides."""

import csv
import io
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import NamedTuple

from histocli.data.images import SUFFIXES
from histocli.errors import HistoError


class File(NamedTuple):
    """A file by its path relative to the folder or archive it lies in, and how to get its bytes."""

    name: str
    read: Callable[[], bytes]

    @property
    def stem(self) -> str:
        """The file's name without folders and suffix: a Kaggle patch's id."""
        return PurePosixPath(self.name).stem


def list_files(path: Path) -> list[File]:
    """List a folder's files, in any nesting, or a zip archive's members, or the one file itself; sorted by name.

    Nothing is read or unpacked yet. Hidden files and folders are left out.

    Raises:
        HistoError: it is not there, may not be read, or the archive is broken.
    """
    if path.is_dir():
        return [File(name, (path / name).read_bytes) for name in _walk(path)]
    if not path.exists():
        raise HistoError(f"there is no {path}", "give a folder, a .zip archive or an image file")
    if path.suffix.lower() == ".zip":
        return _list_zip(path)
    return [File(path.name, path.read_bytes)]


def list_images(path: Path) -> list[File]:
    """`list_files`, only those whose suffix is that of an image."""
    return [file for file in list_files(path) if is_image(file.name)]


def is_image(name: str) -> bool:
    """Whether a file's suffix is one of an image format that OpenCV reads."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def read_bytes(file: File) -> bytes:
    """The file's bytes.

    Raises:
        HistoError: it cannot be read; the file is named.
    """
    try:
        return file.read()
    except (
        OSError,
        zipfile.BadZipFile,
        zipfile.LargeZipFile,
        NotImplementedError,
        RuntimeError,
        EOFError,
    ) as error:
        raise HistoError(f"{file.name}: {getattr(error, 'strerror', None) or error}") from error


def read_labels(file: File) -> dict[str, int]:
    """Read a table `id,label` with labels 0 and 1.

    Raises:
        HistoError: a column is missing, a label is neither, an id stands twice; file, line and column are named.
    """
    labels: dict[str, int] = {}
    for line, key, value in _read_pairs(file, "id", ("label",)):
        if value not in ("0", "1", "0.0", "1.0"):
            raise HistoError(f"{file.name}, line {line}, column label: {value!r} is not 0 or 1")
        if key in labels:
            raise HistoError(f"{file.name}, line {line}, column id: {key!r} stands twice")
        labels[key] = int(value[0])
    return labels


def read_slides(file: File) -> dict[str, str]:
    """Read a table `id,wsi` (or `id,slide`): the slide each patch was cut from."""
    return {key: value for _, key, value in _read_pairs(file, "id", ("wsi", "slide"))}


def _read_pairs(file: File, key: str, values: tuple[str, ...]) -> Iterator[tuple[int, str, str]]:
    """Yield (line, key, value) of a CSV in UTF-8, with or without a byte order mark, by comma or semicolon."""
    try:
        text = read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise HistoError(f"{file.name} is not UTF-8 text: {error}", "save it as comma-separated UTF-8") from error
    header = text.split("\n", 1)[0]
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=";" if header.count(";") > header.count(",") else ",")
    columns = [name.strip().lower() for name in next(rows, [])]
    value = next((name for name in values if name in columns), "")
    if key not in columns or not value:
        raise HistoError(f"{file.name}, line 1: it needs the columns {key},{values[0]}; it has {','.join(columns)}")
    at_key, at_value = columns.index(key), columns.index(value)
    for row in rows:
        if not row:
            continue
        if len(row) <= max(at_key, at_value):
            raise HistoError(f"{file.name}, line {rows.line_num}: {len(row)} fields, {len(columns)} columns")
        yield rows.line_num, row[at_key].strip(), row[at_value].strip()


def _walk(folder: Path) -> Iterator[str]:
    """Relative POSIX paths of all regular files below `folder`, sorted; links to folders are not followed."""

    def fail(error: OSError) -> None:
        raise HistoError(f"cannot read {error.filename}: {error.strerror}")

    for parent, folders, names in os.walk(folder, onerror=fail):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        relative = os.path.relpath(parent, folder)
        prefix = "" if relative == "." else relative.replace(os.sep, "/") + "/"
        for name in sorted(names):
            if not name.startswith(".") and Path(parent, name).is_file():
                yield prefix + name


def _list_zip(path: Path) -> list[File]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise HistoError(f"cannot read {path}: {error}", "is the download complete?") from error
    lock = Lock()  # members share one file position

    def reader(member: zipfile.ZipInfo) -> Callable[[], bytes]:
        def read() -> bytes:
            with lock:
                return archive.read(member)

        return read

    members = [m for m in archive.infolist() if not m.is_dir() and not _hidden(m.filename)]
    return [File(m.filename, reader(m)) for m in sorted(members, key=lambda m: m.filename)]


def _hidden(name: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
