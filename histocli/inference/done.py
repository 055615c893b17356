"""`--skip-done`: find the patches that a file of predictions has already, to score only the new files of a folder."""

import csv
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from histocli.atomic import read_json, write_json
from histocli.enums import Output, Resize
from histocli.errors import HistoError
from histocli.fs import shorten_name
from histocli.inference.writers import escape_formula
from histocli.patch import Patch
from histocli.schema import to_json

_MAX_NAME_LENGTH = 200  # characters of the file's name in the name of its record
_OTHER_OUT_HINT = "give another --out, or omit --skip-done to score everything again"


class PredictedIds(NamedTuple):
    """The ids in a file of predictions, and whether a record has the options that the file was made with."""

    ids: frozenset[str]
    is_recorded: bool

    @property
    def digest(self) -> str:
        """A SHA-256 of the ids."""
        return sha256("\n".join(sorted(self.ids)).encode()).hexdigest()


@dataclass(frozen=True)
class RowOptions:
    """The checkpoints, by their SHA-256, and the options that the rows of a file of predictions depend on."""

    checkpoints: list[str]
    tta: bool = False
    uncalibrated: bool = False
    prevalence: float | None = None
    threshold: str | None = None
    resize: Resize = Resize.CROP
    mpp: str | None = None
    escape_formulas: bool = False


def read_done(path: Path, format: Output, columns: list[str], made_with: RowOptions) -> PredictedIds:
    """Return the ids in the file at `path`; none if there is no file.

    `made_with` is that of this run, and must be that of the file.

    Raises:
        HistoError: the file has other columns, was made with other checkpoints or options, or is damaged.
    """
    if not path.exists():
        return PredictedIds(frozenset(), True)
    record = _record_path(path)
    is_recorded = record.is_file()
    if is_recorded and (other := _find_differences(record, made_with)):
        raise HistoError(f"--skip-done: {path} was made with {' and '.join(other)}", _OTHER_OUT_HINT)
    try:
        found, ids = _READERS[format](path)
        _check_ids(ids)
    except (OSError, ValueError, LookupError, TypeError, RecursionError, NotImplementedError, csv.Error) as error:
        raise HistoError(f"--skip-done: {path} cannot be read as {format}: {error}", _OTHER_OUT_HINT) from error
    if found and found != columns:
        raise HistoError(
            f"--skip-done: {path} has the columns {','.join(found)}, and not {','.join(columns)}", _OTHER_OUT_HINT
        )
    if made_with.escape_formulas:
        ids = [key[1:] if key == escape_formula(key[1:]) else key for key in ids]
    return PredictedIds(frozenset(ids), is_recorded)


def write_record(path: Path, made_with: RowOptions) -> None:
    """Record the checkpoints and options that a file of predictions was made with, for the next `read_done`."""
    write_json(_record_path(path), to_json(made_with))


def select_new_patches(patches: Iterable[Patch], done: PredictedIds, out: Path) -> list[Patch]:
    """Select the patches that the file does not contain.

    Raises:
        HistoError: a patch has another kind of id in the file, for example because stems are no longer unique.
    """
    patches = list(patches)
    in_file, listed = done.ids, {patch.id for patch in patches}
    by_stem = {PurePosixPath(key).stem: key for key in in_file if "/" in key}
    became_paths = not by_stem and any("/" in key for key in listed)
    became_stems = bool(by_stem) and not any("/" in key for key in listed)
    new = [patch for patch in patches if patch.id not in in_file]
    for patch in new:
        path = PurePosixPath(patch.path)
        others = [patch.id.removesuffix(path.suffix) if patch.id.endswith(path.suffix) else patch.id + path.suffix]
        if became_paths:
            others.append(path.stem)
        if became_stems and path.stem in by_stem:
            others.append(by_stem[path.stem])
        if other := next((key for key in others if key != patch.id and key in in_file), None):
            raise HistoError(
                f"--skip-done: {out} has the id {other!r}, and the image would now get another kind of id: "
                f"{patch.id!r}",
                "the ids are stems while all stems differ, else paths; start a new --out with --id path",
            )
    return new


def _record_path(path: Path) -> Path:
    name = path.name[:_MAX_NAME_LENGTH]
    if len(os.fsencode(name)) > _MAX_NAME_LENGTH:  # file systems count bytes
        name = shorten_name(path.name)
    return path.with_name(f".{name}.made-with.json")


def _find_differences(path: Path, made_with: RowOptions) -> list[str]:
    """Return what differs from a record, such as `another --tta`.

    A flag that an earlier version did not record was not given.
    """
    record = read_json(path)
    if not isinstance(record, dict):
        raise HistoError(f"--skip-done: {path} is damaged: it is not an object", _OTHER_OUT_HINT)
    return [
        "other checkpoints" if name == "checkpoints" else f"another --{name.replace('_', '-')}"
        for name, value in to_json(made_with).items()
        if record.get(name, False if isinstance(value, bool) else None) != value
    ]


def _read_csv(path: Path) -> tuple[list[str], list[str]]:
    """Return the columns and the ids of a CSV file."""
    _require_last_newline(path)
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, strict=True)
        ids = [row["id"] for row in rows]
        return list(rows.fieldnames or []), ids


def _read_jsonl(path: Path) -> tuple[list[str], list[str]]:
    """Return the columns and the ids of a file of JSON lines."""
    _require_last_newline(path)
    with path.open(encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    return (list(rows[0]) if rows else []), [row["id"] for row in rows]


def _read_parquet(path: Path) -> tuple[list[str], list[str]]:
    """Return the columns and the ids of a Parquet file."""
    from pyarrow.parquet import read_schema, read_table

    return read_schema(path).names, read_table(path, columns=["id"])["id"].to_pylist()


def _check_ids(ids: list[str]) -> None:
    """Raise `ValueError` if a row has no id: a short row of CSV, or another value in JSON."""
    if not all(isinstance(key, str) for key in ids):
        raise ValueError("a row has no id")


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
