"""`histo runs` and `histo data`: what is in a workspace, and removing runs."""

import json
import shutil

import pytest

from histocli.cli.render import make_longer_command
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


DAMAGES = {
    "a history of no JSON": ("history.jsonl", b"{"),
    "a history of other JSON": ("history.jsonl", b"{}\n"),
    "no history": ("history.jsonl", None),
    "a record of no JSON": ("config.json", b"{"),
    "an empty record": ("config.json", b""),
    "a record of other JSON": ("config.json", b"[]"),
}


@pytest.mark.parametrize(("name", "content"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_run_is_listed_with_the_reason_and_what_to_do(histo, name, content):
    best = load_checkpoint(histo.root / "runs" / "first" / "best.pt")
    shutil.copytree(histo.root / "runs" / "first", histo.root / "runs" / "other", ignore=lambda *_: ["best.pt"])
    path = histo.root / "runs" / "first" / name
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    assert {run["run"]: run["state"] for run in list_runs(histo)} == {"first": "damaged", "other": "finished"}
    result = histo("runs")
    assert "damaged" in result.stdout
    (line,) = (line for line in result.stderr.splitlines() if line.startswith("warning: "))
    assert line.startswith("warning: first: ")
    assert str(path) in line
    assert f"--ckpt best.pt is epoch {best.epoch} of first" in result.stderr
    if name == "history.jsonl":
        assert line.endswith("(histo train --resume --name first writes it again)")
        histo("train", "--resume", "--name", "first", "--device", "cpu")
        assert {run["state"] for run in list_runs(histo)} == {"finished"}
    else:
        fix = "restore it from a copy; without it the run cannot be resumed, but --ckpt first still works"
        assert line.endswith(f"({fix})")
        error, hint = histo.fails("train", "--resume", "--name", "first", "--device", "cpu")
        assert str(path) in error
        assert hint == fix
        histo("eval", "--ckpt", "first", "--device", "cpu")


def test_resuming_writes_options_that_are_missing_in_the_record(histo):
    """This ended as a bug in histo."""
    path = histo.root / "runs" / "first" / "config.json"
    expected = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in expected.items() if key != "options"}))
    histo("train", "--resume", "--name", "first", "--device", "cpu")
    assert json.loads(path.read_text()) == expected


def test_a_damaged_record_of_a_job_does_not_stop_a_training_without_torchrun(histo):
    (histo.root / "runs" / "first" / "job.json").write_bytes(b"{")
    histo("train", "--resume", "--name", "first", "--device", "cpu")


def test_a_run_whose_last_checkpoint_is_damaged_is_not_resumed_and_its_best_one_works(histo):
    last = histo.root / "runs" / "first" / "last.pt"
    last.write_bytes(b"x")
    error, hint = histo.fails("train", "--resume", "--name", "first", "--device", "cpu")
    assert error.startswith(f"{last} cannot be read safely as a checkpoint")
    assert hint == "start a new run with another --name; --ckpt first still uses the run's best epoch"
    histo("eval", "--ckpt", "first", "--device", "cpu")


@pytest.mark.parametrize(
    ("name", "fix"),
    [
        ("config.json", "restore it from a copy; without it the run cannot be resumed"),
        ("last.pt", "start a new run with another --name"),
    ],
)
def test_the_best_checkpoint_is_not_offered_before_the_first_epoch(histo, name, fix):
    folder = histo.root / "runs" / "first"
    (folder / "best.pt").unlink()
    (folder / name).write_bytes(b"x")
    _, hint = histo.fails("train", "--resume", "--name", "first", "--device", "cpu")
    assert hint == fix


@pytest.mark.parametrize("content", [None, b"{"])
def test_a_history_is_not_written_again_without_last_checkpoint(histo, content):
    folder = histo.root / "runs" / "first"
    (folder / "last.pt").unlink()
    (folder / "history.jsonl").unlink()
    if content:
        (folder / "history.jsonl").write_bytes(content)
    (run,) = list_runs(histo)
    assert run["fix"] == "restore it from a copy"


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
    best = histo.root / "checkpoints" / "best.pt"
    best.write_bytes(b"x")
    assert f"warning: {best} cannot be read safely as a checkpoint" in histo("runs").stderr


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


def test_the_subsets_of_a_removed_data_set_are_listed(histo):
    shutil.rmtree(histo.root / "data" / "synthetic")
    result = histo("data")
    assert result.stdout.splitlines()[1].split()[:2] == ["balanced", "synthetic"]
    manifest = histo.root / "manifests" / "synthetic.csv"
    warning = f"warning: synthetic: this data set is not in data/ any more; only {manifest} is left of it"
    assert warning in result.stderr
    assert "histo download makes one" in result.stderr


def test_a_short_run_that_predicts_one_class_gets_a_hint_to_train_longer(histo):
    result = histo(*TRAIN, "--epochs", 1, "--threshold", "0", "--name", "short")
    hint = "every validation patch is predicted as tumour: the best epoch has trained for only 3 steps; train longer: "
    assert hint + "histo train --resume --name short --epochs 4" in result.stderr
    resumed = histo("train", "--resume", "--name", "short").stderr
    assert hint + "histo train --resume --name short --epochs 4" in resumed
    told = histo("eval", "--device", "cpu").stderr
    assert "at threshold 0 every patch is predicted as tumour" in told
    assert "train longer: histo train --resume --name short --epochs 4" in told
    packaged = ("--ckpt", "histonet-pcam", "--data", "synthetic", "--threshold", 0)
    told = histo("eval", *packaged, "--device", "cpu").stderr
    assert "at threshold 0 every patch is predicted as tumour" in told
    assert "train longer" not in told
    path, workspace = histo.root / "runs" / "short" / "config.json", Workspace(histo.root)
    record = json.loads(path.read_text())
    for changed, command in (({"epochs": 9}, "histo train --resume --name short"), ({"head": "knn"}, "")):
        path.write_text(json.dumps(record | {"options": record["options"] | changed}))
        assert make_longer_command(workspace, "short") == command
    assert "is predicted as normal" in histo(*TRAIN, "--epochs", 1, "--threshold", "1", "--name", "other").stderr
    told = histo(*TRAIN, "--epochs", 1, "--threshold", "youden", "--name", "third").stderr
    assert "patch is predicted as" not in told
