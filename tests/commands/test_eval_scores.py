"""`histo eval --scores`: the file that is named is the file that is read."""

import codecs
import json
import re
import shutil

import pytest
from sklearn.metrics import roc_auc_score

from tests.cli import read_rows, write_rows

TABLE, REPORT = "first-synthetic-val.csv", "first-synthetic-val.json"


@pytest.fixture
def histo(evaluated_run):
    """Return `histo` for a copy of the workspace with the evaluation."""
    return evaluated_run


def show(histo, name, *options):
    result = histo("eval", "--scores", name, "--json", *options)
    return json.loads(result.stdout), result.stderr


def change_labels(path):
    """Swap the labels of the first two rows with different ones, and return all labels and probabilities."""
    rows = read_rows(path)
    other = next(i for i, row in enumerate(rows) if row["label"] != rows[0]["label"])
    rows[0]["label"], rows[other]["label"] = rows[other]["label"], rows[0]["label"]
    write_rows(path, rows)
    return [int(row["label"]) for row in rows], [float(row["prob"]) for row in rows]


def test_scores_that_were_not_changed_have_the_metrics_of_their_report(histo):
    folder = histo.root / "metrics"
    expected = json.loads((folder / REPORT).read_text())
    for name in (TABLE, REPORT):
        evaluation, told = show(histo, name)
        assert evaluation == expected
        assert f"done: read {folder / name}" in told
        assert "was changed" not in told


@pytest.mark.parametrize("threshold", ["stored", "0.5"])
def test_a_table_is_measured_as_it_is_now(histo, threshold):
    """The `.json` file beside it was printed, whatever the table contained."""
    folder = histo.root / "metrics"
    written = (folder / REPORT).read_bytes()
    labels, probs = change_labels(folder / TABLE)
    evaluation, told = show(histo, TABLE, "--threshold", threshold)
    auc = roc_auc_score(labels, probs)
    assert evaluation["metrics"]["auc"] == pytest.approx(auc)
    assert evaluation["metrics"]["auc"] != json.loads(written)["metrics"]["auc"]
    assert evaluation["before_calibration"] == {}
    before = json.loads(written)["metrics"]["auc"]
    told = " ".join(told.split())
    assert f"warning: {folder / TABLE} was changed after it was evaluated (AUC from {before:.4f} to {auc:.4f}" in told
    assert "the notes below are still about the scores before the change" in told
    assert (folder / REPORT).read_bytes() == written
    assert show(histo, REPORT)[0] == json.loads(written)


@pytest.mark.parametrize("factor", [0.5, 1 - 1e-5])
def test_the_warning_about_changed_scores_names_what_differs(histo, factor):
    path = histo.root / "metrics" / TABLE
    rows = read_rows(path)
    for row in rows:  # in the same order, so that the AUC is the same
        row["prob"] = repr(float(row["prob"]) * factor)
    write_rows(path, rows)
    told = " ".join(show(histo, TABLE)[1].split())
    before, after = re.search(
        r"was changed after it was evaluated \(Brier score from ([\d.]+) to ([\d.]+)\):", told
    ).groups()
    assert before != after
    write_rows(path, rows[1:])
    assert "(patches from 15 to 14, " in show(histo, TABLE)[1]


def test_a_table_that_a_spreadsheet_saved_is_read(histo):
    path = histo.root / "metrics" / TABLE
    expected, _ = show(histo, TABLE)
    path.write_bytes(codecs.BOM_UTF8 + path.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))
    evaluation, told = show(histo, TABLE)
    assert evaluation == expected
    assert "was changed" not in told


def test_a_table_and_its_report_may_be_renamed_and_moved(histo, tmp_path, monkeypatch):
    expected = json.loads((histo.root / "metrics" / REPORT).read_text())
    for name, suffix in ((TABLE, "csv"), (REPORT, "json")):
        shutil.move(histo.root / "metrics" / name, tmp_path / f"mine.{suffix}")
    assert show(histo, tmp_path / "mine.csv")[0] == expected | {"scores": "mine.csv"}
    monkeypatch.chdir(tmp_path)
    error, hint = histo.fails("eval", "--scores", "mine.csv")
    assert error == f"there is no file {histo.root / 'metrics' / 'mine.csv'}"
    assert hint == "to use the file in the current directory, write ./mine.csv"
    assert show(histo, "./mine.csv")[0]["metrics"] == expected["metrics"]
    (tmp_path / "mine.json").unlink()
    error, hint = histo.fails("eval", "--scores", "./mine.csv")
    assert error == "there is no file mine.json beside mine.csv: it has the run and the threshold of these scores"
    assert hint == "copy both files; histo eval writes them together"


WRONG = {
    "an image": ("x.png", b"\x89PNG\r\n\x1a\n\0\0", "is not a file of scores: its name does not end in .csv or .json"),
    "a checkpoint": ("best.pt", b"PK", "is not a file of scores: its name does not end in .csv or .json"),
    "an empty table": ("x.csv", b"", "is empty"),
    "an empty report": ("x.json", b"", "is empty"),
    "other columns": ("x.csv", b"id,label\na,1\n", "has no column data, index, prob"),
    "no rows": ("x.csv", b"id,label,prob,data,index,sha1\n", "has no row of scores"),
    "no number": ("x.csv", b"id,label,prob,data,index,sha1\na,1,high,d,0,\n", "is not a table of scores: "),
    "other JSON": ("x.json", b'{"a": 1}', "is not an evaluation of histo eval"),
    "a list": ("x.json", b"[1]", "is not an evaluation of histo eval"),
    "no JSON": ("x.json", b'{"a":', "as JSON: "),
    "a folder": ("x.csv", None, "is a folder, and --scores needs a file of scores"),
}


@pytest.mark.parametrize(("name", "content", "why"), WRONG.values(), ids=WRONG)
def test_a_file_that_is_no_scores_is_one_error_that_says_what_is_needed(empty, tmp_path, name, content, why):
    path = tmp_path / name
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    error, hint = empty.fails("eval", "--scores", path)
    assert str(path) in error
    assert why in error
    assert "\n" not in error
    assert hint == f"histo eval and histo train --folds write files of scores to {empty.root / 'metrics'}"


def test_the_hint_for_a_missing_file_names_the_scores_that_there_are(histo):
    error, hint = histo.fails("eval", "--scores", "first-synthetic-test.csv")
    assert error == f"there is no file {histo.root / 'metrics' / 'first-synthetic-test.csv'}"
    assert hint == f"histo eval and histo train --folds write such files; in {histo.root / 'metrics'}: {TABLE}"
