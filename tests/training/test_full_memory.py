"""Training where memory is short, and what is freed between two runs."""

import gc
import json

import pytest

from histocli.inference import predictor
from histocli.models.backbone import HeadedNetwork
from histocli.training.run import Run
from histocli.training.setup import choose_validation_batch
from histocli.training.trainer import Trainer
from tests.cli import QUICK
from tests.models.hub import SMALL, publish


def test_only_a_small_network_is_validated_in_large_batches_on_a_gpu():
    assert choose_validation_batch("histonet-pair", "cuda", 128) == 1024
    assert choose_validation_batch("histonet", "cuda", 1024) == 2048
    assert choose_validation_batch("vit_l_16", "cuda", 16) == 32
    assert choose_validation_batch("timm/vit_small_patch16_224", "cuda", 16) == 32
    assert choose_validation_batch("histonet", "cpu", 128) == 256


def test_validation_halves_its_batch_where_memory_is_full(histo, monkeypatch):
    line = ["train", "--device", "cpu", "--arch", "histonet-64", "--epochs", 2, "--batch-size"]
    histo(*line, 128, "--name", "whole")
    compute, sizes = predictor.compute_log_odds, []

    def fail_if_large(network, images, *args, **options):
        sizes.append(len(images))
        if len(images) > 5:
            raise RuntimeError("CUDA out of memory")
        return compute(network, images, *args, **options)

    monkeypatch.setattr(predictor, "compute_log_odds", fail_if_large)
    histo(*line, "auto", "--name", "halved")
    assert sizes[-1] <= 5 < sizes[0]
    assert sizes.count(sizes[0]) == 1  # the second epoch knows what fits
    whole, halved = (
        json.loads((histo.root / "runs" / name / "history.jsonl").read_text().splitlines()[-1])
        for name in ("whole", "halved")
    )
    assert halved["val_loss"] == pytest.approx(whole["val_loss"], rel=1e-5)
    assert halved["train_loss"] == whole["train_loss"]  # the same batches


def test_the_batch_of_a_frozen_backbone_is_halved_until_its_features_fit_the_memory(histo, hub, monkeypatch):
    publish(SMALL, hub)
    compute = HeadedNetwork.compute_features

    def fail_if_large(network, images):
        if len(images) > 24:
            raise RuntimeError("CUDA out of memory")
        return compute(network, images)

    monkeypatch.setattr(HeadedNetwork, "compute_features", fail_if_large)
    histo("balance", "--n", 80, "--val-fraction", 0.5, "--name", "half")
    frozen = ["--arch", SMALL, "--weights", "pretrained", "--freeze", "--epochs", 1]
    for data, size in (("balanced", 16), ("half", 8)):  # validation batches are twice as large, if there are patches
        histo("train", "--device", "cpu", *frozen, "--batch-size", "auto", "--data", data, "--name", f"on-{data}")
        config = json.loads((histo.root / "runs" / f"on-{data}" / "config.json").read_text())
        assert config["options"]["batch_size"] == size


def test_the_memory_of_a_seed_is_free_before_the_next_one_starts(histo, monkeypatch):
    """Also on a GPU, where a trainer and its CUDA graph refer to each other."""
    create, alive = Run.__init__, []

    def count(self, *args, **options):
        alive.append(sum(type(thing) is Trainer for thing in gc.get_objects()))
        create(self, *args, **options)
        self.trainer.graph_stand_in = [self.trainer]

    monkeypatch.setattr(Run, "__init__", count)
    gc.collect()
    gc.disable()
    try:
        histo(*QUICK, "--seeds", 3, "--name", "s")
    finally:
        gc.enable()
    assert alive == alive[:1] * 3
