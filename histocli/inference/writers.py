"""Scored patches as CSV, JSON lines or Parquet, written as they come."""

import json
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Protocol

from histocli.config import Output
from histocli.data.tables import table_writer
from histocli.errors import HistoError
from histocli.workspace import atomic_path

DIGITS = 6  # after the point, in every format
Table = dict[str, list[Any]]


class Writer(Protocol):
    """Writes scored rows."""

    def rows(self, table: Table) -> None:
        """Write some patches' rows, given by column."""

    def append(self, path: Path) -> None:
        """Write the rows of a file that such a writer wrote."""

    def close(self) -> None:
        """Write what is still held."""


@contextmanager
def written(to: Path | IO[str], format: Output, kinds: dict[str, type]) -> Iterator[Writer]:
    """A writer of the columns that `kinds` names, to a stream or to a file, which is there whole or not at all.

    A path that is there and is no file, as a pipe or a device, is written to as it comes.
    """
    with ExitStack() as stack:
        writer: Writer
        if isinstance(to, Path) and format is not Output.PARQUET and to.exists() and not to.is_file():
            to = stack.enter_context(to.open("w", encoding="utf-8", newline=""))
        if not isinstance(to, Path):
            writer = _text_writer(to, format, kinds)
        elif format is Output.PARQUET:
            writer = ParquetWriter(stack.enter_context(atomic_path(to)), kinds)
        else:
            path = stack.enter_context(atomic_path(to))
            file = stack.enter_context(path.open("w", encoding="utf-8", newline=""))
            writer = _text_writer(file, format, kinds)
        yield writer
        writer.close()


def _text_writer(stream: IO[str], format: Output, kinds: dict[str, type]) -> Writer:
    return JsonWriter(stream) if format is Output.JSONL else CsvWriter(stream, kinds)


class CsvWriter:
    """`id,label` with the tumour probability in `label`, the Kaggle submission as it stands; more columns if asked."""

    def __init__(self, stream: IO[str], kinds: dict[str, type]) -> None:
        self.stream = stream
        self.writer = table_writer(stream)
        self.writer.writerow(kinds)

    def rows(self, table: Table) -> None:
        """Write some patches' rows, and flush them to whoever reads along."""
        texts = [[f"{v:.{DIGITS}f}" if isinstance(v, float) else v for v in column] for column in table.values()]
        self.writer.writerows(zip(*texts, strict=True))
        self.stream.flush()

    def append(self, path: Path) -> None:
        """Write the rows of another such file, without its header."""
        with path.open(encoding="utf-8", newline="") as file:
            file.readline()
            shutil.copyfileobj(file, self.stream)

    def close(self) -> None:
        """Flush."""
        self.stream.flush()


class JsonWriter:
    """One JSON object a line."""

    def __init__(self, stream: IO[str]) -> None:
        self.stream = stream

    def rows(self, table: Table) -> None:
        """Write some patches' rows, and flush them."""
        for row in _records(table):
            self.stream.write(json.dumps(row) + "\n")
        self.stream.flush()

    def append(self, path: Path) -> None:
        """Write the rows of another such file."""
        with path.open(encoding="utf-8", newline="") as file:
            shutil.copyfileobj(file, self.stream)

    def close(self) -> None:
        """Flush."""
        self.stream.flush()


class ParquetWriter:
    """A Parquet file, a row group for each batch.

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
        """Write some patches' rows as a row group."""
        self.writer.write_table(self.table.from_pylist(_records(table), schema=self.schema))

    def append(self, path: Path) -> None:
        """Write the row groups of another such file."""
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                self.writer.write_table(file.read_row_group(number))

    def close(self) -> None:
        """Write the footer."""
        self.writer.close()


def _records(table: Table) -> list[dict[str, Any]]:
    """Rows as mappings, with the numbers as the CSV has them."""
    rounded = [[round(v, DIGITS) if isinstance(v, float) else v for v in column] for column in table.values()]
    return [dict(zip(table, row, strict=True)) for row in zip(*rounded, strict=True)]
