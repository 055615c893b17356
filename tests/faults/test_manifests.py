"""Manifests edited by hand: read rightly, or one error with file, line and column; never silently mislabelled."""

import csv
import io
import random

import cv2
import numpy as np
import pytest

from tests.faults.conftest import TINY
from tests.faults.processes import histo
from tests.faults.trees import tree

BALANCE = ["balance", "--n", 32, "--val-fraction", 0.25]


@pytest.fixture
def table(root):
    """The packed data set's manifest: its path and its rows, header first."""
    path = root / "manifests" / "synthetic.csv"
    with path.open(newline="", encoding="utf-8") as file:
        return path, list(csv.reader(file))


def written(path, rows, **options):
    stream = io.StringIO(newline="")
    csv.writer(stream, **options).writerows(rows)
    path.write_text(stream.getvalue(), encoding="utf-8", newline="")


SPREADSHEETS = {
    "semicolons": lambda path, rows: written(path, rows, delimiter=";"),
    "byte order mark": lambda path, rows: path.write_text("\ufeff" + path.read_text(), newline=""),
    "carriage returns": lambda path, rows: written(path, rows, lineterminator="\r\n"),
    "all quoted": lambda path, rows: written(path, rows, quoting=csv.QUOTE_ALL),
    "more columns": lambda path, rows: written(path, [[*rows[0], "note", ""]] + [[*r, "a;b,", "1"] for r in rows[1:]]),
    "columns moved": lambda path, rows: written(path, [row[::-1] for row in rows]),
    "empty lines": lambda path, rows: path.write_text(path.read_text().replace("\n", "\n\n"), newline=""),
    "trailing commas": lambda path, rows: path.write_text(path.read_text().replace("\n", ",,\n"), newline=""),
    "labels as decimals": lambda path, rows: written(path, rows[:1] + [[r[0], f"{r[1]}.0", *r[2:]] for r in rows[1:]]),
    "all at once": lambda path, rows: path.write_text(
        "\ufeff" + "\r\n".join(";".join(f'"{field}"' for field in row) for row in rows) + "\r\n", newline=""
    ),
}


@pytest.mark.parametrize("edit", SPREADSHEETS.values(), ids=SPREADSHEETS)
def test_a_manifest_saved_by_a_spreadsheet_gives_the_same_subset(root, table, edit):
    expected = (root / "manifests" / "balanced.csv").read_bytes()
    edit(*table)
    histo(root, *BALANCE)
    assert (root / "manifests" / "balanced.csv").read_bytes() == expected


def at(rows, line, column, value):
    """The rows with one field changed; lines are counted from 1, the header's."""
    rows = [list(row) for row in rows]
    rows[line - 1][rows[0].index(column)] = value
    return rows


def twice(rows):
    return [*rows, rows[4]]


def shuffle(rows):
    return rows[:1] + random.Random(0).sample(rows[1:], len(rows) - 1)


def two_swapped(rows):
    """Two distant rows with the same label: only their order shows the change."""
    rows = list(rows)
    rows[5], rows[40] = rows[40], rows[5]
    return rows


def as_numbers(rows):
    """Return long ids as a spreadsheet writes them when it treats them as numbers."""
    return rows[:1] + [[f"{i}.0E+15", *row[1:]] for i, row in enumerate(rows[1:])]


def write_images(folder, names):
    folder.mkdir()
    for i, name in enumerate(names):
        pixels = np.random.default_rng(i).integers(0, 256, (96, 96, 3), np.uint8)
        (folder / f"{name}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    return folder


WRONG = {  # what is done -> the message after the path
    "label 2": (lambda rows: at(rows, 7, "label", "2"), ", line 7, column label: '2' is not 0, 1 or empty"),
    "label NaN": (lambda rows: at(rows, 3, "label", "NaN"), ", line 3, column label: 'NaN' is not 0, 1 or empty"),
    "label in words": (lambda rows: at(rows, 9, "label", "tumor"), ", line 9, column label: 'tumor'"),
    "decimal comma": (lambda rows: at(rows, 9, "label", "1,0"), ", line 9, column label: '1,0'"),
    "no id": (lambda rows: at(rows, 4, "id", ""), ", line 4, column id: '' is empty"),
    "an id twice": (twice, ", line 74, column id: "),
    "no label column": (lambda rows: [[row[0], *row[2:]] for row in rows], ", line 1: there is no column 'label'"),
    "a column twice": (lambda rows: [[*row, row[0]] for row in rows], ", line 1: there are two columns 'id'"),
    "half a row": (
        lambda rows: [*rows[:10], rows[10][:3], *rows[11:]],
        ", line 11: this line has 3 fields, but line 1 names 8 columns",
    ),
    "sorted": (lambda rows: rows[:1] + sorted(rows[1:], reverse=True), ", line 2, column id: "),
    "shuffled": (shuffle, ", line 2, column id: "),
    "two rows swapped": (two_swapped, ", line 6, column id: "),
    "an id changed": (lambda rows: at(rows, 20, "id", "another"), ", column id: "),
    "ids as numbers": (as_numbers, ", column id: "),
}


@pytest.mark.parametrize(("edit", "message"), WRONG.values(), ids=WRONG)
def test_an_invalid_manifest_is_one_error_with_its_line(root, table, edit, message):
    path, rows = table
    written(path, edit(rows))
    before = tree(root)
    for line in (BALANCE, ["train", *TINY, "--name", "x"], ["eval", "--ckpt", "first", "--data", "synthetic"]):
        process = histo(root, *line, code=1)
        assert "Traceback" not in process.stderr
        [error] = [text for text in process.stderr.splitlines() if text.startswith("error: ")]
        assert error.startswith(f"error: {path}{message}")
    assert tree(root) == before


def test_missing_rows_are_an_error_with_their_number(root, table):
    path, rows = table
    written(path, rows[:30] + rows[31:])
    assert "error: the manifest of synthetic has 71 rows, its array 72" in histo(root, *BALANCE, code=1).stderr


def test_an_unclosed_quote_is_an_error_with_its_line(root, table):
    path, _ = table
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join([*lines[:11], '"' + lines[11], *lines[12:]]))
    assert f"error: {path}, line 12: a quote is not closed" in histo(root, *BALANCE, code=1).stderr


def test_bytes_that_are_not_utf8_are_one_error(root, table):
    path, _ = table
    path.write_bytes(path.read_bytes() + b"\xff\xfe\n")
    assert f"error: {path} is not UTF-8 text" in histo(root, *BALANCE, code=1).stderr
    path.write_text("id\tlabel\na\t1\n", encoding="utf-16")
    assert f"error: {path} is not UTF-8 text" in histo(root, *BALANCE, code=1).stderr


def test_numeric_ids_are_not_changed(root, tmp_path):
    """007 is not 7: neither in the table of labels, nor in the manifest, nor in the predictions."""
    labels = {"007": "1", "7": "0", "1e5": "1", "0x10": "0"}
    folder = write_images(tmp_path / "numbered", labels)
    (folder / "labels.csv").write_text("\ufeffid;label\r\n007;1\r\n7;0\r\n1e5;1\r\n0x10;0\r\n")
    histo(root, "download", "--source", "folder", "--from", folder, "--name", "numbered")
    with (root / "manifests" / "numbered.csv").open(newline="") as file:
        assert {row["id"]: row["label"] for row in csv.DictReader(file)} == labels
    process = histo(root, "predict", folder, "--ckpt", "first", "--device", "cpu")
    assert {row["id"] for row in csv.DictReader(io.StringIO(process.stdout))} == set(labels)


def test_edited_labels_are_used(root, table):
    path, rows = table
    key, label = rows[5][0], str(1 - int(rows[5][1]))
    written(path, at(rows, 6, "label", label))
    histo(root, "balance", "--n", "max", "--val-fraction", 0.25)
    with (root / "manifests" / "balanced.csv").open(newline="") as file:
        assert {row["id"]: row["label"] for row in csv.DictReader(file)}.get(key) == label


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("id,label\na,1\nb,2\n", "line 3, column label: '2' is not 0 or 1"),
        ("id,label\na,1\nb,nan\n", "line 3, column label: 'nan' is not 0 or 1"),
        ("id,label\na,1\nb,\n", "line 3, column label: '' is not 0 or 1"),
        ("id,label\na,1\na,1\n", "line 3, column id: 'a' occurs twice"),
        ("id,label\na\n", "line 2: this line has 1 field, but line 1 names 2 columns"),
    ],
)
def test_a_table_of_labels_is_read_or_refused_with_its_line(root, tmp_path, text, message):
    folder = write_images(tmp_path / "labelled", ["a", "b"])
    (folder / "labels.csv").write_text(text)
    process = histo(root, "download", "--source", "folder", "--from", folder, "--name", "x", code=1)
    assert f"error: labels.csv, {message}" in process.stderr
    assert not (root / "data" / "x").exists()
