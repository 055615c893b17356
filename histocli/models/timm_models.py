"""The networks of timm (pytorch-image-models), by name or from a hub; timm is an optional dependency.

Options of the network can follow its name, as in `vit_small_patch16_224?img_size=96&drop_path_rate=0.1`. Checkpoints
also use this form for a network from a hub or a folder: it can be built again without the hub or the folder.
"""

import json
import re
from contextlib import nullcontext, suppress
from difflib import get_close_matches
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from torch import nn

from histocli.errors import UsageError, describe_value, read_first_line
from histocli.models.backbone import Backbone, make_missing_weights_error
from histocli.models.hub import describe_hub_error, make_hub_error, require_timm, use_cache_if_unreachable

PREFIX = "timm/"
_HUB, _FOLDER = "hf-hub:", "local-dir:"
MAX_SIDE = 1024  # pixels: the largest side of the images that a network may take
_OPTIONS_HINT = "the text after the ? must be options of the network"
_MAX_OPTIONS, _MAX_LIST, _MAX_NUMBER = 32, 8, 4096
_KEY, _WORD = re.compile(r"[a-z][a-z0-9_]{0,40}"), re.compile(r"[\w.-]{0,40}", re.ASCII)
_RESERVED = {
    *("pretrained", "num_classes", "in_chans", "features_only", "checkpoint_path", "cache_dir", "scriptable"),
    *("exportable", "no_jit", "pretrained_cfg", "pretrained_cfg_overlay", "pretrained_strict"),
}


def is_stored_elsewhere(arch: str) -> bool:
    """Return whether the architecture is described on a hub or in a folder."""
    return arch.startswith((PREFIX + _HUB, PREFIX + _FOLDER))


def check_timm_name(arch: str) -> None:
    """Check that timm is installed and has the network `arch`; what is on a hub or in a folder is not checked.

    Raises:
        HistoError: timm is not installed.
        UsageError: timm has no network of that name; the hint has similar names.
    """
    require_timm(arch)
    if not is_stored_elsewhere(arch):
        _check_name(arch.removeprefix(PREFIX).partition("?")[0])


def create_timm_backbone(arch: str, pretrained: bool) -> Backbone:
    """Return a network without its last layer.

    `arch` is `timm/<name>`, `timm/hf-hub:<owner>/<model>` or `timm/local-dir:<folder>`. Patches are resized for
    transformers and other networks with a fixed input size; other networks take patches of 96x96 pixels.

    Raises:
        HistoError: timm is not installed, or the weights cannot be loaded.
        UsageError: there is no network of that name, or it does not have these options.
    """
    require_timm(arch)
    import timm
    from safetensors import SafetensorError

    name, _, query = arch.removeprefix(PREFIX).partition("?")
    needs_hub = name.startswith(_HUB) or (pretrained and not is_stored_elsewhere(arch))
    try:
        query_options = _parse_options(query)
        with use_cache_if_unreachable() if needs_hub else nullcontext():
            architecture, config_options = _read_config(name) if is_stored_elsewhere(arch) else (name, {})
            _check_name(architecture)
            options = {**config_options, **query_options}
            _check_options(arch, options)
            source = name if pretrained else architecture
            network: nn.Module = timm.create_model(
                source, pretrained=pretrained, num_classes=0, checkpoint_path="", **options
            )
    except (TypeError, AssertionError, KeyError, IndexError, ArithmeticError, AttributeError) as error:
        raise _make_options_error(arch, error) from error
    except (OSError, RuntimeError, ValueError, SafetensorError) as error:
        if not pretrained and not is_stored_elsewhere(arch):
            if isinstance(error, NotImplementedError):
                raise
            raise _make_options_error(arch, error) from error
        if name.startswith(_HUB) and isinstance(error, OSError):
            raise make_hub_error(arch, name.removeprefix(_HUB).partition("@")[0], error) from error
        place = "a folder with its config.json, as --arch timm/local-dir:FOLDER"
        raise make_missing_weights_error(arch, describe_hub_error(error), place) from error
    return _make_backbone(network, architecture, options if architecture != name else query_options, pretrained)


def _make_options_error(arch: str, error: Exception) -> UsageError:
    return UsageError(f"--arch {arch[:200]}: {read_first_line(error)}", _OPTIONS_HINT)


def _check_options(arch: str, options: dict[str, Any]) -> None:
    """Check that the options of a network are plain and small: a checkpoint may come from someone else.

    Raises:
        UsageError: there are too many, or one is not a number, true, false, null, a short name or a short list.
    """
    if len(options) > _MAX_OPTIONS:
        raise UsageError(f"--arch {arch[:200]}: {len(options)} options, at most {_MAX_OPTIONS} are possible")
    for key, value in options.items():
        if not _KEY.fullmatch(key) or (key in _RESERVED and (key, value) != ("in_chans", 3)):
            reason = f"--arch {arch[:200]}: {key[:40]!r} is not an option of a network that takes patches"
            raise UsageError(reason, _OPTIONS_HINT)
        values = value if isinstance(value, list) else [value]
        largest = MAX_SIDE if "size" in key else _MAX_NUMBER
        if len(values) > _MAX_LIST or not all(_is_plain(item, largest) for item in values):
            raise UsageError(
                f"--arch {arch[:200]}: {key} is neither a number from -1 to {largest:,} nor true, false, null, a name, "
                f"or a list of at most {_MAX_LIST}",
                _OPTIONS_HINT,
            )


def _is_plain(value: Any, largest: int) -> bool:
    """Return whether a value is a short word, a number up to `largest`, or None."""
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    return value is None or (isinstance(value, int | float) and -1 <= value <= largest)


def _make_backbone(network: Any, architecture: str, options: dict[str, Any], pretrained: bool) -> Backbone:
    """Return the network with the input that it expects, and a name from which it can be built again."""
    from timm.data import resolve_model_data_config

    data_config = resolve_model_data_config(network)
    embedding = getattr(network, "patch_embed", None)
    side = options.get("img_size") or getattr(embedding, "img_size", None)
    if embedding is not None or network.pretrained_cfg.get("fixed_input_size"):
        side = side or data_config["input_size"][-1]
    side = side[0] if isinstance(side, list | tuple) else side
    if side is not None and not (isinstance(side, int) and 0 < side <= MAX_SIDE):
        raise UsageError(
            f"--arch {architecture}: it takes images of {describe_value(side)} pixels, not of 1 to {MAX_SIDE}"
        )
    query = "?" + urlencode({key: json.dumps(value) for key, value in sorted(options.items())}) if options else ""
    width = getattr(network, "head_hidden_size", None) or network.num_features
    backbone = Backbone(f"{PREFIX}{architecture}{query}", network, width, side=side)
    if not pretrained:
        return backbone
    return backbone._replace(mean=tuple(data_config["mean"]), std=tuple(data_config["std"]))


def _read_config(name: str) -> tuple[str, dict[str, Any]]:
    """Return the architecture and the options in the `config.json` of a model on the hub or in a folder."""
    from huggingface_hub import hf_hub_download

    if name.startswith(_FOLDER):
        path = Path(name.removeprefix(_FOLDER)) / "config.json"
    else:
        repository, _, revision = name.removeprefix(_HUB).partition("@")
        path = Path(hf_hub_download(repository, "config.json", revision=revision or None))
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
    options: dict[str, Any] = dict(parse_qsl(query))
    for key, text in options.items():
        with suppress(ValueError, RecursionError):
            options[key] = json.loads(text)
    return options


def _check_name(architecture: str) -> None:
    """Raise `UsageError` with similar names if timm has no such architecture."""
    import timm

    name = architecture.partition(".")[0]  # what follows is a set of weights
    if not timm.is_model(name):
        close = get_close_matches(name, timm.list_models(), n=3)
        raise UsageError(
            f"timm has no architecture {name!r}",
            f"did you mean {' or '.join(PREFIX + match for match in close)}?" if close else "see timm.list_models()",
        )
