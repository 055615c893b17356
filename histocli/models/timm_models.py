"""The networks of timm (pytorch-image-models), by name or from a hub; timm is an optional dependency.

Options of the network can follow its name, as in `vit_small_patch16_224?img_size=96&drop_path_rate=0.1`. Checkpoints
name a network from a hub or a folder in this form too, so that it can be built again without the hub or the folder.
"""

import json
from collections.abc import Callable
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from torch import nn

from histocli.errors import HistoError, UsageError
from histocli.models.backbone import Backbone, weights_missing

PREFIX = "timm/"
_HUB, _FOLDER = "hf-hub:", "local-dir:"


def is_stored_elsewhere(arch: str) -> bool:
    """Return whether the architecture is described on a hub or in a folder."""
    return arch.startswith((PREFIX + _HUB, PREFIX + _FOLDER))


def timm_backbone(arch: str, pretrained: bool) -> Backbone:
    """Return a network without its last layer.

    `arch` is `timm/<name>`, `timm/hf-hub:<owner>/<model>` or `timm/local-dir:<folder>`. Patches are resized for
    transformers and other networks with a fixed input size; other networks take patches of 96x96 pixels.

    Raises:
        HistoError: timm is not installed, or the weights cannot be loaded.
        UsageError: there is no network of that name, or it does not have these options.
    """
    try:
        import timm
        from huggingface_hub import hf_hub_download
        from safetensors import SafetensorError
    except ImportError as error:
        raise HistoError(f"{arch} needs the package {error.name}", "pip install 'histocli[timm]'") from error
    name, _, query = arch.removeprefix(PREFIX).partition("?")
    query_options = _parse_options(query)
    try:
        architecture, config_options = _read_config(name, hf_hub_download) if is_stored_elsewhere(arch) else (name, {})
        _check_name(architecture)
        options = {**config_options, **query_options}
        source = name if pretrained else architecture
        network: nn.Module = timm.create_model(
            source, pretrained=pretrained, num_classes=0, checkpoint_path="", **options
        )
    except (TypeError, AssertionError) as error:
        raise UsageError(f"--arch {arch}: {error}", "the text after the ? must be options of the network") from error
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        place = "a folder with its config.json, as --arch timm/local-dir:FOLDER"
        raise weights_missing(arch, error, place) from error
    return _describe_backbone(network, architecture, options if architecture != name else query_options, pretrained)


def _describe_backbone(network: Any, architecture: str, options: dict[str, Any], pretrained: bool) -> Backbone:
    """Return the network with the input that it expects, and a name from which it can be built again."""
    from timm.data import resolve_model_data_config

    data_config = resolve_model_data_config(network)
    embedding = getattr(network, "patch_embed", None)
    side = options.get("img_size") or getattr(embedding, "img_size", None)
    if embedding is not None or network.pretrained_cfg.get("fixed_input_size"):
        side = side or data_config["input_size"][-1]
    side = side[0] if isinstance(side, list | tuple) else side
    query = "?" + urlencode({key: json.dumps(value) for key, value in sorted(options.items())}) if options else ""
    width = getattr(network, "head_hidden_size", None) or network.num_features
    backbone = Backbone(f"{PREFIX}{architecture}{query}", network, width, side=side)
    if not pretrained:
        return backbone
    return backbone._replace(mean=tuple(data_config["mean"]), std=tuple(data_config["std"]))


def _read_config(name: str, fetch: Callable[..., str]) -> tuple[str, dict[str, Any]]:
    """Return the architecture and the options in the `config.json` of a model on the hub or in a folder."""
    if name.startswith(_FOLDER):
        path = Path(name.removeprefix(_FOLDER)) / "config.json"
    else:
        repository, _, revision = name.removeprefix(_HUB).partition("@")
        path = Path(fetch(repository, "config.json", revision=revision or None))
    config = json.loads(path.read_text(encoding="utf-8"))
    if not (isinstance(config, dict) and "architecture" in config):
        raise ValueError(f"{path} does not name a timm architecture")
    published = config.get("pretrained_cfg", config)
    options = {key: value for key, value in config.get("model_args", {}).items() if key != "num_classes"}
    if published.get("global_pool"):
        options.setdefault("global_pool", published["global_pool"])
    if published.get("fixed_input_size"):
        options.setdefault("img_size", published["input_size"][-1])
    return config["architecture"], options


def _parse_options(query: str) -> dict[str, Any]:
    """Parse the options after a name: numbers, true, false, null and JSON are converted, other values are text."""
    return {key: _value(text) for key, text in parse_qsl(query)}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _check_name(architecture: str) -> None:
    import timm

    name = architecture.partition(".")[0]  # what follows is a set of weights
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=3)
        raise UsageError(
            f"timm has no architecture {name!r}",
            f"did you mean {' or '.join(PREFIX + match for match in close)}?" if close else "see timm.list_models()",
        )
