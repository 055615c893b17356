"""Odd names: they are refused before any work, or taken; messages and results show them without harm to a terminal."""

import csv
import json
import os
import shutil

import cv2
import numpy as np
import pytest

from histocli.inference.score_table import read_scores
from histocli.workspace import make_name
from tests.cli import pseudo_terminal
from tests.faults.processes import Process, histo
from tests.faults.trees import differences, stamps

pytestmark = pytest.mark.attack

EVAL = ["eval", "--device", "cpu", "--ckpt"]
TRAIN = ["train", "--device", "cpu", "--batch-size", 8, "--epochs", 1]
LONG = "x" * 100


@pytest.mark.parametrize("threshold", ["+0.5", "0.50", "5e-1", " .5", "youden", "sensitivity=0.95", "0.123456789"])
def test_every_threshold_has_a_file_name(root, threshold):
    histo(root, *EVAL, "first", "--threshold", threshold)
    names = [path.name for path in (root / "metrics").glob("first-*.json")]
    expected = f"at-{float(threshold)!r}" if threshold[-1].isdigit() and "=" not in threshold else "at-"
    assert len(names) == 1
    assert expected in names[0]


def test_a_run_with_the_longest_name_is_evaluated_compared_and_plotted(root):
    long = "y" * 100
    histo(root, *TRAIN, "--name", long)
    histo(root, *EVAL, long, "--tta", "--threshold", "+0.25", "--uncalibrated")
    histo(root, *EVAL, long)
    made = sorted(path.stem for path in (root / "metrics").glob("yyy*.json"))
    assert len(made) == 2
    assert all(len(name) <= 100 for name in made)
    histo(root, "eval", "--device", "cpu", "--compare", "first", long)
    histo(root, "plot", "--run", long)


@pytest.mark.parametrize(
    "line",
    [
        [*TRAIN, "--name", LONG + "x"],
        [*TRAIN, "--name", "a/b"],
        [*TRAIN, "--name", LONG, "--folds", 2],
        [*TRAIN, "--name", "../x", "--seeds", 2],
        ["balance", "--n", 24, "--name", LONG + "x"],
        ["balance", "--n", 24, "--name", "é"],
        ["download", "--source", "synthetic", "--n", 40, "--name", LONG + "x"],
        ["download", "--source", "synthetic", "--n", 40, "--name", "con"],
        ["plot", "--run", "../first"],
    ],
    ids=lambda line: f"{line[0]} {line[-1]!s:.9}",
)
def test_an_impossible_name_is_refused_before_anything_is_done(root, line):
    before = stamps(root)
    process = histo(root, *line, code=2)
    assert process.stderr.startswith("error: ")
    assert "cannot name a" in process.stderr
    assert "hint: use " in process.stderr
    assert differences(stamps(root), before) == []


@pytest.mark.parametrize("name", ["é" * 120, "漢" * 84, "🧬" * 63, "x" * 255, "a" + "é" * 127])
def test_a_file_may_have_any_name_that_its_file_system_takes(root, tmp_path, name):
    line = ["predict", "synthetic", "--ckpt", "first", "--device", "cpu", "--out", tmp_path / name]
    histo(root, *line)
    names = [path.name for path in tmp_path.iterdir() if path.is_file()]
    assert [other for other in names if not other.endswith(".made-with.json")] == [name]
    assert len(names) == 2  # the file, and what it was made with
    assert len((tmp_path / name).read_text().splitlines()) == 73


def test_different_texts_get_different_names():
    texts = ["a b", "a+b", "a-b", "é", "è", "", "..", "con", LONG, LONG + "1", LONG + "2", "a" * 500, "-"]
    names = [make_name(text) for text in texts]
    assert len(set(names)) == len(texts)
    assert all(name == make_name(name) and len(name) <= 100 for name in names)


ESCAPES = {  # an id, and what a terminal shows of it
    "red\x1b[31m": "red\\x1b[31m",
    "title\x1b]0;owned\x07": "title\\x1b]0;owned\\x07",
    "bidi\u202egnp": "bidi\\u202egnp",
    "c1\x9b2J": "c1\\x9b2J",
}


@pytest.fixture
def hostile(root, tmp_path):
    """A folder of images with control characters in their names, one of them not an image."""
    folder = tmp_path / "images"
    folder.mkdir()
    patch = cv2.imencode(".png", np.load(root / "data" / "synthetic" / "patches.npy")[0])[1].tobytes()
    for name in ESCAPES:
        (folder / f"{name}.png").write_bytes(patch)
    (folder / "broken\x1b[2J.png").write_bytes(b"no")
    return folder


def on_terminal(root, *args, **options):
    """What a command prints on a terminal."""
    with pseudo_terminal() as (terminal, shown):
        process = Process(root, *args, tty=os.ttyname(terminal), **options)
        process.wait()
    return b"".join(shown).decode(), process.code


def test_ids_on_a_terminal_do_not_move_its_cursor_and_are_exact_in_a_file(root, hostile):
    line = ["predict", hostile, "--ckpt", "first", "--device", "cpu"]
    text, _ = on_terminal(root, *line, NO_COLOR="1", TERM="dumb")
    assert not set("\x1b\x07\x9b\u202e") & set(text), text
    assert all(f"\n{shown}," in text for shown in ESCAPES.values()), text
    exact = histo(root, *line, code=4).stdout
    assert all(f"\n{name}," in exact for name in ESCAPES)


def test_messages_and_tables_do_not_move_the_cursor_of_a_terminal(root, hostile, tmp_path):
    (hostile / "labels.csv").write_text("id,label\n" + "".join(f'"{name}",{i % 2}\n' for i, name in enumerate(ESCAPES)))
    named = hostile.rename(tmp_path / "folder\x1b[31m")
    for line in (
        ["eval", "--data", named, "--ckpt", "first", "--device", "cpu"],
        ["predict", named, "--ckpt", "\x1b[31m"],
        ["predict", named, "--ckpt", "first", "--device", "cpu", "--out", named / "\x1b[5m.csv"],
        ["plot", "--run", "\x1b[31m"],
        ["train", "--\x1b[31m"],
        ["train", "--epochs", "\x1b[31m"],
        ["\x1b[31m"],
        ["download", "--source", "folder", "--from", named, "--name", "mine"],
    ):
        process = Process(root, *line)
        process.wait()
        assert not set("\x1b\x07\x9b\u202e") & set(process.stderr + process.stdout), process.stderr
        assert "Traceback" not in process.stderr


def test_scores_of_patches_with_line_breaks_in_their_ids_are_read_again(root, tmp_path):
    """A carriage return was written without quotes, and `histo plot` could not read what `histo eval` had written."""
    folder, table = tmp_path / "images", tmp_path / "labels.csv"
    folder.mkdir()
    patches = np.load(root / "data" / "synthetic" / "patches.npy")
    ids = [f"a{mark}{number}" for number, mark in enumerate(["\r", "\n", "\r\n", '"', "\u2028", ","])]
    for name, patch in zip(ids, patches, strict=False):
        (folder / f"{name}.png").write_bytes(cv2.imencode(".png", patch)[1].tobytes())
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("id", "label"), *((name, i % 2) for i, name in enumerate(ids))])
    histo(root, "eval", "--data", folder, "--labels", table, "--ckpt", "first", "--device", "cpu")
    (report,) = (root / "metrics").glob("first-*.json")
    assert sorted(read_scores(report.with_suffix(".csv"))["id"]) == sorted(ids)


def test_a_very_long_run_in_a_metrics_file_is_printed_without_its_middle(root, tmp_path):
    """Each of the messages of --compare repeated its 10,000 characters."""
    histo(root, *EVAL, "first")
    (report,) = (root / "metrics").glob("first-*.json")
    shutil.copy(report.with_suffix(".csv"), tmp_path)
    names = {"run": "x" * 5000 + "y" * 5000, "data": "d" * 10_000, "n_in_training": 7}
    other = tmp_path / report.name
    other.write_text(json.dumps(json.loads(report.read_text()) | names))
    line = ["eval", "--compare", other, report]
    process = histo(root, *line)
    assert max(map(len, process.stderr.splitlines())) < 600
    assert f"{'x' * 50} ... {'y' * 50}: the network was trained on 7 of" in process.stderr
    assert json.loads(histo(root, *line, "--json").stdout)["a"]["run"] == names["run"]
