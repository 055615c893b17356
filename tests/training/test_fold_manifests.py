"""The manifests of folds, without training: which patches they keep together, and which files they replace."""

import csv
import json

import pytest

from histocli.config import RunConfig
from histocli.errors import HistoError
from histocli.training.repeats import plan_repeats, write_folds
from histocli.workspace import Workspace
from tests.data.tissue import crop, texture, write_patches


def read_rows(root, name):
    with (root / "manifests" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def write(histo, name, folds):
    workspace = Workspace(histo.root)
    write_folds(workspace, "balanced", plan_repeats(workspace, RunConfig(), name, folds, 0))


def find_divided_places(rows):
    """Return the places whose patches are in train and in validation."""
    parts = {part: {row["id"].rpartition("-")[2] for row in rows if row["split"] == part} for part in ("train", "val")}
    return parts["train"] & parts["val"]


@pytest.fixture
def folders(empty, tmp_path):
    """Return `histo` with the folders train and val, where each of twenty places has two overlapping patches."""
    patches = {
        f"{split}/{label}/{split}-{label}x{place}": crop(texture((label, place)), shift, 2 * shift)
        for split, shift in (("train", 0), ("val", 13))
        for label in (0, 1)
        for place in range(10)
    }
    write_patches(tmp_path / "mine", patches)
    empty("download", "--source", "folder", "--from", tmp_path / "mine", "--name", "mine")
    empty("balance", "--n", "max")
    assert "overlap_group" not in read_rows(empty.root, "balanced")[0]  # its splits are the folders
    return empty


def test_overlapping_patches_are_in_the_same_fold_if_the_overlaps_are_known(folders):
    write(folders, "cv", 3)
    for fold in (1, 2, 3):
        rows = read_rows(folders.root, f"cv-fold{fold}")
        assert find_divided_places(rows) == set()
        assert len({row["overlap_group"] for row in rows}) == 20


def test_patches_are_divided_one_by_one_if_the_overlaps_were_not_searched(folders):
    (overlaps,) = (folders.root / "data" / "mine").glob("overlaps-*.npy")
    overlaps.unlink()
    write(folders, "cv", 3)
    rows = read_rows(folders.root, "cv-fold1")
    assert find_divided_places(rows)
    assert "overlap_group" not in rows[0]


def test_folds_of_a_data_set_of_an_early_version_need_no_overlaps(folders):
    record = folders.root / "data" / "mine" / "dataset.json"
    content = json.loads(record.read_text())
    del content["sha256"]
    record.write_text(json.dumps(content))
    write(folders, "cv", 3)
    assert "overlap_group" not in read_rows(folders.root, "cv-fold1")[0]


def test_known_slides_need_no_overlap_groups(histo):
    histo("balance", "--n", 64, "--audit")
    write(histo, "cv", 2)
    assert "overlap_group" not in read_rows(histo.root, "cv-fold1")[0]


def test_the_folds_of_a_study_are_not_replaced(histo):
    write(histo, "nets", 2)
    before = (histo.root / "manifests" / "nets-fold1.csv").read_bytes()
    (histo.root / "tuning" / "nets").mkdir(parents=True)  # `histo tune` writes study.json in it after the folds
    with pytest.raises(HistoError, match="nets is a study of histo tune, whose folds would be replaced") as error:
        write(histo, "nets", 3)
    assert error.value.hint == "use another --name"
    assert (histo.root / "manifests" / "nets-fold1.csv").read_bytes() == before
    assert not (histo.root / "manifests" / "nets-fold3.csv").exists()


def test_folds_without_a_name_do_not_get_that_of_a_study(tmp_path):
    record = tmp_path / "tuning" / "histonet-1" / "study.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    assert plan_repeats(Workspace(tmp_path), RunConfig(), None, 2, 0).name == "histonet-2"
