"""Find the tables of images in folders and archives, and next to them, and choose how each is used."""

import re
from collections.abc import Sequence
from pathlib import Path

from histocli.class_names import SplitError
from histocli.errors import HistoError
from histocli.files.archives import is_archive, remove_archive_suffix
from histocli.files.file import DiskReader, File, MadeTable, make_file
from histocli.labels.found import ContradictionError, format_examples
from histocli.labels.label_columns import is_prediction
from histocli.labels.label_tables import LabelTables
from histocli.labels.patch_tables import PatchTable
from histocli.labels.table_files import UnreadableTableError, peek_table

_TABLE = re.compile(r"\.(csv|tsv|txt)(\.gz)?$", re.IGNORECASE)
_RESULT_TABLE = re.compile(
    "submission|predict|score|result|(?<![a-z])preds?(?![a-z])", re.IGNORECASE
)  # the labels in these are predictions
_PROBABILITY = re.compile(r"[01]\.\d{6}")  # as `histo predict` writes it; it may be 0 or 1


def use_tables_inside(tables: LabelTables, others: Sequence[File]) -> None:
    """Use the tables in the locations: those with `label` in their names, and those with the usual columns."""
    for file in others:
        base = file.name.rpartition("/")[2]
        if not _TABLE.search(base):
            continue
        if _RESULT_TABLE.search(base):
            tables.ignored.append(file.name)
            continue
        is_named = "label" in base.lower() and not base.lower().endswith(".txt")
        roles: set[str] = set()
        try:
            start = peek_table(file)
            roles = start.list_roles(tables.options.columns)
            if reason := find_predictions(tables, file, start):
                _use_predictions(tables, file, reason, roles)
            elif is_named:
                _use_named_table(tables, file, roles)
            else:
                _use_other_table(tables, file, roles)
        except UnreadableTableError as error:
            if is_named or "split" in roles:  # without the splits, test images could be used for training
                raise
            tables.result.notes.append(f"skipped: {error}")


def find_predictions(tables: LabelTables, file: File, start: PatchTable) -> str:
    """Return why the labels in a table seem to be predictions, or "" if they do not, or the user named their column.

    `histo predict` leaves a hidden file beside its output.

    Args:
        tables: the tables that were read, with the options.
        file: the table.
        start: its columns and first rows.
    """
    label = start.find("label")
    if tables.options.columns.label or label is None or isinstance(file.read, MadeTable):
        return ""
    if isinstance(file.read, DiskReader):
        path = Path(file.read.folder, file.read.name)
        if path.with_name(f".{path.name}.made-with.json").is_file():
            return "histo predict wrote it"
    if column := next(filter(is_prediction, start.columns), None):
        return f"it has a column {column}"
    texts = start.columns[label]
    return "its labels have 6 decimals" if texts and all(map(_PROBABILITY.fullmatch, texts)) else ""


def _use_predictions(tables: LabelTables, file: File, reason: str, roles: set[str]) -> None:
    """Use a table of predictions for its splits only, if it has some."""
    tables.result.notes.append(
        f"the labels of {file.name} are not used, because they seem to be predictions: {reason}; --labels TABLE uses "
        "them"
    )
    if "split" in roles:
        tables.add_split_table(file, is_named=True)


def _use_named_table(tables: LabelTables, file: File, roles: set[str]) -> None:
    """Use a table with `label` in its name; it must give labels, unless it has columns and none is of labels."""
    if roles and "label" not in roles:  # another table may have the labels
        _use_optional_table(tables, file, has_splits="split" in roles)
    else:
        tables.add_label_table(file)


def _use_other_table(tables: LabelTables, file: File, roles: set[str]) -> None:
    """Use a table for what its columns have; add a note if it has labels without ids."""
    if "id" in roles and "label" in roles:
        _use_optional_table(tables, file, has_splits="split" in roles)
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
        tables.ignored.append(file.name)


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
    """Use the tables `*labels*.csv` next to locations that contain none, and list the other tables there.

    Tables that are next to the locations are not read if the tables inside give all labels.

    Raises:
        ContradictionError: two tables have different labels for an image.
    """
    names_of: dict[Path, set[str]] = {}  # the names of the locations, by the folder that they are in
    for location, files in zip(locations, found, strict=True):
        if not any(_is_label_table(file.name) for file in files):
            path = location.absolute()
            names_of.setdefault(path.parent, set()).add(_simplify(path))
    is_complete = tables.result.labels.keys() >= set(tables.names)
    for folder, names in names_of.items():
        paths = [path for path in sorted(folder.glob("*.csv")) if path.is_file()]
        results = [path for path in paths if _RESULT_TABLE.search(path.name)]
        tables.tables_beside += [path for path in paths if not _is_label_table(path.name) and path not in results]
        labelled = [path for path in paths if _is_label_table(path.name) and path not in results]
        for path in [] if is_complete or not labelled else _choose_tables(tables, folder, names, labelled):
            _use_table_beside(tables, make_file(path))


def _use_table_beside(tables: LabelTables, file: File) -> None:
    """Use a table next to the images for labels; add a note if it has none of these images, or has predictions."""
    error: HistoError | None = None
    reason = ""
    try:
        reason = find_predictions(tables, file, peek_table(file))
    except UnreadableTableError as unreadable:
        error = unreadable
    if reason:
        _use_predictions(tables, file, reason, set())
    elif error := error or _try_label_table(tables, file):
        tables.result.notes.append(f"skipped a table next to the images: {error}")


def _choose_tables(tables: LabelTables, folder: Path, names: set[str], paths: Sequence[Path]) -> list[Path]:
    """Return the tables in a folder that may be about the locations `names` in it, and add notes on the others.

    `a_labels.csv` is about `a/` or `a.zip`, if there is one. It is never used for `b/`. If each location has such a
    table, a table `labels.csv` is not used.
    """
    entries = [path for path in folder.glob("[!.]*") if is_archive(path.name) or path.is_dir()]
    known = names | {name for name in map(_simplify, entries) if "label" not in name}  # `labels/` may have masks
    names_in = {path: _find_names_in(path.stem.casefold(), known) for path in paths}
    own = [path for path in paths if names_in[path] & names]
    others = [path for path in paths if names_in[path] and path not in own]
    general = [path for path in paths if not names_in[path]]
    notes = {"tables next to the images that have the names of other folders or archives are not used": others}
    if names <= set().union(*names_in.values()):
        notes[f"tables next to the images are not used, because {own[0].name} has the name of the images"] = general
        general = []
    for text, listed in notes.items():
        if listed:
            examples = format_examples([path.name for path in listed])
            tables.result.notes.append(f"{text}: {examples}; --labels TABLE uses one")
    return own + general


def _simplify(path: Path) -> str:
    """Return the name of a folder or archive without its suffix, in lower case."""
    return remove_archive_suffix(path.name).casefold()


def _find_names_in(text: str, names: set[str]) -> set[str]:
    """Return the names that are words of a text, without those that are words of a longer one."""

    def is_in(name: str, text: str) -> bool:
        return re.search(rf"(?<![^\W_]){re.escape(name)}(?![^\W_])", text) is not None

    found = {name for name in names if is_in(name, text)}
    return {name for name in found if not any(name != other and is_in(name, other) for other in found)}


def _is_label_table(name: str) -> bool:
    base = name.rpartition("/")[2].lower()
    return base.endswith((".csv", ".tsv")) and "labels" in base
