"""Patterns of paths that a shell did not expand, because they are in quotes."""

import os
from collections.abc import Sequence
from glob import glob, has_magic


class Match(str):
    """A path that matched a pattern. If the file is removed before it is read, it counts as an unreadable file."""

    __slots__ = ()


def expand_patterns(names: Sequence[str]) -> tuple[list[str], list[str]]:
    """Replace each pattern, such as `slides/*.png` in quotes, by the paths that match it, sorted.

    `**` matches any folders. A path that exists is not taken as a pattern. The paths that replace a pattern are objects
    of the class `Match`. Also return the patterns that match nothing.
    """
    expanded: list[str] = []
    unmatched = []
    for name in names:
        if not has_magic(name) or os.path.lexists(name):
            expanded.append(name)
            continue
        found = sorted(glob(name, recursive=True))  # noqa: PTH207 - patterns may be absolute
        expanded += map(Match, found)
        if not found:
            unmatched.append(name)
    return expanded, unmatched
