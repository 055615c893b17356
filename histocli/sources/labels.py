"""Labels, slides, hospitals and splits of images: from tables, class folders, or files next to the images."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from histocli.errors import HistoError
from histocli.sources.class_names import classes_line, describe_counts, label_of
from histocli.sources.classes import ClassFolders, find_classes
from histocli.sources.files import File, file_at
from histocli.sources.matching import ImageIndex, Matched, check_unambiguous
from histocli.sources.sidecars import labels_in_names, read_sidecars
from histocli.sources.splits import SplitError, SplitFinder
from histocli.sources.table_files import peek_columns, read_patch_table, table_at
from histocli.sources.tables import PatchTable, TableOptions, check_ids, is_rounded

_TABLE = re.compile(r"\.(csv|tsv|txt)(\.gz)?$", re.IGNORECASE)
_OTHER_TABLE = re.compile(r"\.(xlsx|xls|ods|jsonl|feather)$|(label|metadata|annotation)[^/]*\.json$", re.IGNORECASE)
_RESULTS = re.compile("submission|prediction|score|result", re.IGNORECASE)  # labels in these are guesses
_MOST_TABLES = 20  # next to the images whose columns are looked at
_SHOWN = 3  # examples of ids and images


@dataclass
class Labels:
    """What is known about images, by their paths; lines for the user; rows without an image; and the tables used."""

    labels: dict[str, int] = field(default_factory=dict)
    slides: dict[str, str] = field(default_factory=dict)
    hospitals: dict[str, str] = field(default_factory=dict)
    splits: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)


def find_labels(
    locations: Sequence[Path],
    found: Sequence[Sequence[File]],
    others: list[File],
    names: list[str],
    options: TableOptions,
) -> Labels:
    """Find the labels, slides, hospitals and splits of images.

    Args:
        locations: the folders and archives.
        found: the files in each of them.
        others: the files that are not images.
        names: the paths of the images.
        options: the tables, classes and columns that the user named.

    Raises:
        HistoError: a table is malformed, or has no id of an image; or folders have more than two classes, or
            contradict each other or a table.
    """
    finder = _Finder(ImageIndex(names), names, options)
    if options.slides:
        finder.add_slide_table(table_at(options.slides))
    if options.labels:
        finder.read_labels(table_at(options.labels))
    else:
        finder.find_inside(others)
        finder.find_beside(locations, found)
        finder.find_sidecars(others)
    folders = find_classes(names, options.classes)
    if finder.result.labels:
        if not options.labels:
            folders.check_labels(finder.result.labels)
    elif not finder.label_by_folders(folders):
        finder.label_by_names()
    finder.finish(others)
    return finder.result


class _Finder:
    """Collects what tables, class folders and small files say about the images of an index."""

    def __init__(self, index: ImageIndex, names: list[str], options: TableOptions) -> None:
        self.index, self.names, self.options = index, names, options
        self.result = Labels()
        self.problems: list[HistoError] = []  # with tables that may be somebody else's
        self.words: set[str] = set()  # the labels in tables, in lower case
        self.n_tables = 0
        self.tables_beside: list[Path] = []  # without `labels` in their names
        self.splits = SplitFinder(index, options.columns.split)

    def read_labels(self, file: File) -> None:
        """Use a table for labels, and for slides, hospitals and splits if it has them.

        Raises:
            HistoError: it is malformed, contradicts another table, or matches no image.
        """
        columns, result = self.options.columns, self.result
        table = read_patch_table(file)
        labels = table.labels(columns.label, self.options.classes)
        ids = table.ids(columns.id)
        check_ids(table, ids, [])
        matched = self._match(table, ids, "labels")
        for name, row in matched.rows.items():
            if result.labels.setdefault(name, labels[row]) != labels[row]:
                raise HistoError(
                    f"{table.name}: another table has a different label for {ids[row]!r}", "correct one of the tables"
                )
        column = table.require("label", columns.label)
        self.words.update(text.lower() for text in table.columns[column])
        words = sorted({text for text in table.columns[column] if text not in ("0", "1", "0.0", "1.0")})
        meaning = {text: label_of(text, self.options.classes) for text in words}
        said = f" ({', '.join(f'{text} = {label}' for text, label in meaning.items())})" if words else ""
        self._note(table, matched, f"labels from {table.name}, column {column}{said}", ids)
        self._add_others(table, matched)

    def add_slide_table(self, file: File) -> None:
        """Use a table for slides, and for hospitals and splits if it has them.

        Raises:
            HistoError: it is malformed or matches no image.
        """
        table = read_patch_table(file)
        column = table.require("slide", self.options.columns.slide)
        ids = table.ids(self.options.columns.id)
        check_ids(table, ids, table.columns[column], "slides")
        matched = self._match(table, ids, "slides")
        self._note(table, matched, f"slides from {table.name}, column {column}", ids)
        self._add_others(table, matched)

    def find_inside(self, others: Sequence[File]) -> None:
        """Use the tables in the locations: those with `label` in their names, and those with the usual columns."""
        for file in others:
            base = file.name.rpartition("/")[2]
            if not _TABLE.search(base) or _RESULTS.search(base):
                continue
            roles = peek_columns(file, self.options.columns)
            if "label" in base.lower() and not base.lower().endswith(".txt"):
                self._read_named(file, roles)
            elif "id" in roles and "label" in roles:
                self._try(file)
            elif "id" in roles and "slide" in roles and not self.options.slides and not self.result.slides:
                self.add_slide_table(file)
            elif "id" in roles and "split" in roles:
                self._read_table_of_splits(file)

    def _read_table_of_splits(self, file: File) -> None:
        """Use a table of ids and splits, if it has the id of an image."""
        table = read_patch_table(file)
        ids = table.ids(self.options.columns.id)
        if self.index.match(ids, table.name.rpartition("/")[0]).rows:
            check_ids(table, ids, [])
            self._add_others(table, self._match(table, ids, "splits"))
            self.result.used.add(table.name)

    def _read_named(self, file: File, roles: set[str]) -> None:
        if roles and "label" not in roles:  # another table may have the labels
            self._try(file)
        else:
            self.read_labels(file)

    def _try(self, file: File) -> None:
        """Use a table if it matches images; what is wrong with it is an error only if nothing else gives labels."""
        try:
            self.read_labels(file)
        except SplitError:
            raise
        except HistoError as error:
            self.problems.append(error)

    def find_beside(self, locations: Sequence[Path], found: Sequence[Sequence[File]]) -> None:
        """Use tables `*labels*.csv` next to the locations that contain none; those of others are named."""
        folders: dict[Path, None] = {}
        for location, files in zip(locations, found, strict=True):
            if not any(_is_label_table(file.name) for file in files):
                folders[location.absolute().parent] = None
        for path in [path for folder in folders for path in sorted(folder.glob("*.csv"))]:
            if not _is_label_table(path.name) and not _RESULTS.search(path.name) and path.is_file():
                self.tables_beside.append(path)
            elif _is_label_table(path.name) and path.is_file() and not self.result.labels.keys() >= set(self.names):
                try:
                    self.read_labels(file_at(path))
                except SplitError:
                    raise
                except HistoError as error:
                    self.result.notes.append(f"skipped a table next to the images: {error}")

    def find_sidecars(self, others: Sequence[File]) -> None:
        """Use small files next to the images for labels, where tables have none."""
        found = read_sidecars(self.names, others, self.options.classes)
        self.result.labels = found.labels | self.result.labels
        self.result.used.update(found.files)
        if found.labels:
            self.result.notes.append(f"labels from {len(found.labels):,} .cls or .json files next to the images")

    def label_by_folders(self, folders: ClassFolders) -> bool:
        """Use the class folders; return whether there are any.

        Raises:
            HistoError: they contradict each other, or have more than two classes.
        """
        if folders.problem is not None:
            raise folders.problem
        if folders.labels:
            self.result.labels.update(folders.labels)
            self.result.notes.append(f"labels by the names of folders: {describe_counts(folders.counts)}")
        if folders.unknown:
            line = classes_line(folders.unknown)
            known = "" if folders.labels else f"; known are 0, 1, normal, tumor and others, else give {line}"
            self.result.notes.append(f"folders that say no label: {describe_counts(folders.unknown)}{known}")
        return bool(folders.labels)

    def label_by_names(self) -> None:
        """Use the labels in file names such as `8863_idx5_x51_y1251_class0.png`, if all files have one."""
        labels = {} if self.problems else labels_in_names(self.names)
        if labels:
            self.result.labels.update(labels)
            self.result.notes.append("labels by the names of the files, which end in _class0 or _class1")

    def finish(self, others: Sequence[File]) -> None:
        """Name the tables that were left out, and check that the options were used.

        Raises:
            HistoError: there are no labels, and a table was left out; or a class or column that the user named is not
                there.
        """
        if self.problems and not self.result.labels:
            raise self.problems[0]
        self.result.notes += self.splits.finish(file for file in others if file.name not in self.result.used)
        self.result.used |= self.splits.used
        self.result.splits = self.splits.splits
        if not self.result.labels and (unread := [file.name for file in others if _OTHER_TABLE.search(file.name)]):
            self.result.notes.append(f"{_examples(unread)} may have the labels, but is not read: save it as CSV")
        if not self.result.labels:
            self._offer_tables()
        named = [f"--{role}-column" for role, name in self.options.columns._asdict().items() if name]
        if named and not self.n_tables:
            raise HistoError(f"{named[0]} is given, but no table was read", "give the table to --labels or --slides")
        folders = {part.lower() for name in self.names for part in name.split("/")[:-1]}
        if unknown := sorted(set(self.options.classes) - folders - self.words):
            found = ", ".join(sorted(folders | self.words)[:12]) or "none"
            raise HistoError(
                f"--classes names {', '.join(unknown)}, which is no folder and no label of a table",
                f"there are {found}",
            )
        self.result.notes += [f"skipped: {problem}" for problem in self.problems]
        for what, known in (("label", self.result.labels), ("slide", self.result.slides)):
            missing = [name for name in self.names if name not in known] if known else []
            if missing:
                self.result.notes.append(f"{len(missing):,} images without a {what}: {_examples(missing)}")

    def _offer_tables(self) -> None:
        """Name the first table next to the images that has columns of ids and labels."""
        for path in self.tables_beside[:_MOST_TABLES]:
            if {"id", "label"} <= peek_columns(file_at(path), self.options.columns):
                self.result.notes.append(
                    f"{path.name} next to the images may have the labels: --labels {shlex.quote(str(path))}"
                )
                break

    def _match(self, table: PatchTable, ids: list[str], what: str) -> Matched:
        """Match the ids of a table with the images; raise `HistoError` if none match or ids were rounded."""
        matched = self.index.match(ids, table.name.rpartition("/")[0])
        rounded = [row for row in matched.lost if is_rounded(ids[row])]
        if rounded:
            row = rounded[0]
            raise HistoError(
                f"{table.name}, line {table.lines[row]}, column id: {ids[row]!r} is a number that a spreadsheet "
                f"rounded ({len(rounded):,} ids)",
                "export the table again with the ids as text: in Excel, import the column as text",
            )
        if not matched.rows and not matched.ambiguous:
            raise HistoError(
                f"{table.name} has no {what.removesuffix('s')} of any image: its ids are like {_examples(ids)}, "
                f"the images like {_examples(self.names)}",
                "its ids must be the names or paths of the images; --id-column chooses another column",
            )
        check_unambiguous(table.name, what, matched, ids)
        if matched.lost:
            self.result.lost[f"{what} without an image"] = self.result.lost.get(f"{what} without an image", 0) + len(
                matched.lost
            )
        return matched

    def _note(self, table: PatchTable, matched: Matched, what: str, ids: list[str]) -> None:
        """Say how many rows and images match, with examples of those that do not."""
        text = f"{what}: {len(matched.rows):,} of {len(table):,} rows match {len(matched.rows):,} of "
        text += f"{len(self.names):,} images"
        if matched.lost:
            text += f"; rows without an image: {_examples([ids[row] for row in matched.lost])}"
        self.result.notes += [text, *matched.notes]
        self.result.used.add(table.name)
        self.n_tables += 1

    def _add_others(self, table: PatchTable, matched: Matched) -> None:
        """Add the slides, hospitals and splits of a table."""
        columns, result = self.options.columns, self.result
        given = {"slide": columns.slide, "hospital": columns.hospital}
        for role, values in (("slide", result.slides), ("hospital", result.hospitals)):
            if not values and (column := table.find(role, given[role])) is not None:
                texts = table.columns[column]
                values.update({name: texts[row] for name, row in matched.rows.items() if texts[row]})
                if f"column {column}" not in result.notes[-1]:
                    result.notes.append(f"{role}s from {table.name}, column {column}")
        split_column, notes = self.splits.add_table(table, matched.rows)
        result.notes += notes
        used = self.options.columns._replace(split=split_column)
        if unused := table.unused_columns(used):  # such as `grade`: it may mean more to the user
            result.notes.append(f"columns of {table.name} that are not used: {_examples(unused)}")


def _examples(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more


def _is_label_table(name: str) -> bool:
    base = name.rpartition("/")[2].lower()
    return base.endswith((".csv", ".tsv")) and "labels" in base
