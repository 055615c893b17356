"""`--failed`: the table of the files that could not be read."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from histocli.files.file import to_utf8
from histocli.files.outputs import write_output
from histocli.files.tables import make_table_writer

COLUMNS = ("id", "path", "error")


def write_failed(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write a CSV file with the id, the path and the error of each file; it has only a header if there are none."""
    with write_output(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = make_table_writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([to_utf8(value) for value in row] for row in rows)
