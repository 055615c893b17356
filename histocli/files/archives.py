"""Members of zip and tar archives, and of archives in them, read one by one without unpacking the whole."""

import bz2
import gzip
import lzma
import posixpath
import re
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from threading import Lock
from typing import IO, Any

from histocli.errors import HistoError
from histocli.files import file as files_module  # read through the module, so that tests can lower the limit
from histocli.files.file import (
    NO_SUFFIX,
    SYSTEM_FOLDERS,
    File,
    SkippedMember,
    check_declared_size,
    check_size,
    is_image,
    split_suffix,
    to_utf8,
)
from histocli.files.streams import (
    MAX_RATIO,
    LimitedStream,
    Open,
    StreamMember,
    StreamReader,
    UnpackedArchive,
    copy_limited,
)

_TAR_SUFFIX = re.compile(r"\.(?:tar(?:\.(gz|bz2|xz))?|(tgz|tbz2?|txz))$", re.IGNORECASE)
_ZIP_SUFFIX = re.compile(r"\.zip$", re.IGNORECASE)
_ARRAY_SUFFIX = re.compile(r"\.(npz|parquet)$", re.IGNORECASE)
_TABLE_ZIP_SUFFIX = re.compile(r"\.(csv|tsv)\.zip$", re.IGNORECASE)
_DECOMPRESS: dict[str, Callable[[IO[bytes]], Any]] = {
    "gz": lambda file: gzip.GzipFile(fileobj=file, mode="rb"),  # without `mode`, it would use that of `file`
    "bz2": bz2.BZ2File,
    "xz": lzma.LZMAFile,
}
_SHORT_SUFFIXES = {"tgz": "gz", "tbz": "bz2", "tbz2": "bz2", "txz": "xz"}
_SUFFIXES_OF_START = {  # the suffixes of archives whose files have these first bytes; the usual one first
    b"PK\x03\x04": (".zip", ".npz"),
    b"\x1f\x8b": (".tar.gz", ".tgz"),
    b"BZh": (".tar.bz2", ".tbz", ".tbz2"),
    b"\xfd7zXZ": (".tar.xz", ".txz"),
}
_OUTSIDE = "path outside the archive"
_LOST_LINK = "link to a file that is not in the archive"
_MAX_LINKS = 40  # links in a row that are followed, as Linux does
_TAR_MAGIC = 257  # the position of `ustar` in a tar
_DOT_SLASH = re.compile("(?:(?<=/)|^)(?:[.]/)+")  # some tools write names such as ./a.png
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_MAX_MEMORY = 64 << 20  # a larger archive in an archive is copied to a temporary file
_DAMAGE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,
)


def is_archive(name: str) -> bool:
    """Return whether a file name has the suffix of an archive that is read."""
    return bool(_ZIP_SUFFIX.search(name) or _TAR_SUFFIX.search(name) or _ARRAY_SUFFIX.search(name))


def list_archive(name: str, open_file: Open) -> list[File]:
    """List the members of an archive, and of the archives in it if it has no images.

    Raises:
        HistoError: it is damaged, or contains a name twice.
    """
    return open_inner_archives(_open_archive(name, open_file), lambda file: partial(_unpack_archive, file))


def open_inner_archives(files: list[File], make_opener: Callable[[File], Open]) -> list[File]:
    """Replace archives by their members, if there are no images; always replace a zip of one table (`x.csv.zip`).

    The members of `train.zip` are named as if it were a folder `train`. Archives in these archives are not opened.
    `make_opener` returns the function that opens one of the archives.
    """
    if not any(is_archive(file.name) for file in files):
        return files
    has_images = any(is_image(file.name) for file in files)
    opened: list[File] = []
    for file in files:
        is_table = bool(_TABLE_ZIP_SUFFIX.search(file.name))
        if not is_archive(file.name) or (has_images and not is_table):
            opened.append(file)
            continue
        members = _open_archive(file.name, make_opener(file))
        folder = file.name.rpartition("/")[0] if is_table else remove_archive_suffix(file.name)
        opened += [File(f"{folder}/{member.name}" if folder else member.name, member.read) for member in members]
    if repeated := [name for name, count in Counter(file.name for file in opened).items() if count > 1]:
        raise HistoError(
            f"{repeated[0]!r} is in two of the archives", "give each archive to its own --from, or unpack them"
        )
    return opened


def remove_archive_suffix(name: str) -> str:
    """Return the name of an archive without its suffix."""
    return _ZIP_SUFFIX.sub("", _TAR_SUFFIX.sub("", _ARRAY_SUFFIX.sub("", name)))


def _open_archive(name: str, open_file: Open) -> list[File]:
    """List the members of an archive with the reader for its suffix."""
    try:
        if match := _TAR_SUFFIX.search(name):
            packing = (match[1] or _SHORT_SUFFIXES.get((match[2] or "").lower(), "")).lower()
            return _list_tar(name, open_file, packing)
        if _ARRAY_SUFFIX.search(name):
            from histocli.files.npz import list_npz  # numpy, which others need not import
            from histocli.files.parquet import list_parquet

            return (list_npz if name.lower().endswith(".npz") else list_parquet)(name, open_file)
        return _list_zip(name, open_file)
    except _DAMAGE_ERRORS as error:
        raise HistoError(f"cannot read {name}: {error}", _make_damage_hint(name, open_file)) from error


def _make_damage_hint(name: str, open_file: Open) -> str:
    """Return a hint for an archive that cannot be read: it may have the suffix of another format."""
    try:
        head = open_file().read(_TAR_MAGIC + 5)
    except _DAMAGE_ERRORS:
        head = b""
    fitting = next((suffixes for start, suffixes in _SUFFIXES_OF_START.items() if head.startswith(start)), ())
    suffixes = (".tar",) if head[_TAR_MAGIC:] == b"ustar" else fitting
    if suffixes and not name.lower().endswith(suffixes):
        return f"its content is that of a {suffixes[0]}: rename it"
    return "check that the download is complete"


def _unpack_archive(file: File) -> IO[bytes]:
    """Unpack an archive that is a member of another one to memory or a temporary file, which has no name."""
    target = UnpackedArchive(_MAX_MEMORY)
    if isinstance(file.read, _ZipMember):
        file.read.copy_to(target)
    else:
        target.write(file.read())
    target.seek(0)
    return target  # type: ignore[return-value]


def _list_zip(name: str, open_file: Open) -> list[File]:
    archive = zipfile.ZipFile(open_file())
    lock = Lock()  # all members share one file object
    members = {}
    for member in archive.infolist():
        path = _DOT_SLASH.sub("", member.filename.replace("\\", "/"))
        if member.is_dir() or _is_hidden(path):
            continue
        if path in members:
            raise HistoError(f"{name} contains {path!r} twice", "make the archive again with each file once")
        members[path] = member
    _refuse_unreadable(name, members.values())
    return [
        _name_skipped(path, _OUTSIDE) if _is_outside(path) else File(path, _ZipMember(archive, member, lock))
        for path, member in sorted(members.items())
    ]


def _refuse_unreadable(name: str, members: Collection[zipfile.ZipInfo]) -> None:
    """Raise `HistoError` if Python can unpack none of the members."""
    if members and all(member.flag_bits & 1 for member in members):
        raise HistoError(f"{name} is encrypted with a password", "unpack it with the password, and give the folder")
    if members and not any(member.compress_type in _ZIP_METHODS for member in members):
        method = next(iter(members)).compress_type
        raise HistoError(
            f"{name} is packed with a method that is not read (number {method})",
            "unpack it with the program that packed it, or with 7-Zip, and give the folder",
        )


@dataclass(slots=True)
class _ZipMember:
    """Reads a member of a zip; members share one file object, so only one thread at a time reads."""

    archive: zipfile.ZipFile
    member: zipfile.ZipInfo
    lock: Any

    def __call__(self) -> bytes:
        check_declared_size(self.member.file_size)
        with self.lock, self.archive.open(self.member) as file:
            return check_size(file.read(files_module.MAX_FILE_BYTES + 1))

    def read_head(self, size: int) -> bytes:
        """Read the first bytes."""
        with self.lock, self.archive.open(self.member) as file:
            return file.read(size)

    def copy_to(self, target: IO[bytes]) -> None:
        """Unpack the member, which may be larger than other files."""
        limit = max(files_module.MAX_FILE_BYTES, MAX_RATIO * self.member.compress_size)
        with self.lock, self.archive.open(self.member) as file:
            copy_limited(file, target, limit, self.member.filename)


def _list_tar(name: str, open_file: Open, packing: str) -> list[File]:
    """List the regular files of a tar; links have the bytes of the file that they lead to."""

    def open_stream() -> Any:
        return _DECOMPRESS[packing](open_file()) if packing else open_file()

    stream = LimitedStream(open_stream())
    with tarfile.open(fileobj=stream, mode="r:") as archive:  # type: ignore[call-overload]
        members: list[tarfile.TarInfo] = archive.getmembers()
        end = archive.offset
    stream.seek(end)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):  # tarfile treats any damage as the end
        raise EOFError("it is truncated or damaged")
    # GNU tar stores a file that is given twice as a hard link to itself.
    members = [m for m in members if not (m.islnk() and posixpath.normpath(m.linkname) == posixpath.normpath(m.name))]
    by_path = _list_paths(members)
    ranges: dict[str, tuple[int, int]] = {}
    skipped: list[File] = []
    for member in members:
        target = _follow_links(member, by_path)
        path = to_utf8(_DOT_SLASH.sub("", member.name.replace("\\", "/")))
        if _is_hidden(path) or (target is not None and not target.isreg()):  # such as a folder
            continue
        if target is None or target.issparse() or _is_outside(path):
            why = _OUTSIDE if _is_outside(path) else "sparse file" if target else _LOST_LINK
            skipped.append(_name_skipped(path, why))
            continue
        if path in ranges:
            raise HistoError(f"{name} contains {path!r} twice", "make the archive again with each file once")
        ranges[path] = (target.offset_data, target.size)
    reader = StreamReader(open_stream, list(ranges.values()) if packing else [])
    # In a compressed tar, a link comes after its file: the bytes of the file are kept until then.
    listed = sorted(ranges.items(), key=itemgetter(1) if packing else None)
    return [File(path, StreamMember(reader, *place)) for path, place in listed] + skipped


def _list_paths(members: Sequence[tarfile.TarInfo]) -> dict[str, tarfile.TarInfo]:
    """Return the members by their paths, with the folders of files: a tar need not list them."""
    by_path = {posixpath.normpath(member.name): member for member in members}
    folder = tarfile.TarInfo()
    folder.type = tarfile.DIRTYPE
    folders = {path[: match.start()] for path in by_path for match in re.finditer("/", path)}
    return dict.fromkeys([".", *folders], folder) | by_path


def _follow_links(member: tarfile.TarInfo, by_path: Mapping[str, tarfile.TarInfo]) -> tarfile.TarInfo | None:
    """Return the member that a link leads to, or the member itself if it is no link; None if the archive has none.

    Folders in the path of a target may be links too.
    """
    path, n_links = posixpath.normpath(member.name), 0
    rest: list[str] = []  # the parts of the target's path that are not followed yet, the last one first
    link: tarfile.TarInfo | None = member
    while link is not None and (rest or link.islnk() or link.issym()):
        if link.islnk() or link.issym():
            n_links += 1
            if n_links > _MAX_LINKS or link.linkname.startswith("/"):
                return None
            rest += reversed(link.linkname.split("/"))
            path = "" if link.islnk() else posixpath.dirname(path)  # a symbolic link is relative to its own folder
        path = posixpath.normpath(posixpath.join(path, rest.pop()))
        link = by_path.get(path)
    return link


def _is_hidden(name: str) -> bool:
    """Return whether a member or a folder above it is hidden."""
    parts = [part for part in name.split("/") if part != ".."]
    return any(part.startswith(".") or part in SYSTEM_FOLDERS for part in parts)


def _is_outside(name: str) -> bool:
    """Return whether the path of a member leads out of the archive's folder."""
    return name.startswith("/") or bool(re.match("[A-Za-z]:", name)) or ".." in name.split("/")


def _name_skipped(path: str, why: str) -> File:
    """Return a file for a member that is not read; `describe_others` counts it with the reason.

    Its name ends with the reason too, so that it has no suffix of an image or table, and nothing reads it.
    """
    return File(f"{path} ({why})", SkippedMember(f"{split_suffix(path)[1].lower() or NO_SUFFIX} ({why})"))
