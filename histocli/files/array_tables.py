"""Make a CSV table of the arrays or columns that lie beside patches in an .npz or Parquet file."""

import io
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from histocli.class_names import LABEL_NAMES
from histocli.files.file import ArrayTable, File
from histocli.files.tables import SEPARATORS, make_table_writer

LABEL_TITLES = frozenset(LABEL_NAMES)


def make_array_table(
    origin: str, prefix: str, kind: str, ids: Sequence[str], columns: Sequence[tuple[str, str, Sequence[Any]]]
) -> File:
    """Return a table as a file: the ids of patches, and the values of the arrays or columns beside them.

    The file is PREFIXlabels.csv if one of the titles is a usual name of labels, else for example PREFIXarrays.csv.

    Args:
        origin: the path of the .npz or Parquet file.
        prefix: the beginning of the table's name.
        kind: array or column.
        ids: the names of the patches.
        columns: for each column, its title, its name in the file, and one value for each patch. A second `id`, and
            repeated titles, get a number.
    """
    seen: Counter[str] = Counter({"id": 1})
    unique = []
    for title, _, _ in columns:
        seen[title] += 1
        unique.append(title if seen[title] == 1 else f"{title} ({seen[title]})")
    text = io.StringIO(newline="")
    writer = make_table_writer(text)
    writer.writerow(["id", *(re.sub(rf"[{SEPARATORS}\r\n]+", " ", title) for title in unique)])
    writer.writerows(zip(ids, *(map(_format_value, values) for _, _, values in columns), strict=True))
    table = ArrayTable(
        text.getvalue().encode("utf-8", "replace"),
        origin.rpartition("/")[2],
        kind,
        dict(zip(unique, (name for _, name, _ in columns), strict=True)),
    )
    has_labels = any(title.lower() in LABEL_TITLES for title, _, _ in columns)
    return File(f"{prefix}{'labels' if has_labels else f'{kind}s'}.csv", table)


def _format_value(value: Any) -> str:
    """Return a value of an array as text: true as 1, 1.0 as 1."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return str(value)
