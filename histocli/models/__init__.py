"""The architectures, by name."""

import re
from difflib import get_close_matches
from importlib import import_module

import torch
from torch import Tensor, nn

from histocli.architectures import ARCHITECTURES, ENCODERS, Channels
from histocli.config import PACKAGED_ARCH
from histocli.data.transforms import resize_images
from histocli.enums import Weights
from histocli.errors import HistoError, UsageError
from histocli.models import packaged, timm_models
from histocli.models.backbone import PCAM_MEAN, PCAM_STD, HeadedNetwork
from histocli.models.encoders import create_encoder_backbone
from histocli.models.hub import require_timm
from histocli.models.patch_network import PatchNetwork
from histocli.models.torchvision_models import create_torchvision_backbone, list_torchvision_names


class Classifier(nn.Module):
    """A network with its preprocessing: float RGB images (N,3,H,W) in [0, 1] -> logits (N,2).

    `arch` is the name from which `rebuild_model` builds the network again. If the network needs images of one size,
    they are resized to `side` x `side`.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        arch: str,
        *,
        mean: Channels = PCAM_MEAN,
        std: Channels = PCAM_STD,
        side: int | None = None,
    ) -> None:
        super().__init__()
        self.network, self.arch, self.side = network, arch, side
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    @property
    def backbone_and_head(self) -> HeadedNetwork:
        """The network, if it is a backbone with a head, as every pretrained network is."""
        assert isinstance(self.network, HeadedNetwork)
        return self.network

    def split_members(self) -> "list[Classifier]":
        """Return the networks whose probabilities this one averages, with their preprocessing and the same weights.

        A model that is one network returns itself.
        """
        members = self.network.list_members() if isinstance(self.network, PatchNetwork) else []
        parts = [Classifier(member, self.arch, side=member.side).train(self.training) for member in members]
        for part in parts:
            part.mean, part.std = self.mean, self.std
        return parts or [self]

    def preprocess(self, images: Tensor) -> Tensor:
        """Resize and normalise images for the network."""
        return torch.addcmul(-self.mean / self.std, resize_images(images, self.side), 1 / self.std)

    def compute_features(self, images: Tensor) -> Tensor:
        """Return the input of a pretrained network's head: (N,F)."""
        return self.backbone_and_head.compute_features(self.preprocess(images))

    def forward(self, images: Tensor) -> Tensor:
        """Preprocess and classify."""
        logits: Tensor = self.network(self.preprocess(images))
        return logits


def create_network(name: str) -> PatchNetwork:
    """Build the network of `ARCHITECTURES` with that name, with random weights."""
    architecture = ARCHITECTURES[name]
    module = import_module(f"histocli.models.{architecture.module}")
    network: PatchNetwork = getattr(module, architecture.class_name)(**architecture.options)
    return network


def create_model(arch: str, weights: Weights = Weights.RANDOM) -> Classifier:
    """Build the network named `arch` with two classes, in channels-last memory format.

    `arch` is a name in `ARCHITECTURES` or `ENCODERS`, the registered name of a torchvision classifier, or
    `timm/<name>`, where the name may be `hf-hub:<owner>/<model>`.

    Raises:
        UsageError: no architecture has that name, or it has no pretrained weights.
        HistoError: the weights cannot be loaded, or timm is not installed.
    """
    check_weights(arch, weights)
    pretrained = weights is not Weights.RANDOM
    if arch in ARCHITECTURES:
        network = create_network(arch)
        model = Classifier(network, arch, side=network.side)
        if pretrained:
            packaged.load_packaged_weights(model)
    else:
        if arch.startswith(timm_models.PREFIX):
            backbone = timm_models.create_timm_backbone(arch, pretrained)
        elif arch in ENCODERS:
            backbone = create_encoder_backbone(arch, pretrained)
        elif arch in list_torchvision_names():
            backbone = create_torchvision_backbone(arch, pretrained)
        else:
            raise _make_unknown_arch_error(arch)
        model = Classifier(
            HeadedNetwork(backbone), backbone.arch, mean=backbone.mean, std=backbone.std, side=backbone.side
        )
    model.to(memory_format=torch.channels_last)
    return model


def rebuild_model(arch: str) -> Classifier:
    """Build the network that `Classifier.arch` names, with random weights and without a download.

    Raises:
        UsageError: no architecture has that name.
        HistoError: its description is on a hub or in a folder, or timm is not installed.
    """
    if timm_models.is_stored_elsewhere(arch):
        raise HistoError(f"{arch} cannot be built without its hub or folder", "give the name of its architecture")
    return create_model(arch)


def describe_weights(arch: object, weights: object) -> str:
    """Return what a user must know of the weights that training starts from, as a sentence, or "".

    `arch` and `weights` may be missing in a record of options: weights that are None are random.
    """
    if weights in (None, Weights.RANDOM):
        return ""
    if weights == Weights.HISTONET_PCAM:
        return packaged.NOTE
    encoder = ENCODERS.get(str(arch))
    return f"{arch}: {encoder.note}" if encoder and encoder.note else ""


def check_architecture(arch: str) -> None:
    """Check the name of an architecture before anything is loaded; what is on a hub or in a folder is not checked.

    Raises:
        UsageError: no architecture has this name; the hint has similar names.
        HistoError: timm is needed, and is not installed.
    """
    if arch in ENCODERS:
        require_timm(arch)
    elif arch.startswith(timm_models.PREFIX):
        timm_models.check_timm_name(arch)
    elif arch not in ARCHITECTURES and arch not in list_torchvision_names():
        raise _make_unknown_arch_error(arch)


def check_weights(arch: str, weights: Weights) -> None:
    """Raise `UsageError` if an architecture of histo does not have these weights, or they are of another one."""
    is_packaged = weights is Weights.HISTONET_PCAM
    if arch in ARCHITECTURES and weights is not Weights.RANDOM and not (is_packaged and arch == PACKAGED_ARCH):
        has = f"--arch {PACKAGED_ARCH} --weights {packaged.NAME}"
        raise UsageError(f"{arch} has no pretrained weights", f"leave --weights out, or choose {has}")
    if arch not in ARCHITECTURES and is_packaged:
        raise UsageError(f"--weights {weights} fits only --arch {PACKAGED_ARCH}")


def _make_unknown_arch_error(arch: str) -> UsageError:
    """Return the error for an architecture that does not exist, with similar names."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", arch):
        return UsageError(
            f"there is no architecture {arch!r}",
            f"--arch timm/hf-hub:{arch} --weights pretrained loads it from the Hugging Face hub, if timm can",
        )
    names = (*ARCHITECTURES, *ENCODERS, *list_torchvision_names())
    close = get_close_matches(arch.lower(), names, n=3)
    return UsageError(
        f"there is no architecture {arch!r}",
        f"did you mean {' or '.join(close)}?"
        if close
        else f"choose --arch {', '.join((*ARCHITECTURES, *ENCODERS))}, a torchvision classifier such as resnet18, or "
        "timm/NAME",
    )
