"""Find the splits of images: in a column of a table, in the names of tables, and in lists of images."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet

from histocli.class_names import (
    EVALUATION,
    SPLIT_NAMES,
    SplitError,
    describe_counts,
    find_split,
    find_unknown_splits,
    replace_evaluation,
)
from histocli.files.file import File
from histocli.labels.label_columns import is_missing, normalise_name
from histocli.labels.matching import ImageIndex
from histocli.labels.patch_tables import PatchTable
from histocli.labels.result import Labels, format_examples
from histocli.labels.split_lists import SplitList, choose_lists, find_folds, find_split_of_table, read_lists
from histocli.text import format_count

# Short words of tables. As the name of a folder they could be anything, such as the state Virginia.
_SHORT_SPLIT_NAMES = {
    "tr": "train",
    "trn": "train",
    "va": "valid",
    "vl": "valid",
    "vld": "valid",
    "te": "test",
    "tst": "test",
}
_FLAG_COLUMN = re.compile(
    r"(is_?|(in|for|use|use_for)_)?(train|training|val|valid|validation|test|testing|hold_?out|held_?out|eval|evaluation)"
    r"(_?set|_split|_flag)?"
)
_FLAG_VALUES = {"0", "1", "0.0", "1.0", "true", "false", "yes", "no", "t", "f", "y", "n", ""}
_MAX_WORDS = 8  # different words in a column of splits


def read_split_column(
    table: PatchTable, given: str | None, unlabelled: AbstractSet[int] = frozenset()
) -> tuple[str | None, list[str]]:
    """Return the column of splits of a table, and the split of each row: train, valid, test or "".

    It is the column `given` if this is not None; else one with a usual name, or the only one all of whose values are
    names of splits, or the first with two or more names of splits and other words. A missing value such as NA is no
    split. In the rows `unlabelled`, which are not used for training, other words are no splits either.
    If there is no such column, or it is empty, return None and [].

    Raises:
        SplitError: a value of the column is not a split; or no column is given, and a column such as `is_test` marks
            some rows.
    """
    if given is None and table.is_wilds:
        return "split", _read_wilds_splits(table)
    column = table.find("split", given)
    if column is None and given is None:
        column = _find_column_by_values(table)
        if column is None:
            _check_flags(table)
    if column is None:
        return None, []
    texts = table.columns[column]
    splits = {text: _SHORT_SPLIT_NAMES.get(text.strip().lower()) or find_split(text) for text in set(texts)}
    splits = replace_evaluation(splits)
    for row, text in enumerate(texts):
        if not splits[text] and not is_missing(text) and row not in unlabelled:
            raise SplitError(
                f"{table.describe_place(column, row)}: {text!r} is not a split",
                f"the names of splits are {SPLIT_NAMES}: replace the other values. If the column is about something "
                "else, rename it",
            )
    return (column, [splits[text] for text in texts]) if any(splits.values()) else (None, [])


def _read_wilds_splits(table: PatchTable) -> list[str]:
    """Return the official splits of Camelyon17-WILDS: hospital 2 is for the test, hospital 1 for validation."""
    of_hospital, of_number = {"1": "valid", "2": "test"}, {"0": "train", "1": "valid"}
    rows = zip(table.columns["center"], table.columns["split"], strict=True)
    return [of_hospital.get(center) or of_number.get(number, "test") for center, number in rows]


def _find_column_by_values(table: PatchTable) -> str | None:
    """Return the only column that has two or more splits and nothing else; None if there are several.

    If there is none, return the first column without a usual name that has two or more splits and other words, which
    are an error: the images of a test split that is not read could be used for training.
    """
    found: list[str] = []
    mixed: list[str] = []
    others = table.other_columns
    for name, texts in table.columns.items():
        words = set(texts)
        if 1 < len(words) <= _MAX_WORDS and len({find_split(word) for word in words} - {""}) > 1:
            if all(map(is_missing, find_unknown_splits(words))):
                found.append(name)
            elif name in others:  # the names of slides may contain those of splits: train_1, test_1, normal_3
                mixed.append(name)
    if not found and mixed:
        return mixed[0]
    return found[0] if len(found) == 1 else None


def _check_flags(table: PatchTable) -> None:
    """Raise `SplitError` if a column such as `is_valid` marks some rows: they would be used for training."""
    for name, texts in table.columns.items():
        if not _FLAG_COLUMN.fullmatch(normalise_name(name)):
            continue
        words = {text.lower() for text in texts}
        if words <= _FLAG_VALUES and len(words) > 1:
            raise SplitError(
                f"{table.title}: the column {name} seems to mark the images of a split, and histo cannot read such a "
                "column",
                f"write a column split with the names {SPLIT_NAMES}, or remove the column {name}",
            )


class SplitFinder:
    """Adds the splits in tables, in names of tables, and in lists of images to a result, with notes.

    Args:
        result: the values of the images.
        index: finds the images.
        given: the column of splits that the user named, if any.
    """

    def __init__(self, result: Labels, index: ImageIndex, given: str | None) -> None:
        self._result, self._index, self._given = result, index, given
        self._named: list[SplitList] = []  # tables such as test.csv

    def add_table(self, table: PatchTable, rows: Mapping[str, int], unlabelled: AbstractSet[int]) -> str | None:
        """Add the splits of a table, with `rows` of images and rows that are `unlabelled`; return its column of splits.

        Raises:
            SplitError: its splits are not understood, or contradict another table.
        """
        column, splits = read_split_column(table, self._given, unlabelled)
        if column is None:
            if split := find_split_of_table(table.name):
                self._named.append(SplitList(table.name, split, list(rows)))
            return None
        found = {name: splits[row] for name, row in rows.items() if splits[row]}
        self._add(found.items(), "the tables")
        without = [table.columns[column][row] for row in rows.values() if row in unlabelled and not splits[row]]
        counts = describe_splits(list(found.values()), len(rows) - len(without))
        if without:
            words = ", ".join(sorted(set(without) - {""}))
            counts += f"; {len(without):,} without a label have no split" + (f" ({words})" if words else "")
        self._result.notes.append(f"splits from {table.describe_place(column)}: {counts}")
        return column

    def finish(self, others: Iterable[File]) -> None:
        """Use the names of tables such as `train.csv` and `test.csv`, else lists with such names among `others`.

        Tables of one split, such as `test.csv` alone, give only the images without a split this split.

        Raises:
            SplitError: an image is in two splits, a list has no image, there are several folds, or a folder and a
                table contradict each other.
            HistoError: a line of a list is the name of two images.
        """
        result, names = self._result, self._index.names
        splits, labelled = result.splits, set(result.labels or names)
        lists: list[SplitList] = []
        notes: list[str] = []
        tables = choose_lists(self._named, labelled)
        is_complete = len({table.split for table in tables}) > 1
        if not is_complete and not splits:
            unused = [file for file in others if file.name not in result.used]
            lists, notes = read_lists(unused, self._index, self._named, labelled)
        for kind in (tables, lists) if not labelled <= splits.keys() else ():
            if folds := find_folds(one.name for one in kind):
                hint = "keep the files of one fold, or rename files or folders, so that their paths have no fold"
                raise SplitError(f"{format_examples(folds)} are of several folds", hint)
        self._add(((image, one.split) for one in lists for image in one.images), "the lists")
        if lists:
            result.used.update(found.name for found in lists)
            counts = describe_splits(list(splits.values()), len(names))
            result.notes.append(f"splits from {', '.join(sorted(found.name for found in lists))}: {counts}")
        result.notes += notes
        if not is_complete:
            for one in tables:
                if n := sum(splits.get(name, one.split) != one.split for name in one.images):
                    count = f"{format_count(n, 'image')} of {one.name}"
                    result.notes.append(f"another table or list has a different split for {count}, and is used")
            tables = [one._replace(images=[name for name in one.images if name not in splits]) for one in tables]
        self._add(((image, one.split) for one in tables for image in one.images), "the tables")
        result.notes += [
            f"split {one.split}: {format_count(len(one.images), 'image')} of {one.name}" for one in tables if one.images
        ]
        _check_folders(splits, "list" if lists else "table")

    def _add(self, splits: Iterable[tuple[str, str]], where: str) -> None:
        """Add images and their splits from lists or tables; raise `SplitError` if an image is in two splits."""
        for image, split in splits:
            if (before := self._result.splits.setdefault(image, split)) != split:
                raise SplitError(
                    f"{where} put {image} into two splits: {before} and {split}",
                    "an image can be in one split only; of several folds, keep the files of one",
                )


def _check_folders(splits: Mapping[str, str], what: str) -> None:
    """Check that no image in a folder such as `test` has another split in a table or list (`what`).

    An image in a folder `train` may be in any split: many data sets have their validation images there.

    Raises:
        SplitError: an image has another split.
    """
    for image, split in splits.items():
        folder_splits = {find_split(part) for part in image.split("/")[:-1]} - {"", "train"}
        allowed = folder_splits | ({"valid", "test"} if EVALUATION in folder_splits else set())
        if folder_splits and split not in allowed:
            raise SplitError(
                f"the {what} and the folders have different splits for {image}: "
                f"{'val' if split == 'valid' else split} in the {what}",
                f"move the image, or correct the {what}",
            )


def describe_splits(splits: Sequence[str], n_images: int) -> str:
    """Return a text with the number of images of each split, and the number of those without one."""
    rest = n_images - len(splits)
    more = f"; {rest:,} without a split can be used for training" if rest else ""
    return describe_counts(Counter(splits)) + more
