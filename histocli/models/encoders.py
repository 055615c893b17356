"""The published pathology encoders that have a short name: one table, and how their weights are loaded.

Each network is built here from the table, without the hub, so that a checkpoint needs only the name. The weights come
from the Hugging Face hub, and must fit the network exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn

from histocli.errors import HistoError, first_line
from histocli.models.backbone import Backbone, Channels
from histocli.models.encoder_formats import FILES, Format, replace_patch_embedding, to_timm
from histocli.models.hub import hub_error, offline_if_unreachable

IMAGENET: tuple[Channels, Channels] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HIBOU: tuple[Channels, Channels] = (0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816)
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
_CLASSIFIER_PREFIXES = ("head.", "fc.", "classifier.")  # the layers for other classes in published weights


@dataclass(frozen=True)
class Encoder:
    """A published network: where its weights are, how timm builds it, and the images that it expects.

    Patches are resized to `side` x `side` unless that is None. `pooling` is the feature of an image: the network's own,
    or its class token followed by the mean of its patch tokens, without the register tokens. `is_gated` is whether the
    hub gives the weights only to users whom the authors gave access. `weights_format` is how the published file names
    its tensors. `note` is what a user must know.
    """

    repository: str
    architecture: str
    licence: str
    width: int
    is_gated: bool
    side: int | None = 224
    options: Mapping[str, Any] = field(default_factory=dict)
    normalisation: tuple[Channels, Channels] = IMAGENET
    pooling: Literal["own", "class+mean"] = "own"
    weights_format: Format = "timm"
    note: str = ""

    @property
    def page(self) -> str:
        """The web page with the model card, where access is asked for."""
        return f"https://huggingface.co/{self.repository}"


def _make_pcam_encoder(architecture: str, width: int) -> Encoder:
    """Return a network of TIAToolbox that was trained on PatchCamelyon, in the format of timm.

    Sources: licence from the pages https://huggingface.co/1aurent/resnet18.tiatoolbox-pcam (-34, -50); images of 96x96
    pixels that are only divided by 255, as TIAToolbox's own preprocessing does.
    """
    return Encoder(
        f"1aurent/{architecture}.tiatoolbox-pcam",
        architecture,
        licence="CC0-1.0",
        width=width,
        is_gated=False,
        side=None,
        normalisation=((0.0, 0.0, 0.0), (1.0, 1.0, 1.0)),
        note="it was trained on PCam's training patches, which are also Kaggle's: on these its validation AUC is too "
        "high, so compare it on PCam's test split only",
    )


# If no other source is given here: licence and access from the page of the repository on the Hugging Face hub; timm's
# options, normalisation and pooling from mahmoodlab/TRIDENT at a91fa84, trident/patch_encoder_models/load.py, which
# loads the same weights into the same networks with strict=True, and kaiko-ai/eva at 73b61a7.
ENCODERS: dict[str, Encoder] = {
    # Chen et al. 2024, doi 10.1038/s41591-024-02857-3.
    "uni": Encoder(
        "MahmoodLab/UNI",
        "vit_large_patch16_224",
        licence="CC-BY-NC-ND-4.0",
        width=1024,
        is_gated=True,
        options={"init_values": 1e-5},
    ),
    "uni2-h": Encoder(
        "MahmoodLab/UNI2-h",
        "vit_giant_patch14_224",
        licence="CC-BY-NC-ND-4.0",
        width=1536,
        is_gated=True,
        options={
            **_SWIGLU,
            "depth": 24,
            "num_heads": 24,
            "init_values": 1e-5,
            "embed_dim": 1536,
            "mlp_ratio": 2.66667 * 2,
            "no_embed_class": True,
            "reg_tokens": 8,
        },
    ),
    # Zimmermann et al. 2024, arXiv 2408.00738. Its card recommends the class token with the mean of the patch tokens.
    "virchow2": Encoder(
        "paige-ai/Virchow2",
        "vit_huge_patch14_224",
        licence="CC-BY-NC-ND-4.0",
        width=2560,
        is_gated=True,
        options={**_SWIGLU, "init_values": 1e-5, "mlp_ratio": 5.3375, "reg_tokens": 4, "global_pool": ""},
        pooling="class+mean",
    ),
    # Licence: github.com/bioptimus/releases.
    "h-optimus-0": Encoder(
        "bioptimus/H-optimus-0",
        "vit_giant_patch14_reg4_dinov2",
        licence="Apache-2.0",
        width=1536,
        is_gated=True,
        options={"img_size": 224, "init_values": 1e-5, "global_pool": "token"},
        normalisation=((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)),
    ),
    # Xu et al. 2024, doi 10.1038/s41586-024-07441-w. Licence: the table of models on the page of prov-gigapath-flash;
    # in 2024 the page named a licence of its own, so read the page.
    "gigapath": Encoder(
        "prov-gigapath/prov-gigapath",
        "vit_giant_patch14_dinov2",
        licence="Apache-2.0, for research only",
        width=1536,
        is_gated=True,
        options={
            "img_size": 224,
            "patch_size": 16,
            "embed_dim": 1536,
            "depth": 40,
            "num_heads": 24,
            "mlp_ratio": 5.33334,
        },
    ),
    # Filiot et al. 2023, doi 10.1101/2023.07.21.23292757; the weights of owkin/phikon in the format of timm. Licence:
    # github.com/owkin/HistoSSLscaling.
    "phikon": Encoder(
        "1aurent/vit_base_patch16_224.owkin_pancancer",
        "vit_base_patch16_224",
        licence="Owkin non-commercial",
        width=768,
        is_gated=False,
    ),
    # Filiot et al. 2024, arXiv 2409.09173. Licence: LICENSE.pdf in the repository.
    "phikon-v2": Encoder(
        "owkin/phikon-v2",
        "vit_large_patch16_224",
        licence="Owkin non-commercial",
        width=1024,
        is_gated=False,
        options={"init_values": 1e-5, "no_embed_class": True},
        weights_format="dinov2",
    ),
    # Nechaev et al. 2024, arXiv 2406.05074. Size, registers and gated layers: github.com/HistAI/hibou at 06102fd,
    # hibou/models/__init__.py. mlp_ratio: DINOv2 rounds two thirds of 4 times the width up to a multiple of 8.
    "hibou-b": Encoder(
        "histai/hibou-b",
        "vit_base_patch14_reg4_dinov2",
        licence="Apache-2.0",
        width=768,
        is_gated=True,
        options={**_SWIGLU, "img_size": 224, "mlp_ratio": 2 * 2048 / 768},
        normalisation=_HIBOU,
        weights_format="dinov2",
    ),
    "hibou-l": Encoder(
        "histai/hibou-L",
        "vit_large_patch14_reg4_dinov2",
        licence="Apache-2.0",
        width=1024,
        is_gated=True,
        options={**_SWIGLU, "img_size": 224, "mlp_ratio": 2 * 2736 / 1024},
        normalisation=_HIBOU,
        weights_format="dinov2",
    ),
    # Wang et al. 2022, doi 10.1016/j.media.2022.102559; a copy on the hub of the weights in the authors' repository,
    # github.com/Xiyue-Wang/TransPath, whose licence it has. The authors did not check the copy.
    "ctranspath": Encoder(
        "jamesdolezal/CTransPath",
        "swin_tiny_patch4_window7_224",
        licence="GPL-3.0",
        width=768,
        is_gated=False,
        weights_format="ctranspath",
    ),
    "resnet18-pcam": _make_pcam_encoder("resnet18", 512),
    "resnet34-pcam": _make_pcam_encoder("resnet34", 512),
    "resnet50-pcam": _make_pcam_encoder("resnet50", 2048),
}


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
    try:
        import timm
    except ImportError as error:
        raise HistoError(f"{name} needs the package {error.name}", "pip install 'histocli[timm]'") from error
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
        with offline_if_unreachable():
            weights: dict[str, Tensor] = load_state_dict_from_hf(
                encoder.repository, FILES[encoder.weights_format], weights_only=True
            )
    except (OSError, RuntimeError, ValueError, EOFError, SafetensorError, UnpicklingError) as error:
        raise hub_error(name, encoder.repository, error) from error
    return weights


def _load_weights(network: nn.Module, weights: dict[str, Tensor], name: str, encoder: Encoder) -> None:
    """Load published weights; all parameters are needed, and a layer for other classes is dropped."""
    weights = to_timm(weights, encoder.weights_format)
    weights = {key: tensor for key, tensor in weights.items() if not key.startswith(_CLASSIFIER_PREFIXES)}
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        problem = (str(error).splitlines()[1:] or [first_line(error)])[0].strip()
        raise HistoError(
            f"the weights on {encoder.page} are not those of {name}: {problem[:200]}",
            f"see whether the page has changed; --arch timm/hf-hub:{encoder.repository} follows its config.json",
        ) from error


def encoder_note(arch: str) -> str:
    """Return the warning for users of an encoder, or "" if there is none."""
    encoder = ENCODERS.get(arch)
    return f"{arch}: {encoder.note}" if encoder and encoder.note else ""
