"""`--skip-done`: read the ids in a file of predictions, and the record of what the file was made with."""

import csv
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

from histocli.atomic import read_json, write_json
from histocli.config import STORED_THRESHOLD
from histocli.enums import IdKind, Output, Resize
from histocli.errors import HistoError
from histocli.files.outputs import find_record_path
from histocli.images.intensity import ValueRange
from histocli.inference.columns import COLUMNS, escape_formula
from histocli.inference.places import Place, read_places
from histocli.inference.writers import make_parquet_schema
from histocli.schema import to_json

if TYPE_CHECKING:
    import pyarrow as pa

_OTHER_OUT_HINT = "give another --out, or omit --skip-done and name all inputs: the file is written anew"


class PredictedIds(NamedTuple):
    """The ids in a file of predictions, and what its record says.

    `is_recorded` says whether a record has the options that the file was made with. `id_kind` is the kind of the ids,
    None if the record does not have it. `places` are those of the images of all calls, and `white` is what
    `Inputs.white` was; both are empty if the record does not have them.
    """

    ids: frozenset[str]
    is_recorded: bool = True
    id_kind: IdKind | None = None
    places: tuple[Place, ...] = ()
    white: Mapping[str, float] = MappingProxyType({})

    @property
    def digest(self) -> str:
        """A SHA-256 of the ids."""
        return sha256("\n".join(sorted(self.ids)).encode()).hexdigest()


@dataclass(frozen=True)
class RowOptions:
    """The checkpoints, by their SHA-256, and the options that the rows of a file of predictions depend on.

    `threshold` and `mpp` are as `normalise_option` returns them: equal values are equal texts.
    """

    checkpoints: list[str]
    tta: bool = False
    uncalibrated: bool = False
    prevalence: float | None = None
    threshold: str | None = None
    resize: Resize = Resize.CROP
    mpp: str | None = None
    escape_formulas: bool = False
    id: IdKind | None = None  # None: several kinds, or no image files
    places: list[Place] = field(default_factory=list)  # of the images of all calls
    white: dict[str, float] = field(default_factory=dict)  # the value of white for each type of images, if not uint8


def read_predicted_ids(path: Path, format: Output, columns: list[str], made_with: RowOptions) -> PredictedIds:
    """Return the ids in the file at `path`; none if there is no file.

    `made_with` are the options of this call. If the file has rows and a record, the rows must have been made with the
    same options. If `made_with.id` is None, the kind of the ids is that of the file.

    Raises:
        HistoError: the file has other columns, was made with other checkpoints or options, or is damaged.
    """
    if not path.exists():
        return PredictedIds(frozenset())
    try:
        found, ids = _READERS[format](path)
        _check_ids(ids)
    except (OSError, ValueError, LookupError, TypeError, RecursionError, NotImplementedError, csv.Error) as error:
        raise HistoError(f"--skip-done: {path} cannot be read as {format}: {error}", _OTHER_OUT_HINT) from error
    if not ids:
        return PredictedIds(frozenset())
    record = _read_record(path)
    if record is not None and (other := _find_differences(record, made_with)):
        raise HistoError(f"--skip-done: {path} was made with {' and '.join(other)}", _OTHER_OUT_HINT)
    if found != columns:
        raise HistoError(
            f"--skip-done: {path} has the columns {','.join(found)}, and not {','.join(columns)}", _OTHER_OUT_HINT
        )
    if made_with.escape_formulas:
        ids = [key[1:] if key == escape_formula(key[1:]) else key for key in ids]
    id_kind = next((kind for kind in IdKind if record is not None and record.get("id") == kind), None)
    if made_with.id and id_kind and made_with.id is not id_kind:
        raise HistoError(
            f"--skip-done: {path} was made with --id {id_kind}, and not --id {made_with.id}",
            f"use --id {id_kind}, or give another --out",
        )
    return PredictedIds(
        frozenset(ids), record is not None, id_kind, read_places(record or {}), _read_white(record or {})
    )


def write_record(path: Path, made_with: RowOptions) -> None:
    """Record what a file of predictions was made with, for the next `read_predicted_ids`."""
    write_json(find_record_path(path), to_json(made_with))


def check_white(white: Mapping[str, float], predicted: PredictedIds, out: Path) -> None:
    """Check that the images are now read with the same value of white as those of the rows in the file.

    White is inferred from the largest value in all images of a call, which new images may change.

    Raises:
        HistoError: they are read with another one: the rows of one file would have two scales.
    """
    for key, top in white.items():
        kind = key.rpartition("/")[2]  # of several inputs, the key begins with the input's name
        if (before := predicted.white.get(key, top)) != top:
            raise HistoError(
                f"--skip-done: the images in {out} were read as {ValueRange(kind, before)}, and those of this call "
                f"would be read as {ValueRange(kind, top)}",
                _OTHER_OUT_HINT,
            )


def _read_record(path: Path) -> dict[str, Any] | None:
    """Return the record of a file of predictions, None if it has none."""
    record_path = find_record_path(path)
    if not record_path.is_file():
        return None
    record = read_json(record_path, _OTHER_OUT_HINT)
    if not isinstance(record, dict):
        raise HistoError(f"--skip-done: {record_path} is damaged: it is not an object", _OTHER_OUT_HINT)
    return record


def _read_white(record: dict[str, Any]) -> dict[str, float]:
    """Return the values of white in a record."""
    white = record.get("white")
    listed = white.items() if isinstance(white, dict) else ()
    return {kind: top for kind, top in listed if isinstance(top, int | float) and 0 < top < math.inf}


def normalise_option(value: str | None) -> str | None:
    """Return the same text for equal values of an option, such as `.5` and `0.50`; None for the default."""
    name, sign, number = (value or "").rpartition("=")  # there is a name in sensitivity=0.95
    try:
        return f"{name}{sign}{float(number)}"
    except ValueError:
        return None if value == STORED_THRESHOLD else value


def _find_differences(record: dict[str, Any], made_with: RowOptions) -> list[str]:
    """Return what differs from a record, such as `another --tta`; the ids and white are compared elsewhere."""
    return [
        "other checkpoints" if name == "checkpoints" else f"another --{name.replace('_', '-')}"
        for name, value in to_json(made_with).items()
        if name not in ("id", "places", "white") and record.get(name) != value
    ]


def _read_csv(path: Path) -> tuple[list[str], list[str]]:
    """Return the columns and the ids of a CSV file."""
    _require_last_newline(path)
    with path.open(encoding="utf-8-sig", newline="") as file:  # spreadsheets add the mark of UTF-8
        rows = csv.DictReader(file, strict=True)
        columns = list(rows.fieldnames or [])
        if columns and "id" not in columns:
            raise ValueError("its first line has no column id")
        return columns, [row["id"] for row in rows]


def _read_jsonl(path: Path) -> tuple[list[str], list[str]]:
    """Return the columns and the ids of a file of JSON lines."""
    _require_last_newline(path)
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return (list(rows[0]) if rows else []), [row["id"] for row in rows]


def _read_parquet(path: Path) -> tuple[list[str], list[str]]:
    """Return the columns and the ids of a Parquet file.

    Another program may have changed the types of the columns. If they cannot be changed back, this is an error now, and
    not after the patches are scored.
    """
    from pyarrow.parquet import ParquetFile

    schema = make_parquet_schema({column.name: column.type for column in COLUMNS})
    ids: list[str] = []
    with ParquetFile(path) as file:
        names: list[str] = file.schema_arrow.names
        if "id" not in names:
            raise ValueError("it has no column id")
        common = [name for name in names if name in schema.names]
        changed = [name for name in common if file.schema_arrow.field(name).type != schema.field(name).type]
        for number in range(file.num_row_groups):
            rows = file.read_row_group(number, columns=sorted({"id", *changed}))
            for name in changed:
                _check_type(rows[name], schema.field(name))
            ids += rows["id"].to_pylist()
    return names, ids


def _check_type(column: "pa.ChunkedArray", field: "pa.Field") -> None:
    """Raise `ValueError` if the values of a column cannot be converted to the type of `field`."""
    try:
        column.cast(field.type)
    except (ValueError, NotImplementedError) as error:
        raise ValueError(f"its column {field.name} cannot be converted from {column.type} to {field.type}") from error


def _check_ids(ids: list[str]) -> None:
    """Raise `ValueError` if a row has no id, for example in a short row of CSV, or one that is not text."""
    if not all(isinstance(key, str) for key in ids):
        raise ValueError("a row has no id, or one that is not text")


def _require_last_newline(path: Path) -> None:
    """Raise `ValueError` if the last line of a file is not complete."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 1))
        last = file.read()
    if last not in (b"\n", b""):
        raise ValueError("its last line is incomplete")


_READERS = {
    Output.CSV: _read_csv,
    Output.JSONL: _read_jsonl,
    Output.PARQUET: _read_parquet,
}
