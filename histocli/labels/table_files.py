"""Read the files of tables that people and spreadsheets write: CSV, also compressed or in an archive."""

import gzip
import io
import os
import re
import zlib
from pathlib import Path

from histocli.errors import HistoError
from histocli.files.archives import is_archive
from histocli.files.file import MAX_FILE_BYTES, ArrayTable, File, is_image, make_file, read_bytes, split_suffix
from histocli.files.formats import NoImageColumnError
from histocli.files.listing import list_files
from histocli.files.tables import SEPARATORS, UTF8_HINT, find_separator, read_table
from histocli.labels.label_columns import is_missing
from histocli.labels.patch_tables import ColumnNames, PatchTable, check_ids

MAX_FIELDS = 10_000_000  # of a table, which take some 60 bytes of memory each
_PEEKED_BYTES = 4096
_NO_NAMES = ColumnNames()
_BLOCK = 1 << 20  # bytes that are unpacked at a time: Python allocates as much as it is asked to read
_GZIP = b"\x1f\x8b"
_ENCODING_OF_MARK = {b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


class UnreadableTableError(HistoError):
    """The bytes of a table cannot be read or unpacked, or are too many."""


def read_patch_table(file: File, given: ColumnNames = _NO_NAMES) -> PatchTable:
    """Read a table in CSV, with commas, semicolons, tabs, vertical bars or (in a .txt file) spaces, in UTF-8 or UTF-16.

    The first line may begin with # if it has a usual name of a column, or one that the user named (`given`).

    Raises:
        HistoError: it cannot be read or is malformed; the message names file and line.
    """
    array_table = file.read if isinstance(file.read, ArrayTable) else None
    data = _unpack(file)
    encoding = _find_encoding(data)
    if encoding != "utf-16" and (n := data.count(b"\0", 0, _PEEKED_BYTES)):
        is_text = n < len(data[:_PEEKED_BYTES]) / 4  # else it may be UTF-16 without a mark
        hint = "remove the null bytes, or export the table again" if is_text else UTF8_HINT
        raise HistoError(f"{file.name} is not UTF-8 text: it contains null bytes", hint)
    text = io.TextIOWrapper(io.BytesIO(data), encoding, newline="")
    try:
        first = next(filter(str.strip, text), "")  # empty lines before the names of the columns are skipped
    except UnicodeError as error:
        raise HistoError(f"{file.name} is not UTF-8 text: {error}", UTF8_HINT) from error
    if _is_comment(first, given):
        raise HistoError(f"{file.name}, line 1: {first.strip()[:40]!r} is a comment", "remove this line")
    separator = re.fullmatch(r"sep=(.)\s*", first)  # a first line that Excel reads
    delimiter = separator[1] if separator else _find_delimiter(first, file.name)
    if not separator:
        text.seek(0)
    names, rows = read_table(text, file.name, delimiter)
    kept = [i for i, name in enumerate(names) if name]
    lines: list[int] = []
    columns: list[list[str]] = [[] for _ in kept]
    most = MAX_FIELDS // max(1, len(kept))
    for line, fields in rows:
        if len(lines) >= most:  # a gzip file of some kilobytes can have millions of rows
            raise HistoError(f"{file.name} has more than {most:,} rows", "no data set of patches is so large")
        lines.append(line + bool(separator))
        for column, i in zip(columns, kept, strict=True):
            column.append(fields[i].strip())
    return PatchTable(file.name, dict(zip((names[i] for i in kept), columns, strict=True)), lines, array_table)


def decode_text(data: bytes) -> str:
    """Return the text in a small file, in UTF-8 or UTF-16; what cannot be decoded is replaced by U+FFFD."""
    return data.decode(_find_encoding(data), "replace")


def _find_encoding(data: bytes) -> str:
    return _ENCODING_OF_MARK.get(data[:2], "utf-8-sig")


def _is_comment(line: str, given: ColumnNames) -> bool:
    """Return whether the first line of a table is a comment: it begins with #, and names no usual or given column."""
    if not line.startswith("#") or not any(mark in line for mark in SEPARATORS):
        return line.startswith("#")
    start = line[:_PEEKED_BYTES]
    fields = map(str.strip, start.split(find_separator(start)))
    return line.startswith("# ") and not PatchTable("", {field: [] for field in fields}, []).list_roles(given)


def _find_delimiter(first: str, name: str) -> str:
    """Return the separator that the line with the names of the columns has; in a .txt file, it may be a space."""
    is_text = name.lower().endswith(".txt") and not any(mark in first for mark in SEPARATORS)
    return " " if is_text else find_separator(first)


def find_table(path: Path) -> File:
    """Return the table at a path: a CSV file, the only one in an archive, or the labels of a Parquet file with images.

    Raises:
        HistoError: there is no such file, the archive does not contain exactly one table, or the Parquet file has no
            images.
    """
    if not os.path.isfile(path):  # noqa: PTH113 - Path.is_file raises where a folder may not be entered
        raise HistoError(f"there is no file {path}", "give a CSV table")
    if not is_archive(path.name):
        return make_file(path)
    try:
        files = list_files(path)
    except NoImageColumnError:
        raise HistoError(f"{path} is a Parquet file without images", "save the table as CSV") from None
    tables = [file for file in files if file.name.lower().endswith((".csv", ".tsv"))]
    if len(tables) != 1:
        raise HistoError(f"{path} contains {len(tables)} CSV tables, not one", "unpack it, and give one of them")
    return File(f"{path}: {tables[0].name}", tables[0].read)


def peek_table(file: File) -> PatchTable:
    """Return the columns and the first rows of a table, which may be malformed.

    Raises:
        UnreadableTableError: the file cannot be read.
    """
    lines = peek_lines(file) or [""]
    lines = lines[1:] if lines[0].startswith("sep=") and len(lines) > 1 else lines
    mark = find_separator(lines[0])
    rows = [[field.strip().strip('"') for field in line.split(mark if mark in lines[0] else " ")] for line in lines]
    rows = [row for row in rows if len(row) == len(rows[0])]
    columns = {name: [row[at] for row in rows[1:]] for at, name in enumerate(rows[0]) if name}
    return PatchTable(file.name, columns, list(range(2, len(rows) + 1)))


def peek_lines(file: File) -> list[str]:
    """Return the first lines of a file that have a text.

    Raises:
        UnreadableTableError: the file cannot be read.
    """
    data = _read_start(file)
    lines = [line for line in decode_text(data).splitlines() if line.strip()]
    return lines[:-1] if len(data) >= _PEEKED_BYTES and len(lines) > 1 else lines  # the last one may be cut off


def _read_start(file: File) -> bytes:
    """Return the first bytes of a table, unpacked if it is a gzip file; the rest is not read if this is possible."""
    data = _read(file, _PEEKED_BYTES)
    if not data.startswith(_GZIP):
        return data
    start = b""
    while data.startswith(_GZIP) and len(start) < _PEEKED_BYTES:  # it may have several members
        unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
        try:
            start += unpacker.decompress(data, _PEEKED_BYTES)
        except zlib.error as error:
            raise UnreadableTableError(f"cannot unpack {file.name}: {error}", "check the file") from error
        data = unpacker.unused_data
    return start


def _read(file: File, size: int | None = None) -> bytes:
    """Read the bytes of a table, or its first `size` bytes."""
    try:
        return read_bytes(file, size)
    except HistoError as error:
        raise UnreadableTableError(str(error), error.hint) from error


def _unpack(file: File) -> bytes:
    """Return the bytes of a table, unpacked if it is a gzip file."""
    data = _read(file)
    if data[:2] == b"PK":
        raise HistoError(f"{file.name} is an Excel workbook or an archive", "save the table as CSV in UTF-8")
    if not data.startswith(_GZIP):
        return data
    unpacked = bytearray()
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(data)) as packed:
            while len(unpacked) <= MAX_FILE_BYTES and (block := packed.read(_BLOCK)):
                unpacked += block
    except (OSError, EOFError, zlib.error) as error:
        raise UnreadableTableError(f"cannot unpack {file.name}: {error}", "check the file") from error
    if len(unpacked) > MAX_FILE_BYTES:
        size = f"{MAX_FILE_BYTES >> 20} MiB"
        raise UnreadableTableError(f"{file.name} unpacks to more than {size}", "no table is that large")
    return bytes(unpacked)


def read_labels(file: File) -> dict[str, int]:
    """Read a table of ids and labels, such as `id,label` with labels 0 and 1.

    Raises:
        HistoError: a column is missing, a label is neither 0 nor 1, an id occurs twice, or `a` and `a.tif` have two
            labels; the message names file, line and column. Or another column contradicts the labels.
    """
    table = read_patch_table(file)
    ids, labels = table.read_ids(), table.read_labels(None, {})
    table.check_labels(labels, "correct the table, or remove the wrong column")  # the callers have no --label-column
    check_ids(table, ids, [])
    check_ids(table, ids, list(map(str, labels)), "labels", keys=list(map(remove_suffix, ids)))
    return {key: label for key, label in zip(ids, labels, strict=True) if label is not None}


def read_slides(file: File) -> dict[str, str]:
    """Read a table `id,wsi` (or `id,slide`) with the slide of each patch; rows without a slide are left out.

    Raises:
        HistoError: a column is missing, or an id has two slides, such as `a` and `a.tif`; the message names file, line
            and column.
    """
    table = read_patch_table(file)
    ids, slides = table.read_ids(), table.columns[table.require("slide")]
    check_ids(table, ids, slides, "slides", keys=list(map(remove_suffix, ids)))
    return {key: slide for key, slide in zip(ids, slides, strict=True) if not is_missing(slide)}


def remove_suffix(key: str) -> str:
    """Remove the suffix of an id that is a file name: `a.tif` and `a` are the same image."""
    return split_suffix(key)[0] if is_image(key) else key
