"""Find the name that was probably meant by one that does not exist."""

import os
import re
from collections.abc import Iterable
from difflib import get_close_matches
from itertools import islice
from pathlib import Path

_SIMILARITY = 0.7  # from 0 to 1, of the words that difflib calls similar
_MAX_FILES = 1_000  # of a folder that are compared, which takes some tenths of a second


def find_similar(name: str, names: Iterable[str]) -> str | None:
    """Return the one of `names` that is the most similar to `name`, in upper or lower case; None if none is similar."""
    lower = {other.lower(): other for other in names}
    return next((lower[found] for found in get_close_matches(name.lower(), lower, 1, _SIMILARITY)), None)


def find_similar_path(name: str, names: Iterable[str] = ()) -> str | None:
    """Return the most similar path in the same folder, or one of `names` if that is more similar; None if none is.

    Hidden files are not compared, and no names that differ in numbers only, such as those of other patches.
    """
    path = Path(name)
    try:
        with os.scandir(path.parent) as entries:
            files = [entry.name for entry in islice(entries, _MAX_FILES) if not entry.name.startswith(".")]
    except OSError:  # there is no such folder, or it cannot be read
        files = []
    others = [file for file in files if _remove_digits(file) != _remove_digits(path.name)]
    similar = find_similar(path.name, [*names, *others])
    return str(path.parent / similar) if similar else None


def _remove_digits(name: str) -> str:
    return re.sub(r"\d", "", name)
