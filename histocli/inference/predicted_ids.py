"""`--skip-done`: find the patches that a file of predictions has already, to score only the new files of a folder."""

import csv
import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from histocli.atomic import read_json, write_json
from histocli.enums import IdKind, Output, Resize
from histocli.errors import HistoError
from histocli.files.file import split_suffix
from histocli.files.outputs import find_record_path
from histocli.fs import is_same_file
from histocli.images.intensity import ValueRange
from histocli.inference.earlier_images import find_other
from histocli.inference.writers import escape_formula
from histocli.patch import Patch
from histocli.schema import to_json
from histocli.text import format_count

_OTHER_OUT_HINT = "give another --out, or omit --skip-done to score everything again"


class PredictedIds(NamedTuple):
    """The ids in a file of predictions, and what its record says.

    `is_recorded` says whether a record has the options that the file was made with. `id_kind` is the kind of the ids,
    None if the record does not have it. `folder` is the folder that all images are from, in which the paths in the ids
    begin; None if there are several, or the record does not have it. `white` is what `Inputs.white` was, empty if the
    record does not have it.
    """

    ids: frozenset[str]
    is_recorded: bool = True
    id_kind: IdKind | None = None
    folder: str | None = None
    white: Mapping[str, float] = MappingProxyType({})

    @property
    def digest(self) -> str:
        """A SHA-256 of the ids."""
        return sha256("\n".join(sorted(self.ids)).encode()).hexdigest()

    def is_from(self, folder: str | None) -> bool:
        """Return whether all images are from `folder`, which may now have another path, for example through a link."""
        if folder is None or self.folder is None:
            return False
        return folder == self.folder or is_same_file(folder, self.folder)

    def find_common_folder(self, folder: str | None) -> str | None:
        """Return the folder of all images if those of `folder` are added to the file; None if there are several."""
        return folder if not self.ids or self.is_from(folder) else None


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
    id: IdKind | None = None  # None: several kinds, or no image files
    folder: str | None = None  # in which the paths in the ids begin; None: several
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
    folder = record.get("folder") if record is not None else None
    folder, white = folder if isinstance(folder, str) else None, _read_white(record or {})
    return PredictedIds(frozenset(ids), record is not None, id_kind, folder, white)


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
                f"--skip-done: the images in {out} were read as {ValueRange(kind, before)}, and with the images of now "
                f"they would be read as {ValueRange(kind, top)}",
                "omit --skip-done to score all images again, or give another --out",
            )


def select_new_patches(patches: Sequence[Patch], predicted: PredictedIds, out: Path, folder: str | None) -> list[Patch]:
    """Select the patches that the file does not contain; `folder` is the one that all patches are from, if any.

    Raises:
        HistoError: a patch has another id in the file: one without leading zeros, of another kind, or with a path that
            begins in another folder; or an image of another folder has its id.
    """
    is_same_folder = predicted.is_from(folder)
    if folder and not is_same_folder:
        _refuse_ids_of_another_folder(patches, predicted, out, folder)
    new = [patch for patch in patches if patch.id not in predicted.ids]
    unmatched = predicted.ids - {patch.id for patch in patches}
    if not any(_has_leading_zeros(key) for key in predicted.ids):  # a spreadsheet removes those of all ids
        _refuse_lost_zeros(new, unmatched, out)
    if not is_same_folder:  # else an image has the same id as before
        _refuse_other_ids(new, unmatched, out)
    return new


def _refuse_ids_of_another_folder(patches: Sequence[Patch], predicted: PredictedIds, out: Path, folder: str) -> None:
    """Raise `HistoError` if a patch has the id of another image, which is still in the folder of all earlier images."""
    common = [patch for patch in patches if patch.id in predicted.ids]
    if predicted.folder and predicted.id_kind and (other := find_other(common, predicted.folder, predicted.id_kind)):
        raise HistoError(
            f"--skip-done: {out} has the scores of the images in {predicted.folder}, and "
            f"{format_count(len(common), 'image')} in {folder} would get the same ids, although {other.id!r} is "
            "another image there",
            "give another --out, or score the folder above both with --id path and a new --out, so that ids contain "
            "the folders; if the images were replaced, omit --skip-done to score all again",
        )


def _has_leading_zeros(key: str) -> bool:
    return len(key) > 1 and key[0] == "0" and key.isdecimal()


def _refuse_lost_zeros(new: list[Patch], unmatched: frozenset[str], out: Path) -> None:
    """Raise `HistoError` if ids of new patches are in the file without their leading zeros."""
    changed = {
        patch.id: short
        for patch in new
        if _has_leading_zeros(patch.id) and (short := patch.id.lstrip("0") or "0") in unmatched
    }
    if changed:
        key, short = next(iter(changed.items()))
        raise HistoError(
            f"--skip-done: {out} has {format_count(len(changed), 'id')} without leading zeros: {short!r} is probably "
            f"{key!r}",
            "a spreadsheet removes the zeros when it saves a file: restore the file, or give another --out; if these "
            "are different images, rename the new ones",
        )


def _refuse_other_ids(new: list[Patch], unmatched: frozenset[str], out: Path) -> None:
    """Raise `HistoError` if a new patch has another id in the file: of another kind, or from another folder.

    Every id of an image is the end of its whole path, from the file's name on, with or without the suffix.
    """
    known = {os.path.normpath(key): key for key in unmatched}  # find writes ./a.png
    for patch in new if unmatched else ():
        parts = os.path.abspath(patch.path).split("/") if patch.path else []  # noqa: PTH100 - Path keeps `..`
        ends = ["/".join(parts[start:]) for start in range(len(parts))]
        ends += [end.removesuffix(split_suffix(patch.path)[1]) for end in ends]
        if other := next((known[end] for end in ends if end in known), None):
            raise HistoError(
                f"--skip-done: {out} has the id {other!r}, and the same image would now get the id {patch.id!r}",
                "give the same inputs as before, or choose the kind of id that the file has: --id stem, path-stem or "
                "path; for another image, give another --out",
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
    """Return the values of white in a record; earlier versions did not record them."""
    white = record.get("white")
    listed = white.items() if isinstance(white, dict) else ()
    return {kind: top for kind, top in listed if isinstance(top, int | float) and 0 < top < math.inf}


def _find_differences(record: dict[str, Any], made_with: RowOptions) -> list[str]:
    """Return what differs from a record, such as `another --tta`; the ids and white are compared elsewhere.

    A flag that an earlier version did not record was not given.
    """
    return [
        "other checkpoints" if name == "checkpoints" else f"another --{name.replace('_', '-')}"
        for name, value in to_json(made_with).items()
        if name not in ("id", "folder", "white")
        and record.get(name, False if isinstance(value, bool) else None) != value
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
