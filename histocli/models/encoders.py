"""Build the published pathology encoders of `architectures.ENCODERS`, and load their weights.

Each network is built from the table, without the hub, so that a checkpoint needs only the name. The weights come
from the Hugging Face hub, and must fit the network exactly.
"""

import torch
from torch import Tensor, nn

from histocli.architectures import ENCODERS, Encoder
from histocli.errors import HistoError, read_first_line
from histocli.models.backbone import Backbone
from histocli.models.encoder_formats import FILES, replace_patch_embedding, to_timm
from histocli.models.hub import make_hub_error, require_timm, use_cache_if_unreachable

_CLASSIFIER_PREFIXES = ("head.", "fc.", "classifier.")  # the layers for other classes in published weights


class ClassAndMean(nn.Module):
    """A vision transformer that gives its class token and the mean of its patch tokens: (N,3,H,W) -> (N,2F)."""

    def __init__(self, network: nn.Module, prefix_tokens: int) -> None:
        super().__init__()
        self.network, self.prefix_tokens = network, prefix_tokens

    def forward(self, images: Tensor) -> Tensor:
        """Return the features of normalised images."""
        tokens: Tensor = self.network(images)
        return torch.cat([tokens[:, 0], tokens[:, self.prefix_tokens :].mean(1)], dim=-1)


def find_short_name(arch: str) -> str:
    """Return the short name of the encoder that is published as the repository `arch`; other names stay as they are."""
    return next((name for name, encoder in ENCODERS.items() if encoder.repository == arch), arch)


def create_encoder_backbone(name: str, pretrained: bool) -> Backbone:
    """Return the network of `ENCODERS` with that name, with its published weights if `pretrained`.

    Raises:
        HistoError: timm is not installed; the weights cannot be downloaded or need access; or they do not fit.
    """
    encoder = ENCODERS[name]
    require_timm(name)
    import timm

    weights = _download(name, encoder) if pretrained else {}  # before a network of gigabytes is built
    options = dict(encoder.options)
    if layer := options.get("mlp_layer"):
        options["mlp_layer"] = getattr(timm.layers, layer)
    network: nn.Module = timm.create_model(encoder.architecture, num_classes=0, **options)
    if encoder.weights_format == "ctranspath":
        replace_patch_embedding(network)
    if pretrained:
        _load_weights(network, weights, name, encoder)
    if encoder.pooling == "class+mean":
        network = ClassAndMean(network, network.num_prefix_tokens)  # type: ignore[arg-type]
    mean, std = encoder.normalisation
    return Backbone(name, network, encoder.width, mean, std, encoder.side)


def _download(name: str, encoder: Encoder) -> dict[str, Tensor]:
    """Return the published weights, from the hub or from its cache on this computer."""
    from pickle import UnpicklingError

    from safetensors import SafetensorError
    from timm.models import load_state_dict_from_hf

    try:
        with use_cache_if_unreachable():
            weights: dict[str, Tensor] = load_state_dict_from_hf(
                encoder.repository, FILES[encoder.weights_format], weights_only=True
            )
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError, UnpicklingError) as error:
        raise make_hub_error(name, encoder.repository, error) from error
    return weights


def _load_weights(network: nn.Module, weights: dict[str, Tensor], name: str, encoder: Encoder) -> None:
    """Load published weights; all parameters are needed, and a layer for other classes is dropped."""
    weights = to_timm(weights, encoder.weights_format)
    weights = {key: tensor for key, tensor in weights.items() if not key.startswith(_CLASSIFIER_PREFIXES)}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        problem = (str(error).splitlines()[1:] or [read_first_line(error)])[0].strip()
        raise HistoError(
            f"the weights on {encoder.page} are not those of {name}: {problem[:200]}",
            f"see whether the page has changed; --arch timm/hf-hub:{encoder.repository} follows its config.json",
        ) from error
