"""The head of nearest neighbours: its votes, and train, eval, predict, export and resume with it."""

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from histocli.commands.train import train
from histocli.enums import HeadKind
from histocli.errors import HistoError
from histocli.models import create_model
from histocli.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from histocli.models.knn import K, KnnHead
from histocli.signals import Stopped
from histocli.workspace import Workspace
from tests.cli import TRAIN
from tests.data.test_feature_cache import StopsInFeatures
from tests.models.hub import FROZEN, SMALL, publish

KNN = [*TRAIN, "--arch", SMALL, "--weights", "pretrained", "--freeze", "--head", "knn"]


def draw(n, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, 6, generator=generator), torch.randint(0, 2, (n,), generator=generator)


def head_of(features, labels):
    head = KnnHead(features.shape[1], len(features))
    head.remember(features, labels)
    return head


def test_the_votes_are_those_of_the_most_similar_patches():
    features, labels = draw(60)
    queries, _ = draw(5, seed=1)
    bank, query = (values.numpy() - features.numpy().mean(0) for values in (features, queries))
    similarity = (query / np.linalg.norm(query, axis=1, keepdims=True)) @ (
        bank / np.linalg.norm(bank, axis=1, keepdims=True)
    ).T
    for row, logits in zip(similarity, head_of(features, labels)(queries), strict=True):
        nearest = np.argsort(-row)[:K]
        weights = np.exp(row[nearest] / 0.07)
        tumour = K * (weights * labels.numpy()[nearest]).sum() / weights.sum()
        assert logits.numpy() == pytest.approx(np.log([K - tumour + 0.5, tumour + 0.5]), abs=1e-4)


def test_fewer_patches_than_neighbours_vote_too():
    head = head_of(torch.tensor([[1.0, 0.0], [-1.0, 0.0]]), torch.tensor([1, 0]))
    logits = head(torch.tensor([[2.0, 0.1], [-2.0, 0.1]]))
    assert logits.argmax(1).tolist() == [1, 0]
    assert torch.isfinite(logits).all()


def test_the_loss_does_not_count_the_vote_of_the_patch_itself():
    features, labels = draw(200)
    loss = float(head_of(features, labels).compute_leave_one_out_loss())
    assert 0.6 < loss < 1.5  # the labels are random; with its own vote each patch would be right
    separable = features + 20 * (labels[:, None] * 2 - 1)
    assert float(head_of(separable, labels).compute_leave_one_out_loss()) < 0.1


def test_a_run_with_neighbours_is_evaluated_and_predicts_like_others(histo, hub, tmp_path):
    publish(SMALL, hub)
    histo(*KNN, "--name", "near")
    run = histo.root / "runs" / "near"
    best = load_checkpoint(run / "best.pt")
    assert (best.config["epochs"], best.epoch) == (1, 1)
    shutil.rmtree(hub)
    report = json.loads(histo("eval", "--ckpt", "near", "--raw", "--json", "--device", "cpu").stdout)
    assert report["metrics"]["auc"] == pytest.approx(best.metrics["val_auc"])
    rows = list(csv.DictReader(histo("predict", "synthetic", "--ckpt", "near", "--device", "cpu").stdout.splitlines()))
    assert len({row["label"] for row in rows}) > 10
    last = load_checkpoint(run / "last.pt")
    assert all(name.startswith("network.head.") for name in last.model)
    rebuilt = last.build().state_dict()
    assert all(torch.equal(tensor, rebuilt[name]) for name, tensor in best.model.items())
    histo("export", "--ckpt", "near", "--format", "pt2", "--out", tmp_path / "near.pt2")
    assert "near is finished already" in histo("train", "--resume", "--name", "near").stderr


def test_a_stopped_run_with_neighbours_continues_to_the_same_weights(histo, hub):
    publish(SMALL, hub)
    config = replace(FROZEN, head=HeadKind.KNN, name="stopped")
    with pytest.raises(Stopped):
        train(Workspace(histo.root), config, listener=StopsInFeatures())
    histo("train", "--resume", "--name", "stopped")
    histo(*KNN, "--name", "uninterrupted")
    first, second = (
        load_checkpoint(histo.root / "runs" / name / "best.pt").model for name in ("stopped", "uninterrupted")
    )
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_neighbours_are_chosen_among_the_shots(histo, hub):
    publish(SMALL, hub)
    histo(*KNN, "--shots", 3, "--name", "few")
    assert load_checkpoint(histo.root / "runs" / "few" / "best.pt").model["network.head.bank"].shape[0] == 6


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--epochs", 3], "--epochs has no meaning with --head knn"),
        (["--lr", 0.1], "--lr has no meaning with --head knn"),
    ],
)
def test_options_of_training_are_refused(histo, options, why):
    assert why in histo.fails(*KNN, *options, code=2)[0]


def test_neighbours_need_a_frozen_backbone(histo):
    error, hint = histo.fails("train", "--arch", SMALL, "--weights", "pretrained", "--head", "knn", code=2)
    assert error == "--head knn needs --freeze"
    assert hint == "add --freeze"


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"network.head.bank": torch.zeros(6, 9)}, "network.head.bank is"),
        ({"network.head.bank": torch.zeros(6)}, "network.head.bank has the shape"),
        ({"network.head.bank": torch.zeros(0, 1024)}, "network.head.bank has the shape"),
        ({"network.head.labels": torch.zeros(7, dtype=torch.uint8)}, "network.head.labels is"),
        ({"network.head.bank": torch.full((6, 1024), torch.nan)}, "not finite"),
        ({"network.head.linear.weight": torch.zeros(2, 1024)}, "the network has no"),
    ],
)
def test_damaged_neighbours_are_refused(tmp_path, change, why):
    model = create_model(SMALL)
    model.network.head = KnnHead(1024, 6)
    save_checkpoint(Checkpoint(SMALL, model.state_dict() | change, "run", 1, {}, {}, "ab" * 32), tmp_path / "a.pt")
    with pytest.raises(HistoError, match=why):
        load_checkpoint(tmp_path / "a.pt").build()


def test_neighbours_of_a_network_without_a_backbone_are_refused(tmp_path):
    state = create_model("histonet-64").state_dict() | {"network.head.bank": torch.zeros(4, 8)}
    save_checkpoint(Checkpoint("histonet-64", state, "run", 1, {}, {}, "ab" * 32), tmp_path / "a.pt")
    with pytest.raises(HistoError, match=r"the network has no network\.head\.bank"):
        load_checkpoint(tmp_path / "a.pt").build()
