"""The temperature and threshold that are chosen on the validation patches and stored in checkpoints."""

import csv
import json

import pytest
import torch

from histocli.metrics import compute_auc
from histocli.metrics.calibration import compute_probabilities, fit_temperature
from histocli.metrics.thresholds import choose_threshold
from histocli.models.checkpoint import load_checkpoint
from histocli.training.resume import load_run_config
from histocli.training.run import Run
from histocli.workspace import Workspace
from tests.cli import TRAIN


def last(histo, run, file="last.pt"):
    return load_checkpoint(histo.root / "runs" / run / file)


def test_the_best_checkpoint_is_calibrated_on_its_validation_patches(histo):
    best = last(histo, "first", "best.pt")
    labels, odds = (best.validation[name].numpy() for name in ("labels", "log_odds"))
    with (histo.root / "manifests" / "balanced.csv").open(newline="") as file:
        assert labels.tolist() == [int(row["label"]) for row in csv.DictReader(file) if row["split"] == "val"]
    assert compute_auc(labels, compute_probabilities(odds)) == pytest.approx(best.metrics["val_auc"])
    assert best.temperature == pytest.approx(fit_temperature(labels, odds), rel=1e-3)
    assert best.threshold == 0.5
    config = json.loads((histo.root / "runs" / "first" / "config.json").read_text())
    assert best.appearance.patches == config["train_patches"]


@pytest.mark.parametrize("rule", ["youden", "sensitivity=0.75"])
def test_the_threshold_is_chosen_on_validation(histo, rule):
    histo(*TRAIN, "--epochs", 1, "--name", "rule", "--threshold", rule)
    best = last(histo, "rule", "best.pt")
    labels, odds = (best.validation[name].numpy() for name in ("labels", "log_odds"))
    chosen = choose_threshold(rule, labels.astype(int), compute_probabilities(odds, best.temperature))
    assert best.threshold == pytest.approx(chosen, abs=1e-6)
    error, _ = histo.fails("train", "--resume", "--name", "rule", "--threshold", "0.5", code=2)
    assert f"the run has {rule}" in error
    assert "is not a threshold" in histo.fails("train", "--threshold", "high", code=2)[0]


def test_temperature_and_threshold_are_kept_after_an_interruption(histo):
    workspace = Workspace(histo.root)
    run = Run(workspace, load_run_config(workspace, "first")[1], resumed="first")
    run.resume()
    saved = last(histo, "first")
    assert (run.calibration.temperature, run.calibration.threshold) == (saved.temperature, saved.threshold)
    assert run.appearance.result == saved.appearance is not None
    assert torch.equal(run.calibration.validation["log_odds"], saved.validation["log_odds"])


def test_a_rule_needs_validation_patches_of_both_classes(histo):
    path = histo.root / "manifests" / "balanced.csv"
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "train" or row["label"] == "1"]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    error, hint = histo.fails(*TRAIN, "--threshold", "youden")
    assert error == "--threshold youden needs validation patches of both classes"
    assert "--threshold 0.5" in hint
    histo(*TRAIN, "--epochs", 1, "--name", "single")


def test_weights_that_changed_after_validation_have_no_calibration(histo):
    workspace = Workspace(histo.root)
    run = Run(workspace, load_run_config(workspace, "first")[1], resumed="first")
    run.resume()
    assert run.calibration.validation
    run.trainer.train_step(next(iter(run.train_loader.train_batches(0))))
    run._save()
    saved = last(histo, "first")
    assert (saved.temperature, saved.threshold, saved.validation) == (1, 0.5, {})
    assert saved.metrics["val_auc"] is None
    assert saved.appearance == run.appearance.result
