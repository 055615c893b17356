"""Find the tables of images in folders and archives, and next to them, and choose how each is used."""

import re
from collections.abc import Sequence
from pathlib import Path

from histocli.class_names import SplitError
from histocli.errors import HistoError
from histocli.files.file import File, make_file
from histocli.labels.found import ContradictionError
from histocli.labels.label_tables import LabelTables
from histocli.labels.table_files import UnreadableTableError, peek_columns

_TABLE = re.compile(r"\.(csv|tsv|txt)(\.gz)?$", re.IGNORECASE)
_RESULT_TABLE = re.compile(
    "submission|prediction|score|result|(?<![a-z])preds?(?![a-z])", re.IGNORECASE
)  # the labels in these are predictions


def use_tables_inside(tables: LabelTables, others: Sequence[File]) -> None:
    """Use the tables in the locations: those with `label` in their names, and those with the usual columns."""
    for file in others:
        base = file.name.rpartition("/")[2]
        if not _TABLE.search(base):
            continue
        if _RESULT_TABLE.search(base):
            tables.ignored.append(file.name)
        elif "label" in base.lower() and not base.lower().endswith(".txt"):
            _use_named_table(tables, file)
        else:
            _use_other_table(tables, file)


def _use_named_table(tables: LabelTables, file: File) -> None:
    """Use a table with `label` in its name; it must give labels, unless it has columns and none is of labels."""
    try:
        roles = peek_columns(file, tables.options.columns)
    except UnreadableTableError:
        roles = set()  # the error is raised when the whole table is read
    if roles and "label" not in roles:  # another table may have the labels
        _use_optional_table(tables, file, has_splits="split" in roles)
    else:
        tables.add_label_table(file)


def _use_other_table(tables: LabelTables, file: File) -> None:
    """Use a table for what its columns have; add a note if it cannot be read, or has labels without ids."""
    notes = tables.result.notes
    roles: set[str] = set()
    try:
        roles = peek_columns(file, tables.options.columns)
        if "id" in roles and "label" in roles:
            _use_optional_table(tables, file, has_splits="split" in roles)
        elif "id" in roles and "slide" in roles and not tables.options.slides:
            tables.add_slide_table(file)
        elif "id" in roles:
            tables.add_split_table(file, is_named="split" in roles)
        elif "label" in roles:
            notes.append(
                f"{file.name} has labels, but no column is known as the id of an image: it is not used; "
                "--id-column NAME names the column"
            )
        elif not file.name.lower().endswith(".txt"):
            tables.ignored.append(file.name)
    except UnreadableTableError as error:
        if "split" in roles:  # without the splits, test images could be used for training
            raise
        notes.append(f"skipped: {error}")


def _use_optional_table(tables: LabelTables, file: File, *, has_splits: bool) -> None:
    """Use a table if it matches images; its error is raised later if nothing else gives labels."""
    error = _try_label_table(tables, file)
    if has_splits and isinstance(error, UnreadableTableError):
        raise error  # without the splits, test images could be used for training
    if error:
        tables.problems.append(error)


def _try_label_table(tables: LabelTables, file: File) -> HistoError | None:
    """Use a table for labels, and return the error if it has none; errors of its splits are raised."""
    try:
        tables.add_label_table(file)
    except (SplitError, ContradictionError):
        raise
    except HistoError as error:
        return error
    return None


def use_tables_beside(tables: LabelTables, locations: Sequence[Path], found: Sequence[Sequence[File]]) -> None:
    """Use the tables `*labels*.csv` next to locations that contain none, and list the other tables there."""
    folders: dict[Path, None] = {}
    for location, files in zip(locations, found, strict=True):
        if not any(_is_label_table(file.name) for file in files):
            folders[location.absolute().parent] = None
    for path in [path for folder in folders for path in sorted(folder.glob("*.csv"))]:
        if not _is_label_table(path.name) and not _RESULT_TABLE.search(path.name) and path.is_file():
            tables.tables_beside.append(path)
        elif (
            _is_label_table(path.name)
            and path.is_file()
            and not tables.result.labels.keys() >= set(tables.names)
            and (error := _try_label_table(tables, make_file(path)))
        ):
            tables.result.notes.append(f"skipped a table next to the images: {error}")


def _is_label_table(name: str) -> bool:
    base = name.rpartition("/")[2].lower()
    return base.endswith((".csv", ".tsv")) and "labels" in base
