"""Choose the column of ids in a table; several columns may have names of images, and `id` may count the rows."""

import re
from collections.abc import Callable, Sequence

from histocli.errors import HistoError
from histocli.files.file import is_image
from histocli.labels.matching import TableMatch
from histocli.labels.patch_tables import PatchTable

_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")  # but not 0001, which may be the name of an image
_SAMPLE_SIZE = 1000  # rows that show whether a column without a usual name has names of images

Match = Callable[[Sequence[str], bool], TableMatch]  # matches ids with images; the flag is whether to guess


def choose_id_column(table: PatchTable, match: Match) -> str | None:
    """Return the column with a usual name for ids that matches the most images; None if no column has such a name.

    Raises:
        HistoError: two columns, with or without usual names, give different rows for an image.
    """
    names = table.id_columns
    if not names or table.made:  # the ids of a table that was made are the names of its images
        return table.find("id")
    others = {name: _match_other(table.columns[name], match) for name in table.other_columns}
    if len(names) == 1 and not any(others.values()):
        return names[0]
    rows = _match_usual(table, names, match)
    chosen = max(names, key=lambda name: len(rows[name]))  # of equal ones, the first
    for name, other in (rows | others).items():
        if image := next((image for image, row in other.items() if rows[chosen].get(image, row) != row), None):
            first, second = table.lines[rows[chosen][image]], table.lines[other[image]]
            raise HistoError(
                f"{table.name}: the column {chosen} gives line {first} for the image {image}, and the column "
                f"{name} gives line {second}",
                f"choose the column: --id-column {chosen} or --id-column {name}",
            )
    return chosen


def _match_usual(table: PatchTable, names: Sequence[str], match: Match) -> dict[str, dict[str, int]]:
    """Return the row of each image by each of the columns with usual names.

    Numbers may count the rows. If another column has names of images, 3 does not mean the image `0003.png`.
    """
    numbers = [name for name in names if _are_numbers(table.columns[name])]
    rows = {name: match(table.columns[name], True).rows for name in names if name not in numbers}
    should_guess = not any(rows.values())
    return rows | {name: match(table.columns[name], should_guess).rows for name in numbers}


def _match_other(texts: Sequence[str], match: Match) -> dict[str, int]:
    """Return the row of each image by a column without a usual name; {} unless most values are names of images."""
    if len(set(texts)) * 2 <= len(texts) or _are_numbers(texts):
        return {}
    should_guess = not all(text.isdecimal() for text in texts)  # 0003 may be a patient, and not the image `3.png`
    sample = texts[:_SAMPLE_SIZE]
    n_images = max(sum(map(is_image, sample)), len(match(sample, should_guess).rows))
    return match(texts, should_guess).rows if n_images * 2 > len(sample) else {}


def _are_numbers(texts: Sequence[str]) -> bool:
    return all(_NUMBER.fullmatch(text) for text in texts if text)
