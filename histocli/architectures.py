"""The architectures that have a short name. PyTorch is not imported, so that `histo train --help` can list them.

The code of the networks is in `histocli.models`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Channels = tuple[float, float, float]  # red, green, blue
WeightsFormat = Literal["timm", "dinov2", "ctranspath"]  # how a published file names its tensors

IMAGENET: tuple[Channels, Channels] = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HIBOU: tuple[Channels, Channels] = (0.7068, 0.5755, 0.722), (0.195, 0.2316, 0.1816)
_SWIGLU = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}


@dataclass(frozen=True)
class Architecture:
    """A network of histo: its module in `histocli.models`, its class, and the arguments of the constructor."""

    module: str
    class_name: str
    options: Mapping[str, Any] = field(default_factory=dict)


ARCHITECTURES: dict[str, Architecture] = {
    "histonet": Architecture("histonet", "HistoNet"),
    "histonet-wide": Architecture("histonet", "HistoNet", {"widths": (24, 48, 96, 192, 320)}),
    "histonet-64": Architecture("histonet", "HistoNet", {"side": 64}),  # a former default
    "histonet-pair": Architecture("histonet_pair", "HistoNetPair"),  # histonet and histonet-64
    "p4m-densenet": Architecture("p4m_densenet", "P4MDenseNet"),
}


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
    weights_format: WeightsFormat = "timm"
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
        note="it was trained on PCam's training patches, which are also Kaggle's: on these its AUC is too high, so "
        "compare it on PCam's test split only",
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
