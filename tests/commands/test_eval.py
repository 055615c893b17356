"""`histo eval` from the command line: which data, which checkpoint, and figures that can be checked."""

import csv
import json
import shutil
import zipfile
from hashlib import sha256

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from tests.cli import Histo, empty_fixture, histo_fixture, one_thread_fixture, write_images  # noqa: F401

EVAL = ["eval", "--device", "cpu"]


def report(histo, *options):
    return json.loads(histo(*EVAL, "--json", *options).stdout)


def scores(histo, made):
    with (histo.root / "metrics" / made["scores"]).open(newline="") as file:
        return list(csv.DictReader(file))


def digest(path):
    return sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def folder(histo, tmp_path):
    """A folder named `my patches` with the first 12 patches in class folders, by their labels."""
    with (histo.root / "manifests" / "synthetic.csv").open(newline="") as file:
        labels = [row["label"] for row in csv.DictReader(file)]
    for path, label in zip(write_images(histo, tmp_path / "flat", 24), labels, strict=False):
        target = tmp_path / "my patches" / ("tumor" if label == "1" else "normal")
        target.mkdir(parents=True, exist_ok=True)
        path.rename(target / path.name)
    return tmp_path / "my patches"


def test_the_default_is_the_runs_own_validation_split(histo):
    result = histo(*EVAL, "--json")
    made = json.loads(result.stdout)
    assert (made["run"], made["data"], made["split"]) == ("first", "synthetic", "val")
    path = histo.root / "metrics" / "first-synthetic-val.json"
    assert path.read_text() == result.stdout
    with (histo.root / "manifests" / "balanced.csv").open(newline="") as file:
        val = [row["id"] for row in csv.DictReader(file) if row["split"] == "val"]
    rows = scores(histo, made)
    assert [row["id"] for row in rows] == val
    assert made["n"] == len(val)
    assert made["manifest_sha256"] == digest(histo.root / "manifests" / "balanced.csv")
    assert made["checkpoint_sha256"] == digest(histo.root / "checkpoints" / "best.pt")
    order = list(made["metrics"])
    assert order[:2] == ["auc", "accuracy"]
    table = result.stderr
    assert table.index("auc") < table.index("accuracy") < table.index("sensitivity") < table.index("said tumour")


def test_the_figures_are_those_of_the_scores_written(histo):
    made = report(histo, "--data", "synthetic")
    rows = scores(histo, made)
    labels = np.array([int(row["label"]) for row in rows])
    probs = np.array([float(row["prob"]) for row in rows])
    assert made["n"] == len(rows) == 320
    assert made["split"] == "all"
    assert made["metrics"]["auc"] == pytest.approx(roc_auc_score(labels, probs), abs=1e-3)
    assert made["metrics"]["accuracy"] == pytest.approx(accuracy_score(labels, probs >= 0.5), abs=0.01)
    assert sum(made["confusion"].values()) == 320


def test_what_training_said_of_its_best_epoch_is_what_eval_says(histo):
    history = (histo.root / "runs" / "first" / "history.jsonl").read_text().splitlines()
    best = max(map(json.loads, history), key=lambda row: (row["val_auc"], -row["val_loss"]))
    metrics = report(histo)["metrics"]
    assert metrics["auc"] == pytest.approx(best["val_auc"])
    assert metrics["accuracy"] == pytest.approx(best["val_accuracy"])
    assert metrics["log_loss"] == pytest.approx(best["val_loss"], rel=1e-4)


def test_a_split_of_the_runs_own_manifest(histo):
    parts = {split: report(histo, "--split", split)["n"] for split in ("train", "val", "all")}
    assert parts["train"] + parts["val"] == parts["all"] == 64
    error, hint = histo.fails(*EVAL, "--split", "test")
    assert "no labelled patches in its split 'test'" in error
    assert "train, val" in hint


def test_a_folder_and_a_zip_are_scored_as_they_are(histo, folder, tmp_path):
    made = report(histo, "--data", folder)
    assert (made["data"], made["n"], made["manifest_sha256"]) == ("my-patches", 24, None)
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        lines = ["id,label"]
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.name)
            lines.append(f"{path.stem},{int(path.parent.name == 'tumor')}")
        archive.writestr("some_labels.csv", "\n".join(lines))
    zipped = report(histo, "--data", tmp_path / "some.zip")
    assert zipped["metrics"] == pytest.approx(made["metrics"], nan_ok=True)
    packed = {row["id"]: float(row["prob"]) for row in scores(histo, report(histo, "--data", "synthetic"))}
    unpacked = [float(row["prob"]) for row in sorted(scores(histo, zipped), key=lambda row: row["id"])]
    assert unpacked == pytest.approx(list(packed.values())[:24], abs=1e-5)


def test_labels_may_come_from_a_table_of_its_own(histo, tmp_path):
    write_images(histo, tmp_path / "flat", 6)
    table = tmp_path / "elsewhere" / "truth.csv"
    table.parent.mkdir()
    table.write_text("id,label\n" + "".join(f"patch-{i:02},{i % 2}\n" for i in range(5)))
    made = report(histo, "--data", tmp_path / "flat", "--labels", table)
    assert (made["n"], made["positives"]) == (5, 2)
    assert made["skipped"] == {"without a label": 1}


def test_without_labels_there_is_nothing_to_measure(histo, tmp_path):
    write_images(histo, tmp_path / "flat", 3)
    error, hint = histo.fails(*EVAL, "--data", tmp_path / "flat")
    assert "has a label" in error
    assert "--labels" in hint


def test_unreadable_files_are_named_and_counted(histo, folder):
    (folder / "tumor" / "broken.png").write_bytes(b"no picture")
    result = histo(*EVAL, "--data", folder, "--json")
    assert json.loads(result.stdout)["skipped"] == {"unreadable": 1}
    assert "warning: tumor/broken.png" in result.stderr
    assert "warning: 1 unreadable" in result.stderr


def test_tta_is_another_measurement_beside_the_first(histo):
    plain, tta = report(histo), report(histo, "--tta")
    assert plain["scores"] != tta["scores"] == "first-synthetic-val-tta.csv"
    assert plain["metrics"]["log_loss"] != tta["metrics"]["log_loss"]
    assert (histo.root / "metrics" / plain["scores"]).exists()


def test_the_threshold_moves_the_confusion_alone(histo):
    half, all_tumour = report(histo), report(histo, "--threshold", 0)
    assert all_tumour["confusion"]["tn"] == all_tumour["confusion"]["fn"] == 0
    assert all_tumour["metrics"]["auc"] == half["metrics"]["auc"]
    assert all_tumour["threshold"] == 0
    assert "warning: npv cannot be computed" in histo(*EVAL, "--threshold", 0).stderr


def test_a_checkpoint_by_path_by_name_and_by_run(histo, tmp_path, monkeypatch):
    shutil.copy(histo.root / "runs" / "first" / "best.pt", tmp_path / "mine.pt")
    monkeypatch.setenv("HISTO_CKPT", str(tmp_path / "mine.pt"))
    found = [report(histo, *ckpt) for ckpt in ([], ["--ckpt", "best.pt"], ["--ckpt", "first"])]
    assert [made["checkpoint"] for made in found] == [
        str(tmp_path / "mine.pt"),
        str(histo.root / "checkpoints" / "best.pt"),
        str(histo.root / "runs" / "first" / "best.pt"),
    ]
    assert found[0]["metrics"] == found[1]["metrics"] == found[2]["metrics"]
    error, hint = histo.fails(*EVAL, "--ckpt", "none.pt")
    assert "there is no checkpoint 'none.pt'" in error
    assert "first" in hint


def test_a_workspace_may_move(histo, tmp_path):
    before = report(histo)["metrics"]
    histo.root.rename(tmp_path / "elsewhere")
    assert report(Histo(tmp_path / "elsewhere"))["metrics"] == before


def test_the_runs_own_split_is_known_by_its_hash_after_balancing_anew(histo):
    before = report(histo)
    histo("balance", "--n", 40, "--seed", 8)
    assert report(histo)["metrics"] == before["metrics"]
    shutil.rmtree(histo.root / "runs")
    error, hint = histo.fails(*EVAL)
    assert "manifest that run first was trained with is not in this workspace" in error
    assert "--data" in hint


@pytest.mark.parametrize("name", ["nothing", "./no/such/folder"])
def test_data_that_is_neither_path_nor_name(histo, name):
    error, hint = histo.fails(*EVAL, "--data", name)
    assert error == f"there is no {name}: no such path, and no data set of that name"
    assert hint == "data sets: synthetic"


def test_options_that_do_not_fit_the_data_are_refused(histo, folder, tmp_path):
    assert "--labels" in histo.fails(*EVAL, "--labels", tmp_path / "x.csv", code=2)[0]
    assert "--split val" in histo.fails(*EVAL, "--data", folder, "--split", "val", code=2)[0]


def test_a_data_set_packed_anew_is_not_mistaken_for_the_old_one(histo):
    histo("download", "--source", "synthetic", "--n", 160, "--seed", 5, "--force")
    error, hint = histo.fails(*EVAL)
    assert "another packing of synthetic" in error
    assert "histo balance" in hint


def test_patches_that_were_trained_on_are_counted_and_warned_of(histo):
    with (histo.root / "manifests" / "balanced.csv").open(newline="") as file:
        trained = sum(row["split"] == "train" for row in csv.DictReader(file))
    done = histo(*EVAL, "--json", "--data", "synthetic")
    assert json.loads(done.stdout)["trained_on"] == trained > 0
    assert f"{trained} of these patches were trained on" in done.stderr
    own = histo(*EVAL, "--json")
    assert json.loads(own.stdout)["trained_on"] == 0
    assert "trained on" not in own.stderr
