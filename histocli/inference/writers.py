"""Write scores as CSV, JSON lines or Parquet."""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from io import StringIO, TextIOWrapper
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, Protocol, Self

from histocli.config import PredictConfig
from histocli.enums import Output
from histocli.errors import UsageError
from histocli.files.file import to_utf8
from histocli.files.outputs import open_stream, write_output
from histocli.files.tables import make_table_writer
from histocli.inference.columns import list_column_types
from histocli.packages import require_packages

if TYPE_CHECKING:
    import pyarrow as pa

DIGITS = 6  # after the decimal point, in every format
Table = dict[str, list[Any]]
ColumnTypes = dict[str, type]


class Writer(Protocol):
    """Writes rows of scores."""

    def write_rows(self, table: Table) -> None:
        """Write the rows of some patches, given by column."""

    def append(self, path: Path) -> None:
        """Write the rows of another file that a writer of this class wrote."""


@contextmanager
def open_writer(to: Path | IO[str], config: PredictConfig) -> Iterator[Writer]:
    """Open a writer of the format and the columns in `config`, to a text stream, or to a pipe or device at a path."""
    if not isinstance(to, Path):
        yield TEXT_WRITERS[config.output_format](to, list_column_types(config))
        to.flush()
        return
    with open_stream(to) as file, _open_file_writer(file, config) as writer:
        yield writer


@contextmanager
def open_part(path: Path, config: PredictConfig) -> Iterator[Writer]:
    """Open a writer to a new regular file."""
    with path.open("wb") as file, _open_file_writer(file, config) as writer:
        yield writer


@contextmanager
def _open_file_writer(file: IO[bytes], config: PredictConfig) -> Iterator[Writer]:
    """Open a writer to a binary file, and leave the file open at the end."""
    if config.output_format in BINARY_FORMATS:
        with BINARY_FORMATS[config.output_format].writer(file, list_column_types(config)) as writer:
            yield writer
        return
    text = TextIOWrapper(file, encoding="utf-8", newline="")
    yield TEXT_WRITERS[config.output_format](text, list_column_types(config))
    text.detach()  # this flushes; the caller, who opened `file`, closes it


class CsvWriter:
    """Writes CSV with the columns `id,label` of a Kaggle submission, where `label` is the probability, and others."""

    delimiter = ","

    def __init__(self, stream: IO[str], column_types: ColumnTypes) -> None:
        self.stream = stream
        make_table_writer(stream, self.delimiter).writerow(column_types)

    def write_rows(self, table: Table) -> None:
        """Write the rows of some patches, and flush them: another program may read them at the same time."""
        texts = [[f"{v:.{DIGITS}f}" if isinstance(v, float) else v for v in column] for column in table.values()]
        lines = StringIO()  # all rows in one write, because stdout checks for errors at each write
        make_table_writer(lines, self.delimiter).writerows(zip(*texts, strict=True))
        self.stream.write(lines.getvalue())
        self.stream.flush()

    def append(self, path: Path) -> None:
        """Write the rows of another CSV file, without its header."""
        with path.open(encoding="utf-8", newline="") as file:
            file.readline()
            shutil.copyfileobj(file, self.stream)


class JsonWriter:
    """Writes one JSON object per line."""

    def __init__(self, stream: IO[str], column_types: ColumnTypes) -> None:
        self.stream = stream

    def write_rows(self, table: Table) -> None:
        """Write the rows of some patches, and flush them."""
        self.stream.write("".join(json.dumps(row) + "\n" for row in _make_records(table)))
        self.stream.flush()

    def append(self, path: Path) -> None:
        """Write the rows of another file of JSON lines."""
        with path.open(encoding="utf-8", newline="") as file:
            shutil.copyfileobj(file, self.stream)


class ParquetWriter:
    """Writes a Parquet file with a row group for each batch."""

    def __init__(self, file: IO[bytes], column_types: ColumnTypes) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.schema, self.table = make_parquet_schema(column_types), pa.Table
        self.writer = pq.ParquetWriter(file, self.schema)

    def write_rows(self, table: Table) -> None:
        """Write the rows of some patches as a row group."""
        self.writer.write_table(self.table.from_pylist(_make_records(table), schema=self.schema))

    def append(self, path: Path) -> None:
        """Write the row groups of another Parquet file."""
        from pyarrow.parquet import ParquetFile

        with ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                # Another program may have written the file, with other types.
                self.writer.write_table(file.read_row_group(number).cast(self.schema))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error is None:
            self.writer.close()  # this writes the footer
        else:
            self.writer.is_open = False  # pyarrow would else write the footer when the object is deleted


def make_parquet_schema(column_types: ColumnTypes) -> "pa.Schema":
    """Return the columns of a Parquet file with their types."""
    import pyarrow as pa

    types = {str: pa.string(), float: pa.float64(), int: pa.int8()}
    return pa.schema([(name, types[kind]) for name, kind in column_types.items()])


def write_failed(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write the CSV file of `--failed`: the id, the path and the error of each file that could not be read.

    It has only a header if there are none.
    """
    with write_output(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = make_table_writer(file)
        writer.writerow(("id", "path", "error"))
        writer.writerows([to_utf8(value) for value in row] for row in rows)


class BinaryFormat(NamedTuple):
    """A format that is not text: its writer, the package that the writer needs, and the extra that has the package."""

    writer: Callable[[IO[bytes], ColumnTypes], AbstractContextManager[Writer]]
    package: str
    extra: str


TEXT_WRITERS: dict[Output, Callable[[IO[str], ColumnTypes], Writer]] = {
    Output.CSV: CsvWriter,
    Output.JSONL: JsonWriter,
}
BINARY_FORMATS = {Output.PARQUET: BinaryFormat(ParquetWriter, "pyarrow", extra="parquet")}


def check_format(format: Output, out: Path | None) -> None:
    """Check that a format can be written, before the patches are scored.

    Raises:
        UsageError: the format is binary, and there is no file to write it to.
        HistoError: the package that writes it is not installed.
    """
    if format in BINARY_FORMATS:
        if out is None:
            raise UsageError(f"--format {format} cannot be written to stdout", "give a file: --out FILE")
        require_packages(f"--format {format}", BINARY_FORMATS[format].package, extra=BINARY_FORMATS[format].extra)


def _make_records(table: Table) -> list[dict[str, Any]]:
    """Return the rows as dictionaries, with the numbers rounded as in the CSV."""
    rounded = [[round(v, DIGITS) if isinstance(v, float) else v for v in column] for column in table.values()]
    return [dict(zip(table, row, strict=True)) for row in zip(*rounded, strict=True)]
