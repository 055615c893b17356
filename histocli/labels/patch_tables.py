"""Find the columns of ids, labels, slides, hospitals and splits in a table. `table_files` reads the files."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from pathlib import Path
from typing import NamedTuple

from histocli.class_names import describe_counts, find_label, format_classes_option
from histocli.errors import HistoError
from histocli.files.file import ArrayTable, is_image
from histocli.labels.label_columns import (
    find_contradiction,
    find_missing,
    is_flag,
    is_fraction,
    list_label_names,
    normalise_name,
    parse_label,
)
from histocli.labels.result import ContradictionError
from histocli.text import shorten

# The usual names of columns, in lower case with underscores; the first one that a table has is used.
_ID_NAMES = (
    "id image_id imageid img_id image img filename file_name file fname image_name name path filepath file_path "
    "image_path img_path img_name image_file image_filename patch_id patch patch_name patch_path tile_id tile "
    "tile_name tile_path uid uuid"
)
_PATIENT_NAMES = ["patient", "patient_id", "case", "case_id"]
_NAMES_OF_ROLE = {
    "id": _ID_NAMES.split(),
    "label": list_label_names([]),
    "slide": ["wsi", "slide", "slide_id", "slide_name", "wsi_id", "wsi_name", *_PATIENT_NAMES],
    "hospital": ["hospital", "center", "centre", "hospital_id", "center_id", "site", "institution"],
    "split": ["split", "subset", "partition", "set"],
}
_MAX_SHOWN = 80  # characters of a label that a message shows
_HEADER_HINT = "the first line must name the columns, for example id,label"
_WILDS_COLUMNS = ("patient", "node", "x_coord", "y_coord")  # Camelyon17-WILDS writes them in place of the file name


class ColumnNames(NamedTuple):
    """The columns that the user named; None for those to be found by their usual names."""

    id: str | None = None
    label: str | None = None
    slide: str | None = None
    hospital: str | None = None
    split: str | None = None


@dataclass(frozen=True)
class TableOptions:
    """The tables, classes and columns that the user named, and whether the names of the files have the slides."""

    labels: Path | None
    slides: Path | None
    classes: Mapping[str, int]
    columns: ColumnNames
    has_slide_pattern: bool = False


@dataclass(frozen=True)
class PatchTable:
    """A table with a row for each patch: the line and the fields of each row, by the name of the column."""

    name: str
    columns: dict[str, list[str]]
    lines: list[int]
    array_table: ArrayTable | None = None  # if it is not a file

    @property
    def title(self) -> str:
        """The name of the file, as messages show it."""
        return self.array_table.origin if self.array_table else self.name

    def describe_place(self, column: str, row: int | None = None) -> str:
        """Return where a column is, or its value in a row (from 0): file, line and column, or file, array and row."""
        if self.array_table is None:
            line = "" if row is None else f", line {self.lines[row]}"
            return f"{self.name}{line}, column {column}"
        where = f"{self.array_table.origin}, {self.array_table.kind} {self.array_table.titles.get(column, column)}"
        return where if row is None else f"{where}, row {row}"

    def __len__(self) -> int:
        return len(self.lines)

    @cached_property
    def _by_name(self) -> dict[str, str]:
        """The columns by their names in lower case with underscores; of two columns of equal names, the first."""
        return {normalise_name(name): name for name in reversed(self.columns)}

    @property
    def is_wilds(self) -> bool:
        """Whether it has the columns of the table of Camelyon17-WILDS."""
        return {*_WILDS_COLUMNS, "center", "split"} <= self.columns.keys()

    @property
    def id_columns(self) -> list[str]:
        """The columns with a usual name for ids, in the order in which they are preferred."""
        return self._list_columns(_NAMES_OF_ROLE["id"])

    @property
    def other_columns(self) -> list[str]:
        """The columns without a usual name for ids, labels, slides, hospitals or splits."""
        usual = {name for role in _NAMES_OF_ROLE for name in self._find_names(role)}
        return [name for name in self.columns if normalise_name(name) not in usual]

    def find(self, role: str, given: str | None = None) -> str | None:
        """Return the name of the column of ids, labels, slides, hospitals or splits; None if there is none.

        If the user named the column (`given`), no other column is used.
        """
        if given is not None:
            return next((name for name in self.columns if name.lower() == given.strip().lower()), None)
        return next(iter(self._list_columns(self._find_names(role))), None)

    def find_patients(self) -> str | None:
        """Return the column of patients, else another column of slides with larger units; None if there is none.

        Each value of such a column belongs to several slides, as in a table with the columns `wsi` and `slide`.
        """
        patients, slides = self._list_columns(_PATIENT_NAMES), self._list_columns(_NAMES_OF_ROLE["slide"])
        if patients:
            return patients[0]
        for name in slides[1:]:
            pairs = set(zip(self.columns[slides[0]], self.columns[name], strict=True))
            fine, coarse = map(set, zip(*pairs, strict=True)) if pairs else (set(), set())
            if 1 < len(coarse) < len(fine) == len(pairs):
                return name
        return None

    def _list_columns(self, names: Sequence[str]) -> list[str]:
        """Return the columns with these usual names, in the order of the names."""
        return [self._by_name[name] for name in names if name in self._by_name]

    def _find_names(self, role: str) -> list[str]:
        """Return the usual names of a column."""
        return list_label_names(self.columns) if role == "label" else _NAMES_OF_ROLE[role]

    def require(self, role: str, given: str | None = None) -> str:
        """Return the name of a column as `find` does.

        Raises:
            HistoError: there is none; the hint names the option that chooses it.
        """
        if (found := self.find(role, given)) is None:
            header = self.title if self.array_table else f"{self.name}, line 1"
            columns = ", ".join(name for name in self.columns if name) or "none"
            if given is not None:
                raise HistoError(f"{header}: there is no column {given!r}", f"it has {columns}")
            hint = f"name it: --{role}-column NAME; usual names are {', '.join(_NAMES_OF_ROLE[role][:3])}"
            if any(is_image(name) or name in ("0", "1") for name in self.columns):
                hint = _HEADER_HINT
            elif len(self.columns) == 1:
                hint = "separate the columns by commas, semicolons, tabs or vertical bars"
            raise HistoError(f"{header}: no column is known as the {role}; the columns are {columns}", hint)
        return found

    def read_ids(self, given: str | None = None) -> list[str]:
        """Return the ids of the patches.

        Raises:
            HistoError: there is no column of ids.
        """
        if given is None and self.find("id") is None and self._by_name.keys() >= set(_WILDS_COLUMNS):
            fields = zip(*(self.columns[name] for name in self._list_columns(_WILDS_COLUMNS)), strict=True)
            return [f"patch_patient_{p.zfill(3)}_node_{n}_x_{x}_y_{y}" for p, n, x, y in fields]
        return self.columns[self.require("id", given)]

    def read_labels(self, given: str | None, classes: Mapping[str, int]) -> list[int | None]:
        """Return the label of each row; words such as normal and tumor, or the names of `classes`, are understood.

        A row of arrays or of a Parquet file, which always has all rows, may lack a label: it is None.

        Raises:
            HistoError: there is no column of labels, or a label is not understood.
        """
        column = self.require("label", given)
        labels = self._parse_labels(column, classes)
        known = {text for text, label in zip(self.columns[column], labels, strict=True) if label is not None}
        if not classes and find_label(column) == 0 and known and all(map(is_flag, known)):
            raise HistoError(
                f"{self.title}: by its name, 1 in the column {column} means a normal patch, but label 1 means tumour",
                "give another column, or say what the values mean: --classes negative=1 --classes positive=0",
            )
        return labels

    def check_labels(self, labels: Sequence[int | None], hint: str = "") -> None:
        """Check that no other column contradicts the labels in the column with the usual name.

        Raises:
            ContradictionError: one does; its hint names the option that chooses a column, unless `hint` is given.
        """
        rows = [label is not None for label in labels]
        columns = {name: list(compress(texts, rows)) for name, texts in self.columns.items()}
        known = [label for label in labels if label is not None]
        if found := find_contradiction(columns, self.id_columns, self.require("label"), known):
            raise ContradictionError(f"{self.title}: {found[0]}", hint or found[1])

    def list_unused_columns(self, given: ColumnNames) -> list[str]:
        """Return the names of the columns that are not id, label, slide, hospital or split."""
        named = {name.lower() for name in given if name}
        used = {self.find(role) for role in _NAMES_OF_ROLE if not getattr(given, role, None)}
        parts = _WILDS_COLUMNS if self.find("id") is None else ()
        return [name for name in self.columns if name not in used and name.lower() not in {*named, *parts}]

    def list_roles(self, given: ColumnNames) -> set[str]:
        """Return which of id, label, slide, hospital and split the table has as columns.

        A column of ids or labels with a usual name counts, even if the user named another one.
        """
        named = {role for role, name in given._asdict().items() if name}
        known = {role for role in _NAMES_OF_ROLE if self.find(role) and role not in named - {"id", "label"}}
        if self._by_name.keys() >= set(_WILDS_COLUMNS):
            known.add("id")
        return known | {role for role in named if self.find(role, getattr(given, role))}

    def _parse_labels(self, column: str, classes: Mapping[str, int]) -> list[int | None]:
        """Return a column as labels; raise `HistoError` for a value that is not a label."""
        texts = self.columns[column]
        signs = {} if classes or set(texts) != {"-", "+"} else {"-": 0, "+": 1}
        known = {text: parse_label(text, classes or signs) for text in set(texts)}
        missing = find_missing(known)
        for row, text in enumerate(texts):
            if known[text] is None and not (self.array_table and text in missing):
                words = sorted({shorten(word, _MAX_SHOWN) for word in known if word})
                found = describe_counts(Counter(shorten(word, _MAX_SHOWN) for word in texts))
                hint = f"the labels are {found}; choose the normal and the tumour ones: {format_classes_option(words)}"
                if is_fraction(text):
                    hint = "the column seems to hold probabilities; a column of 0 and 1 is needed"
                if text in missing:
                    n = sum(word in missing for word in texts)
                    what = "the row" if n == 1 else f"the {n:,} rows without a label"
                    hint = f"remove {what}: an image without a row has no label"
                if text.lower() == column.lower():
                    hint = "this line repeats the names of the columns: remove it"
                raise HistoError(
                    f"{self.describe_place(column, row)}: {shorten(text, _MAX_SHOWN)!r} is not 0 or 1", hint
                )
        return [known[text] for text in texts]


def check_ids(
    table: PatchTable,
    ids: Sequence[str],
    values: Sequence[str],
    what: str = "",
    hint: str = "it is also on line {}: remove one of the two rows",
    keys: Sequence[str] | None = None,
) -> None:
    """Check that no id occurs twice; or, with `values`, twice with different values. Ids with equal `keys` are equal.

    Raises:
        HistoError: there is such an id; the message names file, line and column.
    """
    first: dict[str, int] = {}
    for row, key in enumerate(keys or ids):
        before = first.setdefault(key, row)
        if before != row and not (values and values[before] == values[row]):
            same = "occurs twice" if ids[before] == ids[row] else f"is the same id as {ids[before]!r}"
            text = f"{table.name}, line {table.lines[row]}, column id: {ids[row]!r} {same}"
            repeated = len(ids) - len(set(ids))
            more = f"; {repeated:,} rows repeat an id" if repeated > 1 and not values else ""
            raise HistoError(f"{text}, with two {what}" if values else text + more, hint.format(table.lines[before]))
