"""The same seed, machine and arguments give the same manifest, weights, metrics and predictions, byte for byte."""

import shutil

import pytest
import torch

from histocli.models.checkpoint import load_checkpoint
from tests.faults.processes import histo
from tests.faults.trees import differences, tree

TRAIN = ["train", "--epochs", 2, "--batch-size", 8, "--seed", 3, "--name", "r"]


def run_pipeline(root, device, *options):
    """Run all commands in a new workspace."""
    shutil.rmtree(root, ignore_errors=True)
    on = ["--device", device]
    for line in (
        ["download", "--source", "synthetic", "--n", 64, "--seed", 3],
        ["balance", "--n", 24, "--val-fraction", 0.25, "--seed", 3],
        [*TRAIN, *on, *options],
        ["eval", "--ckpt", "r", *on],
        ["eval", "--ckpt", "r", "--tta", *on],
        ["predict", "synthetic", "--ckpt", "r", "--out", root / "preds.csv", *on],
        ["predict", "synthetic", "--ckpt", "r", "--flags", "--out", root / "flags.csv", *on],
        ["plot"],
    ):
        histo(root, *line)


def test_the_same_commands_twice_give_the_same_files(tmp_path):
    root = tmp_path / "workspace"
    run_pipeline(root, "cpu")
    first, best = tree(root), (root / "runs" / "r" / "best.pt").read_bytes()
    run_pipeline(root, "cpu")
    assert differences(tree(root), first) == []
    assert (root / "runs" / "r" / "best.pt").read_bytes() == best
    assert {
        "manifests/balanced.csv",
        "metrics/r-synthetic-val.json",
        "preds.csv",
        "checkpoints/best.pt",
    } <= first.keys()


@pytest.mark.parametrize("options", [["--augment", "flips"], ["--rotate", "any"], ["--deterministic"]], ids=" ".join)
def test_any_options_give_the_same_weights_twice(root, options):
    weights = []
    for _ in range(2):
        shutil.rmtree(root / "runs" / "r", ignore_errors=True)
        histo(root, *TRAIN, "--device", "cpu", *options)
        weights.append(tree(root / "runs" / "r")["last.pt"])
    assert weights[0] == weights[1]


def test_another_seed_gives_another_result(root):
    histo(root, *TRAIN, "--device", "cpu")
    histo(root, *TRAIN[:-1], "other", "--device", "cpu", "--seed", 4)
    first, second = (tree(root / "runs" / name)["best.pt"]["model"] for name in ("r", "other"))
    assert first != second


def test_a_deterministic_run_is_resumed_as_deterministic(root):
    histo(root, *TRAIN, "--device", "cpu", "--deterministic")
    assert load_checkpoint(root / "runs" / "r" / "last.pt").config["deterministic"] is True
    histo(root, "train", "--resume", "--name", "r", "--deterministic")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_the_same_commands_twice_give_the_same_files_on_cuda(tmp_path):
    root = tmp_path / "workspace"
    run_pipeline(root, "cuda", "--deterministic")
    first = tree(root)
    run_pipeline(root, "cuda", "--deterministic")
    assert differences(tree(root), first) == []
