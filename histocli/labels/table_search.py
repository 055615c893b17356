"""Find the tables of images in folders and archives, and next to them, and choose how each is used."""

import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path

from histocli.class_names import SplitError
from histocli.errors import HistoError
from histocli.files.archives import is_archive, remove_archive_suffix
from histocli.files.file import ArrayTable, DiskReader, File, is_image, make_file
from histocli.files.outputs import find_record_path
from histocli.labels.label_columns import is_fraction, normalise_name
from histocli.labels.label_tables import LabelTables
from histocli.labels.patch_tables import PatchTable
from histocli.labels.result import ContradictionError, format_examples
from histocli.labels.table_files import UnreadableTableError, peek_table

_TABLE = re.compile(r"\.(csv|tsv|txt)(\.gz)?$", re.IGNORECASE)
RESULT_TABLE = re.compile(
    "submission|predict(ion|ed)|score|result|(?<![a-z])preds?(?![a-z])", re.IGNORECASE
)  # the labels in these are predictions
_PREDICTION_COLUMN = re.compile(r"pred|predictions?|predicted|probs?|probability|pred(icted)?_(class|label|prob)")
_CLASS_COLUMN = re.compile(r"class\w*|category")  # beside a prediction, it may be the predicted class
_PROBABILITY = re.compile(r"[01]\.\d{6}")  # as `histo predict` writes it
MAX_TABLES = 20  # tables next to the images whose columns are read
_N_COMPARED = 50  # images whose names are looked for in another folder


def use_tables_inside(tables: LabelTables, others: Sequence[File]) -> None:
    """Use the tables in the locations: those with `label` in their names, and those with the usual columns."""
    for file in others:
        base = file.name.rpartition("/")[2]
        if not _TABLE.search(base):
            continue
        if RESULT_TABLE.search(base):
            tables.unused_tables.append(file.name)
            continue
        is_named = "label" in base.lower() and not base.lower().endswith(".txt")
        roles: set[str] = set()
        try:
            start = peek_table(file)
            roles = start.list_roles(tables.options.columns)
            if reason := find_predictions(tables, file, start):
                _use_predictions(tables, file, reason, roles)
            else:
                _use_table(tables, file, roles, is_named=is_named)
        except UnreadableTableError as error:
            if is_named or "split" in roles:  # without the splits, test images could be used for training
                raise
            tables.result.notes.append(f"skipped: {error}")


def find_predictions(tables: LabelTables, file: File, start: PatchTable) -> str:
    """Return why the labels in a table seem to be predictions, or "" if they do not, or the user named their column.

    `start` has the columns and the first rows. `histo predict` leaves a hidden file beside its output.
    """
    label = start.find("label")
    if tables.options.columns.label or label is None or isinstance(file.read, ArrayTable):
        return ""
    if isinstance(file.read, DiskReader) and find_record_path(Path(file.read.folder, file.read.name)).is_file():
        return "histo predict wrote it"
    for column, texts in start.columns.items() if _CLASS_COLUMN.fullmatch(normalise_name(label)) else ():
        if _PREDICTION_COLUMN.fullmatch(normalise_name(column)) and any(map(is_fraction, texts)):
            return f"it has a column {column}"
    has_decimals = all(map(_PROBABILITY.fullmatch, start.columns[label]))
    return "its labels have 6 decimals" if has_decimals and any(map(is_fraction, start.columns[label])) else ""


def _use_predictions(tables: LabelTables, file: File, reason: str, roles: set[str]) -> None:
    """Use a table of predictions for its slides, hospitals and splits only.

    Raises:
        UnreadableTableError: it cannot be read.
    """
    tables.result.notes.append(
        f"the labels of {file.name} are not used, because they seem to be predictions: {reason}; --labels TABLE uses "
        "them"
    )
    if "id" not in roles:
        return
    has_slides = "slide" in roles and not tables.options.slides
    add_splits = partial(tables.add_split_table, is_named="split" in roles)
    error = _try_table(tables.add_slide_table if has_slides else add_splits, file)
    if isinstance(error, UnreadableTableError):
        raise error
    if error:
        tables.result.notes.append(f"skipped: {error}")


def _use_table(tables: LabelTables, file: File, roles: set[str], *, is_named: bool) -> None:
    """Use a table for what its columns have; add a note if it has labels without ids.

    A table with `label` in its name (`is_named`) must give labels, unless it has known columns and none is of labels:
    then another table may have them. An error of any other table is raised later if nothing else gives labels.
    """
    if is_named and (not roles or "label" in roles):
        tables.add_label_table(file)
    elif is_named or {"id", "label"} <= roles:
        error = _try_table(tables.add_label_table, file)
        if "split" in roles and isinstance(error, UnreadableTableError):
            raise error  # without the splits, test images could be used for training
        if error:
            tables.problems.append(error)
    elif "id" in roles and "slide" in roles and not tables.options.slides:
        tables.add_slide_table(file)
    elif "id" in roles:
        tables.add_split_table(file, is_named="split" in roles)
    elif "label" in roles:
        tables.result.notes.append(
            f"{file.name} has labels, but no column is known as the id of an image: it is not used; "
            "--id-column NAME names the column"
        )
    elif not file.name.lower().endswith(".txt"):
        tables.unused_tables.append(file.name)


def _try_table(add: Callable[[File], None], file: File) -> HistoError | None:
    """Use a table, and return the error if it cannot be used; errors of splits and contradictions are raised."""
    try:
        add(file)
    except (SplitError, ContradictionError):
        raise
    except HistoError as error:
        return error
    return None


def use_tables_beside(tables: LabelTables, locations: Sequence[Path], found: Sequence[Sequence[File]]) -> None:
    """Use the tables `*labels*.csv` next to locations that contain none, and list the other tables there.

    Tables that are next to the locations are not read if the tables inside give all labels.

    Raises:
        ContradictionError: two tables have different labels for an image.
    """
    images_of: dict[Path, dict[str, list[str]]] = {}  # by the folder that the locations are in, and by their names
    for location, files in zip(locations, found, strict=True):
        if not any(_is_label_table(file.name) for file in files):
            path = location.absolute()
            images = [file.name for file in files if is_image(file.name)]
            images_of.setdefault(path.parent, {})[_simplify(remove_archive_suffix(path.name))] = images
    for folder, images_by_name in images_of.items():
        paths = [path for path in sorted(folder.glob("*.csv")) if path.is_file()]
        results = [path for path in paths if RESULT_TABLE.search(path.name)]
        labelled = [path for path in paths if _is_label_table(path.name)]
        tables.tables_beside += [path for path in paths if path not in results + labelled]
        if labelled and not _is_complete(tables):
            _use_tables_of_folder(tables, folder, images_by_name, [path for path in labelled if path not in results])
            tables.result.notes += [
                f"{path.name} is not used, because its name says that it has predictions; "
                f"--labels {shlex.quote(str(path))} uses it"
                for path in labelled
                if path in results
            ]


def _use_tables_of_folder(
    tables: LabelTables, folder: Path, images_by_name: Mapping[str, Sequence[str]], paths: Sequence[Path]
) -> None:
    """Use the tables in a folder that may be about the locations in it, until all images have labels.

    `a_labels.csv` is about `a/` or `a.zip`, if there is one: it is used first for them, and for `b/` only if `a/` has
    no images with the same names. A table `labels.csv` is about all of them. `images_by_name` has the paths of the
    images in each location, by its name.
    """
    entries = _list_entries(folder)
    names_in = {path: _find_names_in(path.stem, images_by_name.keys() | entries.keys()) for path in paths}
    own = [path for path in paths if names_in[path] & images_by_name.keys()]
    general = [path for path in paths if not names_in[path]]
    images = [name for names in images_by_name.values() for name in names[:_N_COMPARED]]
    rest = [path for path in paths if path not in own + general]
    others = [path for path in rest if any(_has_images(entry, images) for n in names_in[path] for entry in entries[n])]
    possible = [path for path in rest if path not in others]
    notes = {"tables next to the images that have the names of other folders or archives are not used": others}
    for group in (own, general, possible):
        if _is_complete(tables):
            notes.setdefault("tables next to the images are not used, because others give all labels", []).extend(group)
            continue
        for path in group:
            _use_table_beside(tables, make_file(path))
    for text, listed in notes.items():
        if listed:
            examples = format_examples([path.name for path in listed])
            tables.result.notes.append(f"{text}: {examples}; --labels TABLE uses one")


def _use_table_beside(tables: LabelTables, file: File) -> None:
    """Use a table next to the images for labels; add a note if it has none of these images, or has predictions."""
    error: HistoError | None = None
    try:
        start = peek_table(file)
        if reason := find_predictions(tables, file, start):
            _use_predictions(tables, file, reason, start.list_roles(tables.options.columns))
        else:
            error = _try_table(tables.add_label_table, file)
    except UnreadableTableError as unreadable:
        error = unreadable
    if error:
        tables.result.notes.append(f"skipped a table next to the images: {error}")


def _is_complete(tables: LabelTables) -> bool:
    """Return whether all images have labels."""
    return tables.result.labels.keys() >= set(tables.names)


def _list_entries(folder: Path) -> dict[str, list[Path]]:
    """Return the folders and archives in a folder by their names; those with `label` in the name may have masks."""
    entries: dict[str, list[Path]] = {}
    with os.scandir(folder) as listed:  # other ways to list a folder ask the disk about every file
        for entry in listed:
            if not entry.name.startswith(".") and (entry.is_dir() or is_archive(entry.name)):
                entries.setdefault(_simplify(remove_archive_suffix(entry.name)), []).append(Path(entry.path))
    return {name: paths for name, paths in entries.items() if "label" not in name}


def _has_images(entry: Path, images: Sequence[str]) -> bool:
    """Return whether a folder has images of the same names; of an archive, whose list may take minutes, True."""
    if is_archive(entry.name):
        return True
    names = {name for path in images for name in (path, path.partition("/")[2], path.rpartition("/")[2]) if name}
    return any(os.path.exists(entry / name) for name in names)  # noqa: PTH110 - Path.exists may raise


def _simplify(name: str) -> str:
    """Return the words of a name in lower case, with spaces between them."""
    return " ".join(re.findall(r"[^\W_]+", name.casefold()))


def _find_names_in(text: str, names: AbstractSet[str]) -> set[str]:
    """Return the names that a text contains as whole words.

    Of two names, one inside the other, only the longer counts: `a b`, and not `a`, in `a_b_labels`.
    """
    words = _simplify(text).split()
    spans = [(i, j) for i in range(len(words)) for j in range(i + 1, len(words) + 1) if " ".join(words[i:j]) in names]
    longest = [(i, j) for i, j in spans if not any(k <= i and j <= n and (k, n) != (i, j) for k, n in spans)]
    return {" ".join(words[i:j]) for i, j in longest}


def _is_label_table(name: str) -> bool:
    base = name.rpartition("/")[2].lower()
    return base.endswith((".csv", ".tsv")) and "labels" in base
