"""`histo tune`: studies on small synthetic patches, with the real Optuna."""

import json
import re
import shlex
import shutil
import signal
import sqlite3
import sys
from contextlib import closing
from functools import cache

import numpy as np
import pytest

import histocli.training.study
import histocli.training.study_start
from histocli.data.manifest import write_manifest
from histocli.errors import HistoError, UsageError
from histocli.training.trainer import NotFiniteError, Trainer
from tests.cli import TRAIN, Histo, copy_for_all_tests, read_rows, template, write_rows
from tests.faults.processes import Process
from tests.models.encoder_hub import TINY, put_in_cache

SPACE = ["--folds", 2, "--epochs", 1, "--batch-size", 16, "--arch", "histonet-64", "--device", "cpu"]


def tune(histo, trials, *args, name="tune"):
    """Run a study, and return its report as `--json` prints it."""
    return json.loads(histo("tune", "--name", name, "--trials", trials, *args, "--json").stdout)


def read_study(histo, name="tune"):
    path = histo.root / "metrics" / f"{name}-study.json"
    return json.loads(path.read_text()) if path.is_file() else {"trials": []}


def open_in_optuna(histo, name="tune"):
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = optuna.storages.RDBStorage(f"sqlite:///{histo.root / 'tuning' / name / 'study.db'}")
    return optuna.load_study(study_name=name, storage=storage)


@cache
def template_with_study():
    """Make a copy of the template with a study of one trial, `tune`; return its path."""
    histo = copy_for_all_tests(template())
    tune(histo, 1, *SPACE)
    return histo.root


@cache
def whole_study():
    """Run a study of three trials without a break, `whole`; return `histo` for its workspace, and its result."""
    histo = copy_for_all_tests(template())
    return histo, histo("tune", "--name", "whole", "--trials", 3, *SPACE, "--json")


@pytest.fixture
def studied(one_thread, tmp_path):
    """Return `histo` for a copy of the workspace with the study."""
    return Histo(shutil.copytree(template_with_study(), tmp_path / "studied"))


def measured(report):
    """Return the parts of the trials that do not depend on interruptions of the study."""
    return [(trial["number"], trial["state"], trial["parameters"], trial["auc"]) for trial in report["trials"]]


@pytest.mark.usefixtures("one_thread")
def test_the_printed_command_trains_what_the_best_trial_measured(tmp_path):
    whole, result = whole_study()
    histo = Histo(shutil.copytree(whole.root, tmp_path / "whole"))
    report = json.loads(result.stdout)
    assert report == read_study(histo, "whole")
    assert [trial["state"] for trial in report["trials"]] == ["finished"] * 3
    first = report["trials"][0]["parameters"]
    assert first == {"lr": 0.00106, "batch_size": 16, "epochs": 1, "augment": "full", "arch": "histonet-64"}
    means = [np.mean(trial["auc"]) for trial in report["trials"]]
    assert report["best"] == int(np.argmax(means))
    assert report["importance"].keys() == {"lr", "augment"}
    assert sum(report["importance"].values()) == pytest.approx(1)
    assert result.stderr.rstrip().endswith(f"next: {report['command']}")
    assert [path.name for path in (histo.root / "runs").iterdir()] == ["first"]

    words = shlex.split(report["command"])
    assert words[:2] == ["histo", "train"]
    repeats = json.loads(histo(*words[1:], "--folds", 2, "--name", "check", "--json").stdout)
    best = report["trials"][report["best"]]
    assert [run["metrics"]["auc"] for run in repeats["runs"]] == pytest.approx(best["auc"])


def test_a_trial_of_an_encoder_starts_from_its_published_weights_as_train_does(histo, encoder_hub):
    """Otherwise the printed command would train another network than the trial measured."""
    put_in_cache(encoder_hub, TINY)
    report = tune(histo, 1, *SPACE[:-4], "--arch", "tiny", "--lr", "0.001", "--augment", "flips", "--device", "cpu")
    words = shlex.split(report["command"])
    repeats = json.loads(histo(*words[1:], "--folds", 2, "--name", "check", "--json").stdout)
    config = json.loads((histo.root / "runs" / "check-fold1" / "config.json").read_text())
    assert (config["options"]["arch"], config["options"]["weights"]) == ("tiny", "pretrained")
    assert [run["metrics"]["auc"] for run in repeats["runs"]] == pytest.approx(report["trials"][0]["auc"])


def test_a_continued_study_chooses_and_measures_as_one_without_a_break(studied):
    parts = tune(studied, 2)  # `tune` has one trial
    assert measured(parts) == measured(read_study(whole_study()[0], "whole"))[:2]
    again = studied("tune", "--trials", 2)
    assert "no trial was started: a larger --trials adds more" in again.stderr
    assert measured(read_study(studied)) == measured(parts)


def test_a_study_whose_folds_could_not_be_written_can_be_started_again(histo, monkeypatch):
    def write_first(path, frame):
        if path.stem.endswith("fold2"):
            raise HistoError("the disk is full")
        write_manifest(path, frame)

    with monkeypatch.context() as patch:
        patch.setattr("histocli.training.repeats.write_manifest", write_first)
        histo.fails("tune", "--trials", 1, *SPACE)
    assert not list((histo.root / "manifests").glob("*fold*"))
    assert [trial["state"] for trial in tune(histo, 1, *SPACE)["trials"]] == ["finished"]


def test_a_trial_that_was_stopped_before_its_first_parameter_is_continued(studied):
    study = open_in_optuna(studied)
    study.enqueue_trial({"lr": 0.002, "augment": "none"})
    study.ask()  # it is marked as running, and no parameter is written yet
    trial = tune(studied, 2)["trials"][1]
    assert (trial["state"], trial["parameters"]["lr"], trial["parameters"]["augment"]) == ("finished", 0.002, "none")


def test_a_continued_study_refuses_other_options_and_other_patches(studied):
    for option, value, before in (
        ("--folds", 3, "2"),
        ("--lr", 0.01, "0.0003:0.03"),
        ("--augment", "none", "none, fl"),
    ):
        error, hint = studied.fails("tune", "--trials", 2, option, value, code=2)
        assert error.startswith(f"{option} {value}: the study 'tune' was started with {before}")
        assert hint == f"leave {option} out, or start another study with --name"
    studied("tune", "--trials", 1, "--folds", 2)
    studied("balance", "--n", 40)
    error, _ = studied.fails("tune", "--trials", 2)
    assert error.endswith("balanced.csv has changed since the study 'tune' was started")
    assert len(read_study(studied)["trials"]) == 1


def test_train_does_not_replace_the_folds_of_a_study(histo):
    histo("tune", "--hours", 1e-6, *SPACE)
    before = {path: path.read_bytes() for path in (histo.root / "manifests").iterdir()}
    assert histo.fails(*TRAIN, "--folds", 3, "--name", "tune") == (
        "tune is a study of histo tune, whose folds would be replaced",
        "use another --name",
    )
    assert {path: path.read_bytes() for path in (histo.root / "manifests").iterdir()} == before
    histo("tune", "--hours", 1e-6)


def test_a_fold_whose_manifest_changes_while_the_study_runs_is_not_trained(histo, monkeypatch):
    def record_and_replace(trial, auc, seconds):
        record_fold(trial, auc, seconds)
        shutil.copy(manifests / "tune-fold1.csv", manifests / "tune-fold2.csv")

    manifests, record_fold = histo.root / "manifests", histocli.training.study.ClaimedTrial.record_fold
    monkeypatch.setattr(histocli.training.study.ClaimedTrial, "record_fold", record_and_replace)
    error, hint = histo.fails("tune", "--trials", 1, *SPACE, "--json")
    assert error.endswith("tune-fold2.csv has changed since the study 'tune' was started")
    assert hint == "start another study with --name"
    assert [len(trial.user_attrs["auc"]) for trial in open_in_optuna(histo).trials] == [1]


def test_the_first_trial_has_the_default_batch_size_for_the_device_and_the_training_patches(histo, monkeypatch):
    def choose_batch_size(device, patches):
        asked.append((device, patches))
        return 512

    asked = []
    monkeypatch.setattr(histocli.training.study_start, "choose_batch_size", choose_batch_size)
    histo("tune", "--hours", 1e-6, "--folds", 2, "--device", "cpu")
    splits = [row["split"] for row in read_rows(histo.root / "manifests" / "tune-fold1.csv")]
    assert asked == [("cpu", splits.count("train"))]
    (trial,) = open_in_optuna(histo).trials
    point = trial.system_attrs["fixed_params"]
    assert (point["batch_size"], point["lr"]) == (512, pytest.approx(0.006))


def test_two_processes_share_a_study(histo):
    args = ["tune", "--trials", 4, *SPACE]
    both = [Process(histo.root, *args) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0], [process.stderr for process in both]
    report = tune(histo, 4)
    assert [(trial["number"], trial["state"]) for trial in report["trials"]] == [(i, "finished") for i in range(4)]
    assert len({trial["parameters"]["lr"] for trial in report["trials"]}) == 4
    trained = [re.findall(r"^ {4}(\d) ", process.stderr, re.MULTILINE) for process in both]
    assert sorted(trained[0] + trained[1]) == ["0", "1", "2", "3"]
    assert all(trained)


def test_a_trial_that_ends_while_another_process_looks_for_one_is_not_trained_again(studied, monkeypatch):
    """Another process finishes trial 0 after this one has read that it runs, and before it looks at its lock."""
    path = studied.root / "tuning" / "tune" / "study.db"

    def write_state(state):
        with closing(sqlite3.connect(path)) as database, database:
            database.execute("UPDATE trials SET state = ? WHERE number = 0", [state])

    def finish(lock):
        write_state("COMPLETE")
        return False

    write_state("RUNNING")
    monkeypatch.setattr(histocli.training.study, "is_held", finish)
    report = tune(studied, 2)
    assert [(trial["state"], len(trial["auc"])) for trial in report["trials"]] == [("finished", 2)] * 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stopped_study_keeps_what_is_finished_and_continues_the_rest(histo, number):
    process = Process(histo.root, "tune", "--trials", 50, *SPACE)
    process.until(lambda: read_study(histo)["trials"])
    process.signal(number)
    assert process.wait() == (130 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:
        assert "stopping after this step, and saving the state" in process.stderr
        assert "hint: histo tune --name tune --trials 50" in process.stderr
    ended = [trial for trial in read_study(histo)["trials"] if trial["state"] == "finished"]
    assert ended
    after = tune(histo, len(ended) + 1)
    assert after["trials"][: len(ended)] == ended
    assert measured(after)[:3] == measured(read_study(whole_study()[0], "whole"))[: len(ended) + 1]
    assert not list((histo.root / "tuning" / "tune" / "runs").iterdir())


def test_a_trial_below_the_median_is_pruned(studied):
    import optuna

    study = open_in_optuna(studied)
    (first,) = study.trials
    for _ in range(5):
        study.add_trial(
            optuna.trial.create_trial(
                params=first.params,
                distributions=first.distributions,
                value=1.0,
                intermediate_values={1: 1.0},
                user_attrs={"auc": [1.0, 1.0]},
            )
        )
    begun = studied.root / "tuning" / "tune" / "runs" / "trial6-fold2"  # by a process that was killed
    begun.mkdir(parents=True)
    report = tune(studied, 7)
    pruned = report["trials"][6]
    assert (pruned["state"], len(pruned["auc"])) == ("pruned", 1)
    assert not begun.exists()
    assert pruned["auc"][0] < 1
    assert report["best"] == 1


def test_a_trial_that_diverges_is_reported_and_the_next_one_starts(histo, monkeypatch):
    def diverge(self, *args, **kwargs):
        if self.recipe.lr not in rates:
            rates.append(self.recipe.lr)  # the folds of a trial share it
        if rates.index(self.recipe.lr) == 1:
            raise NotFiniteError("the loss of step 1 is not finite", "lower --lr")
        return train_epoch(self, *args, **kwargs)

    rates, train_epoch = [], Trainer.train_epoch
    monkeypatch.setattr(Trainer, "train_epoch", diverge)
    result = histo("tune", "--trials", 3, *SPACE, "--json")
    report = json.loads(result.stdout)
    assert [trial["state"] for trial in report["trials"]] == ["finished", "failed", "finished"]
    assert report["trials"][1]["problem"] == "the loss of step 1 is not finite"
    assert "warning: trial 1 failed: the loss of step 1 is not finite" in result.stderr
    assert not list((histo.root / "tuning" / "tune" / "runs").iterdir())


def test_a_trial_that_needs_too_much_memory_is_reported(histo, monkeypatch):
    def fill(self, *args, **kwargs):
        raise RuntimeError("CUDA out of memory")

    monkeypatch.setattr(Trainer, "train_epoch", fill)
    report = tune(histo, 2, *SPACE)
    assert {trial["problem"] for trial in report["trials"]} == {"there is not enough memory for 16 patches at a time"}
    assert (report["best"], report["command"], report["importance"]) == (None, "", {})


def test_held_out_patches_change_nothing(studied):
    """The rows of the subset that are in neither train nor val."""
    manifests = studied.root / "manifests"
    rows = read_rows(manifests / "balanced.csv")
    known = {row["id"] for row in rows}
    held = [
        {name: row[name] for name in rows[0].keys() & row.keys()} | {"split": "test", "data": "synthetic", "index": i}
        for i, row in enumerate(read_rows(manifests / "synthetic.csv"))
        if row["id"] not in known
    ]
    assert len(held) > 100
    write_rows(manifests / "balanced.csv", [*rows, *held])
    after = tune(studied, 1, *SPACE, name="after")
    assert measured(after) == measured(read_study(studied))
    for fold in ("after-fold1", "after-fold2"):
        own = read_rows(manifests / f"{fold}.csv")
        assert {row["id"] for row in own} == known
        slides = [{row["slide"] for row in own if row["split"] == part} for part in ("train", "val")]
        assert slides[0].isdisjoint(slides[1])


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "--trials or --hours is needed"),
        (["--hours", 0], "--hours 0: a number above 0 is needed"),
        (["--hours", "nan"], "--hours nan: a number above 0 is needed"),
        (["--trials", 1, "--lr", "0.1:0.01"], "--lr 0.1:0.01: a range LOW:HIGH or one value is needed"),
        (["--trials", 1, "--lr", "0:0.1"], "--lr 0.0: a number above 0 and below 10 is needed"),
        (["--trials", 1, "--epochs", "2.5"], "--epochs 2.5: a range LOW:HIGH or one value is needed"),
        (["--trials", 1, "--epochs", "0:3"], "--epochs 0: at least 1 is needed"),
        (["--trials", 1, "--arch", "resnet81"], "there is no architecture 'resnet81'"),
        (["--trials", 1, "--arch", "histonet", "--arch", "histonet"], "--arch: a value is given twice"),
        (["--trials", 1, "--name", "a/b"], "'a/b' cannot name a study"),
        (["--trials", 1, "--weights", "pretrained"], "histonet has no pretrained weights"),
        (["--trials", 1, "--weights", "random", "--arch", "uni"], "--weights random: uni starts from its published"),
    ],
)
def test_wrong_options_start_nothing(histo, args, message):
    assert histo.fails("tune", *args, code=2)[0].startswith(message)
    assert not list(histo.root.glob("tuning/[!.]*"))
    assert not list(histo.root.glob("manifests/*-fold*"))


def test_a_device_that_is_not_there_starts_and_changes_nothing(histo):
    no_gpu = ("tune", "--trials", 1, "--device", "mps")
    assert histo.fails(*no_gpu)[0] == "--device mps: no Apple GPU was found"
    assert not list(histo.root.glob("tuning/[!.]*"))
    assert not list(histo.root.glob("manifests/*-fold*"))


def test_impossible_folds_and_names_in_use_start_nothing(histo):
    assert "cannot be divided into 40 folds" in histo.fails("tune", "--trials", 1, "--folds", 40)[0]
    shutil.copy(histo.root / "manifests" / "balanced.csv", histo.root / "manifests" / "tune-fold1.csv")
    assert histo.fails("tune", "--trials", 1, *SPACE) == (
        "there is a subset 'tune-fold1' already",
        "use another --name",
    )
    assert not list(histo.root.glob("tuning/[!.]*"))


def test_without_optuna_one_line_says_what_to_install(histo, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert histo.fails("tune", "--trials", 1) == (
        "histo tune needs the package optuna",
        "pip install 'histocli[tune]'",
    )


@pytest.mark.parametrize(("damage", "reason"), [(b"not a database" * 100, "file is not a database"), (None, "is gone")])
def test_a_damaged_file_of_a_study_is_named(studied, damage, reason):
    path = studied.root / "tuning" / "tune" / "study.db"
    path.unlink()
    if damage:
        path.write_bytes(damage)
    error, hint = studied.fails("tune", "--trials", 2)
    assert str(path) in error
    assert reason in error
    assert hint == "start another study with --name"


def test_a_path_may_have_characters_with_a_meaning_in_addresses(histo):
    strange = histo.root.rename(histo.root.with_name("a b?c=%20{d}#e"))
    histo.root = strange
    assert len(tune(histo, 1, *SPACE)["trials"]) == 1
    assert (strange / "tuning" / "tune" / "study.db").stat().st_size > 0


def test_no_trial_is_started_after_the_hours(histo):
    report = json.loads(histo("tune", "--hours", 1e-6, *SPACE, "--json").stdout)
    assert (report["trials"], report["command"]) == ([], "")


def test_the_python_api_returns_the_report(histo):
    options = {"folds": 2, "epochs": 1, "batch_size": 16, "arch": "histonet-64", "augment": ["none"], "device": "cpu"}
    report = histocli.tune(histo.root, trials=2, lr="0.001:0.01", **options)
    assert [trial.parameters.augment for trial in report.trials] == ["none", "none"]
    assert all(0.001 <= trial.parameters.lr <= 0.01 for trial in report.trials)
    assert report.best is not None
    with pytest.raises(UsageError, match="batch_size='auto' is not a whole number"):
        histocli.tune(histo.root, trials=1, batch_size="auto", name="other")


def test_a_run_that_a_process_left_when_it_was_killed_after_a_fold_is_removed(histo, monkeypatch):
    import optuna

    set_user_attr = optuna.Trial.set_user_attr

    def write_and_fail(trial, key, value):  # in `record_fold`, after its first write: then the fold is not repeated
        set_user_attr(trial, key, value)
        raise OSError("killed")

    monkeypatch.setattr(optuna.Trial, "set_user_attr", write_and_fail)
    runs = histo.root / "tuning" / "tune" / "runs"
    for fold in (1, 2):
        histo.fails("tune", "--trials", 1, *SPACE, "--json")
        assert [path.name for path in runs.iterdir()] == [f"trial0-fold{fold}"]
    monkeypatch.undo()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    (trial,) = tune(histo, 1, *SPACE)["trials"]
    assert (trial["state"], len(trial["auc"])) == ("finished", 2)
    assert list(runs.iterdir()) == []
