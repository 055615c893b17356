"""Name the lists and tables of splits next to the images, which are not used."""

import os
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from contextlib import suppress
from pathlib import Path

from histocli.class_names import find_split
from histocli.errors import HistoError
from histocli.files.file import File, make_file
from histocli.labels.label_tables import LabelTables
from histocli.labels.patch_tables import PatchTable, check_ids
from histocli.labels.result import format_examples
from histocli.labels.split_lists import LIST_SUFFIX, find_folds, find_split_of_table, is_list_of_images
from histocli.labels.splits import read_split_column
from histocli.labels.table_files import peek_table, read_patch_table
from histocli.labels.table_search import MAX_TABLES, RESULT_TABLE, find_predictions

_MAX_BYTES = 16 << 20  # of a list or table, so that reading it takes a few seconds at most


def note_splits_beside(tables: LabelTables, locations: Sequence[Path]) -> None:
    """Add a note on lists and tables next to the locations that put the images into two or more splits.

    There is no note if the splits are known, also from the names of folders. A file that this note names is not
    suggested for labels or slides too. The tables of `--labels` and `--slides` are used, and so not named.
    """
    places = [location.absolute() for location in locations]
    parts = {part for name in tables.names for part in name.split("/")[:-1]} | {place.name for place in places}
    if tables.result.splits or any(map(find_split, parts)):
        return
    used = {path.resolve() for path in (tables.options.labels, tables.options.slides) if path}
    files = [file for folder in dict.fromkeys(place.parent for place in places) for file in _list_tables(folder, used)]
    names = list(dict.fromkeys(_find_lists(tables, files) + _find_tables(tables, files)))
    if not names:
        return
    tables.tables_beside = [path for path in tables.tables_beside if path.name not in names]
    has_labels = any(_has_labels(tables, file) for file in files if file.name in names)
    what = "labels and splits" if has_labels and not tables.result.labels else "splits"
    them = "those of one fold" if find_folds(names) else "them" if len(names) > 1 else "it"
    remedy = f"put {them} and the images into one folder, and give that folder"
    if len(places) == 1 and places[0].is_dir():
        remedy = f"move {them} into {places[0].name}/"
    tables.result.notes.append(
        f"the {what} may be in {format_examples(names)} next to the images, but only files in the folder of the images "
        f"are used: {remedy}"
    )


def _list_tables(folder: Path, used: AbstractSet[Path]) -> list[File]:
    """Return the files in a folder that may be lists or tables, by their names, and are not `used`; not large ones."""
    names: list[str] = []
    with suppress(OSError), os.scandir(folder) as entries:  # the folder may not be entered
        listed = [entry for entry in entries if LIST_SUFFIX.search(entry.name) and entry.is_file()]
        names = sorted(entry.name for entry in listed if entry.stat().st_size <= _MAX_BYTES)
    real_folder = folder.resolve()
    return [make_file(folder / name, name) for name in names if real_folder / name not in used]


def _has_labels(tables: LabelTables, file: File) -> bool:
    """Return whether a file has a column of labels; a file of another folder may have the name of one that is read."""
    with suppress(HistoError):
        return "label" in peek_table(file).list_roles(tables.options.columns)
    return False


def _find_lists(tables: LabelTables, files: Sequence[File]) -> list[str]:
    """Return the names of the lists of the images, if they are of two or more splits."""
    names = []
    for file in files:
        with suppress(HistoError):  # it cannot be read
            if is_list_of_images(file, tables.index):
                names.append(file.name)
    return names if len(set(map(find_split_of_table, names))) > 1 else []


def _find_tables(tables: LabelTables, files: Sequence[File]) -> list[str]:
    """Return the names of the tables whose column of splits has two or more splits of the images.

    If the start of a table has no splits of the images, the rest is not read. Tables that could not be used in the
    folder are left out: any table with `--labels`, and one that has an image in two splits, as a table of folds.
    """
    names: list[str] = []
    csv_files = [file for file in files if file.name.endswith(".csv") and not RESULT_TABLE.search(file.name)]
    for file in csv_files[:MAX_TABLES] if tables.options.labels is None else ():
        with suppress(HistoError):  # it is not a table of these images
            start = peek_table(file)
            if find_predictions(tables, file, start):
                continue
            if _find_splits(tables, start):
                table = read_patch_table(file, tables.options.columns)
                if len(_find_splits(tables, table)) > 1:
                    names.append(file.name)
    return names


def _find_splits(tables: LabelTables, table: PatchTable) -> set[str]:
    """Return the splits of the images in a table.

    Raises:
        HistoError: the table has an id in two splits, or has no ids.
    """
    splits = read_split_column(table, tables.options.columns.split)[1]
    if not splits:
        return set()
    ids = table.read_ids(tables.options.columns.id)
    check_ids(table, ids, splits, "splits")
    return {splits[row] for row in tables.index.match(ids, should_guess=False).rows.values()} - {""}
