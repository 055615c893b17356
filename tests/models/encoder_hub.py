"""A local cache of the Hugging Face hub with two small encoders, instead of the network."""

from dataclasses import replace

import pytest
import torch

from histocli.architectures import ENCODERS, Encoder

TINY = Encoder(
    "someone/tiny", "test_vit", "MIT", 64, is_gated=False, side=160, normalisation=((0.7, 0.5, 0.7), (0.2, 0.3, 0.2))
)
POOLED = replace(TINY, repository="someone/pooled", options={"reg_tokens": 2, "global_pool": ""}, width=128)
POOLED = replace(POOLED, pooling="class+mean")


def put_in_cache(hub, encoder, *, edit=lambda weights: weights, classes=0):
    """Put random weights of an encoder into the hub's cache, as a download does; return the network."""
    import timm

    torch.manual_seed(5)
    network = timm.create_model(encoder.architecture, num_classes=classes, **encoder.options).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    put_file_in_cache(hub, encoder, "model.safetensors", edit(network.state_dict()))
    return network


def put_file_in_cache(hub, encoder, name, weights):
    """Put a file with these weights into the hub's cache, as a download of the encoder's repository does."""
    from safetensors.torch import save_file

    folder = hub / f"models--{encoder.repository.replace('/', '--')}"
    commit = "0" * 40
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "refs").mkdir()
    (folder / "refs" / "main").write_text(commit)
    (save_file if name.endswith(".safetensors") else torch.save)(weights, folder / "snapshots" / commit / name)


@pytest.fixture
def encoder_hub(tmp_path, monkeypatch):
    """Return an empty cache of the hub, which is offline, and add two small encoders to the table."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setitem(ENCODERS, "tiny", TINY)
    monkeypatch.setitem(ENCODERS, "pooled", POOLED)
    return tmp_path / "hub"
