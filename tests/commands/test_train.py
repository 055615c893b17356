"""`histo train` from the command line: files, seeds, interruption and resumption, refusals."""

import json
import os
import shlex
import shutil
import signal

import pytest
import torch

from histocli.locks import hold
from histocli.models.checkpoint import load_checkpoint
from histocli.training.resume import load_run_config
from histocli.workspace import Workspace
from tests.cli import QUICK, TRAIN, Histo, read_rows, table, template, write_rows
from tests.faults.processes import Process, has_head
from tests.faults.trees import check_whole
from tests.models.hub import SMALL, publish

LONG = ["train", "--device", "cpu", "--batch-size", 4, "--epochs", 2, "--seed", 4]  # 12 steps an epoch


def history(histo, run):
    return [json.loads(line) for line in (histo.root / "runs" / run / "history.jsonl").read_text().splitlines()]


def load_run_checkpoint(histo, run, file="last.pt"):
    return load_checkpoint(histo.root / "runs" / run / file)


def same_weights(first, second):
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_run_writes_its_files(histo):
    folder = histo.root / "runs" / "first"
    assert {path.name for path in folder.iterdir()} == {
        "config.json",
        "history.jsonl",
        "best.pt",
        "last.pt",
        "manifest.csv",
        "model_card.md",
    }
    config = json.loads((folder / "config.json").read_text())
    assert config["options"]["seed"] == 0
    assert config["options"]["batch_size"] == 16
    assert (config["train_patches"] + config["val_patches"], config["data"]) == (64, "synthetic")
    assert {"histo", "python", "torch", "torchvision", "numpy"} <= config["versions"].keys()
    assert config["manifest_sha256"] == load_run_checkpoint(histo, "first").manifest_sha256
    assert (folder / "manifest.csv").read_bytes() == (histo.root / "manifests" / "balanced.csv").read_bytes()
    for name in ("best.pt", "last.pt"):
        assert (folder / name).read_bytes() == (histo.root / "checkpoints" / name).read_bytes()


def test_the_history_has_a_row_per_epoch_and_best_is_the_best_of_them(histo):
    rows = history(histo, "first")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all(0 <= row["val_auc"] <= 1 and row["train_loss"] > 0 for row in rows)
    best = max(rows, key=lambda row: (row["val_auc"], -row["val_loss"]))
    assert load_run_checkpoint(histo, "first", "best.pt").epoch == best["epoch"]
    assert load_run_checkpoint(histo, "first", "best.pt").metrics["val_auc"] == best["val_auc"]
    assert load_run_checkpoint(histo, "first", "best.pt").training == {}


def test_a_worse_epoch_does_not_replace_the_best(histo):
    folder = histo.root / "runs" / "first"
    last = torch.load(folder / "last.pt", weights_only=True)
    last["training"]["best"] |= {"val_auc": 1.0, "val_loss": 0.0}  # no epoch is better
    torch.save(last, folder / "last.pt")
    before = (folder / "best.pt").read_bytes()
    histo("train", "--resume", "--name", "first", "--epochs", 3, "--device", "cpu")
    assert load_run_checkpoint(histo, "first").epoch == 3
    assert (folder / "best.pt").read_bytes() == before


FROZEN = ["--arch", SMALL, "--weights", "pretrained", "--freeze"]


@pytest.mark.parametrize("options", [["--arch", "histonet-64"], FROZEN], ids=["whole network", "frozen backbone"])
def test_validation_patches_change_no_weight(histo, hub, options):
    if options is FROZEN:
        publish(SMALL, hub)
    line = [*TRAIN, "--epochs", 2, *options]
    histo(*line, "--name", "before")
    path = histo.root / "manifests" / "balanced.csv"
    rows = read_rows(path)
    removed = [row for row in rows if row["split"] == "val"][::2]
    write_rows(path, [row for row in rows if row not in removed])
    histo(*line, "--name", "after")
    before, after = (load_run_checkpoint(histo, run) for run in ("before", "after"))
    assert len(before.validation["labels"]) - len(after.validation["labels"]) == len(removed) > 0
    assert before.model.keys() == after.model.keys()
    assert same_weights(before.model, after.model)


def test_without_a_terminal_the_output_is_a_line_per_epoch(histo):
    result = histo(*TRAIN, "--epochs", 1, "--json")
    report = json.loads(result.stdout)
    assert report["run"] == "histonet-1"
    assert report["epoch"] == 1
    assert "histonet-1: " in result.stderr
    assert "cpu (1 thread; given)" in result.stderr
    assert "best epoch 1: validation AUC" in result.stderr
    assert "━" not in result.stderr
    assert result.stderr.splitlines()[-1].startswith("done: wrote ")


def train_in_copy(folder, line):
    """Train the run `once` with one thread, in a copy of the usual workspace; a fixture of a module may do so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        histo = Histo(shutil.copytree(template(), folder / "workspace"))
        histo(*line, "--name", "once")
    return histo


@pytest.fixture(scope="module")
def uninterrupted_run(tmp_path_factory):
    """Return the final weights of the command `LONG`."""
    histo = train_in_copy(tmp_path_factory.mktemp("long"), LONG)
    return load_run_checkpoint(histo, "once"), history(histo, "once")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_interrupted_within_an_epoch_is_resumed_bit_for_bit(histo, uninterrupted_run, number, code):
    process = Process(histo.root, *LONG, "--name", "long")
    process.until(lambda: has_head(process))
    process.signal(number)
    assert (process.wait(), process.stdout) == (code, "")
    step = load_run_checkpoint(histo, "long").training["trainer"]["step"]
    assert 0 < step < 12
    _, stopping, failure = process.stderr.partition("stopping after this step, and saving the state; Ctrl-C again")
    assert stopping
    assert f"error: stopped by a signal after step {step} of 24; the state is saved" in failure
    assert "hint: histo train --resume --name long" in failure
    assert history(histo, "long") == []
    check_whole(histo.root)
    assert not list(histo.root.rglob(".*"))  # no temporary files
    histo("train", "--resume", "--name", "long")
    expected, rows = uninterrupted_run
    ended = load_run_checkpoint(histo, "long")
    assert same_weights(ended.model, expected.model)
    assert same_weights(ended.training["trainer"]["model"], expected.training["trainer"]["model"])
    timed = {"seconds", "patches_per_second"}
    assert [{k: v for k, v in row.items() if k not in timed} for row in history(histo, "long")] == [
        {k: v for k, v in row.items() if k not in timed} for row in rows
    ]


def test_a_run_killed_in_its_first_epoch_can_be_resumed(histo):
    process = Process(histo.root, *LONG, "--epochs", 1, "--name", "killed")
    process.until(lambda: has_head(process))
    process.kill()
    assert not (histo.root / "runs" / "killed" / "best.pt").exists()
    assert "starts again at the first step: no step had been saved" in histo("train", "--resume").stderr
    assert len(history(histo, "killed")) == 1


def test_resuming_a_finished_run_says_so_and_changes_nothing(histo):
    before = (histo.root / "runs" / "first" / "last.pt").read_bytes()
    result = histo("train", "--resume", "--json")
    assert "first is finished already: it has all its epochs" in result.stderr
    assert json.loads(result.stdout)["run"] == "first"
    assert (histo.root / "runs" / "first" / "last.pt").read_bytes() == before


def test_an_existing_name_is_refused(histo):
    error, hint = histo.fails(*TRAIN, "--name", "first")
    assert error == "there is a run 'first' already"
    assert "--resume" in hint
    assert "--name" in hint


def test_runs_started_at_the_same_time_get_different_names(histo):
    both = [Process(histo.root, *QUICK, "--seed", seed) for seed in (1, 2)]
    assert [process.wait() for process in both] == [0, 0]
    configs = [json.loads(path.read_text()) for path in histo.root.glob("runs/histonet-*/config.json")]
    assert {config["run"] for config in configs} == {"histonet-64-1", "histonet-64-2"}
    assert {config["options"]["seed"] for config in configs} == {1, 2}


def test_without_a_run_resume_is_an_error(empty, histo):
    error, _ = empty.fails("train", "--resume")
    assert error == "there is no run to resume"
    error, hint = histo.fails("train", "--resume", "--name", "third")
    assert error == "there is no run 'third' to resume"
    assert "first" in hint


def test_a_resumed_run_keeps_its_options(histo):
    for option, value in (("--lr", 0.5), ("--epochs", 1), ("--seed", 5), ("--augment", "none")):
        error, hint = histo.fails("train", "--resume", option, value, code=2)
        assert option in error
        assert ("the run has 2 epochs" if option == "--epochs" else "the run was started with") in error
        assert option in hint
    error, hint = histo.fails("train", "--resume", "--freeze", code=2)
    assert error == "--freeze: the run was started without it"
    assert hint == "start a new run to change --freeze"
    histo("train", "--resume", "--epochs", 2, "--batch-size", 16)  # options with the same values are allowed
    histo("train", "--resume", "--device", "auto")  # another device is allowed


def test_a_run_from_weights_that_this_version_does_not_have_is_extended(histo):
    path = histo.root / "runs" / "first" / "config.json"
    config = json.loads(path.read_text())
    config["options"]["weights"] = "histonet-pcam"  # which was of another architecture in an earlier version
    path.write_text(json.dumps(config))
    assert config["options"]["arch"] != "histonet-pair"
    histo("train", "--resume", "--name", "first", "--epochs", 3)
    assert len(history(histo, "first")) == 3


def test_more_epochs_extend_a_finished_run_with_a_cycle_of_their_own(histo):
    before = history(histo, "first")
    shutil.copytree(histo.root / "runs" / "first", histo.root / "runs" / "later")
    os.utime(histo.root / "runs" / "later" / "last.pt")
    result = histo("train", "--resume", "--name", "first", "--epochs", 5, "--device", "cpu")
    assert "extended from 2 to 5 epochs: the learning rate rises to" in result.stderr
    rows = history(histo, "first")
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5]
    assert rows[:2] == before
    assert before[-1]["lr"] < rows[2]["lr"] / 100  # the learning rate fell in the first cycle, and rises in the second
    assert rows[4]["lr"] == pytest.approx(before[-1]["lr"], rel=0.01)
    config = json.loads((histo.root / "runs" / "first" / "config.json").read_text())["options"]
    assert (config["epochs"], config["extended_after"]) == (5, 2)
    workspace = Workspace(histo.root)
    assert workspace.list_runs() == ["later", "first"]  # by when they were trained last
    with hold(workspace.run_lock_path("first"), "it is in use"):  # as a process that trains it does
        assert load_run_config(workspace, None).name == "later"
    assert "of 5." in (histo.root / "runs" / "first" / "model_card.md").read_text()
    histo("train", "--resume", "--epochs", 6)  # without --name, the run that was trained last
    assert len(history(histo, "first")) == 6


def test_an_extended_run_that_was_interrupted_ends_as_if_it_had_run_through(histo, tmp_path):
    other = Histo(shutil.copytree(histo.root, tmp_path / "other"))
    more = ["train", "--resume", "--name", "first", "--epochs", 6]  # some are left when the signal arrives
    other(*more)
    process = Process(histo.root, *more)
    process.until(lambda: any(line.lstrip().startswith("3 ") for line in process.stderr.splitlines()))
    process.signal(signal.SIGINT)
    assert process.wait() == 130
    histo("train", "--resume", "--name", "first")
    assert same_weights(load_run_checkpoint(histo, "first").model, load_run_checkpoint(other, "first").model)


def test_a_run_that_is_not_finished_is_not_extended(histo):
    """An extra line break in the history was counted as an epoch."""
    folder = histo.root / "runs" / "first"
    last = torch.load(folder / "last.pt", weights_only=True)
    torch.save(last | {"config": last["config"] | {"epochs": 3}}, folder / "last.pt")
    with (folder / "history.jsonl").open("a") as file:
        file.write("\n")
    error, hint = histo.fails("train", "--resume", "--epochs", 5, code=2)
    assert error == "--epochs 5: only a finished run can be extended; this one has trained 2 of 3 epochs"
    assert hint == "finish it first: histo train --resume --name first"


def test_an_epoch_that_was_trained_but_not_validated_is_validated_when_resumed(histo):
    path = histo.root / "runs" / "first" / "last.pt"
    before = history(histo, "first")
    last = torch.load(path, weights_only=True)
    training = last["training"] | {"history": last["training"]["history"][:1]}
    assert training["epoch_stats"] is None
    training["epoch_stats"] = {"loss": 0.25, "rate": 100.0, "seconds": 2.0}
    torch.save(last | {"training": training, "epoch": 1}, path)
    histo("train", "--resume", "--name", "first", "--device", "cpu")
    rows = history(histo, "first")
    assert rows[0] == before[0]
    assert [row["train_loss"] for row in rows] == [before[0]["train_loss"], 0.25]
    assert rows[1]["val_loss"] == pytest.approx(before[1]["val_loss"], rel=1e-4)


def test_a_manifest_that_changed_is_refused(histo):
    path = histo.root / "runs" / "first" / "manifest.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    error, _ = histo.fails("train", "--resume")
    assert f"{path} has changed since the run was started" in error


def test_a_new_balanced_subset_does_not_change_a_run(histo):
    path, subset = histo.root / "runs" / "first" / "manifest.csv", histo.root / "manifests" / "balanced.csv"
    before = path.read_bytes()
    histo("balance", "--n", 40, "--seed", 9)
    histo("train", "--resume", "--name", "first")
    assert path.read_bytes() == before
    report = json.loads(histo("eval", "--ckpt", "first", "--device", "cpu", "--json").stdout)
    of_run, of_subset = (sum(row["split"] == "val" for row in table(file.read_text())) for file in (path, subset))
    assert report["n"] == of_run != of_subset


@pytest.mark.parametrize(
    ("line", "code", "why"),
    [
        (["--device", "cuda"], 1, "--device cuda"),
        (["--device", "mps"], 1, "--device mps"),
        (["--arch", "vgg99"], 2, "no architecture 'vgg99'"),
        (["--weights", "imagenet"], 2, "histonet has no pretrained weights"),
        (["--batch-size", "1"], 2, "--batch-size 1"),
        (["--epochs", "0"], 2, "--epochs 0"),
        (["--lr", "0"], 2, "--lr 0"),
        (["--lr", "nan"], 2, "--lr nan"),
        (["--data", "nothing"], 1, "nothing.csv"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_impossible_options_are_refused_before_anything_is_written(histo, line, code, why, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    error, _ = histo.fails("train", "--epochs", 1, *line, code=code)
    assert why in error
    assert [path.name for path in (histo.root / "runs").iterdir()] == ["first"]


@pytest.fixture(scope="module")
def default_weights(tmp_path_factory):
    """Return the weights that the command `QUICK` trains without other options."""
    histo = train_in_copy(tmp_path_factory.mktemp("default"), QUICK)
    return load_run_checkpoint(histo, "once").model


@pytest.mark.parametrize(
    "options",
    [
        ["--augment", "none"],
        ["--augment", "flips"],
        ["--rotate", "right"],  # `auto` is any angle for the network of `QUICK`
        ["--precision", "bf16"],
        ["--arch", "squeezenet1_1"],
    ],
    ids=" ".join,
)
def test_options_are_used_and_stored(histo, default_weights, options):
    histo(*QUICK, "--name", "o", *options)
    config = json.loads((histo.root / "runs" / "o" / "config.json").read_text())
    assert config["options"][options[0].removeprefix("--")] == options[1]
    assert len(history(histo, "o")) == 1
    checkpoint = load_run_checkpoint(histo, "o")
    if options[0] == "--arch":
        assert checkpoint.arch == options[1]
    else:
        assert checkpoint.model.keys() == default_weights.keys()
        assert not same_weights(checkpoint.model, default_weights)


def test_a_checkpoint_has_only_tensors_and_plain_values(histo):
    def plain(value):
        if isinstance(value, dict):
            return all(plain(key) and plain(item) for key, item in value.items())
        if isinstance(value, (list, tuple)):
            return all(map(plain, value))
        return value is None or type(value) in (str, int, float, bool, torch.Tensor)

    content = torch.load(histo.root / "checkpoints" / "last.pt", weights_only=True)
    assert plain(content)


def test_a_manifest_saved_by_a_spreadsheet_is_copied_unchanged(histo):
    path = histo.root / "manifests" / "balanced.csv"
    saved = path.read_bytes().replace(b"\n", b"\r\n")
    path.write_bytes(saved)
    histo(*QUICK, "--name", "crlf")
    assert (histo.root / "runs" / "crlf" / "manifest.csv").read_bytes() == saved
    histo("train", "--resume", "--name", "crlf")
    histo("balance", "--n", 40)
    histo("eval", "--ckpt", "crlf", "--device", "cpu")


def test_a_whole_data_set_cannot_be_trained_on(histo):
    path = histo.root / "manifests" / "synthetic.csv"
    assert "not a balanced subset" in histo.fails(*TRAIN, "--data", "synthetic")[0]
    write_rows(path, [row | {"split": ("train", "val")[i % 2]} for i, row in enumerate(read_rows(path))])
    error, hint = histo.fails(*TRAIN, "--data", "synthetic")
    assert error == "synthetic is a data set, not a balanced subset"
    assert hint == "histo balance --data synthetic --n max"
    histo(*shlex.split(hint)[1:], "--name", "hinted")


def newest(histo):
    return [load_checkpoint(histo.root / "checkpoints" / name).run for name in ("best.pt", "last.pt")]


def test_the_checkpoints_of_the_workspace_are_of_the_newest_finished_run(histo):
    line = [*LONG, "--batch-size", 16, "--epochs", 5, "--name", "stopped"]  # some are left when the signal arrives
    process = Process(histo.root, *line)
    process.until((histo.root / "runs" / "stopped" / "best.pt").is_file)
    process.signal(signal.SIGINT)
    assert process.wait() == 130  # it has a best epoch, and is not finished
    assert newest(histo) == ["first", "first"]
    histo("train", "--resume", "--name", "stopped")
    assert newest(histo) == ["stopped", "stopped"]
    told = histo("train", "--resume", "--name", "first").stderr  # finished long ago
    assert "next: histo eval --ckpt first\n" in told
    assert newest(histo) == ["stopped", "stopped"]


def test_folds_and_seeds_do_not_replace_the_checkpoints_of_the_workspace(histo):
    histo(*QUICK, "--seeds", 2, "--name", "s")
    histo(*QUICK, "--folds", 2, "--name", "cv")
    assert newest(histo) == ["first", "first"]
    for run in ("s-seed1", "cv-fold2"):
        assert f"next: histo eval --ckpt {run}\n" in histo("train", "--resume", "--name", run).stderr
    assert newest(histo) == ["first", "first"]


def test_a_single_run_with_a_name_like_one_of_several_seeds_is_not_one_of_them(histo):
    """Its checkpoints were not copied if it was resumed, and the command to train longer was `--seeds 1`."""
    resume = ("train", "--resume", "--name", "s-seed1")
    histo(*QUICK, "--seed", 1, "--name", "s-seed1")
    shutil.rmtree(histo.root / "checkpoints")  # as if the process had been killed before it copied them
    assert "next: histo eval --ckpt best.pt\n" in histo(*resume).stderr
    assert newest(histo) == ["s-seed1", "s-seed1"]
    told = histo("eval", "--ckpt", "s-seed1", "--threshold", 0, "--device", "cpu").stderr
    assert "train longer: histo train --resume --name s-seed1 --epochs 4\n" in told


def test_without_a_finished_run_the_error_names_a_checkpoint_to_use(histo):
    shutil.rmtree(histo.root / "checkpoints")
    error, hint = histo.fails("eval")
    assert error.startswith("there is no checkpoint 'best.pt'")
    assert hint == "--ckpt first uses the best epoch of the run first (runs: first)"


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_run_without_its_last_checkpoint_is_not_resumed_and_the_file_is_named(histo, is_folder):
    last = histo.root / "runs" / "first" / "last.pt"
    last.unlink()
    if is_folder:
        last.mkdir()
    error, hint = histo.fails("train", "--resume", "--name", "first")
    assert error == f"{last} is missing, or is not a file: 'first' cannot be resumed"
    assert hint == "start a new run with another --name"
