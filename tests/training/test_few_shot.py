"""`--shots`: a few training patches of each class, drawn by seed and recorded."""

import json

import pandas as pd
import pytest

from histocli.config import RunConfig
from histocli.data.dataset import open_balanced, select_labelled
from histocli.enums import SplitName
from histocli.errors import UsageError
from histocli.training.few_shot import draw_shots
from histocli.workspace import Workspace
from tests.cli import SMALL_TRAIN, SUBSET


def drawn(histo, run):
    return json.loads((histo.root / "runs" / run / "config.json").read_text())["shots"]


def manifest(histo):
    frame = pd.read_csv(histo.root / "manifests" / "balanced.csv", keep_default_na=False)
    return frame[frame["split"] == "train"]


def test_shots_are_training_patches_of_both_classes_and_are_reported(histo):
    result = histo(*SMALL_TRAIN, "--shots", 4, "--epochs", 1, "--name", "few")
    record, train = drawn(histo, "few"), manifest(histo)
    rows = train[train["id"].isin(record["ids"])]
    assert len(set(record["ids"])) == len(rows) == 8
    assert rows["label"].value_counts().to_dict() == {0: 4, 1: 4}
    assert (record["per_class"], record["drawn_from"]) == (4, len(train))
    assert record["slides"] == rows["slide"].nunique()
    text = " ".join(result.stderr.split())
    assert f"few-shot: 4 tumour and 4 normal patches from {record['slides']} slides, drawn with seed 0" in text
    assert f"few: 8 patches to train on, {SUBSET - len(train)} to validate" in text
    card = (histo.root / "runs" / "few" / "model_card.md").read_text()
    used = f"Of the {len(train)} patches of the split `train`, only 4 patches of each class were used (`--shots`)"
    assert f"{used}, drawn with seed 0" in card
    assert f"| train | 8 | 4 | 4 | {record['slides']} |" in card
    histo("report", "--run", "few")
    page = (histo.root / "plots" / "few-report.html").read_text()
    assert f"Few-shot: 4 tumour and 4 normal patches from {record['slides']} slides, drawn with seed 0" in page
    counts = f'8</td><td class="n">4</td><td class="n">4</td><td class="n">{record["slides"]}</td>'
    assert f'<th scope="row">train</th><td class="n">{counts}' in page
    line = ["eval", "--ckpt", "few", "--data", "balanced", "--split", "train", "--device", "cpu", "--json"]
    evaluation = json.loads(histo(*line).stdout)
    others = train["slide"].isin(rows["slide"]).sum() - 8
    assert (evaluation["n_in_training"], evaluation["n_of_training_slides"]) == (8, others)
    config = histo.root / "runs" / "few" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"shots": None}))
    assert json.loads(histo(*line).stdout)["n_in_training"] is None  # it is not known which were drawn


def test_the_seed_decides_and_a_smaller_number_is_part_of_a_larger_one(histo):
    workspace = Workspace(histo.root)
    train = select_labelled(open_balanced(workspace, workspace.manifest_path("balanced")), SplitName.TRAIN)
    options = {"a": (4, 0), "same": (4, 0), "other": (4, 1), "more": (6, 0)}
    ids = {name: set(draw_shots(train, *each)[1].ids) for name, each in options.items()}
    assert ids["a"] == ids["same"]
    assert ids["a"] != ids["other"]
    assert ids["a"] < ids["more"]


def test_several_seeds_draw_several_times(histo):
    histo(*SMALL_TRAIN, "--shots", 4, "--epochs", 1, "--seeds", 2, "--name", "net")
    assert drawn(histo, "net-seed0")["ids"] != drawn(histo, "net-seed1")["ids"]
    assert len(json.loads((histo.root / "metrics" / "net-seeds.json").read_text())["runs"]) == 2


def test_more_shots_than_patches_are_refused(histo):
    train = manifest(histo)
    normal = int((train["label"] == 0).sum())
    error, hint = histo.fails(*SMALL_TRAIN, "--shots", 1000, "--epochs", 1)
    assert f"--shots 1000: there are only {normal} training patches with the label normal" in error
    assert hint == f"give --shots {normal} or fewer"


def test_a_resumed_run_keeps_its_shots(histo):
    histo(*SMALL_TRAIN, "--shots", 4, "--epochs", 1, "--name", "few")
    told = histo("train", "--resume", "--name", "few", "--epochs", 2).stderr
    assert "few: 8 patches to train on, " in told
    lines = (histo.root / "runs" / "few" / "history.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]  # one step for all patches of an epoch
    error, _ = histo.fails("train", "--resume", "--name", "few", "--shots", 5, code=2)
    assert "--shots 5: the run was started with 4" in error


def test_no_shots_are_refused():
    with pytest.raises(UsageError, match="--shots 0"):
        RunConfig(shots=0).check()
