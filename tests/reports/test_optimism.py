"""`benchmarks/optimism.py`: the difference between validation and unseen patches, and runs that are not compared."""

import json
import shutil
from dataclasses import replace
from functools import cache

import pytest
import torch

from benchmarks.optimism import main, measure
from histocli.errors import HistoError
from histocli.models.checkpoint import load_checkpoint, save_checkpoint
from histocli.workspace import Workspace
from tests.cli import TRAIN, Histo, copy_for_all_tests, read_rows, template, write_rows
from tests.data.tissue import crop, texture, write_patches

RUNS = ("first", "leaky")


def evaluate(histo, *options):
    return json.loads(histo("eval", "--device", "cpu", "--json", *options).stdout)


@cache
def evaluate_both():
    """Train the run `leaky` with a random split; return `histo` and the evaluations of both runs on other slides."""
    histo = copy_for_all_tests(template())
    histo("balance", "--n", 64, "--val-fraction", 0.25, "--split", "random")
    histo(*TRAIN, "--epochs", 2, "--name", "leaky", "--seed", 7)
    histo("download", "--source", "synthetic", "--name", "elsewhere", "--n", 80, "--seed", 5)
    return histo, {run: evaluate(histo, "--ckpt", run, "--data", "elsewhere") for run in RUNS}


@pytest.fixture
def histo(one_thread, tmp_path):
    """Return `histo` for a copy of the workspace with both evaluations."""
    return Histo(shutil.copytree(evaluate_both()[0].root, tmp_path / "workspace"))


@pytest.fixture
def reports(histo):
    """Return the evaluations of `first` and `leaky` on other slides."""
    return evaluate_both()[1]


def error_of(histo, data, *runs):
    with pytest.raises(HistoError) as caught:
        measure(Workspace(histo.root), data, runs)
    return str(caught.value), caught.value.hint


def test_optimism_is_the_difference_between_validation_and_unseen_slides(histo, reports, capsys):
    result = main([str(histo.root), "elsewhere", *RUNS])
    rows = {run.run: run for run in result.runs}
    assert {run: row.split_by for run, row in rows.items()} == {"first": "slide", "leaky": "patch"}
    assert (result.shared_slides, result.overlaps) == (0, None)
    assert {report["n_of_training_slides"] for report in reports.values()} == {0}
    for run, row in rows.items():
        assert row.validation.value == pytest.approx(evaluate(histo, "--ckpt", run)["metrics"]["auc"], abs=1e-6)
        assert row.unseen.value == reports[run]["metrics"]["auc"]
        assert reports[run]["intervals"]["auc"] is None  # there are too few slides
        assert list(row.unseen.interval) == reports[run]["delong"]["interval"]
    gaps = result.gaps()
    assert gaps == {
        "slide": pytest.approx(rows["first"].validation.value - rows["first"].unseen.value),
        "patch": pytest.approx(rows["leaky"].validation.value - rows["leaky"].unseen.value),
    }
    shown = capsys.readouterr().err
    assert f"{gaps['patch']:+.4f}" in shown
    assert "is not unseen" not in shown
    picture = histo.root / "plots" / "optimism.png"
    before = picture.read_bytes()
    main([str(histo.root), "elsewhere", *RUNS])
    assert picture.read_bytes() == before


def test_runs_of_another_version_network_or_size_are_not_averaged(histo, reports):
    path = histo.root / "runs" / "leaky" / "config.json"
    config = json.loads(path.read_text())
    for change in (
        {"versions": config["versions"] | {"histo": "0.0.1"}},
        {"options": config["options"] | {"epochs": 9}},
        {"train_patches": 2 * config["train_patches"]},
    ):
        path.write_text(json.dumps(config | change))
        assert "leaky was not trained as first was" in error_of(histo, "elsewhere", *RUNS)[0]
    path.write_text(json.dumps(config))
    best = histo.root / "runs" / "leaky" / "best.pt"
    checkpoint = load_checkpoint(best)
    widened = {name: torch.cat([tensor, tensor]) for name, tensor in checkpoint.model.items() if tensor.ndim}
    save_checkpoint(replace(checkpoint, model=widened), best)
    assert "leaky was not trained as first was" in error_of(histo, "elsewhere", *RUNS)[0]


def test_patches_of_slides_that_were_trained_on_are_not_called_unseen(histo, reports, capsys):
    """A second data set can have other patches of the same slides."""
    manifests = histo.root / "manifests"
    slides = sorted({row["slide"] for row in read_rows(manifests / "synthetic.csv")})
    rows = read_rows(manifests / "elsewhere.csv")
    rows = [row | {"slide": slides[i % len(slides)]} for i, row in enumerate(rows)]
    write_rows(manifests / "elsewhere.csv", rows)
    for name in ("synthetic", "elsewhere"):  # the slides of synthetic data sets have equal names, but are not equal
        path = histo.root / "data" / name / "dataset.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"source": "folder"}))
    for run in reports:
        evaluate(histo, "--ckpt", run, "--data", "elsewhere")
    drawn = {row["slide"] for row in read_rows(manifests / "balanced.csv")}
    result = main([str(histo.root), "elsewhere", *RUNS])
    assert result.shared_slides == len(drawn & {row["slide"] for row in rows})
    assert "elsewhere is not unseen" in capsys.readouterr().err


def test_folders_with_the_same_name_are_different_data(histo, reports, tmp_path, capsys):
    for run, count in (("first", 12), ("leaky", 16)):
        folder = tmp_path / run / "valid"
        write_patches(folder, {f"{i % 2}/{run}{i}": crop(texture(i), 0, 0) for i in range(count)})
        evaluate(histo, "--ckpt", run, "--data", folder)
    assert "not evaluated on the same patches of valid" in error_of(histo, "valid", *RUNS)[0]
    main([str(histo.root), "valid", "first"])
    assert "it is not known whether valid shares slides" in capsys.readouterr().err


def test_only_evaluations_of_unseen_patches_are_used(histo, reports):
    error, hint = error_of(histo, "nowhere", *RUNS)
    assert (error, hint) == ("first was not evaluated on nowhere", "histo eval --ckpt first --data nowhere")
    result = evaluate(histo, "--ckpt", "first", "--data", "synthetic")
    count = result["n_in_training"] + result["n_in_validation"]
    assert error_of(histo, "synthetic", "first")[0] == (
        f"first was trained or validated on {count} patches of synthetic"
    )
    (histo.root / "metrics" / "leaky-elsewhere-all.json").unlink()
    assert error_of(histo, "elsewhere", *RUNS)[1] == "histo eval --ckpt leaky --data elsewhere"
    evaluate(histo, "--ckpt", "leaky", "--data", "elsewhere", "--tta")
    assert error_of(histo, "elsewhere", *RUNS)[0] == "leaky was not evaluated on elsewhere"
    assert set(measure(Workspace(histo.root), "elsewhere", ["first"]).gaps()) == {"slide"}
