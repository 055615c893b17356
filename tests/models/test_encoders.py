"""The published encoders by short name: what the table says, and weights from the hub, with a local cache."""

import json
import re
import shutil
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import torch

from histocli.architectures import ENCODERS
from histocli.config import RunConfig, TrainConfig
from histocli.enums import Weights
from histocli.errors import HistoError
from histocli.models import create_model, rebuild_model
from histocli.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from histocli.training.options import complete_config
from histocli.training.resume import apply_given_options
from tests.cli import TRAIN
from tests.faults.processes import Process
from tests.models.encoder_hub import POOLED, TINY, put_file_in_cache, put_in_cache
from tests.models.hub import images_of

timm = pytest.importorskip("timm", reason="timm is not installed (the extra `timm`)")

# millions of parameters, from the papers and model cards
PUBLISHED = {
    "uni": 303,
    "uni2-h": 681,
    "virchow2": 631,
    "h-optimus-0": 1135,
    "gigapath": 1135,
    "phikon": 86,
    "phikon-v2": 303,
    "hibou-b": 86,
    "hibou-l": 304,
    "ctranspath": 28,
    "resnet18-pcam": 11,
    "resnet34-pcam": 21,
    "resnet50-pcam": 24,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_networks_of_the_table_have_the_published_sizes(name):
    encoder = ENCODERS[name]
    with torch.device("meta"):
        model = create_model(name).eval()
        features, logits = model.compute_features(images_of().to("meta")), model(images_of().to("meta"))
    parameters = sum(parameter.numel() for parameter in model.backbone_and_head.backbone.parameters())
    assert round(parameters / 1e6) == PUBLISHED[name]
    assert (features.shape, logits.shape) == ((2, encoder.width), (2, 2))
    assert (model.arch, model.side) == (name, encoder.side)


def test_every_encoder_is_tested_and_named_in_the_help_and_in_the_docs(histo):
    from tests.cli import REPOSITORY

    help_text = " ".join(histo("train", "--help").stdout.replace("│", " ").split())
    page = (REPOSITORY / "docs" / "encoders.md").read_text()
    assert ENCODERS.keys() == PUBLISHED.keys()
    for name, encoder in ENCODERS.items():
        assert name in help_text
        assert f"| `{name}` |" in page
        assert encoder.page in page


def test_weights_from_the_hub_give_the_features_of_the_published_network(encoder_hub):
    network = put_in_cache(encoder_hub, TINY)
    model = create_model("tiny", Weights.PRETRAINED).eval()
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in TINY.normalisation)
    resized = torch.nn.functional.interpolate(images_of(), size=160, mode="bilinear", antialias=True)
    with torch.no_grad():
        expected = network((resized - mean) / std)
        assert (expected[0] - expected[1]).abs().max() > 1e-3
        assert torch.allclose(
            model.compute_features(images_of()), expected, rtol=1e-2, atol=1e-2 * float(expected.std())
        )


def test_pooling_joins_the_class_token_with_the_mean_of_the_patch_tokens(encoder_hub):
    network = put_in_cache(encoder_hub, POOLED)
    model = create_model("pooled", Weights.PRETRAINED).eval()
    with torch.no_grad():
        tokens = network(model.preprocess(images_of()))
        features = model.compute_features(images_of())
    assert features.shape == (2, 128)
    assert torch.equal(features[:, :64], tokens[:, 0])
    assert torch.allclose(features[:, 64:], tokens[:, 3:].mean(1))  # after the class token and two register tokens


@pytest.mark.parametrize(
    ("registers", "is_gated_mlp", "prefix"), [(0, False, ""), (4, True, ""), (4, False, "dinov2.")], ids=str
)
def test_weights_of_transformers_dinov2_give_its_features(
    encoder_hub, tmp_path, monkeypatch, registers, is_gated_mlp, prefix
):
    from safetensors.torch import load_file

    transformers = pytest.importorskip("transformers", reason="transformers is not installed (the extra `lora`)")
    kind = "Dinov2WithRegisters" if registers else "Dinov2"
    sizes = {"image_size": 224, "patch_size": 16, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"num_register_tokens": registers} if registers else {}
    torch.manual_seed(3)
    config = getattr(transformers, f"{kind}Config")(use_swiglu_ffn=is_gated_mlp, **sizes)
    reference = getattr(transformers, f"{kind}Model")(config).eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    options = {"embed_dim": 64, "depth": 2, "num_heads": 4, "init_values": 1e-5, "reg_tokens": registers}
    options |= {"mlp_layer": "SwiGLUPacked", "act_layer": "silu", "mlp_ratio": 2 * 176 / 64} if is_gated_mlp else {}
    encoder = replace(ENCODERS["phikon-v2"], architecture="vit_small_patch16_224", width=64)
    encoder = replace(encoder, options={**options, "no_embed_class": True})
    reference.save_pretrained(tmp_path / "saved")  # under the names that published files have
    weights = load_file(tmp_path / "saved" / "model.safetensors")
    put_file_in_cache(
        encoder_hub, encoder, "model.safetensors", {prefix + name: tensor for name, tensor in weights.items()}
    )
    monkeypatch.setitem(ENCODERS, "dinov2", encoder)
    model = create_model("dinov2", Weights.PRETRAINED).eval()
    with torch.no_grad():
        expected = reference(model.preprocess(images_of())).last_hidden_state[:, 0]
        features = model.compute_features(images_of())
    assert (expected[0] - expected[1]).abs().max() > 1e-2
    assert torch.allclose(features, expected, atol=1e-4)


def test_weights_of_ctranspath_are_read_from_the_format_of_timm_0_5(encoder_hub):
    from histocli.models.encoder_formats import replace_patch_embedding

    encoder = ENCODERS["ctranspath"]
    torch.manual_seed(5)
    network = timm.create_model(encoder.architecture, num_classes=0)
    replace_patch_embedding(network)
    network.eval()
    old = {
        re.sub(r"^layers\.(\d)\.downsample", lambda match: f"layers.{int(match[1]) - 1}.downsample", name): tensor
        for name, tensor in network.state_dict().items()
    }
    old |= {
        "layers.0.blocks.1.attn_mask": torch.zeros(64, 49, 49),
        "layers.0.blocks.0.attn.relative_position_index": torch.zeros(49, 49, dtype=torch.long),
        "head.weight": torch.zeros(1000, 768),
    }
    assert "layers.0.downsample.reduction.weight" in old
    put_file_in_cache(encoder_hub, encoder, "ctranspath.pth", {"model": old})
    model = create_model("ctranspath", Weights.PRETRAINED).eval()
    with torch.no_grad():
        expected = network(model.preprocess(images_of()))
        assert (expected[0] - expected[1]).abs().max() > 1e-3
        assert torch.allclose(model.compute_features(images_of()), expected, atol=1e-5)


@pytest.mark.parametrize(
    "weights", [{}, {"model": torch.zeros(2)}, {"x.attention.attention.query.weight": torch.zeros(2)}]
)
@pytest.mark.parametrize("name", ["phikon-v2", "ctranspath"])
def test_a_file_without_the_weights_of_the_format_is_refused(encoder_hub, name, weights, monkeypatch):
    encoder = ENCODERS[name]
    if name == "phikon-v2":  # a small network of the format
        encoder = replace(encoder, options={**encoder.options, "depth": 1, "embed_dim": 64, "num_heads": 4}, width=64)
        monkeypatch.setitem(ENCODERS, name, encoder)
    put_file_in_cache(encoder_hub, encoder, "ctranspath.pth" if name == "ctranspath" else "model.safetensors", weights)
    with pytest.raises(HistoError, match=f"are not those of {name}"):
        create_model(name, Weights.PRETRAINED)


def test_the_classification_layer_of_published_weights_is_dropped(encoder_hub):
    put_in_cache(encoder_hub, TINY, classes=5)
    assert create_model("tiny", Weights.PRETRAINED).backbone_and_head.width == 64


@pytest.mark.parametrize(
    ("edit", "why"),
    [
        (lambda weights: {k: v for k, v in weights.items() if k != "pos_embed"}, "pos_embed"),
        (lambda weights: weights | {"extra.weight": torch.zeros(2)}, "extra.weight"),
        (lambda weights: weights | {"cls_token": torch.zeros(1, 1, 32)}, "cls_token"),
    ],
)
def test_weights_of_another_network_are_refused(encoder_hub, edit, why):
    put_in_cache(encoder_hub, TINY, edit=edit)
    with pytest.raises(HistoError, match=r"huggingface.co/someone/tiny are not those of tiny") as caught:
        create_model("tiny", Weights.PRETRAINED)
    assert why in str(caught.value)


def test_weights_that_are_not_in_the_cache_are_an_error_without_a_network(encoder_hub):
    with pytest.raises(HistoError, match="the pretrained weights of tiny cannot be loaded") as caught:
        create_model("tiny", Weights.PRETRAINED)
    assert str(encoder_hub / "models--someone--tiny") in caught.value.hint


@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:9"], ids=["direct", "proxy"])
def test_without_a_network_there_is_one_clear_error_at_once_and_the_cache_is_used(
    encoder_hub, monkeypatch, caplog, proxy
):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9" if proxy is None else "http://hub.invalid")
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    if proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy)
    host = constants.ENDPOINT.removeprefix("http://")
    for arch in ("tiny", "timm/test_resnet.r160_in1k"):
        with pytest.raises(HistoError, match=f"they are not on this computer, and {host} does not answer"):
            create_model(arch, Weights.PRETRAINED)
    put_in_cache(encoder_hub, TINY)
    create_model("tiny", Weights.PRETRAINED)
    assert not [record for record in caplog.records if "Retry" in record.getMessage()]
    assert constants.HF_HUB_OFFLINE is False


def test_a_damaged_download_is_an_error(encoder_hub):
    put_in_cache(encoder_hub, TINY)
    file = next(encoder_hub.rglob("model.safetensors"))
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(HistoError, match="the pretrained weights of tiny cannot be loaded"):
        create_model("tiny", Weights.PRETRAINED)


def test_a_checkpoint_needs_no_hub(encoder_hub, tmp_path):
    put_in_cache(encoder_hub, POOLED)
    model = create_model("pooled", Weights.PRETRAINED).eval()
    save_checkpoint(Checkpoint("pooled", model.state_dict(), "run", 1, {}, {}, "ab" * 32), tmp_path / "a.pt")
    shutil.rmtree(encoder_hub)
    with torch.no_grad():
        assert torch.equal(load_checkpoint(tmp_path / "a.pt").build()(images_of()), model(images_of()))


def test_a_checkpoint_that_names_an_encoder_without_its_weights_is_refused_before_it_is_built(tmp_path):
    state = rebuild_model("histonet-64").state_dict()
    save_checkpoint(Checkpoint("h-optimus-0", state, "run", 1, {}, {}, "ab" * 32), tmp_path / "a.pt")
    with pytest.raises(HistoError, match="do not fit h-optimus-0"):
        load_checkpoint(tmp_path / "a.pt").build()


def test_train_uses_the_published_weights_of_an_encoder_and_prints_its_note(histo, encoder_hub, monkeypatch):
    monkeypatch.setitem(ENCODERS, "tiny", replace(TINY, note="it was trained on PCam"))
    network = put_in_cache(encoder_hub, TINY)
    result = histo(*TRAIN, "--arch", TINY.repository, "--freeze", "--epochs", 1, "--name", "head")
    assert "tiny: it was trained on PCam" in result.stderr
    best = load_checkpoint(histo.root / "runs" / "head" / "best.pt")
    assert (best.arch, best.config["weights"]) == ("tiny", "pretrained")
    for name, tensor in network.state_dict().items():
        assert torch.equal(best.model[f"network.backbone.{name}"], tensor)
    report = json.loads(histo("eval", "--ckpt", "head", "--raw", "--json", "--device", "cpu").stdout)
    assert report["metrics"]["auc"] == pytest.approx(best.metrics["val_auc"])


def test_a_wrong_name_is_an_error_whatever_the_other_options_are(histo):
    error, hint = histo.fails(*TRAIN, "--arch", "UNI", "--freeze", code=2)
    assert error == "there is no architecture 'UNI'"
    assert "uni" in hint


@pytest.mark.parametrize(
    ("package", "options", "error", "hint"),
    [
        ("timm", ["--arch", "uni", "--freeze"], "uni needs the package timm", "pip install 'histocli[timm]'"),
        ("timm", ["--arch", "timm/resnet18"], "timm/resnet18 needs the package timm", "pip install 'histocli[timm]'"),
        ("peft", ["--arch", "uni", "--lora", 8], "--lora needs the package peft", "pip install 'histocli[lora]'"),
        ("peft", ["--arch", "uni", "--lora", 8, "--folds", 3], "--lora needs the package peft", "[lora]'"),
    ],
)
def test_a_missing_package_is_named_before_the_patches_are_read(empty, monkeypatch, package, options, error, hint):
    monkeypatch.setitem(sys.modules, package, None)
    found = empty.fails("train", *options)  # in a workspace without patches
    assert found[0] == error
    assert found[1].endswith(hint)


def test_a_name_that_timm_does_not_have_is_named_before_the_patches_are_read(empty):
    error, hint = empty.fails("train", "--arch", "timm/resnet81", code=2)
    assert error == "timm has no architecture 'resnet81'"
    assert "timm/resnet18" in hint


# errors of the hub


class RefusingHub(BaseHTTPRequestHandler):
    """Answers as the hub does for a gated repository, and for one that does not exist."""

    status, code = 401, "GatedRepo"

    def do_HEAD(self):
        self.send_response(self.status)
        self.send_header("X-Error-Code", self.code)
        self.send_header("X-Error-Message", "Access to this model is restricted.")
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD  # noqa: N815 - the name that http.server calls

    def log_message(self, *args):
        pass


@pytest.mark.parametrize(
    ("arch", "status", "code", "why", "hint"),
    [
        ("uni", 401, "GatedRepo", "you are not logged in", "https://huggingface.co/MahmoodLab/UNI"),
        ("uni", 403, "GatedRepo", "your account has no access yet", "https://huggingface.co/MahmoodLab/UNI"),
        ("phikon", 404, "RepoNotFound", "there is no 1aurent/vit_base", "hf auth login"),
        ("timm/hf-hub:a/b", 401, "GatedRepo", "you are not logged in", "https://huggingface.co/a/b"),
    ],
)
def test_a_refusal_of_the_hub_says_where_to_ask_for_access(histo, tmp_path, arch, status, code, why, hint):
    handler = type("Handler", (RefusingHub,), {"status": status, "code": code})
    with HTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        env = {"HF_ENDPOINT": f"http://127.0.0.1:{server.server_port}", "HF_HOME": str(tmp_path / "hf")}
        args = ("train", "--arch", arch, "--weights", "pretrained", "--freeze", "--epochs", 1)
        process = Process(histo.root, *args, **env, NO_PROXY="127.0.0.1")
        exit_code = process.wait()
        server.shutdown()
    assert exit_code == 1, process.stderr
    text = " ".join(process.stderr.split())
    assert why in text
    assert hint in text.replace(" ", "") or hint in text
    assert "Traceback" not in process.stderr


def test_a_resumed_run_accepts_the_repository_that_it_was_started_with():
    stored = complete_config(RunConfig(arch="MahmoodLab/UNI"), {"arch"})
    assert stored.arch == "uni"
    assert apply_given_options(stored, TrainConfig(arch="MahmoodLab/UNI"), {"arch"}) == stored
