"""Read labels in small files next to the images, such as `0001.cls` in WebDataset, and in the names of images."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from histocli.class_names import describe_counts, find_label, format_classes_option, format_meanings
from histocli.errors import HistoError
from histocli.files.file import File, read_bytes, split_suffix
from histocli.labels.label_columns import find_contradiction, is_missing, list_label_names, normalise_name, parse_label
from histocli.labels.patch_tables import ColumnNames, PatchTable
from histocli.labels.result import Labels
from histocli.labels.splits import read_split_column
from histocli.labels.table_files import decode_text

# As in the IDC data set: 8863_idx5_x51_y1251_class0.png; and as PCam is often saved: 17_label_1.png
_CLASS_IN_NAME = re.compile(r"[_-](?:class|label)[_-]?([01])$", re.IGNORECASE)
_MAX_LABEL = 40  # characters of a label that a message shows


@dataclass
class Sidecars(Labels):
    """The values of images in the files next to them; and `unused`, the keys that are not used.

    `words` are the labels in the files, in lower case, with what they mean. `values` are the values by key in the .json
    file of each image, and `label_key` is the key of the labels in the first of them.
    """

    patients: dict[str, str] = field(default_factory=dict)
    words: dict[str, int] = field(default_factory=dict)
    unused: set[str] = field(default_factory=set)
    label_key: str = ""
    values: dict[str, dict[str, str]] = field(default_factory=dict)


def read_sidecars(names: Sequence[str], others: Sequence[File], classes: Mapping[str, int]) -> Sidecars:
    """Read the labels of images from `.cls` or `.json` files with the same path; a `.json` file may have more values.

    Raises:
        HistoError: a file cannot be read, or has a label or a split that is not understood, or two keys of the .json
            files have different labels.
    """
    images = {name.rpartition(".")[0]: name for name in names}
    found = Sidecars()
    texts: dict[str, tuple[str, str]] = {}  # the name of the file, and the label in it, by the image's path
    objects: list[tuple[File, str, dict[str, Any]]] = []  # the .json files, with their images and values
    for file in others:
        stem, _, suffix = file.name.rpartition(".")
        if suffix.lower() == "cls" and stem in images:
            text = decode_text(read_bytes(file)).strip()
            texts.setdefault(images[stem], (file.name, text))
            found.used.add(file.name)
        elif suffix.lower() == "json" and stem in images:
            objects.append((file, images[stem], _read_object(file)))
    found.unused = _find_other_keys((values for _, _, values in objects), classes)
    for file, image, values in objects:
        if text := _add_values(file, values, image, found):
            texts.setdefault(image, (file.name, text))
    _add_labels(found, texts, classes)
    if not classes:
        _check_other_keys(found)
    return found


def _add_labels(found: Sidecars, texts: Mapping[str, tuple[str, str]], classes: Mapping[str, int]) -> None:
    """Add the labels that the texts in the files mean; raise `HistoError` if one is not understood."""
    counts = Counter(text[:_MAX_LABEL] for _, text in texts.values() if text)
    for image, (name, text) in texts.items():
        label = parse_label(text, classes)
        if label is None:
            hint = f"the labels are {describe_counts(counts)}; choose the normal and the tumour ones: "
            hint = hint + format_classes_option(counts) if text else "write the label into the file, or remove the file"
            raise HistoError(f"{name}: the label {text[:_MAX_LABEL]!r} is not 0 or 1", hint)
        found.labels[image] = label
        found.words[text.lower()] = label


def _check_other_keys(found: Sidecars) -> None:
    """Check that no other key of the .json files contradicts the labels, such as `"label": 0, "label_name": "tumor"`.

    Raises:
        HistoError: one does.
    """
    images = [image for image in found.values if image in found.labels]
    rows = [found.values[image] for image in images]
    columns = {key: [row.get(key, "") for row in rows] for key in dict.fromkeys(key for row in rows for key in row)}
    labels = [found.labels[image] for image in images]
    ids = PatchTable("", columns, []).id_columns
    if contradiction := find_contradiction(columns, ids, found.label_key, labels, kind="key"):
        raise HistoError(
            f"the .json files next to the images: {contradiction[0]}",
            f"correct the files; if the key {found.label_key} is right: {format_meanings(found.words)}",
        )


def _read_object(file: File) -> dict[str, Any]:
    """Return the object in a .json file, or {} if it has another value."""
    try:
        values = json.loads(decode_text(read_bytes(file)))
    except (ValueError, RecursionError) as error:
        raise HistoError(f"{file.name} is not JSON: {error}", "correct or remove it") from error
    return values if isinstance(values, dict) else {}


def _find_other_keys(objects: Iterable[Mapping[str, Any]], classes: Mapping[str, int]) -> set[str]:
    """Return the keys, such as `Category`, that look like keys of labels and are not.

    Such a key is a usual name of labels with capital letters. One of its values is not a label, and none is a word for
    a label, such as `tumor`. Usual names in lower case are always keys of labels.
    """
    found: dict[str, set[str]] = {}
    for values in objects:
        for key in values:
            if key != normalise_name(key) in list_label_names(values) and values[key] not in (None, ""):
                found.setdefault(key, set()).add(str(values[key]).strip())
    labels = {text: parse_label(text, classes) for texts in found.values() for text in texts}
    has_word = {key for key, texts in found.items() if any(labels[t] is not None and not t.isdecimal() for t in texts)}
    return {key for key, texts in found.items() if key not in has_word and any(labels[t] is None for t in texts)}


def _add_values(file: File, values: dict[str, Any], image: str, found: Sidecars) -> str:
    """Add the slide, hospital and split in a .json file to those that were found, and return its label, or ""."""
    by_name = {normalise_name(key): key for key in reversed(values) if key not in found.unused}
    keys = [by_name[name] for name in ("cls", *list_label_names(by_name)) if name in by_name]
    if not keys:
        return ""
    texts = {name: "" if value is None else str(value) for name, value in values.items()}
    key = next((key for key in keys if texts[key]), keys[0])
    if isinstance(values[key], list | dict):
        what = f"{file.name}: the label {texts[key][:_MAX_LABEL]} is a list or an object"
        raise HistoError(what, "the label must be a number or a word")
    found.used.add(file.name)
    found.label_key, found.values[image] = found.label_key or key, texts
    table = PatchTable(file.name, {name: [text] for name, text in texts.items()}, [1])
    for role, known in (("slide", found.slides), ("hospital", found.hospitals)):
        if (column := table.find(role)) and not is_missing(texts[column]):
            known[image] = texts[column]
        elif column and texts[column]:
            found.missing[role].add(texts[column])
    if patients := table.find_patients():
        found.patients[image] = texts[patients]
    column, splits = read_split_column(table, None)
    if splits and splits[0]:
        found.splits[image] = splits[0]
    found.unused.update(set(table.list_unused_columns(ColumnNames(split=column))) - {key})
    return texts[key].strip()


def read_labels_in_names(names: Sequence[str]) -> dict[str, int]:
    """Return the labels in file names that end in `_class0` or `_label_1`, for example."""
    found = {name: _CLASS_IN_NAME.search(split_suffix(name)[0]) for name in names}
    return {name: int(match[1]) for name, match in found.items() if match}


def find_words_in_names(names: Sequence[str]) -> str:
    """Return a name in which a word seems to be the label, such as `tumor_01.png`; "" unless all have one, and differ.

    Such a word is no label: normal patches of the slide `tumor_001` have it too.
    """
    for at in (0, -1):
        words = {name: re.split(r"[\W_]+", split_suffix(name)[0])[at] for name in names}
        if {find_label(word) for word in set(words.values())} == {0, 1}:
            return names[0]
    return ""
