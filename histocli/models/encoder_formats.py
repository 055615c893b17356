"""Convert published weights in other formats to the format of timm.

Two formats are read. "dinov2" is the format of the classes Dinov2Model and Dinov2WithRegistersModel of transformers.
"ctranspath" is a Swin transformer of timm 0.5 whose patch embedding is a small convolutional network.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from histocli.architectures import WeightsFormat

FILES: dict[WeightsFormat, str] = {  # of the repository on the hub; a safetensors file beside the first is preferred
    "timm": "pytorch_model.bin",
    "dinov2": "pytorch_model.bin",
    "ctranspath": "ctranspath.pth",
}
_EMBEDDINGS = {
    "cls_token": "cls_token",
    "register_tokens": "reg_token",
    "position_embeddings": "pos_embed",
    "patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "patch_embeddings.projection.bias": "patch_embed.proj.bias",
}
_QKV = ("query", "key", "value")  # three layers in transformers, one in timm
_BLOCK = {
    "attention.output.dense": "attn.proj",
    "layer_scale1.lambda1": "ls1.gamma",
    "layer_scale2.lambda1": "ls2.gamma",
    "mlp.weights_in": "mlp.fc1",
    "mlp.weights_out": "mlp.fc2",
}


def to_timm(weights: Mapping[str, Tensor], weights_format: WeightsFormat) -> dict[str, Tensor]:
    """Return the weights under the names that timm's network has.

    A tensor that does not belong to the format keeps its name, so that loading the result into the network fails.
    """
    if weights_format == "dinov2":
        return _rename_dinov2(weights)
    return _rename_ctranspath(weights) if weights_format == "ctranspath" else dict(weights)


def replace_patch_embedding(network: nn.Module) -> None:
    """Replace the patch embedding of a Swin transformer by that of CTransPath, which has two strided convolutions.

    Source: Wang et al. 2022, doi 10.1016/j.media.2022.102559, and ctran.py of its repository.
    """
    width: int = network.patch_embed.proj.out_channels  # type: ignore[union-attr,assignment]
    layers: list[nn.Module] = []
    channels = 3
    for wider in (width // 8, width // 4):
        layers += [nn.Conv2d(channels, wider, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(wider), nn.ReLU()]
        channels = wider
    network.patch_embed.proj = nn.Sequential(*layers, nn.Conv2d(channels, width, 1))  # type: ignore[union-attr]


def _rename_dinov2(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of transformers' DINOv2 under the names of timm's vision transformer with `no_embed_class`.

    Such a network of timm adds no position to the class token, so the position is added to the token itself. The mask
    token is dropped: only training without labels needs it.
    """
    prefix = next((name.removesuffix("embeddings.cls_token") for name in weights if name.endswith("cls_token")), "")
    weights = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    renamed = {_find_timm_name(name): tensor for name, tensor in weights.items() if name != "embeddings.mask_token"}
    for name in [name for name in renamed if ".attention.attention.query." in name]:
        parts = [renamed.pop(name.replace("query", part), torch.empty(0)) for part in _QKV]
        renamed[name.replace("attention.attention.query", "attn.qkv")] = torch.cat(parts)
    if {"cls_token", "pos_embed"} <= renamed.keys():
        positions = renamed["pos_embed"]
        renamed["cls_token"] = renamed["cls_token"] + positions[:, :1]
        renamed["pos_embed"] = positions[:, 1:]
    return renamed


def _find_timm_name(name: str) -> str:
    """Return timm's name for a tensor of transformers' DINOv2; an unknown name is returned unchanged."""
    if (embedding := name.removeprefix("embeddings.")) in _EMBEDDINGS:
        return _EMBEDDINGS[embedding]
    name = re.sub(r"^encoder\.layer\.(\d+)\.", r"blocks.\1.", name)
    name = re.sub(r"^layernorm\.", "norm.", name)
    for theirs, ours in _BLOCK.items():
        name = name.replace(f".{theirs}", f".{ours}")
    return name


def _rename_ctranspath(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return weights of timm 0.5's Swin transformer under today's names.

    In timm 0.5 a stage ended with the layer that halves the grid; today the next stage begins with it. Tables that the
    network computes itself are dropped.
    """
    nested = weights.get("model", weights)
    return {
        re.sub(r"^layers\.(\d+)\.downsample", lambda match: f"layers.{int(match[1]) + 1}.downsample", name): tensor
        for name, tensor in (nested if isinstance(nested, Mapping) else weights).items()
        if not name.endswith(("relative_position_index", "attn_mask"))
    }
