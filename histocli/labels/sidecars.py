"""Read labels in small files next to the images, such as `0001.cls` in WebDataset, and in the names of images."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from histocli.class_names import LABEL_NAMES, find_label, format_classes_option
from histocli.errors import HistoError
from histocli.files.file import File, read_bytes, split_suffix

# As in the IDC data set: 8863_idx5_x51_y1251_class0.png; and as PCam is often saved: 17_label_1.png
_CLASS_IN_NAME = re.compile(r"[_-](?:class|label)[_-]?([01])$", re.IGNORECASE)
_LABEL_KEYS = ("cls", *LABEL_NAMES)  # the keys of a .json file that hold the label


class Sidecars(NamedTuple):
    """The label of each image, by the image's path, and the names of the files with these labels."""

    labels: dict[str, int]
    files: set[str]


def read_sidecars(names: Sequence[str], others: Sequence[File], classes: Mapping[str, int]) -> Sidecars:
    """Read the labels of images from `.cls` or `.json` files with the same path.

    Raises:
        HistoError: a file cannot be read, or has a label that is not understood.
    """
    images = {name.rpartition(".")[0]: name for name in names}
    found = Sidecars({}, set())
    for file in others:
        stem, _, suffix = file.name.rpartition(".")
        if suffix.lower() in ("cls", "json") and stem in images and images[stem] not in found.labels:
            label = _read_label(file, suffix.lower() == "json", classes)
            if label is not None:
                found.labels[images[stem]] = label
                found.files.add(file.name)
    return found


def read_labels_in_names(names: Sequence[str]) -> dict[str, int]:
    """Return the labels in file names that end in `_class0` or `_label_1`, for example; {} unless all do."""
    found = {name: _CLASS_IN_NAME.search(split_suffix(name)[0]) for name in names}
    labels = {name: int(match[1]) for name, match in found.items() if match}
    return labels if len(labels) == len(names) else {}


def find_words_in_names(names: Sequence[str]) -> str:
    """Return a name in which a word seems to be the label, such as `tumor_01.png`; "" unless all have one, and differ.

    Such a word is no label: normal patches of the slide `tumor_001` have it too.
    """
    for at in (0, -1):
        words = {name: re.split(r"[\W_]+", split_suffix(name)[0])[at] for name in names}
        if {find_label(word) for word in set(words.values())} == {0, 1}:
            return names[0]
    return ""


def _read_label(file: File, is_json: bool, classes: Mapping[str, int]) -> int | None:
    """Return the label in a file; None for a .json file without one."""
    text = read_bytes(file).decode("utf-8", "replace").strip()
    if is_json:
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise HistoError(f"{file.name} is not JSON: {error}", "correct or remove it") from error
        key = next((key for key in _LABEL_KEYS if isinstance(values, dict) and key in values), None)
        if key is None:
            return None
        text = str(values[key])
    label = find_label(text, classes)
    if label is None:
        raise HistoError(
            f"{file.name}: the label {text[:40]!r} is not 0 or 1", f"name it: {format_classes_option([text[:40]])}"
        )
    return label
