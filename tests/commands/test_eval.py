"""`histo eval` from the command line: which data, which checkpoint, and metrics that can be checked."""

import json
import os
import re
import shutil
import zipfile
from dataclasses import replace
from hashlib import sha256

import cv2
import numpy as np
import pytest
import torch
from scipy.special import logit
from sklearn.metrics import accuracy_score, roc_auc_score

import histocli
from histocli.compute import device
from histocli.models.checkpoint import load_checkpoint, save_checkpoint
from tests.cli import REPOSITORY, SMALL_TRAIN, TRAIN, Histo, read_rows, rename_slides, table, write_images, write_rows
from tests.data.tissue import crop, texture, write_patches

EVAL = ["eval", "--device", "cpu"]


def report(histo, *options):
    return json.loads(histo(*EVAL, "--json", *options).stdout)


def scores(histo, evaluation):
    return read_rows(histo.root / "metrics" / evaluation["scores"])


def digest(path):
    return sha256(path.read_bytes()).hexdigest()


@pytest.fixture
def folder(histo, tmp_path):
    """Return a folder named `my patches` with the first 12 patches in class folders."""
    labels = [row["label"] for row in read_rows(histo.root / "manifests" / "synthetic.csv")]
    for path, label in zip(write_images(histo, tmp_path / "flat", 24), labels, strict=False):
        target = tmp_path / "my patches" / ("tumor" if label == "1" else "normal")
        target.mkdir(parents=True, exist_ok=True)
        path.rename(target / path.name)
    return tmp_path / "my patches"


def test_val_and_valid_are_the_same_split_of_a_run(histo):
    val, valid = (report(histo, "--split", name) for name in ("val", "valid"))
    assert (val["n"], val["split"]) == (valid["n"], valid["split"])
    assert val["split"] == "val"


def test_the_default_is_the_validation_split_of_the_run(histo):
    result = histo(*EVAL, "--json")
    evaluation = json.loads(result.stdout)
    assert (evaluation["run"], evaluation["data"], evaluation["split"]) == ("first", "synthetic", "val")
    assert evaluation["splits"] == ["val"]
    path = histo.root / "metrics" / "first-synthetic-val.json"
    assert path.read_text() == result.stdout
    val = [row["id"] for row in read_rows(histo.root / "manifests" / "balanced.csv") if row["split"] == "val"]
    rows = scores(histo, evaluation)
    assert [row["id"] for row in rows] == val
    assert evaluation["n"] == len(val)
    assert evaluation["manifest_sha256"] == digest(histo.root / "manifests" / "balanced.csv")
    assert evaluation["checkpoint_sha256"] == digest(histo.root / "checkpoints" / "best.pt")
    assert (evaluation["n_of_training_slides"], evaluation["n_of_validation_slides"]) == (0, 0)
    assert "of slides that" not in result.stderr
    order = list(evaluation["metrics"])
    assert order[:2] == ["auc", "accuracy"]
    table = result.stderr
    titles = ["AUC", "accuracy", "sensitivity", "predicted as tumour"]
    assert sorted(titles, key=table.index) == titles


def test_the_metrics_agree_with_the_written_scores(histo):
    evaluation = report(histo, "--data", "synthetic")
    rows = scores(histo, evaluation)
    labels = np.array([int(row["label"]) for row in rows])
    probs = np.array([float(row["prob"]) for row in rows])
    assert evaluation["n"] == len(rows) == 320
    assert evaluation["split"] == "all"
    assert evaluation["metrics"]["auc"] == pytest.approx(roc_auc_score(labels, probs), abs=1e-3)
    assert evaluation["metrics"]["accuracy"] == pytest.approx(accuracy_score(labels, probs >= 0.5), abs=0.01)
    assert sum(evaluation["confusion"].values()) == 320


def test_eval_agrees_with_the_best_epoch_of_training(histo):
    history = (histo.root / "runs" / "first" / "history.jsonl").read_text().splitlines()
    best = max(map(json.loads, history), key=lambda row: (row["val_auc"], -row["val_loss"]))
    for metrics in (report(histo)["metrics"], report(histo, "--uncalibrated")["metrics"]):
        assert metrics["auc"] == pytest.approx(best["val_auc"])
        assert metrics["accuracy"] == pytest.approx(best["val_accuracy"])
    assert metrics["log_loss"] == pytest.approx(
        best["val_loss"], rel=1e-4
    )  # training reports the loss before calibration


def test_any_split_of_the_run_can_be_evaluated(histo):
    parts = {split: report(histo, "--split", split)["n"] for split in ("train", "val", "all")}
    assert parts["train"] + parts["val"] == parts["all"] == 64
    assert report(histo, "--data", "synthetic", "--split", "all")["n"] > 64
    counts = {path.name: json.loads(path.read_text())["n"] for path in (histo.root / "metrics").glob("*-all.json")}
    assert counts.pop("first-synthetic-own-all.json") == 64 < counts.pop("first-synthetic-all.json")
    error, hint = histo.fails(*EVAL, "--split", "test")
    assert "no labelled patches in its split 'test'" in error
    assert "train, val" in hint


def test_a_folder_and_a_zip_are_scored_without_packing(histo, folder, tmp_path):
    evaluation = report(histo, "--data", folder)
    assert (evaluation["data"], evaluation["n"], evaluation["manifest_sha256"]) == ("my-patches", 24, None)
    assert (evaluation["slides"], evaluation["hospitals"]) == ([], [])
    with zipfile.ZipFile(tmp_path / "some.zip", "w") as archive:
        lines = ["id,label"]
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.name)
            lines.append(f"{path.stem},{int(path.parent.name == 'tumor')}")
        archive.writestr("some_labels.csv", "\n".join(lines))
    zipped = report(histo, "--data", tmp_path / "some.zip")
    assert zipped["metrics"] == pytest.approx(evaluation["metrics"], nan_ok=True)
    packed = {row["id"]: float(row["prob"]) for row in scores(histo, report(histo, "--data", "synthetic"))}
    unpacked = [float(row["prob"]) for row in sorted(scores(histo, zipped), key=lambda row: row["id"])]
    assert unpacked == pytest.approx(list(packed.values())[:24], abs=1e-5)


def test_mpp_rescales_the_images_of_a_folder_and_what_was_done_to_sizes_is_counted(histo, folder, tmp_path):
    expected = [row["prob"] for row in scores(histo, report(histo, "--data", folder))]
    for path in folder.rglob("*.png"):
        target = tmp_path / "double" / path.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(target), np.repeat(np.repeat(cv2.imread(str(path)), 2, 0), 2, 1))
    rescaled = report(histo, "--data", tmp_path / "double", "--mpp", "0.486")
    assert [float(row["prob"]) for row in scores(histo, rescaled)] == pytest.approx(
        list(map(float, expected)), abs=1e-5
    )
    assert (rescaled["mpp"], rescaled["changed"], rescaled["skipped"]) == (0.486, {}, {})
    assert rescaled["scores"].endswith("-double-all-mpp-0.486.csv")
    cut = histo(*EVAL, "--data", tmp_path / "double", "--json")
    assert (json.loads(cut.stdout)["changed"], json.loads(cut.stdout)["skipped"]) == ({"cut to the centre": 24}, {})
    assert "warning: 24 images: cut to the centre" in cut.stderr
    assert "the images that were cut to the centre had 192x192 pixels" in cut.stderr
    histo("download", "--source", "folder", "--from", tmp_path / "double", "--mpp", "0.486", "--name", "rescaled")
    packed = {row["id"]: float(row["prob"]) for row in scores(histo, report(histo, "--data", "rescaled"))}
    assert packed == pytest.approx({row["id"]: float(row["prob"]) for row in scores(histo, rescaled)}, abs=1e-5)
    for line in (["eval", "--data", folder], ["download", "--source", "folder", "--from", folder, "--name", "x"]):
        assert "such as 0.25 for 40x" in histo.fails(*line, "--mpp", "40x", code=2)[1]
        assert "exclude" in histo.fails(*line, "--mpp", "0.5", "--resize", "scale", code=2)[0]


def test_labels_can_come_from_a_separate_table(histo, tmp_path):
    write_images(histo, tmp_path / "flat", 6)
    table = tmp_path / "elsewhere" / "truth.csv"
    table.parent.mkdir()
    table.write_text("id,label\n" + "".join(f"patch-{i:02},{i % 2}\n" for i in range(5)))
    evaluation = report(histo, "--data", tmp_path / "flat", "--labels", table)
    assert (evaluation["n"], evaluation["positives"]) == (5, 2)
    assert evaluation["skipped"] == {"without a label": 1}


def test_patches_without_a_slide_are_measured_and_not_called_skipped(histo, tmp_path):
    write_images(histo, tmp_path / "flat", 6)
    rows = [f"patch-{i:02},{i % 2},{'s' if i < 4 else ''}" for i in range(6)]
    (tmp_path / "flat" / "labels.csv").write_text("\n".join(["id,label,slide", *rows, ""]))
    result = histo(*EVAL, "--data", tmp_path / "flat", "--json")
    evaluation = json.loads(result.stdout)
    assert (evaluation["n"], evaluation["skipped"]) == (6, {})
    assert "the slide of 2 images is not known; those with a label are evaluated" in result.stderr


def test_data_without_labels_is_an_error(histo, tmp_path):
    write_images(histo, tmp_path / "flat", 3)
    error, hint = histo.fails(*EVAL, "--data", tmp_path / "flat")
    assert "has a label" in error
    assert "--labels" in hint


def test_unreadable_files_are_named_and_counted(histo, folder):
    (folder / "tumor" / "broken.png").write_bytes(b"no picture")
    result = histo(*EVAL, "--data", folder, "--json")
    assert json.loads(result.stdout)["skipped"] == {"unreadable": 1}
    assert "warning: tumor/broken.png" in result.stderr
    assert "warning: 1 patch skipped: unreadable" in result.stderr


def test_a_gpu_that_cannot_be_used_is_a_warning_also_with_quiet(histo, folder, tmp_path, monkeypatch):
    (tmp_path / "nvidia0").touch()
    monkeypatch.setattr(device, "DEVICE_FILES", tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setenv("HISTO_DEVICE", "auto")
    evaluate = ["eval", "--data", folder]
    for line in (
        evaluate,
        [*evaluate, "--compare", "first", "histonet-pcam"],
        ["predict", folder, "--out", tmp_path / "o.csv"],
    ):
        warnings = [row for row in histo("-q", *line).stderr.splitlines() if "this build of PyTorch has no CUDA" in row]
        assert len(warnings) == 1, line
        assert warnings[0].startswith("warning: the GPU cannot be used: ")
    with pytest.warns(UserWarning, match="^the GPU cannot be used: "):
        histocli.load("first", workspace=histo.root)
    with pytest.warns(UserWarning, match="^the GPU cannot be used: "):
        histocli.train(histo.root, name="on-cpu", arch="histonet-64", epochs=1, batch_size=16)


def test_tta_writes_another_metrics_file(histo):
    plain, tta = report(histo), report(histo, "--tta")
    assert plain["scores"] != tta["scores"] == "first-synthetic-val-tta.csv"
    assert plain["metrics"]["log_loss"] != tta["metrics"]["log_loss"]
    assert (histo.root / "metrics" / plain["scores"]).exists()


def test_the_threshold_changes_only_metrics_that_depend_on_it(histo):
    half, all_tumour = report(histo), report(histo, "--threshold", 0)
    assert all_tumour["confusion"]["tn"] == all_tumour["confusion"]["fn"] == 0
    assert all_tumour["metrics"]["auc"] == half["metrics"]["auc"]
    assert all_tumour["threshold"] == 0
    assert "warning: NPV cannot be computed" in histo(*EVAL, "--threshold", 0).stderr


def test_a_checkpoint_is_found_by_path_by_name_and_by_run(histo, tmp_path, monkeypatch):
    shutil.copy(histo.root / "runs" / "first" / "best.pt", tmp_path / "mine.pt")
    monkeypatch.setenv("HISTO_CKPT", str(tmp_path / "mine.pt"))
    found = [report(histo, *ckpt) for ckpt in ([], ["--ckpt", "best.pt"], ["--ckpt", "first"])]
    assert [evaluation["checkpoint"] for evaluation in found] == [
        str(tmp_path / "mine.pt"),
        str(histo.root / "checkpoints" / "best.pt"),
        str(histo.root / "runs" / "first" / "best.pt"),
    ]
    assert found[0]["metrics"] == found[1]["metrics"] == found[2]["metrics"]
    error, hint = histo.fails(*EVAL, "--ckpt", "none.pt")
    assert "there is no checkpoint 'none.pt'" in error
    assert "first" in hint


def test_a_checkpoint_that_does_not_exist_is_answered_with_one_that_does(histo, empty, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.pt").touch()
    names = {"FIRST": "first", "frist": "first", "bset.pt": "best.pt", "histonet-pcma": "histonet-pcam"}
    for name, meant in (names | {"./mnie.pt": "./mine.pt"}).items():
        assert f"did you mean --ckpt {meant}?" in histo.fails(*EVAL, "--ckpt", name)[1]
    assert histo.fails(*EVAL, "--ckpt", "runs/first")[1] == "of a run, write only its name: --ckpt first"
    assert empty.fails(*EVAL, "--data", tmp_path, "--ckpt", "bset.pt")[1] == "did you mean --ckpt best.pt?"


def test_a_workspace_can_be_moved(histo, tmp_path):
    before = report(histo)["metrics"]
    histo.root.rename(tmp_path / "elsewhere")
    assert report(Histo(tmp_path / "elsewhere"))["metrics"] == before


def test_the_manifest_of_a_run_is_found_by_its_hash_after_a_new_balance(histo):
    before = report(histo)
    histo("balance", "--n", 40, "--seed", 8)
    assert report(histo)["metrics"] == before["metrics"]
    (histo.root / "runs" / "first" / "manifest.csv").rename(histo.root / "manifests" / "kept.csv")
    shutil.rmtree(histo.root / "runs")
    assert report(histo)["metrics"] == before["metrics"]
    (histo.root / "manifests" / "kept.csv").rename(histo.root / "manifests" / "a copy.csv")  # no name of a subset
    error, hint = histo.fails(*EVAL)
    assert "manifest that run first was trained with is not in this workspace" in error
    assert "--data" in hint


def test_eval_without_data_in_a_workspace_without_runs_is_an_error(tmp_path):
    error, hint = Histo(tmp_path / "new").fails("eval", "--ckpt", "best.pt", "--device", "cpu")
    assert error.startswith("there is no run in this workspace")
    assert "histo train" in hint
    assert "--data NAME" in hint


def test_scores_at_another_threshold_are_in_the_same_file_as_an_evaluation_at_it(histo):
    report(histo)
    evaluated = report(histo, "--threshold", "0.30")
    printed = json.loads(histo("eval", "--scores", "first-synthetic-val.csv", "--threshold", "0.30", "--json").stdout)
    assert printed["metrics"] == evaluated["metrics"]
    assert [path.name for path in histo.root.glob("metrics/*-at-*.json")] == ["first-synthetic-val-at-0.3.json"]
    histo("eval", "--scores", "first-synthetic-val.json", "--threshold", "0.6")
    histo("eval", "--scores", "first-synthetic-val-at-0.6.json", "--threshold", "0.7")
    assert {path.name for path in histo.root.glob("metrics/*-at-*.json")} == {
        f"first-synthetic-val-at-{threshold}.json" for threshold in (0.3, 0.6, 0.7)
    }


@pytest.mark.parametrize("option", [("--slides", "x.csv"), ("--device", "cpu"), ("--raw",), ("--tta",)])
def test_options_that_scores_of_a_file_do_not_use_are_refused(histo, option):
    error, _ = histo.fails("eval", "--scores", "first-synthetic-val.csv", *option, code=2)
    assert error == f"{option[0]} cannot be combined with --scores"


@pytest.mark.parametrize("name", ["nothing", "./no/such/folder"])
def test_data_that_is_neither_a_path_nor_a_name_is_an_error(histo, name):
    error, hint = histo.fails(*EVAL, "--data", name)
    assert error == f"there is no file, folder or data set '{name}'"
    assert hint == "data sets: synthetic"


@pytest.mark.parametrize("name", ["balnaced", "sythetic"])
def test_a_misspelt_data_set_or_subset_is_answered_with_the_one_that_was_meant(histo, name):
    hint = histo.fails(*EVAL, "--data", name)[1]
    assert hint == f"did you mean {'balanced' if name == 'balnaced' else 'synthetic'}? (data sets: synthetic)"


def test_options_that_do_not_fit_the_data_are_refused(histo, folder, tmp_path):
    assert "--labels" in histo.fails(*EVAL, "--labels", tmp_path / "x.csv", code=2)[0]
    assert "--split val" in histo.fails(*EVAL, "--data", folder, "--split", "val", code=2)[0]


def test_other_patches_with_the_same_ids_are_not_used_as_the_old_ones(histo):
    histo("download", "--source", "synthetic", "--n", 320, "--seed", 5, "--force")
    assert "does not match the packed data set synthetic" in histo.fails(*EVAL)[0]
    assert "does not match the packed data set synthetic" in histo.fails(*TRAIN, "--epochs", 1)[0]
    done = histo(*EVAL, "--json", "--data", "synthetic")
    assert json.loads(done.stdout)["n_in_training"] is None
    assert "it is not known whether the network was trained on these patches" in done.stderr


def test_evaluations_of_folders_with_the_same_name_have_different_files(histo, tmp_path):
    evaluation = []
    (histo.root / "metrics" / "first-test-all.json").write_text("{")  # a damaged file is written again
    for i, place in enumerate(("a/test", "b/test", "site.1", "site.2", "a/test")):
        write_patches(tmp_path / place, {f"{k % 2}/{k}": crop(texture(10 * len(place) + k), 0, 0) for k in range(6)})
        evaluation.append(report(histo, "--data", tmp_path / place))
        assert (
            json.loads((histo.root / "metrics" / evaluation[-1]["scores"].replace("csv", "json")).read_text())
            == evaluation[i]
        )
    files = [record["scores"] for record in evaluation]
    assert (files[0], files[2:4]) == ("first-test-all.csv", ["first-site.1-all.csv", "first-site.2-all.csv"])
    assert len(set(files[:4])) == 4
    assert files[4] == files[0]
    usual, other = report(histo), report(histo, "--threshold", "0.9")
    assert other["scores"] == "first-synthetic-val-at-0.9.csv"
    card = (histo.root / "runs" / "first" / "model_card.md").read_text()
    for record in (usual, other):
        assert f"| {record['threshold']:.4f} |" in card
    assert sum(line.startswith(("| test, all", "| site.")) for line in card.splitlines()) == 4


def test_a_single_slide_gives_no_intervals(histo, tmp_path):
    write_patches(tmp_path / "mine", {f"{i % 2}/{i}": crop(texture(i), 0, 0) for i in range(8)})
    table = tmp_path / "slides.csv"
    table.write_text("id,wsi\n" + "".join(f"{i},only\n" for i in range(8)))
    histo("download", "--source", "folder", "--from", tmp_path / "mine", "--name", "mine", "--slides", table)
    assert "all patches are of one slide" in histo(*EVAL, "--data", "mine").stderr


def test_patches_used_in_training_are_counted_with_a_warning(histo):
    trained = sum(row["split"] == "train" for row in read_rows(histo.root / "manifests" / "balanced.csv"))
    done = histo(*EVAL, "--json", "--data", "synthetic")
    assert json.loads(done.stdout)["n_in_training"] == trained > 0
    assert f"the network was trained on {trained} of these patches" in done.stderr
    own = histo(*EVAL, "--json")
    assert json.loads(own.stdout)["n_in_training"] == 0
    assert "trained on" not in own.stderr


def test_with_few_slides_only_delong_gives_an_interval_and_the_reason_is_printed(histo):
    result = histo(*EVAL, "--json", "--data", "synthetic")
    evaluation = json.loads(result.stdout)
    with_tumour = evaluation["bootstrap"]["clusters_by_class"]["tumour"]
    reason = f"the bootstrap needs 10 slides, and only {with_tumour} have tumour patches"
    assert evaluation["bootstrap"]["undefined"]["auc"] == reason
    assert evaluation["bootstrap"]["undefined"]["accuracy"] == "the bootstrap needs 10 slides, and there are only 8"
    assert set(evaluation["intervals"].values()) == {None}
    low, high = evaluation["delong"]["interval"]
    assert re.search(rf"AUC +{evaluation['metrics']['auc']:.4f} +DeLong: {low:.4f} to {high:.4f}", result.stderr)
    assert "warning: no 95% interval by bootstrap of AUC, " in result.stderr
    assert f"{reason}; the interval of the AUC is DeLong's" in result.stderr
    card = (histo.root / "runs" / "first" / "model_card.md").read_text()
    assert f"{evaluation['metrics']['auc']:.4f} (DeLong: {low:.4f} to {high:.4f})" in card
    assert "- No interval by bootstrap of AUC, " in card


def test_every_metric_has_an_interval_by_slide_if_slides_are_known(histo):
    rename_slides(histo, 20)
    result = histo(*EVAL, "--json", "--data", "synthetic")
    evaluation = json.loads(result.stdout)
    slides = {row["slide"] for row in read_rows(histo.root / "manifests" / "synthetic.csv")}
    drawn = evaluation["bootstrap"]
    assert (drawn["by"], drawn["clusters"], drawn["replicates"], drawn["seed"]) == ("slide", len(slides), 2000, 0)
    assert evaluation["intervals"].keys() == evaluation["metrics"].keys()
    for name, ends in evaluation["intervals"].items():
        assert ends is None if name in drawn["undefined"] else ends[0] <= evaluation["metrics"][name] <= ends[1], name
    low, high = evaluation["intervals"]["auc"]
    assert re.search(rf"AUC +{evaluation['metrics']['auc']:.4f} +{low:.4f} to {high:.4f}", result.stderr)
    assert evaluation["delong"]["by"] == "slide"
    again = report(histo, "--data", "synthetic")
    assert again["intervals"] == evaluation["intervals"]


def test_without_slides_intervals_are_by_overlap_group_or_by_patch(histo, folder):
    assert report(histo, "--data", folder)["bootstrap"]["by"] == "patch"
    path = histo.root / "manifests" / "balanced.csv"
    rows = read_rows(path)
    for i, row in enumerate(rows):
        row |= {"slide": "", "hospital": "", "overlap_group": "" if i % 4 == 0 else i // 8}
    write_rows(path, rows)
    evaluation = report(histo, "--data", "balanced")
    assert evaluation["bootstrap"]["by"] == "overlap group"
    assert evaluation["bootstrap"]["clusters"] == 64 // 8 + 64 // 4  # groups, and the patches in none
    assert {row["overlap_group"] for row in scores(histo, evaluation)} == {"", *map(str, range(8))}


def test_with_some_slides_known_overlaps_group_the_other_patches(histo, tmp_path):
    """Twenty patches of two slides, and ten places without one, each in two patches that share pixels."""
    patches = {f"{i % 2}/slide {i % 4 // 2} {i}": crop(texture(i), 0, 0) for i in range(20)}
    patches |= {f"{i % 2}/place {i} {x}": crop(texture(50 + i), x, 0) for i in range(10) for x in (0, 30)}
    write_patches(tmp_path / "mine", patches)
    table = tmp_path / "slides.csv"
    table.write_text("id,wsi\n" + "".join(f"slide {i % 4 // 2} {i},s{i % 4 // 2}\n" for i in range(20)))
    histo("download", "--source", "folder", "--from", tmp_path / "mine", "--name", "mine", "--slides", table)
    histo("balance", "--data", "mine", "--n", "max", "--split", "overlap")
    result = histo(*EVAL, "--data", "mine", "--json")
    drawn = json.loads(result.stdout)["bootstrap"]
    assert (drawn["by"], drawn["clusters"]) == ("slide or overlap group", 2 + 10)
    assert "not all slides are known: intervals by slide or overlap group are too narrow" in result.stderr


def test_slides_and_hospitals_have_their_own_metrics(histo):
    path = histo.root / "manifests" / "synthetic.csv"
    rows = read_rows(path)
    for row in rows:
        row["hospital"] = "north" if row["slide"][-1] in "02468" else "south"
    write_rows(path, rows)
    result = histo(*EVAL, "--json", "--data", "synthetic")
    evaluation = json.loads(result.stdout)
    scored = scores(histo, evaluation)
    for key in ("slide", "hospital"):
        groups = evaluation[f"{key}s"]
        assert [row[key] for row in groups] == sorted({row[key] for row in scored})
        for group in groups:
            own = [row for row in scored if row[key] == group[key]]
            right = [int(row["label"]) == (float(row["prob"]) >= evaluation["threshold"]) for row in own]
            assert (group["n"], group["accuracy"]) == (len(own), pytest.approx(np.mean(right)))
            assert group["positives"] == sum(int(row["label"]) for row in own)
    worst = min(evaluation["slides"], key=lambda row: (row["accuracy"], -row["n"]))
    shown = result.stderr[result.stderr.index("lowest accuracy") :]
    assert shown.index(worst["slide"]) < shown.index("each hospital") < shown.index("north") < shown.index("south")


def test_calibration_is_applied_and_reported_and_raw_turns_it_off(histo):
    best = load_checkpoint(histo.root / "checkpoints" / "best.pt")
    save_checkpoint(replace(best, temperature=2.5), histo.root / "checkpoints" / "best.pt")
    result = histo(*EVAL, "--json")
    evaluation, raw = json.loads(result.stdout), report(histo, "--uncalibrated")
    assert (evaluation["temperature"], evaluation["is_calibrated"], raw["is_calibrated"]) == (2.5, True, False)
    assert raw["scores"] == evaluation["scores"].replace(".csv", "-uncalibrated.csv")
    calibrated, uncalibrated = ([logit(float(row["prob"])) for row in scores(histo, m)] for m in (evaluation, raw))
    assert 2.5 * np.array(calibrated) == pytest.approx(uncalibrated, abs=1e-4)
    for name in ("ece", "brier", "log_loss"):
        assert evaluation["before_calibration"][name] == pytest.approx(raw["metrics"][name])
    assert evaluation["metrics"]["auc"] == raw["metrics"]["auc"]
    assert "calibration with temperature 2.500" in result.stderr
    before, after = (f"{record['metrics']['log_loss']:.4f}" for record in (raw, evaluation))
    assert re.search(rf"^log loss +{before} +{after}$", result.stderr, re.M)
    assert report(histo, "--raw") == raw  # the former name of the option


def test_an_ensemble_averages_the_probabilities(two_runs, tmp_path):
    alone = [report(two_runs, "--ckpt", run) for run in ("first", "second")]
    both = report(two_runs, "--ckpt", "first", "--ckpt", "second")
    first, second, mean = (
        [float(row["prob"]) for row in scores(two_runs, evaluation)] for evaluation in (*alone, both)
    )
    assert mean == pytest.approx((np.array(first) + second) / 2, abs=1e-7)
    assert both["run"] == "first-and-second"
    assert [member["checkpoint_sha256"] for member in both["ensemble"]] == [
        evaluation["checkpoint_sha256"] for evaluation in alone
    ]
    assert (two_runs.root / "metrics" / "first-and-second-synthetic-val.json").is_file()
    error, _ = two_runs.fails(*EVAL, "--ckpt", "first", "--ckpt", two_runs.root / "runs" / "first" / "best.pt", code=2)
    assert "is given twice" in error


def test_a_variable_may_name_an_ensemble_and_its_validation_patches_must_be_the_same(histo, monkeypatch):
    histo("balance", "--n", 40, "--seed", 8)
    histo(*SMALL_TRAIN, "--epochs", 1, "--name", "second")
    monkeypatch.setenv("HISTO_CKPT", f"first{os.pathsep}second")
    assert report(histo, "--data", "synthetic")["run"] == "first-and-second"
    error, hint = histo.fails(*EVAL)
    assert "were validated on different patches" in error
    assert "--data" in hint


def test_the_stored_threshold_is_the_default_and_rules_use_the_validation_patches(histo):
    histo(*SMALL_TRAIN, "--epochs", 1, "--name", "second", "--threshold", "sensitivity=0.9")
    evaluation = report(histo, "--ckpt", "second")
    assert evaluation["threshold"] == load_checkpoint(histo.root / "runs" / "second" / "best.pt").threshold != 0.5
    assert evaluation["metrics"]["sensitivity"] >= 0.9
    assert evaluation["threshold_rule"] == "stored"
    rule = report(histo, "--ckpt", "second", "--threshold", "sensitivity=0.9", "--data", "synthetic")
    assert rule["threshold"] == pytest.approx(evaluation["threshold"], abs=1e-6)
    assert report(histo, "--ckpt", "second", "--threshold", 0.5)["threshold"] == 0.5
    raw = report(histo, "--ckpt", "second", "--uncalibrated")
    assert raw["confusion"] == evaluation["confusion"]
    error, hint = histo.fails(*EVAL, "--threshold", "1.5", code=2)
    assert "--threshold 1.5" in error
    assert "youden" in hint


def test_a_checkpoint_without_validation_scores_is_evaluated_without_calibration(histo):
    """A checkpoint without temperature, validation scores and appearance is not calibrated and has threshold 0.5."""
    path = histo.root / "checkpoints" / "best.pt"
    content = torch.load(path, weights_only=True)
    for name in ("temperature", "validation", "appearance"):
        del content[name]
    torch.save(content, path)
    evaluation = report(histo)
    assert evaluation["temperature"] == 1
    assert evaluation["metrics"] == report(histo, "--uncalibrated")["metrics"]
    error, hint = histo.fails(*EVAL, "--threshold", "youden")
    assert "has no validation scores" in error
    assert "number" in hint
    shutil.copy(path, histo.root / "runs" / "first" / "best.pt")
    error, hint = histo.fails("train", "--resume", "--name", "first")  # it is finished; the model card needs the scores
    assert error.endswith("has no scores of the validation patches")
    assert hint == "train again"


def test_two_checkpoints_are_compared_on_the_same_patches(two_runs):
    rename_slides(two_runs, 20)
    result = two_runs(*EVAL, "--compare", "first", "second", "--data", "synthetic", "--json")
    evaluation = json.loads(result.stdout)
    first, second = (report(two_runs, "--ckpt", run, "--data", "synthetic") for run in ("first", "second"))
    scored = first["metrics"]["auc"], second["metrics"]["auc"]
    assert (evaluation["a"]["auc"], evaluation["b"]["auc"]) == pytest.approx(
        scored, abs=1e-4
    )  # duplicates tie in the CSV's digits
    assert evaluation["difference"] == pytest.approx(first["metrics"]["auc"] - second["metrics"]["auc"], abs=1e-4)
    assert evaluation["n"] == 320
    for found in (evaluation["bootstrap"], evaluation["delong"]):
        assert found["by"] == "slide"
        assert found["interval"][0] <= evaluation["difference"] <= found["interval"][1]
        assert 0 < found["p"] <= 1
    assert f"difference {evaluation['difference']:+.4f}" in result.stderr
    files = [f"{run}-synthetic-all.json" for run in ("first", "second")]
    assert json.loads(two_runs("eval", "--compare", *files, "--json").stdout) == evaluation
    assert (
        json.loads((two_runs.root / "metrics" / "first-synthetic-all-vs-second-synthetic-all.json").read_text())
        == evaluation
    )


def test_a_comparison_reports_patches_and_slides_used_in_training(two_runs):
    result = two_runs(*EVAL, "--compare", "first", "second", "--data", "synthetic", "--json")
    evaluation = json.loads((two_runs.root / "metrics" / "first-synthetic-all.json").read_text())
    trained, others = evaluation["n_in_training"], evaluation["n_of_training_slides"]
    assert json.loads(result.stdout)["a"]["n_in_training"] == trained > 0
    shown = " ".join(result.stderr.split())
    assert f"warning: first and second: the network was trained on {trained} of these patches" in shown
    assert f"first and second: {others} more patches are of slides that the network was trained on" in shown
    used, packed = (
        table((two_runs.root / "manifests" / name).read_text()) for name in ("balanced.csv", "synthetic.csv")
    )
    slides = {row["slide"] for row in used if row["split"] == "train"}
    pixels = {row["sha1"] for row in used if row["split"] == "train"}
    assert others == sum(row["slide"] in slides and row["sha1"] not in pixels for row in packed) > 0
    card = (two_runs.root / "runs" / "first" / "model_card.md").read_text()
    assert f"| {trained} | {others} |" in card
    assert f"- synthetic, all: {others} more patches are of slides" in card


def test_the_same_evaluation_under_two_names_is_refused(histo):
    error, hint = histo.fails(*EVAL, "--compare", "first", "best.pt", code=2)
    assert "first and best.pt are the same evaluation" in error
    assert "two different ones" in hint


def test_the_metrics_of_another_checkpoint_do_not_replace_those_of_the_best(histo):
    folder = histo.root / "runs" / "first"
    content = torch.load(folder / "best.pt", weights_only=True)
    content["epoch"] = 7
    torch.save(content, folder / "other.pt")
    best = report(histo, "--ckpt", "first", "--data", "synthetic")
    card = (folder / "model_card.md").read_text()
    other = report(histo, "--ckpt", folder / "other.pt", "--data", "synthetic")
    assert other["epoch"] == 7
    assert other["scores"] != best["scores"]
    assert json.loads((histo.root / "metrics" / "first-synthetic-all.json").read_text()) == best
    assert (folder / "model_card.md").read_text() == card


def test_patches_used_in_training_are_recognised_by_their_pixels(histo, tmp_path):
    """They are recognised in a folder and in another data set, unless all copies of the manifest have changed."""
    rows = read_rows(histo.root / "manifests" / "balanced.csv")
    pixels = np.load(histo.root / "data" / "synthetic" / "patches.npy")
    chosen = [row for row in rows if row["split"] == "train"][:9] + [row for row in rows if row["split"] == "val"][:3]
    for row in chosen:
        target = tmp_path / "again" / row["label"] / f"{row['id']}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(os.fspath(target), pixels[int(row["index"])][:, :, ::-1])
    result = histo(*EVAL, "--data", tmp_path / "again", "--json")
    evaluation = json.loads(result.stdout)
    assert (evaluation["n_in_training"], evaluation["n_in_validation"]) == (9, 3)
    assert "the network was trained on 9 of these patches" in result.stderr
    assert "3 of these patches were used to choose epoch, temperature and threshold" in result.stderr
    elsewhere = tmp_path / "elsewhere.pt"
    checkpoint = load_checkpoint(histo.root / "runs" / "first" / "best.pt")
    save_checkpoint(replace(checkpoint, manifest_sha256="0" * 64), elsewhere)
    result = histo(*EVAL, "--data", tmp_path / "again", "--json", "--ckpt", "first", "--ckpt", elsewhere)
    evaluation = json.loads(result.stdout)
    assert (evaluation["n_in_training"], evaluation["n_unknown_checkpoints"]) == (9, 1)
    shown = " ".join(result.stderr.split())
    assert "warning: the networks were trained on at least 9 of these patches: the metrics are too good" in shown
    assert "it is not known for 1 of the 2 checkpoints" in shown
    path = histo.root / "data" / "synthetic" / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"source": "folder"}))  # synthetic slides are of no file
    slides = "".join(f"{row['id']},camelyon16_train_{chosen[0]['slide']}\n" for row in chosen)
    (tmp_path / "slides.csv").write_text(f"id,wsi\n{slides}")
    evaluation = report(histo, "--data", tmp_path / "again", "--slides", tmp_path / "slides.csv")
    assert (evaluation["n_in_training"], evaluation["n_of_training_slides"]) == (9, 3)
    histo("download", "--source", "folder", "--from", tmp_path / "again", "--name", "again")
    assert report(histo, "--data", "again")["n_in_training"] == 9
    (histo.root / "runs" / "first" / "manifest.csv").write_text("id,label,split\n")
    assert report(histo, "--data", "again")["n_in_training"] == 9  # balanced.csv is the same
    (histo.root / "manifests" / "balanced.csv").unlink()
    result = histo(*EVAL, "--data", tmp_path / "again", "--json")
    assert json.loads(result.stdout)["n_in_training"] is None
    assert "it is not known whether the network was trained on these patches" in result.stderr


def test_a_network_does_not_differ_from_itself(histo):
    report(histo)
    result = histo("eval", "--compare", *["first-synthetic-val.json"] * 2, "--json")
    evaluation = json.loads(result.stdout)
    assert (evaluation["difference"], evaluation["bootstrap"]["interval"], evaluation["delong"]) == (0, None, None)
    assert evaluation["bootstrap"]["p"] == 1
    assert evaluation["bootstrap"]["undefined"]
    assert f"no 95% interval by bootstrap: {evaluation['bootstrap']['undefined']}" in " ".join(result.stderr.split())


def test_comparisons_of_files_in_several_folders_do_not_replace_each_other(histo, tmp_path):
    report(histo)
    metrics = histo.root / "metrics"
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        for suffix in ("csv", "json"):
            shutil.copy(metrics / f"first-synthetic-val.{suffix}", tmp_path / place)
    paths = [tmp_path / place / "first-synthetic-val.json" for place in ("a", "b")]
    for first, second in (paths, paths[::-1], [metrics / "first-synthetic-val.json"] * 2):
        histo("eval", "--compare", first, second)
    written = {path.name for path in metrics.glob("*-vs-*.json")}
    assert len(written) == 3
    assert "first-synthetic-val-vs-first-synthetic-val.json" in written


def test_evaluations_of_other_patches_cannot_be_compared(histo, folder, tmp_path):
    report(histo)
    report(histo, "--data", folder)
    files = ["first-synthetic-val.json", "first-my-patches-all.json"]
    error, hint = histo.fails("eval", "--compare", *files)
    assert "have no scored patch in common" in error
    assert "--data" in hint
    assert "cannot be combined with --compare" in histo.fails("eval", "--compare", *files, "--ckpt", "first", code=2)[0]
    assert "--tta has no meaning" in histo.fails("eval", "--compare", *files, "--tta", code=2)[0]
    (tmp_path / "other.json").write_text("[]")
    assert (
        "is not an evaluation of histo eval" in histo.fails("eval", "--compare", tmp_path / "other.json", files[0])[0]
    )


def test_other_patches_with_the_same_names_cannot_be_compared(histo, tmp_path):
    for place, first in (("a", 0), ("b", 50)):
        write_patches(tmp_path / place, {f"{i % 2}/{i}": crop(texture(first + i), 0, 0) for i in range(8)})
    first, second = (report(histo, "--data", tmp_path / place) for place in ("a", "b"))
    names = [evaluation["scores"].replace("csv", "json") for evaluation in (first, second)]
    assert "8 ids belong to other pixels" in histo.fails("eval", "--compare", *names)[0]


def test_different_scores_near_1_are_different_in_the_file(histo):
    checkpoint = load_checkpoint(histo.root / "runs" / "first" / "best.pt")
    last = [*checkpoint.model][-2:]  # weights and biases of the last layer
    sure = {name: tensor * (1e4 if name in last else 1) for name, tensor in checkpoint.model.items()}
    path = histo.root / "sure.pt"
    save_checkpoint(replace(checkpoint, model=sure), path)
    evaluation = report(histo, "--ckpt", path)
    labels, probs = zip(*((int(row["label"]), float(row["prob"])) for row in scores(histo, evaluation)), strict=True)
    assert max(probs) > 1 - 1e-9
    assert roc_auc_score(labels, probs) == pytest.approx(evaluation["metrics"]["auc"], abs=1e-12)


def test_few_slides_with_tumour_give_a_warning(histo, tmp_path):
    patches = {f"{int(i % 15 < 3)}/{i}": crop(texture(i), 0, 0) for i in range(45)}
    write_patches(tmp_path / "mine", patches)
    table = tmp_path / "slides.csv"
    table.write_text("id,wsi\n" + "".join(f"{i},slide {i % 15}\n" for i in range(45)))
    histo("download", "--source", "folder", "--from", tmp_path / "mine", "--name", "mine", "--slides", table)
    result = histo(*EVAL, "--data", "mine", "--json")
    assert json.loads(result.stdout)["bootstrap"]["clusters_by_class"] == {"normal": 12, "tumour": 3}
    assert "interval by bootstrap of AUC, balanced accuracy, sensitivity, " in result.stderr
    assert "the bootstrap needs 10 slides, and only 3 have tumour patches; the interval of the AUC is" in result.stderr
    assert json.loads(result.stdout)["intervals"]["brier"] is not None
    assert "only 15" not in result.stderr


def test_the_model_card_shows_the_evaluations(histo):
    card = histo.root / "runs" / "first" / "model_card.md"
    assert "None yet" in card.read_text()
    rename_slides(histo, 20)
    evaluation = report(histo, "--data", "synthetic", "--tta")
    text = card.read_text()
    assert "None yet" not in text
    low, high = evaluation["intervals"]["auc"]
    line = next(line for line in text.splitlines() if line.startswith("| synthetic, all, 8 views"))
    assert f"{evaluation['metrics']['auc']:.4f} ({low:.4f} to {high:.4f})" in line
    assert f"| {evaluation['n_in_training']} |" in line
    report(histo)
    assert text.splitlines()[:20] == card.read_text().splitlines()[:20]
    assert card.read_text().count("## Evaluations") == 1


def test_one_split_of_a_folder_is_measured(histo, folder, tmp_path):
    """The images of `folder`, most in val and the rest in train."""
    for at, path in enumerate(sorted(folder.rglob("*.png"))):
        target = tmp_path / "split" / ("train" if at % 4 == 0 else "val") / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        path.rename(target)
    shutil.copyfile(target, tmp_path / "split" / "train" / "unlabelled.png")
    result = histo(*EVAL, "--data", tmp_path / "split", "--json")
    evaluation = json.loads(result.stdout)
    assert (evaluation["n"], evaluation["split"], evaluation["skipped"]) == (24, "all", {"without a label": 1})
    assert "splits by the names of folders: train (7), valid (18)" in result.stderr
    for name in ("val", "valid"):
        evaluation = report(histo, "--data", tmp_path / "split", "--split", name)
        assert (evaluation["n"], evaluation["split"], evaluation["skipped"]) == (18, "valid", {})
    error, hint = histo.fails(*EVAL, "--data", tmp_path / "split", "--split", "test", code=2)
    assert "has no folder of this split" in error
    assert hint == "its splits: train, valid"
    histo("download", "--source", "folder", "--from", tmp_path / "split", "--name", "packed")
    for name in ("val", "valid"):
        evaluation = report(histo, "--data", "packed", "--split", name)
        assert (evaluation["n"], evaluation["split"]) == (18, "valid")
    error, hint = histo.fails(*EVAL, "--data", "packed", "--split", "test")
    assert error == "packed has no labelled patches in its split 'test'"
    assert hint == "its splits: train, valid"


def test_classes_and_slides_of_a_folder_are_options_as_in_download(histo, folder):
    for old, new in (("normal", "left"), ("tumor", "right")):
        (folder / old).rename(folder / new)
    error, _ = histo.fails(*EVAL, "--data", folder)
    assert "has a label" in error
    line = ["--classes", "negative=left", "--classes", "positive=right", "--slide-pattern", r"patch-(\d)"]
    evaluation = report(histo, "--data", folder, *line)
    assert (evaluation["n"], len(evaluation["slides"])) == (24, 3)
    assert "--classes is for a folder" in histo.fails(*EVAL, *line[:4], code=2)[0]
    both = ("--slides", "slides.csv", "--slide-pattern", r"patch-(\d)")
    assert "cannot be combined" in histo.fails(*EVAL, "--data", "missing", *both, code=2)[0]


def test_a_folder_with_the_name_of_packed_data_is_named(histo, folder, monkeypatch):
    folder = folder.rename(folder.with_name("mine"))
    histo("download", "--source", "folder", "--from", folder, "--name", "mine")
    monkeypatch.chdir(folder.parent)
    shown = " ".join(histo(*EVAL, "--data", folder.name).stderr.split())
    assert f"warning: --data {folder.name} means the path {folder}; the workspace also has a data set" in shown
    assert "means the path" not in histo(*EVAL, "--data", f"./{folder.name}").stderr


def test_prevalence_is_written_to_a_report_of_its_own(histo):
    usual, result = report(histo), histo(*EVAL, "--json", "--prevalence", 0.1)
    rare = json.loads(result.stdout)
    assert (usual["assumed_prevalence"], rare["assumed_prevalence"]) == (None, 0.1)
    assert rare["scores"] == usual["scores"].replace(".csv", "-prevalence-0.1.csv")
    assert rare["metrics"]["auc"] == usual["metrics"]["auc"]
    assert rare["metrics"]["accuracy"] == usual["metrics"]["accuracy"]
    assert rare["metrics"]["ece"] != usual["metrics"]["ece"]
    sensitivity, specificity = (rare["metrics"][name] for name in ("sensitivity", "specificity"))
    expected = sensitivity * 0.1 / (sensitivity * 0.1 + (1 - specificity) * 0.9)
    assert rare["predictive_values"]["ppv"] == pytest.approx(expected)
    assert usual["predictive_values"] == {}
    shown = " ".join(result.stderr.split())
    assert re.search(rf"PPV at prevalence 0\.1 +.? ?{expected:.4f}", shown)
    assert "warning: the probabilities are for data of which 10% is tumour (--prevalence), but of these" in shown


def test_a_folder_is_compared_with_the_appearance_of_the_training_patches(histo, tmp_path):
    for path in write_images(histo, tmp_path / "images" / "tumor", 60):
        image = cv2.imread(str(path))
        path.write_bytes(cv2.imencode(".png", cv2.GaussianBlur(image, (0, 0), 2))[1].tobytes())
    result = histo(*EVAL, "--data", tmp_path / "images", "--json")
    made = json.loads(result.stdout)["likeness"]
    assert (made["measured"], made["focus"] < -60) == (60, True)
    assert "the patches look unlike the training patches" in result.stderr
    assert report(histo)["likeness"] is None


def test_the_sample_that_is_compared_is_of_the_labelled_patches_of_the_split(histo, tmp_path):
    """With the stride for all 640 images, only 30 patches were measured, and too few give no warning."""
    folder = tmp_path / "images"
    write_images(histo, folder / "test" / "tumor", 60)
    (image,) = write_images(histo, folder / "train" / "normal", 1)
    for i in range(579):
        (folder / "train" / "normal" / f"{i}.png").hardlink_to(image)
    evaluation = report(histo, "--data", folder, "--split", "test")
    assert (evaluation["n"], evaluation["likeness"]["measured"]) == (60, 60)


def test_the_code_that_fits_another_temperature_runs_and_fits_the_one_of_the_run(histo, tmp_path, monkeypatch):
    """On the run's own validation patches, it must find the temperature in the checkpoint."""
    page = (REPOSITORY / "docs" / "evaluation.md").read_text(encoding="utf-8")
    code = page.partition("```python\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    histo(*EVAL, "--uncalibrated")
    histo("predict", "synthetic", "--ckpt", "first", "--uncalibrated", "--out", "scores.csv")
    histo("predict", "synthetic", "--ckpt", "first", "--out", "expected.csv")
    made = histo.root / "metrics" / "first-synthetic-val-uncalibrated.csv"
    used = code.replace("ws/metrics/histonet-1-other-hospital-all-uncalibrated.csv", str(made))
    assert used != code
    found = {}
    exec(used, found)
    path = histo.root / "checkpoints" / "best.pt"
    assert found["temperature"] == pytest.approx(load_checkpoint(path).temperature, rel=0.01)
    calibrated, expected = (
        np.loadtxt(name, delimiter=",", skiprows=1, usecols=1) for name in ("calibrated.csv", "expected.csv")
    )
    np.testing.assert_allclose(calibrated, expected, atol=2e-3)
