"""CSV tables as spreadsheets and people leave them: read with the line of every row, and written."""

import csv
from collections.abc import Iterator
from itertools import chain
from typing import IO, Any

from histocli.errors import HistoError


def read_table(file: IO[str], name: str) -> tuple[list[str], Iterator[tuple[int, list[str]]]]:
    """Read a table by comma or semicolon: its column names, and (line, fields) of every row; empty lines are skipped.

    `file` is open with `newline=""`; a line is where a row begins, counted from 1, for a quoted field may hold more.

    Raises:
        HistoError: it is not UTF-8 or not CSV, a column's name stands twice, or a row has more or fewer fields than
            there are columns; `name` and the line are named.
    """
    rows = _rows(file, name)
    line, header = next(rows, (1, []))
    columns = [column.strip() for column in header]
    for i, column in enumerate(columns):
        if column and column in columns[:i]:
            raise HistoError(f"{name}, line {line}: the column {column!r} stands twice", "remove one of them")
    return columns, rows


def table_writer(file: IO[str]) -> Any:
    """Give a `csv.writer` that ends lines with a line feed and quotes every field that holds any line break."""
    return csv.writer(_LineFeeds(file), lineterminator="\r\n")


def _rows(file: IO[str], name: str) -> Iterator[tuple[int, list[str]]]:
    """Yield (line, fields) of the header and every row; all have as many fields as the header."""
    line, width = 1, 0
    try:
        first = file.readline()
        delimiter = ";" if first.count(";") > first.count(",") else ","
        reader = csv.reader(chain([first], file), delimiter=delimiter, strict=True)
        for row in reader:
            if (row and row[0]) or any(map(str.strip, row)):
                width = width or len(row)
                if len(row) != width and (len(row) < width or any(row[width:])):
                    hint = "a field that holds a comma needs quotes around it"
                    raise HistoError(f"{name}, line {line}: {len(row)} fields, {width} columns", hint)
                yield line, row
            line = reader.line_num + 1
    except csv.Error as error:
        raise HistoError(f"{name}, line {line}: {error}", "correct it and try again") from error
    except UnicodeDecodeError as error:
        raise HistoError(f"{name} is not UTF-8 text: {error}", "save it as comma-separated UTF-8") from error


class _LineFeeds:
    """Ends with a line feed the lines that `csv` ends with CRLF: told LF, it would leave a lone CR unquoted."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def write(self, line: str) -> int:
        return self._file.write(line[:-2] + "\n")
