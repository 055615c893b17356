"""`histo download` from the command line: each source on disk, a second run, refusals."""

import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest

from tests.cli import PATCHES, read_rows, write_images

SYNTHETIC = ["download", "--source", "synthetic", "--n", 40]


def manifest(histo, name):
    return read_rows(histo.root / "manifests" / f"{name}.csv")


def dataset(histo, name):
    return json.loads((histo.root / "data" / name / "dataset.json").read_text())


def pixels(histo, name):
    return np.load(histo.root / "data" / name / "patches.npy", mmap_mode="r")


def snapshot(root):
    return {path: path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_synthetic_patches_are_packed_with_their_manifest(empty):
    result = empty(*SYNTHETIC)
    assert result.stdout == ""
    assert "patches packed" in result.stderr
    assert "histo balance --data synthetic --n max" in result.stderr
    assert pixels(empty, "synthetic").shape == (40, 96, 96, 3)
    rows = manifest(empty, "synthetic")
    assert len(rows) == 40
    assert {row["label"] for row in rows} == {"0", "1"}
    assert all(row["slide"] for row in rows)


def test_the_same_seed_gives_the_same_bytes(empty):
    for name, seed in (("one", 3), ("two", 3), ("other", 4)):
        empty(*SYNTHETIC, "--seed", seed, "--name", name)
    assert (pixels(empty, "one") == pixels(empty, "two")).all()
    assert (pixels(empty, "one") != pixels(empty, "other")).any()
    assert dataset(empty, "one")["sha256"] == dataset(empty, "two")["sha256"] != dataset(empty, "other")["sha256"]


def test_a_second_download_does_nothing(empty):
    empty(*SYNTHETIC)
    before = snapshot(empty.root)
    assert "nothing to do" in empty(*SYNTHETIC).stderr
    assert snapshot(empty.root) == before


@pytest.mark.parametrize("lost", ["data/synthetic/patches.npy", "manifests/synthetic.csv"])
def test_deleted_files_are_packed_again(empty, lost):
    empty(*SYNTHETIC)
    before = snapshot(empty.root)
    (empty.root / lost).unlink()
    empty(*SYNTHETIC)
    assert snapshot(empty.root) == before


def test_another_request_under_the_same_name_is_refused_unless_forced(empty):
    empty(*SYNTHETIC)
    error, hint = empty.fails(*SYNTHETIC, "--seed", 9)
    assert "there is a data set 'synthetic' already" in error
    assert "--name" in hint
    assert "--force" in hint
    empty(*SYNTHETIC, "--seed", 9, "--force")
    assert dataset(empty, "synthetic")["request"]["seed"] == 9


def test_a_broken_dataset_file_is_named(empty):
    empty(*SYNTHETIC)
    path = empty.root / "data" / "synthetic" / "dataset.json"
    for text in ("{", '{"name": "synthetic"}'):
        path.write_text(text)
        error, _ = empty.fails(*SYNTHETIC)
        assert str(path) in error
    empty(*SYNTHETIC, "--force")


def test_dry_run_writes_nothing(empty):
    result = empty(*SYNTHETIC, "--dry-run", "--json")
    (file,) = json.loads(result.stdout)
    assert (file["size"], file["unit"], file["here"]) == (40, "patches", True)
    assert "40 patches" in result.stderr
    assert "nothing has to be downloaded" in result.stderr
    assert not empty.root.exists()


def test_json_is_the_only_output_on_stdout(empty):
    first = json.loads(empty(*SYNTHETIC, "--json").stdout)
    again = json.loads(empty(*SYNTHETIC, "--json").stdout)
    assert first == again == dataset(empty, "synthetic")
    assert first["patches"] == 40


@pytest.mark.parametrize(
    "line",
    [
        ["--source", "synthetic", "--from", "x"],
        ["--source", "synthetic", "--labels", "x.csv"],
        ["--source", "synthetic", "--slides", "x.csv"],
        ["--source", "synthetic", "--resize", "scale"],
        ["--source", "synthetic", "--name", "balanced"],
        ["--source", "folder"],
        ["--source", "kaggle", "--labels", "x.csv"],
        ["--source", "kaggle", "--from", "a", "--from", "b"],
        ["--source", "pcam", "--slides", "x.csv"],
    ],
    ids=" ".join,
)
def test_options_that_do_not_fit_the_source_are_refused(empty, line):
    error, _ = empty.fails("download", *line, code=2)
    assert line[-2] in error
    assert not empty.root.exists()


@pytest.fixture
def classes(histo, tmp_path):
    """Return class folders with 12 larger patches, and a text file."""
    for label in ("normal", "tumor"):
        write_images(histo, tmp_path / "mine" / label, 6)
    (tmp_path / "mine" / "notes.txt").write_text("hello")
    return tmp_path / "mine"


def test_class_folders_are_packed_with_their_labels(histo, classes):
    histo("download", "--source", "folder", "--from", classes, "--name", "mine")
    rows = manifest(histo, "mine")
    assert [row["label"] for row in rows] == ["0"] * 6 + ["1"] * 6
    assert [row["id"] for row in rows][:2] == ["normal/patch-00", "normal/patch-01"]
    assert (pixels(histo, "mine")[:6] == pixels(histo, "synthetic")[:6]).all()


def test_a_data_set_of_a_folder_whose_name_is_not_utf8_can_be_used(histo, tmp_path):
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff"))
    (folder / "tumor").mkdir(parents=True)
    for path in write_images(histo, folder / "normal")[6:]:
        path.rename(folder / "tumor" / path.name)
    line = ["download", "--source", "folder", "--from", folder, "--name", "mine"]
    histo(*line)
    assert dataset(histo, "mine")["origin"] == f"{tmp_path}/bad\\xff"
    histo("balance", "--data", "mine", "--n", 8, "--name", "few")
    assert "nothing to do" in histo(*line).stderr


def test_a_record_of_an_earlier_version_is_read(histo):
    path = histo.root / "data" / "synthetic" / "dataset.json"
    content = dataset(histo, "synthetic") | {"origin": "bad\udcff" * 5000, "notes": ["\0"], "request": None, "new": 1}
    for name in ("ids_sha256", "labels"):
        del content[name]
    path.write_text(json.dumps(content))
    (found,) = json.loads(histo("data", "--json").stdout)["datasets"]
    assert found["problem"] == ""
    assert found["origin"].startswith("bad\\udcff")
    error, _ = histo.fails("download", "--source", "synthetic", "--n", PATCHES)
    assert error == f"{path} does not name the options"


def test_several_folders_and_a_zip_are_packed_as_one_data_set(histo, tmp_path):
    write_images(histo, tmp_path / "one", 3)
    write_images(histo, tmp_path / "two", 5)
    for path in (tmp_path / "two").iterdir():
        path.rename(path.with_name(f"b{path.name}"))
    (tmp_path / "one_labels.csv").write_text("id,label\n" + "".join(f"patch-{i:02},{i % 2}\n" for i in range(3)))
    with zipfile.ZipFile(tmp_path / "two.zip", "w") as archive:
        for path in (tmp_path / "two").iterdir():
            archive.write(path, f"deep/{path.name}")
        archive.writestr("deep/my_labels.csv", "id,label\n" + "".join(f"bpatch-{i:02},1\n" for i in range(5)))
    histo("download", "--source", "folder", "--from", tmp_path / "one", "--from", tmp_path / "two.zip")
    labels = {row["id"]: row["label"] for row in manifest(histo, "folder")}
    assert labels == {f"patch-{i:02}": str(i % 2) for i in range(3)} | {f"bpatch-{i:02}": "1" for i in range(5)}


def test_n_draws_with_the_seed_and_reports_if_there_are_fewer(histo, classes):
    line = ["download", "--source", "folder", "--from", classes]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        histo(*line, "--n", 5, "--seed", seed, "--name", name)
    ids = {name: [row["id"] for row in manifest(histo, name)] for name in "abc"}
    assert ids["a"] == ids["b"] != ids["c"]
    assert [len(each) for each in ids.values()] == [5, 5, 5]
    result = histo(*line, "--n", 1000, "--name", "all")
    assert "there are only 12 patches, not 1,000" in result.stderr
    assert len(manifest(histo, "all")) == 12


def test_an_unreadable_image_is_named_counted_and_skipped(histo, classes):
    (classes / "normal" / "broken.png").write_bytes(b"no picture")
    result = histo("download", "--source", "folder", "--from", classes)
    assert "warning: normal/broken.png" in result.stderr
    assert dataset(histo, "folder")["counts"]["unreadable"] == 1
    assert dataset(histo, "folder")["patches"] == 12


def test_a_missing_or_empty_folder_and_a_file_instead_are_errors(empty, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("hello")
    (tmp_path / "file.zip").write_text("hello")
    line = ["download", "--source", "folder", "--from"]
    for name, why in (
        ("missing", "there is no"),
        ("empty", "there are no images"),
        ("file.txt", "is a text file, which histo does not read"),
        ("file.zip", "not a zip"),
    ):
        error, hint = empty.fails(*line, tmp_path / name)
        assert why in error
        assert name in error
        assert hint
    assert not empty.root.exists()


def test_kaggles_archive_is_packed_with_its_labels_and_splits(empty, shared_data):
    shown = empty("download", "--from", shared_data / "kaggle_layout.zip").stderr
    assert [line.strip() for line in shown.splitlines()[:4]] == [
        "splits by the names of folders: test (28), train (800)",
        "labels from train_labels.csv: 800 of 800 rows match 800 of 828 images",
        "the slides are not known: --slides TABLE names the slide of each patch",
        "each id is the SHA-1 of its patch's pixels",
    ]
    assert dataset(empty, "kaggle")["counts"] == {"normal": 503, "tumour": 297, "without a label": 28}
    rows = manifest(empty, "kaggle")
    assert [sum(row["split"] == split for row in rows) for split in ("train", "test")] == [800, 28]
    assert all(row["id"] == row["sha1"] for row in rows)
    assert sum(row["label"] == "1" for row in rows) == 297
    assert {row["label"] for row in rows if row["split"] == "test"} == {""}


def test_a_folder_that_is_not_kaggles_gets_a_hint_to_another_source(empty, tmp_path):
    (tmp_path / "a.tif").write_bytes(b"")
    error, hint = empty.fails("download", "--from", tmp_path)
    assert "train_labels.csv" in error
    assert "--source folder" in hint


@pytest.mark.parametrize(
    ("folder", "labels", "reason"), [("x", [], "no patch has a label, so"), ("tumor", [1], "all labels are 1, so")]
)
def test_patches_without_both_labels_lead_to_predict(histo, tmp_path, folder, labels, reason):
    write_images(histo, tmp_path / folder, 3)
    result = histo("download", "--source", "folder", "--from", tmp_path / folder, "--name", "x")
    assert reason in result.stderr
    assert "next: histo predict x" in result.stderr
    assert dataset(histo, "x")["labels"] == labels


def test_the_environment_variable_of_from_has_one_location(histo, tmp_path, monkeypatch):
    write_images(histo, tmp_path / "my patches", 3)
    monkeypatch.setenv("HISTO_DOWNLOAD_FROM", str(tmp_path / "my patches"))
    histo("download", "--source", "folder", "--name", "x")
    assert len(manifest(histo, "x")) == 3
    line = ["download", "--source", "synthetic", "--name", "y"]
    _, hint = histo.fails(*line, code=2)
    assert "unset the environment variable HISTO_DOWNLOAD_FROM" in hint
    monkeypatch.setenv("HISTO_DOWNLOAD_FROM", "a:b")
    error, hint = histo.fails("download", "--source", "folder", "--name", "y")
    assert error == "there is no file or folder a:b, the value of HISTO_DOWNLOAD_FROM"
    assert hint == "this variable holds one location; repeat --from for several"
    assert "unset" not in histo.fails(*line, "--from", tmp_path, code=2)[1]
    histo("download", "--source", "folder", "--name", "z", "--from", tmp_path / "my patches")  # not the variable
