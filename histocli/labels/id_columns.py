"""Choose the column of ids in a table; several columns may have names of images, and `id` may count the rows."""

import re
from collections.abc import Callable, Mapping, Sequence

from histocli.errors import HistoError
from histocli.labels.matching import TableMatch
from histocli.labels.patch_tables import PatchTable

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")  # but not 0001, which may be the name of an image
_SAMPLE_SIZE = 1000  # rows of a column without a usual name that are compared with the ids

Match = Callable[[Sequence[str], bool], TableMatch]  # matches ids with images; the flag is whether to guess
Rows = Mapping[str, int]  # the row of each image


def choose_id_column(table: PatchTable, match: Match) -> str | None:
    """Return the column with a usual name for ids that matches the most images; None if no column has such a name.

    A column of numbers may count the rows: 3 does not mean the image `0003.png` if another column has names of images.

    Raises:
        HistoError: two columns with usual names, or numbers and any other column, give different rows for an image.
    """
    names = table.id_columns
    if not names or table.array_table:  # the ids of a table that was made are the names of its images
        return table.find("id")
    numbers = [name for name in names if _are_numbers(table.columns[name])]
    if len(names) == 1 and not (numbers and _match_others(table, names[0], match)):
        return names[0]
    rows: dict[str, Rows] = {name: match(table.columns[name], False).rows for name in names}
    chosen = _choose_most(table, rows)
    if rows[chosen] and chosen not in numbers:
        return chosen
    rows |= {name: match(table.columns[name], True).rows for name in names if name not in numbers}
    chosen = _choose_most(table, rows)
    if numbers and not rows[chosen]:
        rows = {}
        for name in numbers:
            rows[name] = match(table.columns[name], True).rows
            if len(rows[name]) == len(table):  # it matches every row: the other columns are not compared
                break
        chosen = max(rows, key=lambda name: len(rows[name]))
    if chosen in numbers:
        for name, other in _match_others(table, chosen, match).items():
            _check_same_rows(table, chosen, rows[chosen], name, other)
    return chosen


def _choose_most(table: PatchTable, rows: Mapping[str, Rows]) -> str:
    """Return the column that matches the most images, of equal ones the first; raise `HistoError` if others differ."""
    chosen = max(rows, key=lambda name: len(rows[name]))
    for name, other in rows.items():
        _check_same_rows(table, chosen, rows[chosen], name, other)
    return chosen


def _check_same_rows(table: PatchTable, chosen: str, rows: Rows, name: str, other: Rows) -> None:
    """Raise `HistoError` if the columns `chosen` and `name` give different rows for an image."""
    if image := next((image for image, row in other.items() if rows.get(image, row) != row), None):
        first, second = table.lines[rows[image]], table.lines[other[image]]
        raise HistoError(
            f"{table.name}: the column {chosen} gives line {first} for the image {image}, and the column "
            f"{name} gives line {second}",
            f"choose the column: --id-column {chosen} or --id-column {name}",
        )


def _match_others(table: PatchTable, column: str, match: Match) -> dict[str, Rows]:
    """Return the row of each image by the columns without a usual name, in a sample of the rows.

    Columns that name the same images as the ids in `column` are left out. Only a column of different values can name
    the image of each row, and numbers are no names.
    """
    step = 1 + len(table) // _SAMPLE_SIZE
    expected = match(table.columns[column][::step], True).rows
    found: dict[str, Rows] = {}
    for name in table.other_columns:
        texts = table.columns[name]
        if _are_numbers(texts) or len(set(texts)) < len(texts):
            continue
        sample = texts[::step]
        should_guess = not all(text.isdecimal() for text in sample)  # 0003 may be a patient, and not the image `3.png`
        rows = match(sample, should_guess).rows
        if rows.items() - expected.items():
            found[name] = {image: row * step for image, row in rows.items()}
    return found


def _are_numbers(texts: Sequence[str]) -> bool:
    return all(_NUMBER.fullmatch(text) for text in texts if text)
