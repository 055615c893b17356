"""Patterns of paths that a shell did not expand, because they are in quotes."""

import os
from collections.abc import Sequence
from glob import glob, has_magic

from histocli.errors import HistoError


def expand_patterns(names: Sequence[str]) -> list[str]:
    """Replace each pattern, such as `slides/*.png` in quotes, by the paths that match it, sorted.

    `**` matches any folders. A path that exists is not taken as a pattern.

    Raises:
        HistoError: no path matches a pattern.
    """
    expanded = []
    for name in names:
        if not has_magic(name) or os.path.lexists(name):
            expanded.append(name)
            continue
        found = sorted(glob(name, recursive=True))  # noqa: PTH207 - patterns may be absolute
        if not found:
            raise HistoError(f"no path matches {name}", "list the folder to see its files")
        expanded += found
    return expanded
