"""The labels, slides, hospitals and splits that were found for images."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from histocli.errors import HistoError

_MAX_EXAMPLES = 3  # ids or images that a message names


class ContradictionError(HistoError):
    """Two tables, or a table and the files beside the images, have different values for an image."""


@dataclass
class Labels:
    """What was found for the images.

    `labels`, `slides`, `hospitals` and `splits` have a value for some images, by the image's path. `notes` are lines
    for the user, `unmatched` counts the rows that belong to no image, and `used` has the names of the files that were
    used. `possible_splits` are the names of folders that may be splits, and `missing` has the words for a missing
    label, slide or hospital that were found, such as nan.
    """

    labels: dict[str, int] = field(default_factory=dict)
    slides: dict[str, str] = field(default_factory=dict)
    hospitals: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    unmatched: dict[str, int] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    possible_splits: list[str] = field(default_factory=list)
    missing: dict[str, set[str]] = field(default_factory=lambda: {"label": set(), "slide": set(), "hospital": set()})


def format_examples(names: Sequence[str]) -> str:
    """Return the first names in quotes, and the number of the others."""
    more = f" and {len(names) - _MAX_EXAMPLES:,} more" if len(names) > _MAX_EXAMPLES else ""
    return ", ".join(repr(name) for name in names[:_MAX_EXAMPLES]) + more
