"""Images and their labels in the columns of a Parquet file, listed as if they were image files and a table."""

import json
import re
from dataclasses import dataclass
from threading import Lock
from typing import TYPE_CHECKING, Any

import numpy as np

from histocli.class_names import find_split
from histocli.errors import HistoError
from histocli.files.array_tables import make_array_table
from histocli.files.file import File
from histocli.files.formats import NoImageColumnError
from histocli.files.streams import Open
from histocli.packages import require_packages

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_SHARD = re.compile(r"(?:^|/)(\w+?)[-_]\d+[-_]of[-_]\d+\.parquet$")  # as in Hugging Face's data sets
_IMAGE_COLUMNS = ("image", "img", "patch", "tile", "x")  # these names are preferred to others, such as `mask`
_MAX_ROWS = 50_000_000
_MAX_GROUP_BYTES = 1 << 30  # the largest group of rows of a Parquet file, which is read into memory


def list_parquet(name: str, open_file: Open) -> list[File]:
    """List the images in a column of a Parquet file as files, and its columns of numbers and text as a table.

    Raises:
        HistoError: pyarrow is not installed, or there is no column of images.
    """
    require_packages(f"reading {name}", "pyarrow", extra="parquet")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(open_file())
        schema = table.schema_arrow
        images = [field.name for field in schema if _is_image_column(field.type, pa)]
        named = [column for column in images if column.lower() in _IMAGE_COLUMNS] or images
        column = named[0] if named else None
        if len(named) > 1:
            raise HistoError(
                f"{name} has several columns of images: {' and '.join(named[:2])}",
                f"keep one: pyarrow.parquet.read_table(FILE).drop_columns([{named[1]!r}]), and write the result",
            )
        if table.metadata.num_rows > _MAX_ROWS:
            raise HistoError(f"{name} has {table.metadata.num_rows:,} rows, over {_MAX_ROWS:,}", "split it")
        if column is None:
            names = ", ".join(f"{field.name} ({field.type})" for field in schema)
            raise NoImageColumnError(
                f"{name} has no column of images: {names}", "images are bytes, as in Hugging Face's sets"
            )
        shard = _SHARD.search(name)
        folder = f"{shard[1]}/" if shard and find_split(shard[1]) else ""
        rows = _ParquetRows(table, column, Lock())
        width = len(str(table.metadata.num_rows))
        stem = name.rpartition("/")[2].removesuffix(".parquet")
        ids = [f"{folder}{stem}-{row:0{width}}" for row in range(table.metadata.num_rows)]
        listed = [File(key, _ParquetImage(rows, row)) for row, key in enumerate(ids)]
        others = [field.name for field in schema if _is_value_column(field.type, pa)]
        if others:
            metadata = schema.metadata or {}
            columns = [(key, key, _name_classes(table.read([key])[key].to_pylist(), key, metadata)) for key in others]
            listed.append(make_array_table(name, f"{folder}{stem}-", "column", ids, columns))
    except (pa.ArrowException, AttributeError, KeyError, TypeError) as error:
        raise HistoError(f"cannot read {name}: {error}", "check that the download is complete") from error
    return listed


def _is_image_column(kind: Any, pa: Any) -> bool:
    if pa.types.is_struct(kind):
        return any(field.name == "bytes" and pa.types.is_binary(field.type) for field in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_value_column(kind: Any, pa: Any) -> bool:
    """Return whether a column holds numbers, text, true and false, or nothing."""
    types = pa.types
    kind = kind.value_type if types.is_dictionary(kind) else kind
    is_number = types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind)
    return bool(is_number or types.is_null(kind) or types.is_string(kind) or types.is_large_string(kind))


def _name_classes(values: list[Any], column: str, metadata: dict[bytes, bytes]) -> list[Any]:
    """Replace numbers by the names of classes, if the file's metadata has them: the class 0 may be tumour.

    Hugging Face writes -1 for a missing label: it becomes None.
    """
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = features.get(column, {}).get("names") if isinstance(features.get(column), dict) else None
    if not names:
        return values
    name_of = dict(enumerate(names)) | {-1: None}
    return [name_of.get(value, value) for value in values]


@dataclass
class _ParquetRows:
    """Reads the images of a Parquet file, one group of rows after the other; two groups stay in memory."""

    table: "pq.ParquetFile"
    column: str
    lock: Any

    def __post_init__(self) -> None:
        sizes = [self.table.metadata.row_group(i).num_rows for i in range(self.table.num_row_groups)]
        self.starts = np.cumsum([0, *sizes])
        self.kept: dict[int, Any] = {}

    def read(self, row: int) -> bytes:
        """Return the bytes of the image in a row."""
        with self.lock:
            group = int(np.searchsorted(self.starts, row, "right")) - 1
            if group not in self.kept:
                size = self.table.metadata.row_group(group).total_byte_size
                if size > _MAX_GROUP_BYTES:
                    raise OSError(f"a group of rows of {size >> 20:,} MiB, over {_MAX_GROUP_BYTES >> 20}")
                while len(self.kept) > 1:
                    del self.kept[next(iter(self.kept))]
                self.kept[group] = self.table.read_row_group(group, [self.column]).column(0)
            value = self.kept[group][row - int(self.starts[group])].as_py()
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise OSError(f"row {row} has no image")
        return data


@dataclass(slots=True)
class _ParquetImage:
    """Reads the image file in one row of a Parquet file."""

    rows: _ParquetRows
    row: int

    def __call__(self) -> bytes:
        return self.rows.read(self.row)
