"""The rows of a manifest together with the packed pixels that they name."""

import numpy as np
import pytest

from histocli.data.dataset import open_packed, open_subset, select_labelled
from histocli.data.manifest import SUBSET_COLUMNS, read_manifest, write_manifest
from histocli.data.store import pack
from histocli.enums import SplitName
from histocli.errors import HistoError
from histocli.workspace import Workspace
from tests.cli import PATCHES, TRAIN
from tests.data.test_store import PIXELS, ListSource

COUNT = 90


@pytest.fixture
def workspace(tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    pack(ListSource(PIXELS[:COUNT], splits=["train"] * 80 + ["test"] * 10), workspace, "mine")
    return workspace


def write_subset(workspace, rows, **changes):
    frame = read_manifest(workspace.manifest_path("mine"))
    frame["data"], frame["index"] = "mine", range(len(frame))
    frame = frame.iloc[rows][list(SUBSET_COLUMNS)].assign(**changes)
    write_manifest(workspace.manifest_path("balanced"), frame)
    return workspace.manifest_path("balanced")


def test_a_data_set_has_the_rows_labels_and_splits_of_its_manifest(workspace):
    subset = open_subset(workspace, workspace.manifest_path("mine"))
    assert subset.data == "mine"
    assert subset.rows.tolist() == list(range(COUNT))
    assert np.array_equal(subset.store, PIXELS[:COUNT])
    assert subset.labels.tolist() == [i % 2 if i % 3 else -1 for i in range(COUNT)]
    test = subset.select_split("test")
    assert test.rows.tolist() == list(range(80, 90))
    assert test.frame["id"].tolist() == [f"p{i}" for i in range(80, 90)]
    assert test.labels.tolist() == subset.labels[80:].tolist()


def test_a_subset_names_rows_of_the_array(workspace):
    rows = [70, 1, 88, 20]
    path = write_subset(workspace, rows, split=["train", "val", "train", "val"])
    subset = open_subset(workspace, path)
    assert (subset.data, subset.rows.tolist()) == ("mine", rows)
    assert subset.select_split("val").rows.tolist() == [1, 20]
    mask = np.array([True, False, False, True])
    assert subset.select(mask).frame["id"].tolist() == ["p70", "p20"]


def test_select_labelled_returns_the_labelled_patches_of_a_split(workspace):
    subset = open_subset(workspace, workspace.manifest_path("mine"))
    test = select_labelled(subset, SplitName.TEST)
    assert test.rows.tolist() == [i for i in range(80, 90) if i % 3]
    assert test.labels.tolist() == [i % 2 for i in range(80, 90) if i % 3]
    assert len(select_labelled(subset, SplitName.ALL).rows) == sum(i % 3 > 0 for i in range(COUNT))
    with pytest.raises(HistoError, match="mine has no labelled patches in its split 'val'") as raised:
        select_labelled(subset, SplitName.VAL)
    assert raised.value.hint == "its splits: test, train"


def edit(path, change):
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], *change(lines[1:])]) + "\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: rows[:-1], "has 89 rows, its array 90"),
        (lambda rows: rows[1:], "has 89 rows, its array 90"),
        (lambda rows: [*rows, rows[0].replace("p0", "p90")], "has 91 rows, its array 90"),
        (sorted, "is not in the row of its pixels"),
        (lambda rows: rows[::-1], "is not in the row of its pixels"),
        (lambda rows: [*rows[1:], rows[0]], "is not in the row of its pixels"),
    ],
    ids=["last missing", "first missing", "one more", "sorted", "reversed", "moved"],
)
def test_a_manifest_with_other_rows_than_the_array_is_an_error(workspace, change, message):
    path = workspace.manifest_path("mine")
    subset = write_subset(workspace, [1, 2])
    edit(path, change)
    for open_it in (
        lambda: open_packed(workspace, "mine"),
        lambda: open_subset(workspace, path),
        lambda: open_subset(workspace, subset),
    ):
        with pytest.raises(HistoError, match=message) as raised:
            open_it()
        assert "histo download --name mine --force" in raised.value.hint


def test_labels_and_splits_can_be_edited(workspace):
    path = workspace.manifest_path("mine")
    edit(path, lambda rows: [rows[0].replace("p0,,s0,RUMC,train", "p0,1,s0,RUMC,val"), *rows[1:]])
    subset = open_subset(workspace, path)
    assert (subset.labels[0], subset.frame["split"].iloc[0]) == (1, "val")


@pytest.mark.parametrize(
    "changes", [{"index": [1, 3]}, {"index": [1, 90]}, {"id": ["p1", "p3"]}, {"index": [1, 10**14]}], ids=str
)
def test_a_subset_of_data_that_was_packed_again_is_an_error(workspace, changes):
    path = write_subset(workspace, [1, 2], **changes)
    with pytest.raises(HistoError, match=r"balanced\.csv does not match the packed data set mine") as raised:
        open_subset(workspace, path)
    assert "histo balance" in raised.value.hint


def test_a_subset_of_other_pixels_or_labels_is_an_error(workspace):
    """After packing again, other patches may have the same ids."""
    digest = read_manifest(workspace.manifest_path("mine"))["sha1"].iloc[1]
    assert len(open_subset(workspace, write_subset(workspace, [1], sha1=digest)).rows) == 1
    with pytest.raises(HistoError, match="does not match the packed data set mine"):
        open_subset(workspace, write_subset(workspace, [1], sha1=digest[::-1]))
    with pytest.raises(HistoError, match="disagree on 2 labels"):
        open_subset(workspace, write_subset(workspace, [1, 2, 4], label=[0, 1, 0]))


def test_a_subset_of_several_data_sets_is_an_error(workspace):
    with pytest.raises(HistoError, match="names 2 data sets"):
        open_subset(workspace, write_subset(workspace, [1, 2], data=["mine", "theirs"]))
    with pytest.raises(HistoError, match="no packed patches"):
        open_subset(workspace, write_subset(workspace, [1, 2], data="theirs"))
    with pytest.raises(HistoError, match="cannot name a data set"):
        open_subset(workspace, write_subset(workspace, [1, 2], data="../mine"))


def test_a_subset_without_its_rows_is_an_error(workspace):
    path = write_subset(workspace, [1, 2])
    frame = read_manifest(path).drop(columns="index")
    write_manifest(path, frame)
    with pytest.raises(HistoError, match=r"balanced\.csv, line 1: there is no column 'index'"):
        open_subset(workspace, path)


def test_a_missing_array_is_an_error(workspace):
    workspace.patches_path("mine").unlink()
    with pytest.raises(HistoError, match="no packed patches"):
        open_subset(workspace, workspace.manifest_path("mine"))


@pytest.mark.parametrize(
    "line",
    [
        ["balance"],
        ["balance", "--data", "synthetic"],
        ["predict", "synthetic", "--device", "cpu"],
        [*TRAIN, "--epochs", 1],
        ["plot", "--kind", "samples", "--data", "synthetic"],
        ["plot", "--kind", "samples"],
    ],
    ids=lambda line: " ".join(map(str, line)),
)
def test_packed_patches_without_their_record_are_named(histo, line):
    record = histo.root / "data" / "synthetic" / "dataset.json"
    record.unlink()
    error, hint = histo.fails(*line)
    assert error == f"{record} is missing: packing did not end, or the file was removed"
    assert "histo download --name synthetic" in hint


def test_a_data_set_without_its_record_is_listed_with_a_warning_and_can_be_packed_again(histo):
    record = histo.root / "data" / "synthetic" / "dataset.json"
    content = record.read_bytes()
    record.unlink()
    result = histo("data")
    assert f"warning: synthetic: {record} is missing" in result.stderr
    histo("download", "--source", "synthetic", "--n", PATCHES)
    assert record.read_bytes() == content


def test_a_folder_in_the_place_of_the_record_is_named(histo):
    record = histo.root / "data" / "synthetic" / "dataset.json"
    record.unlink()
    record.mkdir()
    error, _ = histo.fails("download", "--source", "synthetic", "--n", PATCHES)
    assert error == f"cannot write {record}: it is a folder, not a file"
    error, _ = histo.fails(*TRAIN, "--epochs", 1)
    assert f"{record} is not a file" in error
