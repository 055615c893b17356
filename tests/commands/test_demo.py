"""`histo demo`: the whole pipeline in one command."""

import sys

from histocli.cli import demo
from tests.cli import read_rows

all_steps = demo._make_steps


def make_quick_steps(*args):
    """Return the steps of the demo, with a network that trains in less time."""
    return [[*step, "--arch", "histonet-64"] if step[0] == "train" else step for step in all_steps(*args)]


def test_the_demo_runs_every_command_and_keeps_its_workspace(empty, tmp_path, monkeypatch):
    kept = tmp_path / "kept"
    kept.mkdir()  # an empty folder will do
    monkeypatch.setenv("HISTO_TRAIN_DATA", "elsewhere")  # a variable for other data
    monkeypatch.setattr(demo, "_make_steps", make_quick_steps)
    result = empty("demo", "--n", 400, "--epochs", 1, "--keep", kept, "--device", "cpu")
    assert result.stdout == ""
    steps = [line.split()[1] for line in result.stderr.splitlines() if line.startswith("histo ")]
    assert steps == ["download", "balance", "train", "eval", "predict", "plot", "report"]
    assert "open plots/histonet-64-1-report.html in a browser" in " ".join(result.stderr.split())
    assert {path.name for path in kept.iterdir()} == {
        *("data", "manifests", "runs", "checkpoints", "metrics", "plots"),
        *("preds.csv", ".preds.csv.made-with.json"),
    }
    assert len(read_rows(kept / "preds.csv")) == 400
    summary = result.stderr.partition("\nresults\n")[2]
    assert "AUC" in summary
    pictures = sorted((kept / "plots").iterdir())
    assert len(pictures) >= 8
    shown = result.stderr.replace("\n", "")
    assert all(shown.count(str(path)) == 1 for path in pictures)
    assert not empty.root.exists()
    error, hint = empty.fails("demo", "--keep", kept)
    assert "not empty" in error
    assert hint


def test_the_demo_refuses_a_file_as_folder(empty, tmp_path):
    (tmp_path / "file").write_text("")
    error, _ = empty.fails("demo", "--n", 400, "--epochs", 1, "--keep", tmp_path / "file")
    assert error == f"--keep {tmp_path / 'file'} is a file"


def test_the_plots_and_the_checkpoint_that_it_names_are_kept(empty, tmp_path, monkeypatch):
    """Without `eval`, `predict` and `report`, and with one kind of plot: the test above runs and draws all."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    steps = {"download": [], "balance": [], "train": [], "plot": ["--kind", "curves"]}
    monkeypatch.setattr(
        demo,
        "_make_steps",
        lambda *args: [[*step, *steps[step[0]]] for step in make_quick_steps(*args) if step[0] in steps],
    )
    shown = empty("-v", "demo", "--n", 400, "--epochs", 1, "--device", "cpu").stderr.replace("\n", "")
    assert "allow leak: False" in shown  # -v is given to each command too
    (root,) = tmp_path.glob("histo-demo-*")
    assert sorted(path.name for path in root.iterdir()) == ["checkpoints", "plots"]
    pictures = sorted((root / "plots").iterdir())
    assert pictures
    assert all(shown.count(str(path)) == 1 for path in pictures)
    command = shown.partition("next: histo predict FOLDER --ckpt ")[2]
    assert command == str(root / "checkpoints" / "best.pt")
    empty("predict", root / "plots", "--ckpt", command, "--device", "cpu", "--out", tmp_path / "x.csv")


def test_the_demo_of_slides_draws_maps_and_measures(empty, tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "_SLIDE_SIDE", 2000)
    monkeypatch.setattr(demo, "_make_steps", make_quick_steps)
    kept = tmp_path / "kept"
    result = empty("demo", "--slides", "--n", 400, "--epochs", 1, "--keep", kept, "--device", "cpu")
    steps = [line.split()[1] for line in result.stderr.splitlines() if line.startswith("histo ")]
    assert steps == ["download", "balance", "train", "eval", "download", "predict", "eval", "report"]
    assert "FROC score of Camelyon16" in result.stderr
    assert "open plots/histonet-64-1-report.html in a browser" in " ".join(result.stderr.split("\ndone: ")[-1].split())
    page = (kept / "plots" / "histonet-64-1-report.html").read_text()
    assert all(f'aria-label="Map of the slide {name}"' in page for name in ("tumor_001", "normal_002"))
    assert {path.name for path in (kept / "plots").iterdir()} >= {
        *("slides-maps-roc.png", "slides-maps-froc.png"),
        *("tumor_001-heatmap.png", "normal_002-heatmap.png"),
    }


def test_the_demo_of_slides_names_a_missing_package_before_it_trains(empty, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openslide", None)
    error, hint = empty.fails("demo", "--slides", "--keep", tmp_path / "kept")
    assert error == "whole slides need the package openslide"
    assert "slides" in hint
    assert not (tmp_path / "kept").exists()
