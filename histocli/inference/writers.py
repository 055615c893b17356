"""Write scores as CSV, JSON lines or Parquet."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from histocli.config import Output
from histocli.data.tables import table_writer
from histocli.errors import HistoError
from histocli.workspace import atomic_path

DIGITS = 6  # after the decimal point, in every format
Table = dict[str, list[Any]]


class Writer(Protocol):
    """Writes rows of scores."""

    def rows(self, table: Table) -> None:
        """Write the rows of some patches, given by column."""

    def append(self, path: Path) -> None:
        """Write the rows of another file that a writer of this class wrote."""

    def close(self) -> None:
        """Write the rows that are not written yet."""


@contextmanager
def open_writer(to: Path | IO[str], format: Output, kinds: dict[str, type]) -> Iterator[Writer]:
    """Open a writer of the columns that `kinds` names, to a stream or to a file.

    The file appears under its name only when all of it is written. A path that exists and is not a regular file, such
    as a pipe or a device, is written to directly.
    """
    if not isinstance(to, Path):
        writer = _text_writer(to, format, kinds)
        yield writer
        writer.close()
    elif is_stream(to, format):
        with open_part(to, format, kinds) as writer:
            yield writer
    else:
        with atomic_path(to) as temporary, open_part(temporary, format, kinds) as writer:
            yield writer


def is_stream(path: Path, format: Output) -> bool:
    """Return whether results are written to this path at once: it exists, and is a pipe or a device, not a file."""
    return format is not Output.PARQUET and path.exists() and not path.is_file()


@contextmanager
def open_part(path: Path, format: Output, kinds: dict[str, type]) -> Iterator[Writer]:
    """Open a writer that writes to `path` directly."""
    writer: Writer
    if format is Output.PARQUET:
        writer = ParquetWriter(path, kinds)
        yield writer
        writer.close()
        return
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = _text_writer(file, format, kinds)
        yield writer
        writer.close()


def _text_writer(stream: IO[str], format: Output, kinds: dict[str, type]) -> Writer:
    return JsonWriter(stream) if format is Output.JSONL else CsvWriter(stream, kinds)


class CsvWriter:
    """Writes CSV with the columns `id,label` of a Kaggle submission, where `label` is the probability, and others."""

    def __init__(self, stream: IO[str], kinds: dict[str, type]) -> None:
        self.stream = stream
        self.writer = table_writer(stream)
        self.writer.writerow(kinds)

    def rows(self, table: Table) -> None:
        """Write the rows of some patches, and flush them for programs that read them meanwhile."""
        texts = [[f"{v:.{DIGITS}f}" if isinstance(v, float) else v for v in column] for column in table.values()]
        self.writer.writerows(zip(*texts, strict=True))
        self.stream.flush()

    def append(self, path: Path) -> None:
        """Write the rows of another CSV file, without its header."""
        with path.open(encoding="utf-8", newline="") as file:
            file.readline()
            shutil.copyfileobj(file, self.stream)

    def close(self) -> None:
        """Flush."""
        self.stream.flush()


class JsonWriter:
    """Writes one JSON object per line."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def rows(self, table: Table) -> None:
        """Write the rows of some patches, and flush them."""
        for row in _records(table):
            self.stream.write(json.dumps(row) + "\n")
        self.stream.flush()

    def append(self, path: Path) -> None:
        """Write the rows of another file of JSON lines."""
        with path.open(encoding="utf-8", newline="") as file:
            shutil.copyfileobj(file, self.stream)

    def close(self) -> None:
        """Flush."""
        self.stream.flush()


class ParquetWriter:
    """Writes a Parquet file with a row group for each batch.

    Raises:
        HistoError: pyarrow is not installed.
    """

    def __init__(self, path: Path, kinds: dict[str, type]) -> None:
        try:
            import pyarrow as pa
            import pyarrow.parquet as pq
        except ModuleNotFoundError:
            raise HistoError("--format parquet needs pyarrow", "pip install 'histocli[parquet]'") from None
        types = {str: pa.string(), float: pa.float64(), int: pa.int8()}
        self.schema, self.table = pa.schema([(name, types[kind]) for name, kind in kinds.items()]), pa.Table
        self.writer = pq.ParquetWriter(path, self.schema)

    def rows(self, table: Table) -> None:
        """Write the rows of some patches as a row group."""
        self.writer.write_table(self.table.from_pylist(_records(table), schema=self.schema))

    def append(self, path: Path) -> None:
        """Write the row groups of another Parquet file."""
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                self.writer.write_table(file.read_row_group(number))

    def close(self) -> None:
        """Write the footer."""
        self.writer.close()


def _records(table: Table) -> list[dict[str, Any]]:
    """Return the rows as dictionaries, with the numbers rounded as in the CSV."""
    rounded = [[round(v, DIGITS) if isinstance(v, float) else v for v in column] for column in table.values()]
    return [dict(zip(table, row, strict=True)) for row in zip(*rounded, strict=True)]
