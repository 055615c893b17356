"""Labels, slides, hospitals and splits of images: from tables, class folders, or files next to the images."""

import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from histocli.class_names import describe_counts, format_classes_option, format_meanings
from histocli.errors import HistoError
from histocli.files.file import File, make_file
from histocli.labels.classes import ClassFolders, find_classes
from histocli.labels.label_tables import LabelTables
from histocli.labels.patch_tables import TableOptions
from histocli.labels.result import ContradictionError, Labels, format_examples
from histocli.labels.sidecars import find_words_in_names, read_labels_in_names, read_sidecars
from histocli.labels.splits_beside import note_splits_beside
from histocli.labels.table_files import UnreadableTableError, find_table, peek_table
from histocli.labels.table_search import MAX_TABLES, find_predictions, use_tables_beside, use_tables_inside
from histocli.text import format_count

_OTHER_TABLE = re.compile(
    r"\.(xlsx|xls|ods|jsonl|feather|parquet)$|(label|metadata|annotation)[^/]*\.(json|txt)$", re.IGNORECASE
)


def find_labels(
    locations: Sequence[Path],
    found: Sequence[Sequence[File]],
    others: list[File],
    names: list[str],
    options: TableOptions,
) -> Labels:
    """Find the labels, slides, hospitals and splits of images.

    Args:
        locations: the folders and archives.
        found: the files in each of them.
        others: the files that are not images.
        names: the paths of the images.
        options: the tables, classes and columns that the user named.

    Raises:
        HistoError: a table is malformed, or has no id of an image; or folders have more than two classes, or
            contradict each other or a table.
    """
    tables = LabelTables(names, options)
    result = tables.result
    files = _read_tables(tables, locations, found, others)
    folders = find_classes(names, options.classes)
    _compare_with_folders(tables, folders, files)
    if not result.labels:
        _add_folder_labels(result, folders)
        if tables.problems and len(set(result.labels.values())) == 1:  # the table may have the other label
            raise tables.problems[0]
    if not options.labels:
        _check_labels_in_names(result, names)
    if not result.labels and not tables.problems:
        _add_labels_in_names(result, names)
    if not result.labels and tables.problems:
        raise tables.problems[0]
    tables.split_finder.finish(others)
    note_splits_beside(tables, locations)
    if not result.labels:
        _note_possible_tables(tables, others)
    elif not result.slides and not options.has_slide_pattern:
        _note_table_beside(tables, "slide")
    tables.note_patients()
    _check_options(tables)
    _note_skipped(tables)
    return result


def _read_tables(
    tables: LabelTables, locations: Sequence[Path], found: Sequence[Sequence[File]], others: list[File]
) -> dict[str, int]:
    """Read the tables that the user named; without `--labels`, those in and beside the locations, and sidecar files.

    Returns:
        The labels in sidecar files.
    """
    options = tables.options
    if options.slides:
        tables.add_slide_table(find_table(options.slides))
    if options.labels:
        tables.add_label_table(find_table(options.labels))
        return {}
    use_tables_inside(tables, others)
    use_tables_beside(tables, locations, found)
    return _add_sidecars(tables, others)


def _compare_with_folders(tables: LabelTables, folders: ClassFolders, files: Mapping[str, int]) -> None:
    """Compare the labels of tables and of sidecar files (`files`) with those of class folders.

    The table of `--labels` may differ from the folders, which is noted. But if it differs for all images of both
    classes, its 0 probably means tumour, unless `--classes` says what it means.

    Raises:
        HistoError: they differ, and the user did not choose a table; or the chosen table differs for all images.
    """
    labels, options = tables.result.labels, tables.options
    if not options.labels:
        of_tables = {name: label for name, label in labels.items() if name not in files}
        hint = "--labels TABLE uses the table; move the table away to use the folders"
        folders.check_labels(of_tables, "the table", hint)
        hint = "correct these files, or move them away to use the folders"
        folders.check_labels(files, "the .cls or .json files next to the images", hint)
        return
    other, n_both = folders.find_differences(labels)
    counts = Counter(labels[name] for name in other)
    text = f"the table {options.labels} differs from the class folders for {len(other):,} of {n_both:,} images"
    if len(other) == n_both and min(counts[0], counts[1]) > 1 and not options.classes:
        swapped = {word: 1 - label for word, label in tables.label_of_word.items()}
        raise HistoError(
            f"{text}, which are all: its labels seem to be the wrong way round",
            f"swap them: {format_meanings(swapped)}; or use the table as it is: "
            f"{format_meanings(tables.label_of_word)}; or remove --labels to use the folders",
        )
    if other:
        tables.result.notes.append(f"{text}: {other[0]} has label {labels[other[0]]} in the table, which is used")


def _add_sidecars(tables: LabelTables, others: Sequence[File]) -> dict[str, int]:
    """Use small files next to the images for labels, slides, hospitals and splits that no table has.

    Returns:
        The labels in these files.

    Raises:
        ContradictionError: a table has another label for an image.
    """
    result = tables.result
    found = read_sidecars(tables.names, others, tables.options.classes)
    if found.unused:
        result.notes.append(f"keys of .json files that are not used: {format_examples(sorted(found.unused))}")
    if not found.labels:
        return {}
    both = [name for name in found.labels if name in result.labels]
    if other := [name for name in both if found.labels[name] != result.labels[name]]:
        raise ContradictionError(
            f"the table and the .cls or .json files have different labels for {len(other):,} of {len(both):,} images: "
            f"{other[0]} has label {result.labels[other[0]]} in the table",
            "--labels TABLE uses the table; move the table away to use the files",
        )
    tables.label_of_word |= found.words
    tables.patients = found.patients | tables.patients
    result.used |= found.used
    result.labels = found.labels | result.labels
    result.notes.append(f"labels from {format_count(len(found.labels), 'file')} next to the images (.cls or .json)")
    for what, found_values, values in (
        ("slides", found.slides, result.slides),
        ("hospitals", found.hospitals, result.hospitals),
        ("splits", found.splits, result.splits),
    ):
        if new := {name: value for name, value in found_values.items() if name not in values}:
            values.update(new)
            result.notes.append(f"{what} of {format_count(len(new), 'image')} from .json files next to the images")
    for role, words in found.missing.items():
        result.missing[role] |= words
    return found.labels


def _add_folder_labels(result: Labels, folders: ClassFolders) -> None:
    """Use the class folders, if there are any.

    Raises:
        HistoError: they contradict each other, or have more than two classes.
    """
    if folders.problem is not None:
        raise folders.problem
    if folders.labels:
        result.labels.update(folders.labels)
        counts = describe_counts({f"{name} = {label}": count for (name, label), count in folders.counts.items()})
        result.notes.append(f"labels by the names of folders: {counts}")
    result.possible_splits = folders.possible_splits
    if folders.unknown:
        option = format_classes_option(folders.unknown)
        known = "" if folders.labels else f"; known names are 0, 1, normal, tumor and others; else give {option}"
        counts = describe_counts(folders.unknown)
        result.notes.append(f"folders whose names histo does not know as labels: {counts}{known}")


def _add_labels_in_names(result: Labels, names: list[str]) -> None:
    """Use the labels in file names such as `8863_idx5_x51_y1251_class0.png`, if all files have one."""
    labels = read_labels_in_names(names)
    if labels and len(labels) < len(names):
        other = next(name for name in names if name not in labels)
        result.notes.append(
            f"{len(labels):,} of {len(names):,} names end in _class0 or _class1, or _label0 or _label1; labels in "
            f"names are used only if all have one: {other} has none"
        )
    elif labels:
        result.labels.update(labels)
        result.notes.append("labels by the names of the files, which end in _class0 or _class1, or _label0 or _label1")
    elif name := find_words_in_names(names):
        result.notes.append(
            f"the labels may be in the names of the files, such as {name}, but they are not read: move the files to "
            "folders such as normal and tumor, or write a table id,label"
        )


def _check_labels_in_names(result: Labels, names: list[str]) -> None:
    """Check that the names of the files, such as `x_class0.png`, do not contradict the labels of tables and folders.

    Raises:
        HistoError: they do.
    """
    in_names = read_labels_in_names(names)
    both = [name for name in in_names if name in result.labels] if len(in_names) == len(names) else []
    if other := [name for name in both if in_names[name] != result.labels[name]]:
        raise HistoError(
            f"{len(other):,} of {len(both):,} images have another label in their names: {other[0]} has label "
            f"{result.labels[other[0]]} by its folder or table",
            "--labels TABLE uses the table; else move the files to the right folders, or rename them",
        )


def _note_possible_tables(tables: LabelTables, others: Sequence[File]) -> None:
    """List the tables that may have the labels: in other formats, or next to the images."""
    if unread := [file.name for file in others if _OTHER_TABLE.search(file.name)]:
        tables.result.notes.append(
            f"{format_examples(unread)} may have the labels, but is not read: save it as CSV, "
            "with a first line such as id,label"
        )
    _note_table_beside(tables, "label")


def _note_table_beside(tables: LabelTables, role: str) -> None:
    """Add a note on a table next to the images, if it has columns of ids and of labels or slides (`role`)."""
    for path in tables.tables_beside[:MAX_TABLES]:
        file = make_file(path)
        try:
            start = peek_table(file)
        except UnreadableTableError:
            continue
        is_refused = role == "label" and find_predictions(tables, file, start)
        if {"id", role} <= start.list_roles(tables.options.columns) and not is_refused:
            tables.result.notes.append(
                f"{path.name} next to the images may have the {role}s: --{role}s {shlex.quote(str(path))}"
            )
            break


def _check_options(tables: LabelTables) -> None:
    """Check that the columns and the classes that the user named exist.

    Raises:
        HistoError: one does not exist.
    """
    options = tables.options
    named = {role: name for role, name in options.columns._asdict().items() if name}
    if named and not tables.columns_by_table:
        raise HistoError(
            f"--{next(iter(named))}-column is given, but no table was read", "give the table to --labels or --slides"
        )
    for role, name in named.items():
        if role not in tables.roles:
            columns = dict.fromkeys(column for listed in tables.columns_by_table.values() for column in listed)
            raise HistoError(
                f"there is no column {name!r} in {format_examples(list(tables.columns_by_table))}",
                f"--{role}-column names a column of a table; the columns are {', '.join(columns)}",
            )
    folders = {part.lower() for name in tables.names for part in name.split("/")[:-1]}
    if unknown := sorted(set(options.classes) - folders - tables.label_of_word.keys()):
        found = ", ".join(sorted(folders | tables.label_of_word.keys())[:12]) or "none"
        raise HistoError(
            f"--classes names {', '.join(unknown)}, which is no folder and no label of a table or of a file beside an "
            "image",
            f"the folders and labels are: {found}",
        )


def _note_skipped(tables: LabelTables) -> None:
    """Add notes on the tables that were skipped, and on the images without a label or a slide."""
    result = tables.result
    result.notes += [f"skipped: {problem}" for problem in tables.problems]
    if unused := [name for name in tables.unused_tables if name not in result.used]:
        options = "; --labels TABLE uses one, and --id-column NAME and --label-column NAME name its columns"
        hint = "" if result.labels else options
        result.notes.append(f"tables that are not used: {format_examples(unused)}{hint}")
    for role, known in (("label", result.labels), ("slide", result.slides), ("hospital", result.hospitals)):
        if role == "slide" and tables.options.has_slide_pattern:  # it replaces the slides of tables
            continue
        words = sorted(result.missing.get(role, ()))
        missing = [name for name in tables.names if name not in known] if known or words else []
        if missing:
            written = f" (written as {', '.join(words)})" if words else ""
            count = format_count(len(missing), "image")
            more = "; histo balance --split slide needs the slides of all images" if role == "slide" and known else ""
            result.notes.append(f"{count} without a {role}{written}: {format_examples(missing)}{more}")
