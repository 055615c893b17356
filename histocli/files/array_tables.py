"""Make a CSV table of the arrays or columns that lie beside patches in an .npz or Parquet file."""

import io
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from histocli.class_names import LABEL_NAMES
from histocli.files.tables import SEPARATORS, make_table_writer

LABEL_TITLES = frozenset(LABEL_NAMES)


def make_unique_titles(titles: Sequence[str]) -> list[str]:
    """Return the names of columns beside `id`; a second `id`, and repeated names, get a number."""
    seen: Counter[str] = Counter({"id": 1})
    unique = []
    for title in titles:
        seen[title] += 1
        unique.append(title if seen[title] == 1 else f"{title} ({seen[title]})")
    return unique


def write_csv(titles: Sequence[str], columns: Sequence[Sequence[str]]) -> bytes:
    """Return columns as a CSV table; the separators of tables are removed from their names."""
    text = io.StringIO(newline="")
    writer = make_table_writer(text)
    writer.writerow([re.sub(rf"[{SEPARATORS}\r\n]+", " ", title) for title in titles])
    writer.writerows(zip(*columns, strict=True))
    return text.getvalue().encode("utf-8", "replace")


def format_value(value: Any) -> str:
    """Return a value of an array as text: true as 1, 1.0 as 1."""
    if value is None:
        return ""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, bool) or (isinstance(value, float) and value.is_integer()):
        return str(int(value))
    return str(value)
