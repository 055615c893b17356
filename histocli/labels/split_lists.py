"""Read lists of images that are named after a split, such as `train.txt` and `test.txt`."""

import csv
import re
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from itertools import zip_longest
from typing import NamedTuple

from histocli.class_names import SplitError, find_split, replace_evaluation
from histocli.files.file import File, is_image, read_bytes
from histocli.files.tables import find_separator
from histocli.labels.label_columns import is_fraction
from histocli.labels.matching import ImageIndex, TableMatch, check_unambiguous
from histocli.labels.patch_tables import PatchTable
from histocli.labels.result import format_examples
from histocli.labels.table_files import decode_text, peek_lines

LIST_SUFFIX = re.compile(r"\.(txt|lst|list|csv|tsv)$", re.IGNORECASE)
# Words beside that of the split in the name of a list, perhaps with a number, such as `test_ids.txt` and
# `fold1_test.txt`; `test_log.txt` is about something else.
_LIST_WORDS = (
    "list lists id ids name names file files filename filenames path paths image images img imgs patch patches tile "
    "tiles sample samples split splits set data dataset fold folds cv"
)
_GROUP_WORDS = ["slide", "slides", "wsi", "wsis", "patient", "patients", "case", "cases"]
_FOLD = re.compile(r"(?<![a-z])(?:k?folds?|cv)[\W_]*0*(\d+)", re.IGNORECASE)
_NUMBERS = re.compile(r"(-?\d+([.,]\d+)?(e-?\d+)?)(\s+-?[\d.,]+)*", re.IGNORECASE)  # a line, or a field


class SplitList(NamedTuple):
    """A table or a list that is named after a split, and the images in it.

    Of a list, there are also the id on each line, whether it is surely a list, and notes on its lines.
    """

    name: str
    split: str
    images: list[str]
    ids: Sequence[str] = ()
    is_list: bool = False
    notes: Sequence[str] = ()


def find_split_of_table(name: str) -> str:
    """Return the split in the name of a table such as `test_labels.csv`, as `find_split`; "" if there are several."""
    found = {find_split(word) for word in _split_stem(name)} - {""}
    return found.pop() if len(found) == 1 else ""


def choose_lists(lists: Sequence[SplitList], labelled: AbstractSet[str]) -> list[SplitList]:
    """Return the lists if they can be used as splits, else [].

    They can if they are of several splits. Lists of val only, or of test only, can be used if some labelled images are
    in none of them: these images are for training.

    Raises:
        SplitError: they are of val, test and eval.
    """
    splits = replace_evaluation({found.name: found.split for found in lists})
    has_rest = not labelled <= {image for found in lists for image in found.images}
    if len(set(splits.values())) < 2 and ("train" in splits.values() or not has_rest):
        return []
    return [found._replace(split=splits[found.name]) for found in lists]


def find_folds(names: Iterable[str]) -> list[str]:
    """Return the files that are of several folds, such as `fold1_test.txt` and `fold2/test.txt`; else [].

    Files of train do not count: those of several folds may be the parts of one training set.
    """
    folds = {name: _FOLD.findall(name) for name in names if find_split_of_table(name) != "train"}
    is_one = all(len(set(numbers) - {None}) == 1 for numbers in zip_longest(*folds.values()))
    return [] if is_one else sorted(name for name in folds if folds[name])


def read_lists(
    others: Iterable[File], index: ImageIndex, tables: Sequence[SplitList], labelled: AbstractSet[str]
) -> tuple[list[SplitList], list[str]]:
    """Return the lists that give splits, as `choose_lists`, and notes on lines without an image and on other lists.

    A list has an image on each line, perhaps with a label after it.

    Args:
        others: the files that are not images.
        index: finds the images.
        tables: the tables that are named after a split.
        labelled: the images with a label.

    Raises:
        SplitError: a list has no image, and some labelled images are in no list: they could be used for training.
        HistoError: a line of a list is the name of two images.
    """
    files = [file for file in others if LIST_SUFFIX.search(file.name) and find_split_of_table(file.name)]
    if len({find_split_of_table(file.name) for file in files}) < 2:
        files = [file for file in files if _has_list_name(file.name)]
    lists = [_read_list(file, index) for file in files]
    found = [one for one in lists if one.images]
    if len({one.split for one in found}) < 2:
        found = [one for one in found if _has_list_name(one.name) and (one.is_list or len(one.images) == len(one.ids))]
    notes = [note for one in lists if not one.images for note in one.notes]
    unmatched = [one for one in lists if one.is_list and not one.images]
    notes += _check_unmatched(unmatched, [*found, *tables], index.names, labelled)
    chosen = choose_lists(found, labelled)
    if chosen:
        return chosen, notes + [note for one in found for note in one.notes]
    if unused := [one.name for one in found if len(one.images) < len(index.names)]:
        names = format_examples(unused)
        if found[0].split == "train":
            was = "was" if len(unused) == 1 else "were"
            notes.append(f"only {names} {was} found: a list of val or test is needed")
        else:
            notes.append(f"not used as a split: {names}, which would leave no labelled image for training")
    return [], notes


def is_list_of_images(file: File, index: ImageIndex) -> bool:
    """Return whether a file has the name of a list of a split, and its start names images; the rest is not read.

    Raises:
        UnreadableTableError: the file cannot be read.
    """
    if not LIST_SUFFIX.search(file.name) or not find_split_of_table(file.name) or not _has_list_name(file.name):
        return False
    lines = peek_lines(file)
    ids, is_list = _read_ids(file.name, lines) if lines else ([], False)
    n = len(_match(ids, index, "", "", should_guess=False).rows)
    return n > 1 and (is_list or n == len(ids))  # a single number may be a count


def _read_list(file: File, index: ImageIndex) -> SplitList:
    """Read a list and match its lines with images.

    Raises:
        HistoError: a line is the name of two images.
    """
    lines = [line for line in decode_text(read_bytes(file)).splitlines() if re.search(r"\w", line)]
    ids, is_list = _read_ids(file.name, lines) if lines else ([], False)
    folder, split = file.name.rpartition("/")[0], find_split_of_table(file.name)
    matched = _match(ids, index, folder, split)
    has_list_name = _has_list_name(file.name)
    is_list = is_list and has_list_name
    if matched.rows or is_list:
        different = {row: pair for row, pair in matched.ambiguous.items() if pair[0] != pair[1]}
        check_unambiguous(file.name, "splits", matched._replace(ambiguous=different), ids)
    notes = list(matched.notes)
    if not ids and has_list_name:
        what = "line with the name of an image"  # it has column names, or nothing
        if len(lines) > 1:
            what = "names of images. Numbers alone may count rows or be labels: write file names, or call the column id"
        notes.append(f"not used: {file.name} has no {what}")
    missing = [ids[row] for row in matched.unmatched]
    if missing and matched.rows:
        notes.append(f"lines of {file.name} without an image: {len(missing):,} of {len(ids):,}, such as {missing[0]!r}")
    return SplitList(file.name, split, list(matched.rows), ids, is_list, notes)


def _match(ids: Sequence[str], index: ImageIndex, folder: str, split: str, should_guess: bool = True) -> TableMatch:
    """Match lines with images: whole lines, else without their last words, else their first words."""
    for keys in (ids, [key.rsplit(maxsplit=1)[0] for key in ids], [key.split()[0] for key in ids]):
        matched = index.match(keys, folder, split, should_guess)
        if matched.rows or matched.ambiguous:
            break
    return matched


def _split_stem(name: str) -> list[str]:
    """Return the words in the name of a file, in lower case, without its folder and its suffix."""
    stem = re.sub(r"\.gz$", "", name.rpartition("/")[2].lower()).rpartition(".")[0]
    return re.split(r"[\W_]+|(?<=[a-z])(?=list)", stem)  # also `testlist.txt`


def _has_list_name(name: str) -> bool:
    """Return whether all words in the name of a file are about a list of a split, such as `fold_1_test.txt`.

    A number alone is about a list only beside a word such as `fold`: `test_01.txt` may be about a slide.
    """
    words = _split_stem(name)
    listed = {word for word in words if word.rstrip("0123456789") in [*_LIST_WORDS.split(), *_GROUP_WORDS]}
    return all(word in listed or find_split(word) or (listed and re.fullmatch(r"\d\d?", word)) for word in words)


def _is_about_groups(name: str) -> bool:
    """Return whether the name of a file says that it is about slides or patients, such as `test_slides.txt`."""
    return any(word.rstrip("0123456789") in _GROUP_WORDS for word in _split_stem(name))


def _read_ids(name: str, lines: Sequence[str]) -> tuple[list[str], bool]:
    """Return the ids in a list: the column of ids if the first line names one, else the names of images in each line.

    Numbers alone may count the rows, or be labels. Without a column of ids, they are ids only if they do not repeat as
    labels do. In a list of several columns, they must also be different, and must not count the rows.

    Returns:
        The ids, and whether the file seems to be a list of images: it does not if it has other columns, or sentences.
    """
    try:
        rows = [[field.strip() for field in row] for row in csv.reader(lines, delimiter=find_separator(lines[0]))]
    except csv.Error:  # a field is too long for a name
        return [], False
    header = rows[0]
    table = PatchTable(name, {title: [] for title in header}, [])
    column = table.find("id")
    if column:
        at = header.index(column)
        ids = [row[at] for row in rows[1:] if len(row) > at and row[at]]
    elif all(len(row) == 1 for row in rows):
        ids = [row[0] for row in rows if row[0]]
        ids = [] if _are_labels(ids) else ids
    else:
        ids = [name for row in rows for name in _find_names(row)] or _find_numbered_names([row[0] for row in rows])
    has_names = sum(map(_is_name, ids)) > len(ids) / 2
    is_clinical = _is_about_groups(name) and any(table.other_columns)  # such as id,age
    return ids, has_names and ((column is not None and not is_clinical) or len(header) == 1 or is_image(header[0]))


def _are_labels(lines: Sequence[str]) -> bool:
    """Return whether numbers seem to be labels: some repeat, and they are 0 and 1, or few."""
    if len(set(lines)) == len(lines):
        return False
    numbers = [number[1] for line in lines if (number := _NUMBERS.fullmatch(line))]
    different = set(numbers)
    return len(different) < len(numbers) and (different <= {"0", "1"} or len(different) <= len(numbers) / 2)


def _find_names(row: Sequence[str]) -> list[str]:
    """Return the fields that are file names of images; if there are none, the first that is not a number."""
    names = [field for field in row if is_image(field)]
    return names or [field for field in row if field and not _NUMBERS.fullmatch(field)][:1]


def _find_numbered_names(numbers: list[str]) -> list[str]:
    """Return numbers that can be names of images: they are different, and do not count the rows."""
    first = int(numbers[0]) if numbers[0].isdecimal() and len(numbers[0]) < 20 else -1
    is_count = numbers == [str(first + row) for row in range(len(numbers))]
    return numbers if len(set(numbers)) == len(numbers) and first >= 0 and not is_count else []


def _is_name(text: str) -> bool:
    """Return whether a text may be the name of an image, perhaps with a label; sentences and metrics are not."""
    is_short = len(text.split()) < 3 or is_image(text) or is_image(re.sub(r"\s+\S+$", "", text))
    return is_short and not is_fraction(text.split()[-1])


def _check_unmatched(
    unmatched: Sequence[SplitList], found: Sequence[SplitList], images: Sequence[str], labelled: AbstractSet[str]
) -> list[str]:
    """Return notes on the lists without an image, or raise `SplitError` if they are about images that are here.

    This may be so if there are lists of several splits, and a labelled image that is in no list and in no folder of a
    split. Lists of slides or patients are ignored if other lists or folders give their split and another one.
    """
    if not unmatched:
        return []
    folders = {image: {find_split(part) for part in image.split("/")[:-1]} - {""} for image in images}
    known = {image for one in found for image in one.images} | {image for image, split in folders.items() if split}
    given = {one.split for one in found}.union(*folders.values())
    if len(given) > 1:
        unmatched = [one for one in unmatched if one.split not in given or not _is_about_groups(one.name)]
    splits = given | {one.split for one in unmatched}
    notes = []
    for one in unmatched:
        text = f"no line of {one.name} is the name of an image. Its lines are like {format_examples(one.ids)}, "
        text += f"the images like {format_examples(images)}"
        if len(splits) > 1 and not labelled <= known:
            raise SplitError(
                text,
                "write the name or path of an image on each line, not of a slide or patient, or write a column split "
                "in a table; if these images are not here, move the list out of the folder of the images",
            )
        notes.append(f"not used: {text}. To use it, write the name or path of an image on each line")
    return notes
