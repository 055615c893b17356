"""The same seed, machine and arguments give the same manifest, weights, metrics and predictions, byte for byte."""

import shutil

import pytest
import torch

from histocli.commands.train import train
from histocli.config import TrainConfig
from histocli.enums import Device
from histocli.training.listeners import Listener
from histocli.workspace import Workspace
from tests.faults.processes import histo
from tests.faults.trees import differences, tree

TRAIN = ["train", "--epochs", 1, "--batch-size", 8, "--seed", 3, "--name", "r"]


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


def test_rotations_by_any_angle_give_the_same_weights_twice(root):
    weights = []
    for _ in range(2):
        shutil.rmtree(root / "runs" / "r", ignore_errors=True)
        histo(root, *TRAIN, "--device", "cpu", "--rotate", "any")
        weights.append(tree(root / "runs" / "r")["last.pt"])
    assert weights[0] == weights[1]


def test_another_seed_gives_another_result(root):
    histo(root, *TRAIN, "--device", "cpu")
    histo(root, *TRAIN[:-1], "other", "--device", "cpu", "--seed", 4)
    first, second = (tree(root / "runs" / name)["best.pt"]["model"] for name in ("r", "other"))
    assert first != second


def test_a_deterministic_run_and_its_resumption_use_deterministic_algorithms(root, monkeypatch):
    class Recorder(Listener):
        def on_step(self, progress):
            recorded.append(torch.are_deterministic_algorithms_enabled())

    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # else it would remain set for other tests
    recorded, quick = [], {"arch": "histonet-64", "shots": 8, "batch_size": 16, "device": Device.CPU}
    for options in ({"epochs": 1, "deterministic": True, **quick}, {"epochs": 2, "resume": True}):
        train(Workspace(root), TrainConfig(name="r", **options), given=options, listener=Recorder())
    assert recorded == [True, True]  # one step each
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_the_same_commands_twice_give_the_same_files_on_cuda(tmp_path):
    root = tmp_path / "workspace"
    run_pipeline(root, "cuda", "--deterministic")
    first = tree(root)
    run_pipeline(root, "cuda", "--deterministic")
    assert differences(tree(root), first) == []
