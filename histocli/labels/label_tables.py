"""Read tables of labels, slides, hospitals and splits, and match their rows with the images."""

import re
from collections import Counter
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from pathlib import Path

from histocli.errors import HistoError
from histocli.files.file import File
from histocli.labels.id_columns import choose_id_column
from histocli.labels.label_columns import is_missing
from histocli.labels.matching import ImageIndex, TableMatch, check_unambiguous
from histocli.labels.patch_tables import PatchTable, TableOptions, check_ids
from histocli.labels.result import ContradictionError, Labels, format_examples
from histocli.labels.split_lists import find_split_of_table
from histocli.labels.splits import SplitFinder, read_split_column
from histocli.labels.table_files import read_patch_table

_ROUNDED_NUMBER = re.compile(r"-?\d(?:[.,]\d+)?E[+-]?\d+", re.IGNORECASE)  # a long number in a spreadsheet: 1.23E+10
# A long number of which a spreadsheet kept 15 digits, or a date that it made.
_CHANGED_ID = re.compile(r"\d{15}0+|\d\d?[-./ ]{1,2}[A-Za-zä]{3}|[A-Za-zä]{3}[-. ]\d\d")
_TEXT_HINT = "export the table again with the ids as text: in Excel, import the column as text"
_CHANGED_HINT = f"a spreadsheet seems to have changed the ids to dates or to numbers of 15 digits: {_TEXT_HINT}"


class LabelTables:
    """Reads the tables of images, and collects their values by the path of the image.

    Attributes:
        result: the collected values.
        problems: the errors of tables that perhaps do not contain labels.
        label_of_word: the label that each text in the tables and in the files beside the images means; its key is in
            lower case.
        columns_by_table: the columns of each table that was used, by its name.
        roles: which of id, label, slide, hospital and split are columns in these tables.
        unused_tables: the names of the tables in the locations that are not used: tables of results, and tables without
            a known column.
        tables_beside: the CSV tables next to the locations whose names contain neither `labels` nor a word for results,
            such as `scores`.
        split_finder: the splits of the images.
        patients: the patients of the images, or other units that have several slides.
        patient_column: the column of patients or such units that may be given to `--slide-column`; "" if there is none.
    """

    def __init__(self, names: list[str], options: TableOptions) -> None:
        self.index, self.names, self.options = ImageIndex(names), names, options
        self.result = Labels()
        self.problems: list[HistoError] = []
        self.label_of_word: dict[str, int] = {}
        self.columns_by_table: dict[str, list[str]] = {}
        self.roles: set[str] = set()
        self.tables_beside: list[Path] = []
        self.unused_tables: list[str] = []
        self._labelled: list[tuple[str, AbstractSet[str]]] = []  # the images to which each table gave a label
        self._id_columns: dict[str, str | None] = {}  # the column of ids in each table; None if it has several parts
        self._columns_used: dict[str, str] = {}  # the column of slides and of hospitals in the first table with it
        self.split_finder = SplitFinder(self.result, self.index, options.columns.split)
        self.patients: dict[str, str] = {}
        self.patient_column = ""

    def add_label_table(self, file: File) -> None:
        """Use a table for labels, and for slides, hospitals and splits if it has them.

        Raises:
            HistoError: it is malformed, contradicts another table, or matches no image.
        """
        columns, result = self.options.columns, self.result
        table = read_patch_table(file, self.options.columns)
        labels = table.read_labels(columns.label, self.options.classes)
        ids = self._choose_ids(table)
        check_ids(table, ids, [])
        matched = self._match(table, ids, "labels")
        if columns.label is None and not self.options.classes:
            table.check_labels(labels)
        found = {name: label for name, row in matched.rows.items() if (label := labels[row]) is not None}
        for name, label in found.items():
            if result.labels.setdefault(name, label) != label:
                others = (title for title, names in self._labelled if name in names and title != table.name)
                other = next(others, "another table")  # `labels.csv` of another location has the same name
                raise ContradictionError(
                    f"{table.name}: {other} has a different label for {ids[matched.rows[name]]!r}",
                    "correct one of the tables, or choose one: --labels TABLE",
                )
        self._labelled.append((table.name, found.keys()))
        column = table.require("label", columns.label)
        texts = list(zip(table.columns[column], labels, strict=True))
        label_of_text = {text: label for text, label in texts if label is not None}
        result.missing["label"] |= {text for text, label in texts if label is None} - {""}
        self.label_of_word.update((text.lower(), label) for text, label in label_of_text.items())
        words = sorted(label_of_text.keys() - {"0", "1", "0.0", "1.0"})
        shown = f" ({', '.join(f'{text} = {label_of_text[text]}' for text in words)})" if words else ""
        what, place = f"labels from {table.describe_place(column)}{shown}", table.describe_place(column)
        self._add_note(table, matched, what if label_of_text else f"no labels in {place}: all rows are empty", ids)
        self._add_others(table, matched, {row for row, label in enumerate(labels) if label is None})

    def add_slide_table(self, file: File) -> None:
        """Use a table for slides, and for hospitals and splits if it has them.

        Raises:
            HistoError: it is malformed or matches no image.
        """
        table = read_patch_table(file, self.options.columns)
        column = table.require("slide", self.options.columns.slide)
        try:
            ids = self._choose_ids(table)
        except HistoError as error:  # it may have one row for each patient
            hint = "the table needs one row for each image: join a table of patients or slides to the table of images"
            raise HistoError(str(error), f"{error.hint}; {hint}") from None
        check_ids(table, ids, table.columns[column], "slides")
        matched = self._match(table, ids, "slides")
        is_used = not self.result.slides or column == self._columns_used["slide"]
        what = f"slides from {table.describe_place(column)}" if is_used else f"{table.title} has slides too"
        self._add_note(table, matched, what, ids)
        self._add_others(table, matched)

    def add_split_table(self, file: File, is_named: bool) -> None:
        """Use a table of ids and splits, if it has the id of an image; add a note if it has no splits.

        An unreadable table is skipped with a note, unless its column of splits has a usual name (`is_named`).
        """
        try:
            table = read_patch_table(file, self.options.columns)
        except HistoError as error:
            if is_named:
                raise
            self.result.notes.append(f"skipped: {error}")
            return
        ids = self._choose_ids(table)
        if not self._match_ids(table, ids).rows:
            return
        column, splits = read_split_column(table, self.options.columns.split)
        if column is not None:
            hint = "it is also on line {}: keep the rows of one fold, or move the table away"
            check_ids(table, ids, splits, "splits", hint)
            self._add_others(table, self._match(table, ids, "splits"))
            self.result.used.add(table.name)
        elif not find_split_of_table(table.name) and not table.find("label"):  # `train.txt` is read as a list
            self.result.notes.append(
                f"{table.title} has images, but no known column of labels, slides or splits; its columns are "
                f"{format_examples(list(table.columns))}"
            )

    def _match_ids(self, table: PatchTable, ids: Sequence[str], should_guess: bool = True) -> TableMatch:
        """Match ids; of several images of the same name, those in the folder or split of the table are meant."""
        return self.index.match(ids, table.name.rpartition("/")[0], find_split_of_table(table.name), should_guess)

    def _choose_ids(self, table: PatchTable) -> list[str]:
        """Return the ids of a table; raise `HistoError` if it has none, or columns of ids of different images."""
        column = self.options.columns.id or choose_id_column(table, partial(self._match_ids, table))
        self._id_columns[table.title] = column
        return table.read_ids(column)

    def _match(self, table: PatchTable, ids: list[str], what: str) -> TableMatch:
        """Match the ids of a table with the images; raise `HistoError` if none match, or if ids were rounded."""
        matched = self._match_ids(table, ids)
        rounded = [row for row in matched.unmatched if _ROUNDED_NUMBER.fullmatch(ids[row])]
        if rounded:
            row = rounded[0]
            raise HistoError(
                f"{table.name}, line {table.lines[row]}, column id: {ids[row]!r} is a number that a spreadsheet "
                f"rounded ({len(rounded):,} ids)",
                _TEXT_HINT,
            )
        if not ids:
            raise HistoError(f"{table.name} has column names but no rows", "add rows, or remove the file")
        if not matched.rows and not matched.ambiguous:
            is_changed = all(map(_CHANGED_ID.fullmatch, ids))
            raise HistoError(
                f"{table.name} has no {what.removesuffix('s')} of any image: its ids are like {format_examples(ids)}, "
                f"the images like {format_examples(self.names)}",
                _CHANGED_HINT
                if is_changed
                else "its ids must be the names or paths of the images; --id-column chooses another column",
            )
        check_unambiguous(table.name, what, matched, ids)
        if matched.unmatched:
            reason = f"{what} without an image"
            self.result.unmatched[reason] = self.result.unmatched.get(reason, 0) + len(matched.unmatched)
        return matched

    def _add_note(self, table: PatchTable, matched: TableMatch, what: str, ids: list[str]) -> None:
        """Add a note with the numbers of rows and images that match, and examples of rows that do not."""
        text = f"{what}: {len(matched.rows):,} of {len(table):,} rows match {len(matched.rows):,} of "
        text += f"{len(self.names):,} images"
        if matched.unmatched:
            text += f"; rows without an image: {format_examples([ids[row] for row in matched.unmatched])}"
        self.result.notes += [text, *matched.notes]
        self.result.used.add(table.name)

    def _add_others(self, table: PatchTable, matched: TableMatch, unlabelled: AbstractSet[int] = frozenset()) -> None:
        """Add the slides, hospitals and splits of a table; `unlabelled` are its rows without a label."""
        columns, result = self.options.columns, self.result
        self.columns_by_table[table.title] = list(table.columns)
        self.roles |= table.list_roles(columns)
        unused = []
        roles = (("slide", result.slides, columns.slide), ("hospital", result.hospitals, columns.hospital))
        for role, values, given in roles:
            column = table.find(role, given)
            if column is None:
                continue
            is_final = bool(values) and role == "slide" and self.options.slides is not None
            if is_final or (values and column != self._columns_used[role]):
                unused.append(column)
                continue
            self._columns_used[role] = column
            self._add_values(table, matched, role, column, values)
            if values and table.describe_place(column) not in result.notes[-1]:
                result.notes.append(f"{role}s from {table.describe_place(column)}")
        if (patients := table.find_patients()) is not None:
            if self.options.slides is None or len(self.columns_by_table) == 1:  # --slide-column is in the first table
                self.patient_column = self.patient_column or patients
            self.patients = {name: table.columns[patients][row] for name, row in matched.rows.items()} | self.patients
        split_column = self.split_finder.add_table(table, matched.rows, unlabelled)
        used = columns._replace(id=self._id_columns[table.title], split=split_column or columns.split)
        if unused := table.list_unused_columns(used) + unused:  # such as `grade`, which the user may need
            result.notes.append(f"columns of {table.title} that are not used: {format_examples(unused)}")

    def note_patients(self) -> None:
        """Add a note if a slide belongs to several patients, or several slides to one patient.

        The slides of each patient may be numbered from 1, so that a number means several slides.
        """
        if self.options.columns.slide is not None or self.options.has_slide_pattern:
            return
        pairs = {(slide, self.patients.get(name, "")) for name, slide in self.result.slides.items()}
        patients = {patient for _, patient in pairs}
        counts = Counter(slide for slide, patient in pairs if not is_missing(patient))
        slide, n = min(counts.items(), key=lambda item: (-item[1], item[0]), default=("", 0))
        column, fine = self.patient_column, self._columns_used.get("slide", "slide")
        unit = column or "patient"
        if n > 1:
            remedy = f"give --slide-column {column}" if column else "write the patient into the name of each slide"
            self.result.notes.append(
                f"the {fine} {slide!r} belongs to {n:,} {unit}s: if {fine}s are numbered within each {unit}, {remedy}"
            )
        elif 1 < len(patients) < len(pairs) and not any(map(is_missing, patients)):
            several = f"several values of the column {fine}" if "slide" in self._columns_used else "several slides"
            remedy = f"--slide-column {column}" if column else "the patient as the slide"
            self.result.notes.append(
                f"{several} have the same {unit}: {remedy} keeps all patches of one {unit} in the same split"
            )

    def _add_values(
        self, table: PatchTable, matched: TableMatch, role: str, column: str, values: dict[str, str]
    ) -> None:
        """Add a column of slides or hospitals (`role`) to the values that other tables gave.

        Raises:
            ContradictionError: another table has another value for an image.
        """
        texts = table.columns[column]
        self.result.missing[role] |= {text for row in matched.rows.values() if is_missing(text := texts[row])} - {""}
        for name, row in matched.rows.items():
            if not is_missing(texts[row]) and values.setdefault(name, texts[row]) != texts[row]:
                raise ContradictionError(
                    f"{table.title}: the {role} of {name} is {texts[row]!r} here, "
                    f"and {values[name]!r} in another table",
                    "correct one of the tables, or choose one: --labels TABLE",
                )
