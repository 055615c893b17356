"""`--lora`: only the adapters and the head are trained, and the checkpoint is one of the plain network."""

import json
import sys

import pytest
import torch

from histocli.commands.train import train
from histocli.config import RunConfig, TrainConfig
from histocli.enums import Augment, Device, Precision
from histocli.errors import HistoError, UsageError
from histocli.models import create_model
from histocli.models.checkpoint import load_checkpoint
from histocli.signals import Stopped
from histocli.training.lora import add_lora, merge_adapters
from histocli.workspace import Workspace
from tests.cli import TRAIN
from tests.listeners import StopAfterEpoch

pytest.importorskip("peft", reason="peft is not installed (the extra `lora`)")
from tests.models.encoder_hub import TINY, put_in_cache
from tests.models.hub import images_of


def test_adapters_change_nothing_before_training_and_are_merged_exactly(encoder_hub):
    put_in_cache(encoder_hub, TINY)
    plain = create_model("tiny").eval()
    model = create_model("tiny").eval()
    model.load_state_dict(plain.state_dict())
    add_lora(model, 4)
    assert sum("lora_B" in name for name, _ in model.named_parameters()) > 4
    with torch.no_grad():
        assert torch.allclose(model(images_of()), plain(images_of()), atol=1e-6)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
        changed = model(images_of())
        assert (changed - plain(images_of())).abs().max() > 1e-4
        plain.load_state_dict(merge_adapters(model))
        assert torch.allclose(plain(images_of()), changed, atol=1e-5)


def test_only_the_head_and_the_adapters_are_trained(encoder_hub):
    model = create_model("tiny")
    add_lora(model, 2)
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {name for name in trained if "lora_" not in name} == {
        "network.head.linear.weight",
        "network.head.linear.bias",
    }
    assert len(trained) > 10


def test_a_run_with_adapters_gives_a_plain_checkpoint(histo, encoder_hub, tmp_path):
    network = put_in_cache(encoder_hub, TINY)
    histo(*TRAIN, "--arch", "tiny", "--lora", 2, "--epochs", 2, "--name", "lora")
    best = load_checkpoint(histo.root / "runs" / "lora" / "best.pt")
    assert best.model.keys() == create_model("tiny").state_dict().keys()
    published = network.state_dict()
    changed = {n for n, t in published.items() if not torch.equal(t, best.model[f"network.backbone.{n}"])}
    assert "blocks.0.attn.qkv.weight" in changed
    assert all(name.endswith("weight") and published[name].ndim == 2 for name in changed)
    delta = best.model["network.backbone.blocks.0.mlp.fc1.weight"] - published["blocks.0.mlp.fc1.weight"]
    assert int(torch.linalg.matrix_rank(delta, tol=1e-4 * float(delta.norm()))) <= 2
    report = json.loads(histo("eval", "--ckpt", "lora", "--raw", "--json", "--device", "cpu").stdout)
    assert report["metrics"]["auc"] == pytest.approx(best.metrics["val_auc"], abs=1e-3)
    assert histo("eval", "--ckpt", histo.root / "runs" / "lora" / "last.pt", "--device", "cpu", "--json").stdout


def test_a_run_with_adapters_continues_bit_for_bit_without_the_hub(histo, encoder_hub):
    import shutil

    put_in_cache(encoder_hub, TINY)
    histo(*TRAIN, "--arch", "tiny", "--lora", 2, "--epochs", 2, "--augment", "flips", "--name", "uninterrupted")
    config = TrainConfig(
        epochs=2,
        arch="tiny",
        lora=2,
        batch_size=16,
        augment=Augment.FLIPS,
        device=Device.CPU,
        precision=Precision.FP32,
        name="interrupted",
    )
    with pytest.raises(Stopped):
        train(Workspace(histo.root), config, listener=StopAfterEpoch())
    shutil.rmtree(encoder_hub)
    histo("train", "--resume", "--name", "interrupted")
    first, second = (
        load_checkpoint(histo.root / "runs" / name / "last.pt") for name in ("interrupted", "uninterrupted")
    )
    assert first.model.keys() == second.model.keys()
    assert all(torch.equal(tensor, second.model[name]) for name, tensor in first.model.items())


def test_a_network_without_linear_layers_is_refused():
    with pytest.raises(UsageError, match="resnet18 has no linear layers"):
        add_lora(create_model("resnet18"), 4)


def test_without_peft_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(HistoError, match="--lora needs the package peft") as caught:
        add_lora(create_model("resnet18"), 4)
    assert caught.value.hint == "pip install 'histocli[lora]'"


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"lora": 4}, "--lora is for pretrained networks"),
        ({"lora": 0, "weights": "pretrained"}, "--lora 0: a rank from 1"),
        ({"lora": 4, "weights": "pretrained", "freeze": True}, "--freeze does not train the backbone, --lora does"),
    ],
)
def test_options_that_contradict_are_refused(options, why):
    with pytest.raises(UsageError, match=why):
        RunConfig(**options).check()
