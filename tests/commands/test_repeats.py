"""`histo train --folds` and `--seeds`: runs with the same options, their mean and standard deviation."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.special import expit, logit

from histocli.commands import train_repeats as commands
from histocli.config import TrainConfig
from histocli.metrics.calibration import HIGHEST, fit_temperature
from histocli.models import checkpoint as checkpoints
from histocli.models.checkpoint import load_checkpoint, save_checkpoint
from histocli.signals import Stopped
from histocli.training.provenance import find_unused_names
from histocli.training.repeats import plan_repeats
from histocli.workspace import Workspace
from tests.cli import QUICK, SMALL_TRAIN, TRAIN, Histo, read_rows, template
from tests.compute.test_distributed import run_without_torchrun


def load_run_checkpoint(histo, run, file="last.pt"):
    return load_checkpoint(histo.root / "runs" / run / file)


def same_weights(first, second):
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_each_seed_is_a_run_and_the_report_has_mean_and_spread(histo):
    result = histo(*QUICK, "--seeds", 2, "--seed", 4, "--name", "twice", "--json")
    summary = json.loads(result.stdout)
    assert [run["run"] for run in summary["runs"]] == ["twice-seed4", "twice-seed5"]
    for run in summary["runs"]:
        best = load_run_checkpoint(histo, run["run"], "best.pt")
        assert run["metrics"]["auc"] == pytest.approx(best.metrics["val_auc"])
        assert best.config["seed"] == run["number"]
    values = [run["metrics"]["log_loss"] for run in summary["runs"]]
    assert summary["mean"]["log_loss"] == pytest.approx(sum(values) / 2)
    assert summary["standard_deviation"]["log_loss"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
    assert json.loads((histo.root / "metrics" / "twice-seeds.json").read_text()) == summary
    assert "standard deviation" in result.stderr
    error, _ = histo.fails(*QUICK, "--seeds", 2, "--seed", 4, "--name", "twice")
    assert error == "there is a run 'twice-seed4' already"


def test_seeds_that_would_be_too_large_are_refused_before_training(histo):
    error, hint = histo.fails(*TRAIN, "--seeds", 2, "--seed", 2**32 - 1, code=2)
    assert error == "--seed 4294967295 with --seeds 2: the last seed would be 4294967296"
    assert hint == "the largest seed is 4294967295"


@pytest.fixture(scope="module")
def trained_folds(tmp_path_factory):
    """Return the folder of a workspace with three folds of one epoch, `cv`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        histo = Histo(shutil.copytree(template(), tmp_path_factory.mktemp("folds") / "workspace"))
        histo(*QUICK, "--folds", 3, "--name", "cv", "--lr", 0.002)
        return histo.root


@pytest.fixture
def folds(one_thread, trained_folds, tmp_path):
    """Return `histo` for a copy of the workspace with the folds."""
    return Histo(shutil.copytree(trained_folds, tmp_path / "folds"))


def test_folds_validate_every_patch_once_and_do_not_divide_slides(folds):
    rows = {row["id"]: row["slide"] for row in read_rows(folds.root / "manifests" / "balanced.csv")}
    held = []
    for fold in (1, 2, 3):
        own = read_rows(folds.root / "runs" / f"cv-fold{fold}" / "manifest.csv")
        assert {row["id"] for row in own} == rows.keys()
        parts = [{row["slide"] for row in own if row["split"] == part} for part in ("train", "val")]
        assert parts[0].isdisjoint(parts[1])
        held += [row["id"] for row in own if row["split"] == "val"]
    assert sorted(held) == sorted(rows)
    assert len(json.loads((folds.root / "metrics" / "cv-folds.json").read_text())["runs"]) == 3


def test_resume_writes_the_model_card_that_a_killed_process_did_not_write(folds):
    """A fold with all its epochs was left as it was."""
    card = folds.root / "runs" / "cv-fold3" / "model_card.md"
    expected = card.read_text()
    card.unlink()
    folds("train", "--folds", 3, "--name", "cv", "--resume")
    assert card.read_text() == expected


@pytest.mark.usefixtures("names_only")
def test_a_new_run_does_not_get_the_common_name_of_folds(folds):
    runs = folds.root / "runs"
    (runs / "cv-fold1").rename(runs / "cv-1-fold1")
    assert next(find_unused_names(Workspace(folds.root), "cv")) == "cv-2"


def test_folds_write_out_of_fold_scores_that_eval_and_plot_read(folds):
    path = folds.root / "metrics" / "cv-synthetic-out-of-fold.json"
    summary = json.loads(path.read_text())
    rows = {row["id"]: row for row in read_rows(path.with_suffix(".csv"))}
    subset = read_rows(folds.root / "manifests" / "balanced.csv")
    assert {row["id"]: row["label"] for row in subset} == {key: row["label"] for key, row in rows.items()}
    assert (summary["run"], summary["split"], summary["n"]) == ("cv", "out-of-fold", 64)
    assert summary["n_of_training_slides"] == 0  # the folds are by slide
    for fold in (1, 2, 3):
        folds("eval", "--ckpt", f"cv-fold{fold}", "--uncalibrated", "--device", "cpu")
        scored = read_rows(folds.root / "metrics" / f"cv-fold{fold}-synthetic-val-uncalibrated.csv")
        own = [rows[row["id"]] for row in scored]
        assert {row["fold"] for row in own} == {f"cv-fold{fold}"}
        assert [row["sha1"] for row in own] == [row["sha1"] for row in scored]
        odds = [[logit(float(row["prob"])) for row in table] for table in (own, scored)]
        assert np.corrcoef(odds)[0, 1] == pytest.approx(1, abs=1e-3)  # only the temperature differs
    drawn = folds("plot", "--run", "cv").stderr
    for kind in ("roc", "confusion", "calibration", "errors"):
        assert f"cv-synthetic-out-of-fold-{kind}.png" in drawn
    shown = folds("eval", "--scores", path.with_suffix(".csv").name, "--json")
    assert json.loads(shown.stdout) == summary
    assert "cv on synthetic, out-of-fold: 64 patches, 32 tumour" in shown.stderr
    moved = json.loads(folds("eval", "--scores", path.name, "--threshold", 0, "--json").stdout)
    assert (moved["metrics"]["sensitivity"], moved["metrics"]["specificity"]) == (1, 0)
    assert moved["metrics"]["auc"] == pytest.approx(summary["metrics"]["auc"])
    assert json.loads(path.read_text()) == summary
    assert "cannot be chosen" in folds.fails("eval", "--scores", path.name, "--threshold", "youden", code=2)[0]
    assert "cannot be combined" in folds.fails("eval", "--scores", path.name, "--ckpt", "first", code=2)[0]
    folds("eval", "--data", "balanced", "--ckpt", "first", "--device", "cpu")
    compared = folds("eval", "--compare", path.name, "first-balanced-all.json", "--json")
    assert json.loads(compared.stdout)["n"] == 64


def test_each_fold_is_calibrated_on_the_other_folds(folds):
    rng = np.random.default_rng(0)
    scores = {}
    for fold, scale in ((1, 4), (2, 8), (3, 16)):  # one is more confident than another
        name = f"cv-fold{fold}"
        best = load_run_checkpoint(folds, name, "best.pt")
        labels = best.validation["labels"].numpy().astype(int)
        odds = (2 * labels - 1) * rng.uniform(0.5 * scale, scale, len(labels))
        odds[:2] *= -1  # two errors, so that no temperature is at its limit
        best.validation["log_odds"] = torch.tensor(odds, dtype=torch.float32)
        save_checkpoint(best, folds.root / "runs" / name / "best.pt")
        scores[name] = labels, odds
    folds("train", "--folds", 3, "--name", "cv", "--resume", "--device", "cpu")
    rows = read_rows(folds.root / "metrics" / "cv-synthetic-out-of-fold.csv")
    temperatures = []
    for name, (labels, odds) in scores.items():
        others = zip(*(scores[other] for other in scores if other != name), strict=True)
        temperatures.append(fit_temperature(*map(np.concatenate, others)))
        own = [row for row in rows if row["fold"] == name]
        assert [int(row["label"]) for row in own] == labels.tolist()
        expected = expit(odds / max(1, temperatures[-1]))
        assert [float(row["prob"]) for row in own] == pytest.approx(expected, abs=1e-6)
    assert all(1 < temperature < HIGHEST for temperature in temperatures)


def test_folds_of_a_subset_by_hospital_hold_out_hospitals(histo):
    histo("balance", "--n", 40, "--group", "hospital")
    shown = histo(*SMALL_TRAIN, "--epochs", 1, "--folds", 2, "--name", "cv").stderr
    path = histo.root / "metrics" / "cv-folds.json"
    assert f"done: wrote {path}" in shown
    report = json.loads(path.read_text())
    sides = []
    for fold in (1, 2):
        own = read_rows(histo.root / "runs" / f"cv-fold{fold}" / "manifest.csv")
        train, val = ({row["hospital"] for row in own if row["split"] == part} for part in ("train", "val"))
        assert train.isdisjoint(val)
        assert report["runs"][fold - 1]["hospitals"] == sorted(val)
        assert re.search(rf"cv-fold{fold} .* {', '.join(sorted(val))}\n", shown)
        sides.append(val)
    assert sides[0].isdisjoint(sides[1])
    error, hint = histo.fails(*TRAIN, "--folds", 30, "--name", "more")
    assert "hospitals cannot be divided into 30 folds" in error
    assert "without --group hospital" in hint


def test_resuming_repeats_skips_finished_runs(folds):
    runs = folds.root / "runs"
    before = (runs / "cv-fold1" / "last.pt").stat().st_mtime_ns
    expected = load_run_checkpoint(folds, "cv-fold3").model
    shutil.rmtree(runs / "cv-fold3")
    (folds.root / "metrics" / "cv-folds.json").unlink()
    (runs / "cv-fold2" / "last.pt").unlink()  # as a user does who needs the space
    error, _ = folds.fails("train", "--folds", 4, "--name", "cv", "--resume", code=2)
    assert error == "--folds 4: cv was started with --folds 3"
    folds("train", "--folds", 3, "--resume", "--device", "cpu")  # without --name, the newest folds
    assert (runs / "cv-fold1" / "last.pt").stat().st_mtime_ns == before
    assert same_weights(load_run_checkpoint(folds, "cv-fold3").model, expected)
    assert len(json.loads((folds.root / "metrics" / "cv-folds.json").read_text())["runs"]) == 3
    error, _ = folds.fails("train", "--folds", 3, "--name", "cv", "--resume", "--lr", 0.5, code=2)
    assert "--lr 0.5: the run was started with 0.002" in error
    error, _ = folds.fails("train", "--folds", 3, "--name", "other", "--resume")
    assert "to resume" in error


@pytest.mark.parametrize("fold", [1, 2])
@pytest.mark.parametrize("is_removed", [False, True])
def test_finished_folds_need_no_last_checkpoint(folds, fold, is_removed):
    last = folds.root / "runs" / f"cv-fold{fold}" / "last.pt"
    last.unlink()
    if not is_removed:
        last.write_bytes(b"x")
    path = folds.root / "metrics" / "cv-folds.json"
    expected = path.read_bytes()
    path.unlink()
    folds("train", "--folds", 3, "--name", "cv", "--resume", "--device", "cpu")
    assert path.read_bytes() == expected
    assert not last.exists() if is_removed else last.read_bytes() == b"x"


@pytest.mark.parametrize(("name", "content"), [("last.pt", b"x"), ("last.pt", None), ("config.json", b"x")])
def test_no_fold_is_extended_if_one_is_damaged(folds, name, content):
    """The first fold was extended, and then the job stopped at the second."""
    runs = folds.root / "runs"
    (runs / "cv-fold2" / name).unlink()  # last.pt, as a user does who needs the space
    if content is not None:
        (runs / "cv-fold2" / name).write_bytes(content)
    extend = ("train", "--folds", 3, "--name", "cv", "--resume", "--device", "cpu", "--epochs", 2)
    error, hint = folds.fails(*extend)
    assert str(runs / "cv-fold2" / name) in error
    assert hint == "leave --epochs out: without it, cv-fold2 is complete, and its best.pt is used"
    assert load_run_checkpoint(folds, "cv-fold1").epoch == 1
    folds(*extend[:-2])
    (runs / "cv-fold2" / "best.pt").write_bytes(b"x")
    assert folds.fails(*extend)[1] == (
        "histo runs rm cv-fold2 removes this run, and histo train --folds 3 --name cv --resume trains it again"
    )


def test_no_hint_removes_a_fold_of_a_newer_version(folds):
    path = folds.root / "runs" / "cv-fold2" / "last.pt"
    checkpoint = load_checkpoint(path)
    save_checkpoint(replace(checkpoint, config=checkpoint.config | {"magic": 1}), path)
    extend = ("train", "--folds", 3, "--name", "cv", "--resume", "--device", "cpu", "--epochs", 2)
    error, hint = folds.fails(*extend)
    assert error == f"{path}, options: it has options that this version does not know: magic"
    assert "runs rm" not in hint


def test_no_hint_removes_a_fold_that_cannot_be_read_now(folds, monkeypatch):
    load = checkpoints.load_archive

    def load_archive(path):
        if path.parent.name == "cv-fold2":
            raise OSError(5, "Input/output error")
        return load(path)

    monkeypatch.setattr(checkpoints, "load_archive", load_archive)
    error, hint = folds.fails("train", "--folds", 3, "--name", "cv", "--resume", "--device", "cpu")
    assert "Input/output error" in error
    assert "runs rm" not in hint


def test_folds_are_not_continued_with_the_defaults_if_their_options_are_lost(folds):
    folder = folds.root / "runs" / "cv-fold1"
    (folder / "last.pt").write_bytes(b"x")
    record = json.loads((folder / "config.json").read_text())
    del record["options"]
    (folder / "config.json").write_text(json.dumps(record))
    shutil.rmtree(folds.root / "runs" / "cv-fold3")
    error, hint = folds.fails("train", "--folds", 3, "--name", "cv", "--resume", "--device", "cpu")
    assert error == (
        f"the options of cv-fold1 are not known: {folder / 'config.json'} has none, and {folder / 'last.pt'} cannot be "
        "read"
    )
    assert hint == f"restore {folder / 'last.pt'} from a copy, or start a new run with another --name"
    assert not (folds.root / "runs" / "cv-fold3").exists()


def test_a_damaged_first_seed_is_trained_again_as_the_hint_says(histo):
    """Its seed was left out, and one more was trained after the last."""
    runs = histo.root / "runs"
    histo(*QUICK, "--seeds", 2, "--name", "cv")
    expected = load_run_checkpoint(histo, "cv-seed0", "best.pt").model
    (runs / "cv-seed0" / "best.pt").write_bytes(b"x")
    _, hint = histo.fails("train", "--seeds", 2, "--name", "cv", "--resume", "--device", "cpu")
    resume = "train --seeds 2 --seed 0 --name cv --resume"
    assert hint == f"histo runs rm cv-seed0 removes this run, and histo {resume} trains it again"
    histo("runs", "rm", "cv-seed0")
    histo(*resume.split(), "--device", "cpu")
    assert same_weights(load_run_checkpoint(histo, "cv-seed0", "best.pt").model, expected)
    report = json.loads((histo.root / "metrics" / "cv-seeds.json").read_text())
    assert [run["run"] for run in report["runs"]] == ["cv-seed0", "cv-seed1"]
    assert not (runs / "cv-seed2").exists()
    error, _ = histo.fails("train", "--seeds", 2, "--seed", 1, "--name", "cv", "--resume", code=2)
    assert error == "--seed 1: the run was started with 0"


def test_a_run_that_was_trained_alone_is_not_taken_for_the_first_seed(histo):
    shutil.copytree(histo.root / "runs" / "first", histo.root / "runs" / "cv-seed0")
    record = json.loads((histo.root / "runs" / "first" / "config.json").read_text())
    (histo.root / "runs" / "cv-seed0" / "config.json").write_text(json.dumps(record | {"run": "cv-seed0"}))
    histo(*QUICK, "--seeds", 2, "--seed", 1, "--name", "cv")
    histo("train", "--seeds", 2, "--name", "cv", "--resume", "--device", "cpu")
    report = json.loads((histo.root / "metrics" / "cv-seeds.json").read_text())
    assert [run["run"] for run in report["runs"]] == ["cv-seed1", "cv-seed2"]
    _, hint = histo.fails("runs", "rm", "cv")
    assert hint == "histo runs rm cv-seed1 cv-seed2"


@pytest.mark.slow
def test_only_one_of_two_processes_reads_a_fold_that_is_continued(folds):
    """If both read it, both print the error; and a fold could change between the two."""
    folder = folds.root / "runs" / "cv-fold2"
    (folder / "model_card.md").unlink()
    record = (folder / "config.json").read_bytes()
    (folder / "config.json").write_bytes(b"{")
    line = ("train", "--folds", 3, "--name", "cv", "--resume", "--device", "cpu")
    _, stderr = run_without_torchrun(folds, *line, code=1)
    assert stderr.count("error: ") == 1
    (folder / "config.json").write_bytes(record)
    _, stderr = run_without_torchrun(folds, *line)
    assert stderr.count("done: wrote") == 1
    assert (folder / "model_card.md").is_file()


@pytest.mark.parametrize("name", ["best.pt", "last.pt"])
def test_a_damaged_fold_is_trained_again_as_the_hint_says(folds, name):
    runs = folds.root / "runs"
    expected = load_run_checkpoint(folds, "cv-fold1", "best.pt").model
    (runs / "cv-fold1" / name).write_bytes(b"x")
    if name == "last.pt":
        (runs / "cv-fold1" / "history.jsonl").write_bytes(b"")  # it is not known whether this fold is finished
    error, hint = folds.fails("train", "--folds", 3, "--name", "cv", "--resume", "--device", "cpu")
    assert str(runs / "cv-fold1" / name) in error
    assert hint == (
        "histo runs rm cv-fold1 removes this run, and histo train --folds 3 --name cv --resume trains it again"
    )
    folds("runs", "rm", "cv-fold1")
    folds("train", "--folds", 3, "--name", "cv", "--resume", "--device", "cpu")
    assert same_weights(load_run_checkpoint(folds, "cv-fold1", "best.pt").model, expected)


def test_a_run_that_only_has_the_name_of_a_fold_is_not_counted_as_one(folds):
    for name in ("cv-fold9", "alone-fold1"):
        folder = shutil.copytree(folds.root / "runs" / "cv-fold3", folds.root / "runs" / name)
        record = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(record | {"run": name, "is_repeat": False}))
    told = folds("eval", "--scores", "cv-synthetic-out-of-fold.csv", "--threshold", 0).stderr
    assert "train longer: histo train --folds 3 --name cv --resume --epochs 4\n" in told
    told = folds("train", "--folds", 3, "--resume", "--device", "cpu").stderr  # the newest folds are not alone-fold1
    assert "cv-folds.json" in told


def test_a_cross_validation_is_compared_by_its_out_of_fold_scores(folds):
    name = "cv-synthetic-out-of-fold.json"
    other = shutil.copytree(folds.root / "metrics", folds.root / "copy") / name
    folds("eval", "--compare", name, other.rename(other.with_name("b-out-of-fold.json")))  # writes a comparison too
    error, hint = folds.fails("eval", "--compare", "cv", "first", "--device", "cpu")
    assert error == "cv is a cross-validation and not a run"
    assert hint == "compare its out-of-fold scores: cv-synthetic-out-of-fold.json"


def test_folds_that_predict_one_class_get_one_hint_to_train_longer(folds):
    told = folds("train", "--folds", 3, "--name", "cv", "--resume", "--device", "cpu").stderr
    runs = json.loads((folds.root / "metrics" / "cv-folds.json").read_text())["runs"]
    single = [run for run in runs if {run["metrics"]["sensitivity"], run["metrics"]["specificity"]} == {0, 1}]
    assert single
    line = f"warning: {len(single)} of 3 runs predict the same class for every validation patch"
    assert told.count(line) == told.count("train longer") == 1
    assert "train longer: histo train --folds 3 --name cv --resume --epochs 4\n" in told


def test_finished_folds_are_extended_together(folds):
    runs = folds.root / "runs"
    shutil.move(runs / "cv-fold3", folds.root / "moved")
    extend = ("train", "--folds", 3, "--name", "cv", "--resume", "--device", "cpu")
    error, hint = folds.fails(*extend, "--epochs", 2, code=2)
    assert error == "--epochs 2: only finished runs can be extended; cv-fold3 has trained 0 of 1 epochs"
    assert hint == "finish the runs first: histo train --folds 3 --name cv --resume"
    shutil.move(folds.root / "moved", runs / "cv-fold3")
    (runs / "cv-fold2" / "history.jsonl").write_text("")  # as if it was killed after writing last.pt
    result = folds(*extend, "--epochs", 2)
    assert result.stderr.count("extended from 1 to 2 epochs") == 3
    for fold in (1, 2, 3):
        assert len((runs / f"cv-fold{fold}" / "history.jsonl").read_text().splitlines()) == 2
        assert load_run_checkpoint(folds, f"cv-fold{fold}").config["extended_after"] == 1
    report = json.loads((folds.root / "metrics" / "cv-folds.json").read_text())
    assert [run["epoch"] for run in report["runs"]] == [
        load_run_checkpoint(folds, f"cv-fold{i}", "best.pt").epoch for i in (1, 2, 3)
    ]
    error, _ = folds.fails(*extend, "--epochs", 1, code=2)
    assert error == "--epochs 1: the run has 2 epochs"


def test_an_extension_of_folds_that_was_interrupted_continues(histo):
    histo(*QUICK, "--folds", 2, "--name", "cv")
    histo("train", "--resume", "--name", "cv-fold1", "--epochs", 2, "--device", "cpu")
    histo("train", "--folds", 2, "--name", "cv", "--resume", "--device", "cpu")
    assert [load_run_checkpoint(histo, f"cv-fold{fold}").config["epochs"] for fold in (1, 2)] == [2, 2]
    again = histo("train", "--folds", 2, "--name", "cv", "--resume", "--epochs", 3, "--device", "cpu")
    assert again.stderr.count("extended from 2 to 3 epochs") == 2
    assert [load_run_checkpoint(histo, f"cv-fold{fold}").config["extended_after"] for fold in (1, 2)] == [2, 2]


def test_resumed_repeats_keep_their_options(histo):
    (histo.root / "manifests" / "other.csv").write_bytes((histo.root / "manifests" / "balanced.csv").read_bytes())
    histo(*QUICK, "--seeds", 2, "--seed", 7, "--data", "other", "--name", "s")
    runs = histo.root / "runs"
    expected = load_run_checkpoint(histo, "s-seed8").model
    shutil.rmtree(runs / "s-seed8")
    histo("train", "--seeds", 2, "--name", "s", "--resume")
    assert same_weights(load_run_checkpoint(histo, "s-seed8").model, expected)
    assert json.loads((runs / "s-seed8" / "config.json").read_text())["options"]["data"] == "other"
    shutil.rmtree(runs / "s-seed8")
    (histo.root / "manifests" / "balanced.csv").replace(histo.root / "manifests" / "other.csv")
    with (histo.root / "manifests" / "other.csv").open("a") as file:
        file.write("\n")
    error, hint = histo.fails("train", "--seeds", 2, "--name", "s", "--resume")
    assert "other.csv has changed since s-seed7 was started" in error
    assert hint == f"restore it: cp {runs / 's-seed7' / 'manifest.csv'} {histo.root / 'manifests' / 'other.csv'}"
    histo(*QUICK, "--folds", 2, "--seed", 3, "--name", "cv", "--data", "other")
    shutil.rmtree(runs / "cv-fold2")
    histo("train", "--folds", 2, "--name", "cv", "--resume")
    assert load_run_checkpoint(histo, "cv-fold2").config["seed"] == 3
    if not torch.cuda.is_available():
        shutil.rmtree(runs / "cv-fold2")
        error, _ = histo.fails("train", "--folds", 2, "--name", "cv", "--resume", "--device", "cuda")
        assert "--device cuda" in error


def test_a_signal_in_the_last_epoch_of_a_run_stops_before_the_next_run(histo, monkeypatch):
    begun = []

    def ends_with_a_signal(*args, **kwargs):
        begun.append(args[2])
        return train_run(*args, **kwargs)._replace(signal=2)

    train_run = commands.train_run
    monkeypatch.setattr(commands, "train_run", ends_with_a_signal)
    config = TrainConfig(epochs=1, batch_size=16, seeds=2, name="s")
    with pytest.raises(Stopped, match="histo train --seeds 2 --seed 0 --name s --resume"):
        commands.train_repeats(Workspace(histo.root), config)
    assert begun == ["s-seed0"]


def test_folds_do_not_replace_the_manifests_of_data_sets(histo):
    histo("download", "--source", "synthetic", "--n", 20, "--name", "synthetic-fold1")
    error, _ = histo.fails(*TRAIN, "--folds", 2, "--name", "synthetic")
    assert error.startswith("synthetic-fold1 is the name of a data set")
    assert "no architecture" in histo.fails(*TRAIN, "--folds", 3, "--name", "cv", "--arch", "resnet81", code=2)[0]
    histo(*QUICK, "--folds", 2, "--name", "cv")
    assert len(list((histo.root / "manifests").glob("cv-fold*.csv"))) == 2


def test_impossible_folds_are_refused_before_training(histo):
    error, _ = histo.fails(*TRAIN, "--folds", 40, "--name", "cv")
    assert "cannot be divided into 40 folds" in error
    assert "cannot be combined" in histo.fails(*TRAIN, "--folds", 2, "--seeds", 2, code=2)[0]
    assert [path.name for path in (histo.root / "runs").iterdir()] == ["first"]


@pytest.mark.parametrize(
    ("arch", "name"),
    [
        ("timm/hf-hub:MahmoodLab/UNI", "timm-hf-hub-MahmoodLab-UNI-1"),
        ("timm/local-dir:/a b?x=1", "timm-local-dir-a-b-1"),
    ],
)
def test_runs_of_a_hub_model_have_valid_file_names(tmp_path, arch, name):
    repeats = plan_repeats(Workspace(tmp_path), TrainConfig(arch=arch), None, 0, 2)
    assert [member.name for member in repeats.members] == [f"{name}-seed0", f"{name}-seed1"]
