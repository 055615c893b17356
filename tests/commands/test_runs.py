"""`histo runs` and `histo data`: what is in a workspace, and removing runs."""

import json

from histocli.models.checkpoint import load_checkpoint
from histocli.training.provenance import lock_run
from histocli.workspace import Workspace
from tests.cli import TRAIN


def list_runs(histo, *options):
    return json.loads(histo("runs", "--json", *options).stdout)


def test_a_run_is_listed_with_its_best_epoch(histo):
    best = load_checkpoint(histo.root / "runs" / "first" / "best.pt")
    (run,) = list_runs(histo)
    assert (run["run"], run["state"], run["arch"], run["data"]) == ("first", "finished", "histonet", "synthetic")
    assert (run["best_epoch"], run["val_auc"]) == (best.epoch, best.metrics["val_auc"])
    assert (run["epochs_trained"], run["epochs"], run["is_default"]) == (2, 2, True)
    assert run["bytes"] == sum(path.stat().st_size for path in (histo.root / "runs" / "first").iterdir())
    result = histo("runs")
    head, row = result.stdout.splitlines()
    assert head.split() == ["run", "state", "val", "AUC", "epochs", "network", "data", "last", "written"]
    assert row.split()[:6] == ["first", "finished", f"{run['val_auc']:.4f}", "2/2", "histonet", "synthetic"]
    assert max(map(len, result.stdout.splitlines())) <= 80
    assert f"--ckpt best.pt is epoch {best.epoch} of first" in result.stderr


def test_runs_are_sorted_by_time_auc_or_name(histo):
    folder = histo.root / "runs"
    for name, auc in (("zebra", 0.3), ("ant", 0.99)):
        (folder / name).mkdir()
        config = json.loads((folder / "first" / "config.json").read_text())
        (folder / name / "config.json").write_text(json.dumps(config | {"run": name}))
        rows = [json.loads(line) for line in (folder / "first" / "history.jsonl").read_text().splitlines()]
        lines = [json.dumps(row | {"val_auc": auc}) for row in rows[:1]]
        (folder / name / "history.jsonl").write_text("\n".join(lines))
    assert [run["run"] for run in list_runs(histo)] == ["ant", "zebra", "first"]
    assert [run["run"] for run in list_runs(histo, "--sort", "name")] == ["ant", "first", "zebra"]
    assert [run["run"] for run in list_runs(histo, "--sort", "auc")][0::2] == ["ant", "zebra"]
    assert {run["run"]: run["state"] for run in list_runs(histo)} == {
        "ant": "stopped",
        "zebra": "stopped",
        "first": "finished",
    }


def test_a_damaged_run_is_listed_with_the_reason(histo):
    (histo.root / "runs" / "first" / "history.jsonl").write_text("{")
    (run,) = list_runs(histo)
    assert run["state"] == "damaged"
    result = histo("runs")
    assert "damaged" in result.stdout
    assert "warning: first: cannot read" in result.stderr
    best = load_checkpoint(histo.root / "runs" / "first" / "best.pt")
    assert f"--ckpt best.pt is epoch {best.epoch} of first" in result.stderr


def test_an_empty_workspace_has_no_runs_and_no_data(empty):
    assert json.loads(empty("runs", "--json").stdout) == []
    assert "histo train makes one" in empty("runs").stderr
    assert json.loads(empty("data", "--json").stdout) == {"datasets": [], "subsets": []}
    assert "histo download makes one" in empty("data").stderr
    assert not empty.root.exists()


def test_removed_runs_are_gone_and_what_was_published_stays(histo):
    result = histo("runs", "rm", "first")
    assert not (histo.root / "runs" / "first").exists()
    assert "is a copy of a removed run's checkpoint, and stays" in result.stderr
    assert "done: removed first" in result.stderr
    histo("predict", "synthetic", "--device", "cpu", "--out", histo.root / "x.csv")
    assert list_runs(histo) == []
    assert " of first, a run that was removed" in histo("runs").stderr


def test_nothing_is_removed_if_one_of_the_names_is_wrong(histo):
    error, hint = histo.fails("runs", "rm", "first", "other")
    assert (error, hint) == ("there is no run 'other'", "runs: first")
    for wrong in ("..", "first/../first"):
        assert "there is no run" in histo.fails("runs", "rm", wrong)[0]
    assert "needs the name of a run" in histo.fails("runs", "rm", code=2)[0]
    assert [run["run"] for run in list_runs(histo)] == ["first"]


def test_a_run_that_is_being_trained_is_listed_so_and_not_removed(histo):
    with lock_run(Workspace(histo.root), "first"):
        assert [run["state"] for run in list_runs(histo)] == ["training"]
        assert "another histo process is using run 'first'" in histo.fails("runs", "rm", "first")[0]
    assert [run["state"] for run in list_runs(histo)] == ["finished"]


def test_data_sets_and_subsets_are_listed_with_their_counts(histo):
    summary = json.loads(histo("data", "--json").stdout)
    (dataset,) = summary["datasets"]
    facts = [dataset[key] for key in ("name", "source", "patches", "slides")]
    assert facts == ["synthetic", "synthetic", 320, 8]
    assert dataset["tumour"] + dataset["normal"] == 320
    assert dataset["unlabelled"] == 0
    assert dataset["bytes"] > 320 * 96 * 96 * 3
    (subset,) = summary["subsets"]
    assert (subset["name"], subset["data"], subset["train"] + subset["val"]) == ("balanced", "synthetic", 64)
    shown = histo("data").stdout
    assert "balanced" in shown
    assert max(map(len, shown.splitlines())) <= 80
    (histo.root / "manifests" / "synthetic.csv").write_text("id\n")
    assert "warning: synthetic: " in histo("data").stderr


def test_a_short_run_that_predicts_one_class_gets_a_hint_to_train_longer(histo):
    result = histo(*TRAIN, "--epochs", 1, "--threshold", "0", "--name", "short")
    hint = "every validation patch is predicted as tumour: the best epoch has trained for only 3 steps; train longer: "
    assert hint + "histo train --resume --name short --epochs 4" in result.stderr
    told = histo("eval", "--device", "cpu").stderr
    assert "at threshold 0 every patch is predicted as tumour" in told
    assert "train longer: histo train --resume --name short --epochs 4" in told
    assert "is predicted as normal" in histo(*TRAIN, "--epochs", 1, "--threshold", "1", "--name", "other").stderr
    assert "patch is called" not in histo(*TRAIN, "--epochs", 1, "--threshold", "youden", "--name", "third").stderr
