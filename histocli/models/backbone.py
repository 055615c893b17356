"""Networks from other libraries: a backbone that computes one vector per image, and a head with two classes."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from histocli.architectures import Channels
from histocli.errors import HistoError
from histocli.models.head import run_head_in_fp32

PCAM_MEAN, PCAM_STD = (0.7024, 0.5462, 0.6965), (0.2389, 0.2821, 0.2163)
BACKBONE, HEAD = "network.backbone.", "network.head."  # prefixes of their parameters in a classifier


class Backbone(NamedTuple):
    """A network without its last layer, and the input that it expects.

    `network` takes normalised images (N,3,H,W), resized to H = W = `side` unless `side` is None, and returns
    (N,`width`). `arch` is a name from which it can be built again, without weights and without a download.
    """

    arch: str
    network: nn.Module
    width: int
    mean: Channels = PCAM_MEAN
    std: Channels = PCAM_STD
    side: int | None = None


class Head(nn.Module):
    """A linear layer over standardised features: (N,F) -> logits (N,2)."""

    mean: Tensor
    std: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, 2)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))

    def standardise(self, features: Tensor) -> None:
        """Store the mean and standard deviation of features (N,F), by which the head standardises its input.

        The deviation of a feature that hardly varies here is replaced by a larger one: the feature may vary elsewhere,
        and would then be far outside the usual range.
        """
        deviations = features.std(0, correction=0)
        self.mean.copy_(features.mean(0))
        self.std.copy_(deviations.clamp(min=max(0.1 * float(deviations.mean()), 1e-6)))

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits (N,2) of features (N,F)."""
        logits: Tensor = self.linear((features - self.mean) / self.std)
        return logits


class HeadedNetwork(nn.Module):
    """A backbone and its head: normalised images (N,3,H,W) -> logits (N,2)."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self.arch, self.width = backbone.arch, backbone.width
        self.backbone = backbone.network
        self.head: nn.Module = Head(backbone.width)

    def compute_features(self, images: Tensor) -> Tensor:
        """Return the input of the head: (N,F).

        Raises:
            HistoError: the backbone does not return one vector for each image.
        """
        features: Tensor = self.backbone(images)
        if features.shape[1:] != (self.width,):
            shape = "x".join(map(str, features.shape[1:]))
            raise HistoError(f"{self.arch} returns features of {shape} for an image, not {self.width}")
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N,2) of normalised images (N,3,H,W)."""
        return run_head_in_fp32(self.head, self.compute_features(images))


def make_missing_weights_error(arch: str, reason: str, place: str) -> HistoError:
    """Return the error for pretrained weights that cannot be loaded; their file can be put into `place` by hand."""
    return HistoError(
        f"the pretrained weights of {arch} cannot be loaded: {reason}",
        f"try again with a network connection, put the file into {place}, or start from --weights random",
    )
