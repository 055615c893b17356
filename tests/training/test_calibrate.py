"""The temperature and threshold that are chosen on the validation patches and stored in checkpoints."""

import csv
import json
import signal

import numpy as np
import pandas as pd
import pytest
import torch

from histocli.commands.train import train
from histocli.config import TrainConfig
from histocli.data.groups import explain_weak_validation, is_validated_on_other_slides
from histocli.enums import Device
from histocli.metrics import compute_auc
from histocli.metrics.calibration import LOWEST, compute_probabilities, fit_temperature
from histocli.metrics.thresholds import choose_threshold
from histocli.models.checkpoint import load_checkpoint
from histocli.signals import Stopped
from histocli.training.calibrate import calibrate
from histocli.training.listeners import Listener
from histocli.training.resume import load_run_config
from histocli.training.run import Run
from histocli.workspace import Workspace
from tests.cli import SMALL_TRAIN, TRAIN, rename_slides


def last(histo, run, file="last.pt"):
    return load_checkpoint(histo.root / "runs" / run / file)


def test_the_best_checkpoint_is_calibrated_on_its_validation_patches(histo):
    best = last(histo, "first", "best.pt")
    labels, odds = (best.validation[name].numpy() for name in ("labels", "log_odds"))
    with (histo.root / "manifests" / "balanced.csv").open(newline="") as file:
        assert labels.tolist() == [int(row["label"]) for row in csv.DictReader(file) if row["split"] == "val"]
    assert compute_auc(labels, compute_probabilities(odds)) == pytest.approx(best.metrics["val_auc"])
    assert best.temperature == pytest.approx(max(1, fit_temperature(labels, odds)), rel=1e-3)  # the slides are few
    assert best.threshold == 0.5
    config = json.loads((histo.root / "runs" / "first" / "config.json").read_text())
    assert best.appearance.patches == config["train_patches"]


@pytest.mark.parametrize("rule", ["youden", "sensitivity=0.75"])
def test_the_threshold_is_chosen_on_validation(histo, rule):
    histo(*SMALL_TRAIN, "--epochs", 1, "--name", "rule", "--threshold", rule)
    best = last(histo, "rule", "best.pt")
    labels, odds = (best.validation[name].numpy() for name in ("labels", "log_odds"))
    chosen = choose_threshold(rule, labels.astype(int), compute_probabilities(odds, best.temperature))
    assert best.threshold == pytest.approx(chosen, abs=1e-6)
    error, _ = histo.fails("train", "--resume", "--name", "rule", "--threshold", "0.5", code=2)
    assert f"the run was started with {rule}" in error
    assert "is not a threshold" in histo.fails("train", "--threshold", "high", code=2)[0]


def test_a_specificity_that_no_threshold_reaches_does_not_end_the_training():
    """With a low temperature, a normal patch has a calibrated probability of exactly 1."""
    labels = np.repeat([0, 1, 0], [20_000, 20_000, 1])
    probs = np.repeat([0.03, 0.97, 1.0], [20_000, 20_000, 1])
    calibration = calibrate(labels, probs, "specificity=1", is_weak=False)
    assert calibration.temperature < 0.44
    assert calibration.threshold == 1


@pytest.mark.parametrize(("factor", "on_same_slides"), [(0.5, 1.0), (2.0, 2.0)])
def test_on_the_training_slides_the_temperature_is_at_least_1(factor, on_same_slides):
    """A lower one, which fits these slides, would make the network too confident on other slides."""
    rng = np.random.default_rng(0)
    odds = rng.normal(0, 2, 20_000)
    labels = (rng.random(20_000) < compute_probabilities(odds)).astype(int)
    probs = compute_probabilities(odds * factor)
    assert calibrate(labels, probs, "0.5", is_weak=False).temperature == pytest.approx(factor, rel=0.05)
    same = calibrate(labels, probs, "0.5", is_weak=True).temperature
    assert same == pytest.approx(on_same_slides, rel=0.05)


def test_a_run_whose_slides_are_not_known_has_a_temperature_of_at_least_1(histo):
    path = histo.root / "manifests" / "balanced.csv"
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.assign(slide="").to_csv(path, index=False)
    histo(*TRAIN, "--lr", 1e-6, "--epochs", 1, "--name", "unknown")  # probabilities near 0.5: not confident enough
    best = last(histo, "unknown", "best.pt")
    fitted = fit_temperature(*(best.validation[name].numpy() for name in ("labels", "log_odds")))
    assert fitted < 0.97
    assert best.temperature == 1
    reasons = {"unknown": "it is not known whether", "first": "only 2 of the known validation slides have"}
    for run, reason in reasons.items():
        card = (histo.root / "runs" / run / "model_card.md").read_text()
        assert f"The temperature is at least 1, because {reason}" in card


def test_a_run_that_is_validated_on_many_other_slides_can_have_a_temperature_below_1(histo):
    rename_slides(histo, 60)
    histo("balance", "--n", 200, "--val-fraction", 0.3)
    line = [*SMALL_TRAIN, "--lr", 1e-6, "--epochs", 1, "--seed", 5]  # probabilities near 0.5, in the right order
    histo(*line, "--name", "many")
    best = last(histo, "many", "best.pt")
    fitted = fit_temperature(*(best.validation[name].numpy() for name in ("labels", "log_odds")))
    assert LOWEST < fitted < 0.97
    assert best.temperature == pytest.approx(fitted, rel=1e-3)
    card = (histo.root / "runs" / "many" / "model_card.md").read_text()
    assert "The temperature is at least 1" not in card


@pytest.mark.parametrize("unit", ["slide", "hospital"])
def test_validation_is_on_other_slides_if_no_slide_or_hospital_is_in_both_splits(unit):
    splits = ["train", "train", "val", "val"]
    for units, expected in ((["a", "b", "c", "c"], True), (["a", "b", "b", "c"], False), (["a", "", "c", "c"], False)):
        assert is_validated_on_other_slides(pd.DataFrame({"split": splits, unit: units})) is expected
    for unsure in ("overlap_group", "appearance"):  # a slide can have patches in two of these groups
        assert not is_validated_on_other_slides(pd.DataFrame({"split": splits, unsure: ["a", "b", "c", "c"]}))


def test_validation_is_weak_on_fewer_than_10_slides_of_a_class():
    def explain(count, **columns):
        normal = pd.DataFrame({"slide": [f"s{i}" for i in range(count)], "label": 0, "split": "val"})
        train = pd.DataFrame({"slide": "t", "label": [0, 1], "split": "train"})
        return explain_weak_validation([pd.concat([normal, normal.assign(label=1), train]).assign(**columns)])

    assert explain(10) == ""
    assert explain(9) == "only 9 of the known validation slides have normal patches"
    assert explain(10, slide="", hospital=["a"] * 20 + ["b"] * 2) == "no validation slide is known"
    few = pd.DataFrame({"slide": ["a", "b", "t"], "label": [0, 1, 1], "split": ["val", "val", "train"]})
    others = [few.assign(slide=few["slide"] + str(i)) for i in range(10)]  # the folds of a cross-validation
    assert "only 9 of" in explain_weak_validation(others[1:])
    assert explain_weak_validation(others) == ""


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
    histo(*SMALL_TRAIN, "--epochs", 1, "--name", "single")


def test_weights_that_changed_after_validation_have_no_calibration(histo):
    class StopAtFirstStep(Listener):
        def on_step(self, progress):
            signal.raise_signal(signal.SIGTERM)

    before = last(histo, "first")
    assert before.validation
    assert before.metrics["val_auc"] is not None
    config = TrainConfig(name="first", resume=True, epochs=3, device=Device.CPU)
    with pytest.raises(Stopped):
        train(Workspace(histo.root), config, given=["epochs", "device"], listener=StopAtFirstStep())
    saved = last(histo, "first")
    assert saved.training["trainer"]["step"] == before.training["trainer"]["step"] + 1
    assert (saved.temperature, saved.threshold, saved.validation) == (1, 0.5, {})
    assert saved.metrics["val_auc"] is None
    assert saved.appearance == before.appearance is not None
