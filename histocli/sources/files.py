"""Image files in folders and zip archives, and the tables of their labels and slides."""

import io
import lzma
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import NamedTuple

from histocli.data.tables import read_table
from histocli.errors import HistoError

_IMAGE_SUFFIX = re.compile(
    r"\.(bmp|dib|jpeg|jpg|jpe|jfif|jp2|j2k|j2c|jpx|png|webp|avif|pbm|pgm|ppm|pnm|tiff|tif|gif|exr|hdr|pic|tga|pcx|qoi)"
)
_HERE = re.compile("(?:(?<=/)|^)(?:[.]/)+")  # some tools write names such as ./a.png

MAX_FILE_BYTES = 256 << 20  # no patch and no table is larger; a malicious archive may be


class File(NamedTuple):
    r"""A file: its path in the folder or archive, and the function that reads its bytes.

    The name is valid UTF-8: bytes that are not are escaped, as in `a\xff.png`.
    """

    name: str
    read: Callable[[], bytes]

    @property
    def stem(self) -> str:
        """The name without folders and suffix, which is the id of a Kaggle patch."""
        return _split_suffix(self.name)[0]


def list_files(path: Path) -> list[File]:
    """List the files in a folder and its subfolders, the members of a zip archive, or a single file, sorted by name.

    No file is read or unpacked. Hidden files, devices and pipes are skipped, and so are members of an archive with a
    path outside it.

    Raises:
        HistoError: the path does not exist, may not be read, or is not a file or folder; or the archive is damaged or
            contains a name twice.
    """
    try:
        if path.is_dir():
            folder = str(path)
            return [File(to_utf8(name), _DiskReader(folder, name)) for name in sorted(_walk(folder))]
        if path.is_file():
            return _list_zip(path) if path.suffix.lower() == ".zip" else [file_at(path, path.name)]
        wrong = f"{path} is not a file or folder" if path.exists() else f"there is no {path}"
    except OSError as error:
        raise HistoError(f"cannot read {error.filename}: {error.strerror}") from error
    raise HistoError(wrong, "give a folder, a .zip archive or an image file")


def file_at(path: Path, name: str | None = None) -> File:
    """Return the `File` of a path; its name is the path unless `name` is given."""
    return File(to_utf8(str(path) if name is None else name), _DiskReader(str(path.parent), path.name))


def list_images(path: Path) -> list[File]:
    """List the files of `list_files` that have the suffix of an image format."""
    return [file for file in list_files(path) if is_image(file.name)]


def is_image(name: str) -> bool:
    """Return whether a file name has the suffix of an image format that OpenCV reads."""
    return _IMAGE_SUFFIX.fullmatch(_split_suffix(name)[1].lower()) is not None


def read_bytes(file: File) -> bytes:
    """Read the bytes of a file.

    Raises:
        HistoError: the file cannot be read; the message names it.
    """
    try:
        return file.read()
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise HistoError(f"{file.name}: {getattr(error, 'strerror', None) or error}") from error


def read_labels(file: File) -> dict[str, int]:
    """Read a table `id,label` with labels 0 and 1.

    Raises:
        HistoError: a column is missing, a label is neither 0 nor 1, or an id occurs twice; the message names file, line
            and column.
    """
    labels: dict[str, int] = {}
    for line, key, value in _read_pairs(file, "id", ("label",)):
        if value not in ("0", "1", "0.0", "1.0"):
            raise HistoError(f"{file.name}, line {line}, column label: {value!r} is not 0 or 1")
        if key in labels:
            raise HistoError(f"{file.name}, line {line}, column id: {key!r} occurs twice")
        labels[key] = int(value[0])
    return labels


def read_slides(file: File) -> dict[str, str]:
    """Read a table `id,wsi` (or `id,slide`) with the slide of each patch.

    Raises:
        HistoError: a column is missing, or an id has two slides; the message names file, line and column.
    """
    slides: dict[str, str] = {}
    for line, key, value in _read_pairs(file, "id", ("wsi", "slide")):
        if slides.setdefault(key, value) != value:
            raise HistoError(f"{file.name}, line {line}, column id: {key!r} occurs twice, with two slides")
    return slides


def _read_pairs(file: File, key: str, values: tuple[str, ...]) -> Iterator[tuple[int, str, str]]:
    """Yield (line, key, value) for each row of a table in UTF-8, with or without a byte order mark."""
    text = io.TextIOWrapper(io.BytesIO(read_bytes(file)), "utf-8-sig", newline="")
    names, rows = read_table(text, file.name)
    columns = [name.lower() for name in names]
    value = next((name for name in values if name in columns), "")
    if key not in columns or not value:
        raise HistoError(f"{file.name}, line 1: the columns must be {key},{values[0]}, but are {','.join(columns)}")
    at_key, at_value = columns.index(key), columns.index(value)
    for line, row in rows:
        yield line, row[at_key].strip(), row[at_value].strip()


@dataclass(slots=True)
class _DiskReader:
    """Reads one file in a folder. It has no full path, to save memory: there can be a million of these objects."""

    folder: str
    name: str

    def __call__(self) -> bytes:
        return _read_regular(f"{self.folder}/{self.name}")


def to_utf8(name: str) -> str:
    """Return a file name as text that can be encoded as UTF-8; other bytes are escaped."""
    if name.isascii():
        return name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _read_regular(path: str) -> bytes:
    facts = os.stat(path)  # noqa: PTH116 - a `Path` for each of a million files takes longer than reading it
    if not stat.S_ISREG(facts.st_mode):  # reading a pipe could block for ever
        raise OSError("not a regular file")
    # The size is limited, because Python allocates as much memory as `read` asks for.
    with open(path, "rb") as file:  # noqa: PTH123
        return _check_size(file.read(min(facts.st_size, MAX_FILE_BYTES) + 1))


def _check_size(data: bytes) -> bytes:
    if len(data) > MAX_FILE_BYTES:
        raise OSError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
    return data


def _split_suffix(name: str) -> tuple[str, str]:
    """Return the stem and the suffix of a file, as `PurePosixPath` does, without making one for each file."""
    base = name.rpartition("/")[2]
    dot = base.rfind(".")
    return (base[:dot], base[dot:]) if 0 < dot < len(base) - 1 else (base, "")


def _walk(folder: str) -> Iterator[str]:
    """Yield the relative POSIX paths of all regular files in `folder`; links to folders are not followed.

    A million files are listed in a few seconds, because the system is asked about links alone.
    """
    folders = [(folder, "")]
    while folders:
        parent, prefix = folders.pop()
        with os.scandir(parent) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_file(follow_symlinks=False):
                    yield prefix + entry.name
                elif entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, f"{prefix}{entry.name}/"))
                elif Path(entry.path).is_file():
                    yield prefix + entry.name


def _list_zip(path: Path) -> list[File]:
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise HistoError(f"cannot read {path}: {error}", "check that the download is complete") from error
    lock = Lock()  # all members share one file object
    members = {}
    for member in archive.infolist():
        name = _HERE.sub("", member.filename.replace("\\", "/"))
        if name in members:
            raise HistoError(f"{path} contains {name!r} twice", "make the archive again with each file once")
        members[name] = member
    return [
        File(name, partial(_read_member, archive, member, lock))
        for name, member in sorted(members.items())
        if not member.is_dir() and not _is_hidden(name)
    ]


def _read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, lock: Lock) -> bytes:
    if member.file_size > MAX_FILE_BYTES:
        raise OSError(f"it unpacks to {member.file_size >> 20:,} MiB, over {MAX_FILE_BYTES >> 20}")
    with lock, archive.open(member) as file:
        return _check_size(file.read(MAX_FILE_BYTES + 1))


def _is_hidden(name: str) -> bool:
    """Return whether a part of a member's path is hidden, or the path is outside the archive."""
    return (
        name.startswith("/")
        or bool(re.match("[A-Za-z]:", name))
        or any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))
    )
