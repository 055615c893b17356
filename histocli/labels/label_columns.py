"""Find the columns of labels in a table, read their values, and compare them with what other columns say."""

import re
from collections.abc import Iterable, Mapping, Sequence

from histocli.class_names import BOOLEANS, LABEL_NAMES, find_label
from histocli.labels.classes import find_classes

# Arrays in .npz files have these names for masks too, therefore they are not in `LABEL_NAMES`.
_NAMES = (*LABEL_NAMES, "truth", "gt", "y_true")
_NUMBER = re.compile(r"([01])(?:[.,]0+)?")  # also 1.0 and, where the comma is decimal, 1,0
_X_COORDINATE = re.compile(r"x(_?(coord\w*|pos\w*|min|max|start|px|pixel|center|centre))?|col|column")
_MISSING = ("", "nan", "na", "n/a", "none", "null", "?", "-")
_FRACTION = re.compile(r"0?[.,]0*[1-9]\d*|[1-9][\d.]*e-\d+", re.IGNORECASE)  # more than 0 and less than 1
_MAX_WORDS = 20  # different words in a column of labels


def normalise_name(name: str) -> str:
    """Return the name of a column in lower case, with underscores between its words."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name.strip())  # ClassLabel: class_label
    return re.sub(r"[\s\-]+", "_", words.lower())


def list_label_names(columns: Iterable[str]) -> list[str]:
    """Return the usual names of a column of labels; beside a column such as `x`, `y` is a coordinate and not a label.

    If the table has the columns `x_coord` and `y_coord`, a column `y` is still a label.
    """
    names = {normalise_name(name) for name in columns}
    has_x = any(_X_COORDINATE.fullmatch(n) and (n == "x" or f"y{n[1:]}" not in names) for n in names)
    return [name for name in _NAMES if name != "y" or not has_x]


def is_missing(text: str) -> bool:
    """Return whether a value is missing: an empty text, or a word for it that programs write, such as nan or None."""
    return text.strip().lower() in _MISSING


def find_missing(known: Mapping[str, int | None]) -> set[str]:
    """Return the texts of a missing label: -1, as in Hugging Face's sets, is one if the other labels are 0 and 1."""
    missing = {text for text, label in known.items() if label is None and is_missing(text)}
    others = {label for text, label in known.items() if text not in missing and text != "-1"}
    return missing | {"-1"} if others == {0, 1} and known.get("-1", 0) is None else missing


def is_fraction(text: str) -> bool:
    """Return whether a text is a number between 0 and 1, such as 0.91."""
    return _FRACTION.fullmatch(text) is not None


def parse_label(text: str, classes: Mapping[str, int]) -> int | None:
    """Return the label that a text means; None if it is not understood."""
    number = _NUMBER.fullmatch(text)
    for key in (text.lower(), number[1] if number else ""):  # 1.0 is the class 1
        if key in classes:
            return classes[key]
    if number:
        return int(number[1])
    return None if text.isdecimal() else find_label(text)


def is_flag(text: str) -> bool:
    """Return whether a label is 0, 1, yes, no, true or false, which mean nothing without the name of the column."""
    return _NUMBER.fullmatch(text) is not None or text.lower() in BOOLEANS


def find_contradiction(
    columns: Mapping[str, Sequence[str]],
    id_columns: Sequence[str],
    column: str,
    labels: Sequence[int],
    kind: str = "column",
) -> tuple[str, str] | None:
    """Find a column, or a key of .json files (`kind`), that contradicts the labels in `column`.

    Some programs number the classes in alphabetical order: cancer 0, normal 1. Then a column of words such as `normal`
    and `cancer`, or class folders in a path, have the other label in every row. Words that differ in some rows only are
    about something else, such as the slide. A second column of labels may never differ.

    Returns:
        What contradicts the labels, and what to do in a table; None if nothing does.
    """
    usual = set(list_label_names(columns))
    hint = f"choose one: --label-column {column} or --label-column "
    for other, texts in columns.items():
        if other == column:
            continue
        is_usual = normalise_name(other) in usual
        n = _count_differences(labels, _parse_column(texts)) if is_usual else _count_if_all(labels, _parse_words(texts))
        if n:
            what = f"the {kind}s {column} and {other} have different labels for {n:,} of {len(labels):,} patches"
            return what, hint + other
        if find_label(other) == 0 and any(a == b == 1 for a, b in zip(labels, _parse_column(texts), strict=False)):
            what = f"a patch has 1 in the {kind}s {column} and {other}, which contradict each other"
            return what, f"correct the table, or choose the column: --label-column {column}"
    for other in id_columns:
        if n := _count_if_all(labels, _parse_folders(columns[other])):
            what = f"the {kind} {column} and the folders in the {kind} {other} have different labels for {n:,} of "
            hint = f"correct the table; if the column {column} is right: --label-column {column}"
            return f"{what}{len(labels):,} patches", hint
    return None


def _count_differences(labels: Sequence[int], found: Sequence[int | None]) -> int:
    """Return the number of rows in which another column has another label; `found` is [] if it has no labels."""
    return sum(other is not None and other != label for label, other in zip(labels, found, strict=False))


def _count_if_all(labels: Sequence[int], found: Sequence[int | None]) -> int:
    """Return the number of rows in which another column has another label, if these are all rows where it has one."""
    n = _count_differences(labels, found)
    return n if n == len(found) - found.count(None) else 0


def _parse_column(texts: Sequence[str]) -> list[int | None]:
    """Return the labels in a column, None for an empty field; [] if a value is not a label."""
    known = {text: parse_label(text, {}) for text in set(texts) if not is_missing(text)}
    return [] if None in known.values() else [known.get(text) for text in texts]


def _parse_words(texts: Sequence[str]) -> list[int | None]:
    """Return the labels in a column of words, None for an empty field; [] if it has other values, or one class only.

    Flags such as 0, 1, yes and no are not about the label if the column has any other name.
    """
    words = {text for text in set(texts) if not is_missing(text)}
    if len(words) > _MAX_WORDS or any(map(is_flag, words)):
        return []
    return _parse_column(texts) if {find_label(word) for word in words} == {0, 1} else []


def _parse_folders(texts: Sequence[str]) -> list[int | None]:
    """Return the labels by the class folders in a column of paths; [] if there are no folders of two classes."""
    paths = [text.replace("\\", "/") for text in texts]
    if not any("/" in path for path in paths):
        return []
    found = find_classes(paths, {})
    is_numbered = any(is_flag(folder) for folder, _ in found.counts)  # such as folds
    if found.problem or is_numbered or set(found.labels.values()) != {0, 1}:
        return []
    return [found.labels.get(path) for path in paths]
