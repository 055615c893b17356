"""One file of a folder or archive: its name, its bytes, and whether it is an image."""

import lzma
import os
import re
import stat
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from histocli.errors import HistoError
from histocli.text import format_count
from histocli.unchanged import check_unchanged, find_state

_IMAGE_SUFFIX = re.compile(
    r"\.(bmp|dib|jpeg|jpg|jpe|jfif|mpo|jp2|j2k|j2c|jpc|jpx|jpf|png|apng|webp|avif|pbm|pgm|ppm|pnm|pam|pfm|tiff|tif|gif|"
    r"exr|hdr|pic|tga|vda|vst|icb|pcx|dcx|qoi|sgi|bw|rgb|rgba|ras|sr|psd|ico|cur|icns|dds|blp|msp|pxr|xbm|xpm|fli|flc|"
    r"ftc|ftu|gbr|spi|spider)"
)
_OTHER_SUFFIX = re.compile(
    r"\.(csv|tsv|txt|json|jsonl|xml|yaml|yml|md|html|pdf|py|ipynb|log|db|ini|cls|xlsx|xls|docx|geojson|h5|hdf5|npy|"
    r"mrxs|dcm|zip|tar|gz|tgz|bz2|xz|7z|rar)"
)
# Of programs that copy or download, while a file is not complete. AWS S3 adds eight random hexadecimal digits: those
# without a letter could be a date.
_TEMPORARY_SUFFIX = re.compile(r"\.(part|partial|filepart|crdownload|download|opdownload|aria2|tmp)")
_RANDOM_SUFFIX = re.compile(r"\.(?=.*[a-f])[0-9a-f]{8}")
_SLIDE_SUFFIX = re.compile(r"\.(svs|ndpi|scn|bif|vms|vmu|svslide|czi)")  # mostly TIFFs: whole slides, not patches
_TIFF = re.compile(rb"II[*+]\0|MM\0[*+]")
_IMAGE_START = re.compile(
    rb"\xff\xd8\xff|\x89PNG\r\n|GIF8[79]a|BM....\0\0\0\0|II[*+]\0|MM\0[*+]|RIFF....WEBP|\0\0\0\x0cjP  |"
    rb"\xff\x4f\xff\x51|....ftypavi[fs]|P[1-7Ff]\s|\x76\x2f\x31\x01|#\?RADIANCE|qoif|\x01\xda[\0\x01][\x01\x02]|"
    rb"\x59\xa6\x6a\x95|8BPS\0\x01|icns|DDS \x7c\0\0\0|BLP[12]",
    re.DOTALL,
)
_SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini"})
_FOLDER_ICONS = frozenset({"favicon.ico", "folder.ico", ".volumeicon.icns"})  # images, but not patches
HDF5_SUFFIXES, GZIPPED_HDF5_SUFFIXES = (".h5", ".hdf5"), (".h5.gz", ".hdf5.gz")
NO_SUFFIX = "without a suffix"
HEAD_BYTES = 32  # of a file that show whether it is an image

# Folders that macOS, Windows, Linux and network drives add: copies for the finder, thumbnails, deleted files.
SYSTEM_FOLDERS = frozenset(
    {"__MACOSX", "@eaDir", "#recycle", "@Recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found"}
)

MAX_FILE_BYTES = 256 << 20  # no patch and no table is larger; a malicious archive may be


class File(NamedTuple):
    r"""A file: its path in the folder or archive, and the function that reads its bytes.

    The name is valid UTF-8: other bytes are escaped, as in `a\xff.png`.
    """

    name: str
    read: Callable[[], bytes]

    @property
    def stem(self) -> str:
        """The name without folders and suffix, which is the id of a Kaggle patch."""
        return split_suffix(self.name)[0]


@dataclass(slots=True)
class ArrayTable:
    """A CSV table that histo makes of the arrays in an .npz, or of the columns of a Parquet file.

    Messages name that file, not the table.

    Attributes:
        data: the table as CSV.
        origin: the name of the file.
        kind: array or column.
        titles: the names of the arrays, by the columns of the table.
    """

    data: bytes
    origin: str
    kind: str
    titles: Mapping[str, str]

    def __call__(self) -> bytes:
        """Return the table."""
        return self.data


@dataclass(slots=True)
class SkippedMember:
    """Refuses to read a member of an archive; `what` is its suffix, and the reason."""

    what: str

    def __call__(self) -> bytes:
        """Raise `OSError`."""
        raise OSError(f"it is not read: {self.what}")


class ImageList(NamedTuple):
    """The images among some files, and all other files."""

    images: list[File]
    others: list[File]


def make_file(path: Path, name: str | None = None) -> File:
    """Return the `File` of a path; its name is the path unless `name` is given."""
    return File(to_utf8(str(path) if name is None else name), DiskReader(str(path.parent), path.name))


def find_images(files: Iterable[File]) -> ImageList:
    """Find the images among files: by their suffix, or by their first bytes if the suffix is not known."""
    found = ImageList([], [])
    for file in files:
        (found.images if _is_image_file(file) else found.others).append(file)
    return found


def is_image(name: str) -> bool:
    """Return whether a file name has the suffix of an image format."""
    return _IMAGE_SUFFIX.fullmatch(split_suffix(name)[1].lower()) is not None


def is_array(name: str) -> bool:
    """Return whether the name of a file is that of an array."""
    return name.lower().endswith((".npy", *HDF5_SUFFIXES, *GZIPPED_HDF5_SUFFIXES))


def is_incomplete(name: str) -> bool:
    """Return whether a file has a temporary name of a program that copies or downloads it."""
    stem, suffix = split_suffix(name.lower())
    if not _RANDOM_SUFFIX.fullmatch(suffix):
        return _TEMPORARY_SUFFIX.fullmatch(suffix) is not None
    final = split_suffix(stem)[1]
    return any(known.fullmatch(final) for known in (_IMAGE_SUFFIX, _SLIDE_SUFFIX, _OTHER_SUFFIX))


def is_image_start(head: bytes) -> bool:
    """Return whether the first bytes of a file are those of an image format."""
    return _IMAGE_START.match(head) is not None


def describe_others(files: Iterable[File]) -> str:
    """Return the number of files by suffix, as in "8 files skipped: 5 .jxl, 3 .svs"; "" if there are none."""
    listed_files = [file for file in files if not isinstance(file.read, ArrayTable)]
    named = [file for file in listed_files if file.name.rpartition("/")[2].lower() not in _SYSTEM_FILES]
    counts = Counter(
        file.read.what if isinstance(file.read, SkippedMember) else split_suffix(file.name)[1].lower() or NO_SUFFIX
        for file in named
    )
    ordered = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    listed = ", ".join(f"{count:,} {suffix}" for suffix, count in ordered)
    return f"{format_count(len(named), 'file')} skipped: {listed}" if named else ""


def _is_image_file(file: File) -> bool:
    """Return whether a file is an image, by its suffix; if that is not known, by its first bytes."""
    suffix = split_suffix(file.name)[1].lower()
    if _IMAGE_SUFFIX.fullmatch(suffix):
        return file.name.rpartition("/")[2].lower() not in _FOLDER_ICONS
    if _OTHER_SUFFIX.fullmatch(suffix) or is_incomplete(file.name):
        return False
    try:
        head = read_bytes(file, HEAD_BYTES)
    except HistoError:
        return False  # the file is counted as skipped
    return is_image_start(head) and not (_SLIDE_SUFFIX.fullmatch(suffix) and _TIFF.match(head))


def read_bytes(file: File, size: int | None = None) -> bytes:
    """Read the bytes of a file, or its first `size` bytes. If its reader allows it, the others are not read at all.

    Raises:
        HistoError: the file cannot be read; the message names it.
    """
    read_head = getattr(file.read, "read_head", None)
    try:
        if size is not None and read_head:
            head: bytes = read_head(size)
            return head
        return file.read()[:size]
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
        raise HistoError(f"{file.name}: {getattr(error, 'strerror', None) or error}") from error


@dataclass(slots=True)
class DiskReader:
    """Reads one file in a folder. It has no full path, to save memory: there can be a million of these objects."""

    folder: str
    name: str

    @property
    def path(self) -> str:
        """The path of the file."""
        return f"{self.folder}/{self.name}"

    def __call__(self) -> bytes:
        """Read a regular file; raise `OSError` for a pipe or a device, and for a file that changes meanwhile."""
        facts = os.stat(self.path)  # noqa: PTH116 - a `Path` for each of a million files takes longer than reading it
        if not stat.S_ISREG(facts.st_mode):  # reading a pipe could block for ever
            raise OSError("not a regular file")
        with open(self.path, "rb") as file:  # noqa: PTH123
            state = find_state(file.fileno())
            # The size is limited, because Python allocates as much memory as `read` asks for.
            data = file.read(min(state[0], MAX_FILE_BYTES) + 1)
            check_unchanged(file.fileno(), state)
        return check_size(data)

    def read_head(self, size: int) -> bytes:
        """Read the first bytes."""
        path = Path(self.folder, self.name)
        if not path.is_file():  # opening a pipe could block for ever
            raise OSError("not a regular file")
        with path.open("rb") as file:
            return file.read(size)


def to_utf8(name: str) -> str:
    """Return a file name as text that can be encoded as UTF-8; other bytes are escaped."""
    if name.isascii():
        return name
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def check_declared_size(size: int) -> None:
    """Raise `OSError` if a member of an archive declares more than `MAX_FILE_BYTES`."""
    if size > MAX_FILE_BYTES:
        raise OSError(f"it unpacks to {size >> 20:,} MiB, over {MAX_FILE_BYTES >> 20}")


def check_size(data: bytes) -> bytes:
    """Return `data`; raise `OSError` if it is longer than `MAX_FILE_BYTES`."""
    if len(data) > MAX_FILE_BYTES:
        raise OSError(f"larger than {MAX_FILE_BYTES >> 20} MiB")
    return data


def split_suffix(name: str) -> tuple[str, str]:
    """Return the stem and the suffix of a file, as `PurePosixPath` does, without making one for each file."""
    base = name.rpartition("/")[2]
    dot = base.rfind(".")
    return (base[:dot], base[dot:]) if 0 < dot < len(base) - 1 else (base, "")
