"""Read and write CSV tables; the rows that are read have their line numbers, for error messages."""

import csv
import re
from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from operator import itemgetter
from typing import IO, Any

from histocli.errors import HistoError
from histocli.text import format_count

SEPARATORS = ",;\t|"
_NAME_OF_SEPARATOR = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar", " ": "space"}
UTF8_HINT = (
    "save it as UTF-8, as other encodings cannot be told apart; in Excel: Save As, CSV UTF-8 (Comma delimited); in a "
    "shell: iconv -f CP1252 -t UTF-8"
)
_MAX_LINE = 1 << 20  # characters
_BLOCK = 64  # rows read at once: more would make the garbage collector scan them, which takes time


def read_table(
    file: IO[str], name: str, delimiter: str | None = None
) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Read a table: its column names, and (line, fields) of every row.

    It is separated by commas, semicolons, tabs or vertical bars, unless `delimiter` is given.
    Empty lines are skipped. `file` is open with `newline=""`. The line, from 1, is the one where the row begins,
    because a quoted field may contain line breaks.

    Raises:
        HistoError: it is not UTF-8 or not CSV, two columns have the same name, or a row has more or fewer fields than
            there are columns; the message names `name` and the line.
    """
    rows = _read_rows(file, name, delimiter)
    return _check_column_names(*next(rows, (1, [])), name), rows


def read_columns(file: IO[str], name: str) -> dict[str, list[str]]:
    """Read a whole table as `read_table` does, and return its columns; those without a name are skipped.

    Raises:
        HistoError: as `read_table`.
    """
    if (table := _read_uniform_table(file, name)) is None:  # read again by rows, to find the line of an error
        file.seek(0)
        columns, rows = read_table(file, name)
        fields = [row[: len(columns)] for _, row in rows]
        table = columns, [list(values) for values in zip(*fields, strict=True)] or [[] for _ in columns]
    return {column: values for column, values in zip(*table, strict=True) if column}


def _read_uniform_table(file: IO[str], name: str) -> tuple[list[str], list[list[str]]] | None:
    """Return the columns of a table, or None if a row differs from the header in its length or has no first field."""
    try:
        reader = _open_reader(file)
        header: list[str] = next(reader, [])
        if not any(map(str.strip, header)):
            return None
        columns: list[list[str]] = [[] for _ in header]
        while block := list(islice(reader, _BLOCK)):
            rows = list(filter(None, block))  # without empty lines
            if not set(map(len, rows)) <= {len(header)} or not all(map(itemgetter(0), rows)):
                return None
            for column, values in zip(columns, zip(*rows, strict=True), strict=bool(rows)):
                column.extend(values)
    except (csv.Error, UnicodeDecodeError):
        return None
    return _check_column_names(1, header, name), columns


def _check_column_names(line: int, header: list[str], name: str) -> list[str]:
    """Return the names in a header without spaces around them; raise `HistoError` if one is repeated."""
    columns = [column.strip() for column in header]
    seen: set[str] = set()
    for column in columns:
        if column and column in seen:
            raise HistoError(f"{name}, line {line}: there are two columns {column!r}", "remove one of them")
        seen.add(column)
    return columns


def find_separator(line: str) -> str:
    """Return the separator that is most frequent in the line with the names of the columns, outside of quotes."""
    unquoted = re.sub('"[^"]*"', "", line)
    return max(SEPARATORS, key=unquoted.count if any(mark in unquoted for mark in SEPARATORS) else line.count)


def make_table_writer(file: IO[str], delimiter: str = ",") -> Any:
    """Return a `csv.writer` that ends lines with a line feed and quotes every field that contains a line break."""
    return csv.writer(_LineFeedFile(file), delimiter=delimiter, lineterminator="\r\n")


def _read_rows(file: IO[str], name: str, delimiter: str | None) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of the header and every row; all have the same number of fields."""
    line, header_line = 1, 1
    header: list[str] = []
    try:
        reader = _open_reader(file, delimiter)
        for row in reader:
            if (header and row and row[0]) or any(map(str.strip, row)):
                if not header:
                    header, header_line = row, line
                width = len(header)
                if len(row) != width and (len(row) < width or any(row[width:])):
                    raise HistoError(
                        f"{name}, line {line}: this line has {format_count(len(row), 'field')}, but line {header_line} "
                        f"names {format_count(width, 'column')}",
                        _explain_width(row, header, header_line, reader.dialect.delimiter),
                    )
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise HistoError(f"{name}, line {line}: {_explain(error)}", "correct it and try again") from error
    except UnicodeDecodeError as error:
        raise HistoError(f"{name} is not UTF-8 text: {error}", UTF8_HINT) from error


def _explain_width(row: list[str], header: list[str], header_line: int, separator: str) -> str:
    """Return what to do with a row that has more or fewer fields than the header has columns."""
    mark = _NAME_OF_SEPARATOR.get(separator, "separator")
    if len(row) > len(header):
        return f"a field that contains a {mark} needs quotes around it"
    if header[-1].strip():
        return "add the missing field"
    return f"add the missing field, or remove the {mark} at the end of line {header_line}"


def _explain(error: csv.Error) -> str:
    """Return what is wrong in a table in plain words; the messages of `csv` name what its parser expected."""
    text = str(error)
    if text == "unexpected end of data":
        return "a quote is not closed"
    if text.endswith("expected after '\"'"):
        return "there is text after a quote is closed; a quote in a field is written twice"
    if text.startswith("field larger than"):
        return f"a field has more than {csv.field_size_limit():,} characters; is a quote not closed?"
    return text


def _open_reader(file: IO[str], delimiter: str | None = None) -> Any:
    """Return a `csv.reader` for the separator that the first line with a text has, or for `delimiter`."""
    lines, head = _read_lines(file), [""]
    while not head[-1].strip() and (line := next(lines, "")):
        head.append(line)
    return csv.reader(chain(head[1:], lines), delimiter=delimiter or find_separator(head[-1]), strict=True)


def _read_lines(file: IO[str]) -> Iterator[str]:
    """Yield the lines of a file; raise `csv.Error` for one that is so long that its fields could fill the memory."""
    for line in iter(partial(file.readline, _MAX_LINE + 1), ""):
        if len(line) > _MAX_LINE:
            raise csv.Error(f"the line has more than {_MAX_LINE:,} characters")
        yield line


class _LineFeedFile:
    """A file that replaces CRLF at the end of each line by LF. If `csv` wrote LF, it would not quote a single CR."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, line: str) -> int:
        """Write a line that ends in CR LF with LF instead."""
        return self._file.write(line[:-2] + "\n")
