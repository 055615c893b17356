"""Name the lists and tables of splits next to the images, which are not used."""

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from histocli.class_names import find_split
from histocli.errors import HistoError
from histocli.files.file import File, make_file
from histocli.labels.label_tables import LabelTables
from histocli.labels.result import format_examples
from histocli.labels.split_lists import LIST_SUFFIX, find_split_of_table, has_several_folds, is_list_of_images
from histocli.labels.splits import read_split_column
from histocli.labels.table_files import peek_table, read_patch_table
from histocli.labels.table_search import RESULT_TABLE, find_predictions

_MAX_TABLES = 20  # tables next to the images whose columns are read


def note_splits_beside(tables: LabelTables, locations: Sequence[Path]) -> None:
    """Add a note on lists and tables next to the locations that put the images into two or more splits.

    There is no note if the splits are known, also from the names of folders. A file that this note names is not
    suggested for labels or slides too.
    """
    places = [location.absolute() for location in locations]
    parts = {part for name in tables.names for part in name.split("/")[:-1]} | {place.name for place in places}
    if tables.result.splits or any(map(find_split, parts)):
        return
    files = [file for folder in dict.fromkeys(place.parent for place in places) for file in _list_tables(folder)]
    names = _find_lists(tables, files) + _find_tables(tables, files)
    if not names:
        return
    tables.tables_beside = [path for path in tables.tables_beside if path.name not in names]
    them = "those of one fold" if has_several_folds(names) else "them"
    remedy = f"put {them} and the images into one folder, and give that folder"
    if len(places) == 1 and places[0].is_dir():
        remedy = f"move {them} into {places[0].name}/"
    tables.result.notes.append(
        f"the splits may be in {format_examples(list(dict.fromkeys(names)))} next to the images, but only files in the "
        f"folder of the images are used: {remedy}"
    )


def _list_tables(folder: Path) -> list[File]:
    """Return the files in a folder that may be lists or tables, by their names."""
    names: list[str] = []
    with suppress(OSError), os.scandir(folder) as entries:  # the folder may not be entered
        names = sorted(entry.name for entry in entries if LIST_SUFFIX.search(entry.name) and entry.is_file())
    return [make_file(folder / name, name) for name in names]


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

    Only the start of a table of other images is read. With `--labels`, tables in the folder are not used either.
    """
    names: list[str] = []
    csv_files = [file for file in files if file.name.endswith(".csv") and not RESULT_TABLE.search(file.name)]
    for file in csv_files[:_MAX_TABLES] if tables.options.labels is None else ():
        with suppress(HistoError):  # it is not a table of these images
            start = peek_table(file)
            given = tables.options.columns
            if find_predictions(tables, file, start) or not read_split_column(start, given.split)[0]:
                continue
            if not tables.index.match(start.read_ids(given.id), should_guess=False).rows:
                continue
            table = read_patch_table(file, given)
            splits = read_split_column(table, given.split)[1]
            rows = tables.index.match(table.read_ids(given.id), should_guess=False).rows.values()
            if len({splits[row] for row in rows} - {""}) > 1:
                names.append(file.name)
    return names
