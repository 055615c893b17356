"""The architectures, by name."""

import torch
from torch import Tensor, nn

from histocli.choices import Weights
from histocli.errors import HistoError, UsageError
from histocli.models.histonet import HistoNet

PCAM_MEAN, PCAM_STD = (0.7024, 0.5462, 0.6965), (0.2389, 0.2821, 0.2163)
_TORCHVISION = ("resnet18", "densenet121")
ARCHITECTURES = ("histonet", *_TORCHVISION)


class Classifier(nn.Module):
    """A network with the normalisation it was made for: float RGB images (N,3,96,96) in [0, 1] -> logits (N,2)."""

    mean: Tensor
    std: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("mean", torch.tensor(PCAM_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(PCAM_STD).view(1, 3, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Normalise by the mean and deviation of PCam's training pixels, and classify."""
        logits: Tensor = self.network(torch.addcmul(-self.mean / self.std, images, 1 / self.std))
        return logits


def create_model(arch: str, weights: Weights = Weights.RANDOM) -> Classifier:
    """Build the network named `arch` with two classes, in channels-last memory format.

    Raises:
        UsageError: no architecture has that name, or there are no such weights for it.
        HistoError: the weights cannot be fetched.
    """
    if arch == "histonet":
        if weights is not Weights.RANDOM:
            raise UsageError("histonet has no ImageNet weights", "leave --weights out, or choose --arch resnet18")
        network: nn.Module = HistoNet()
    elif arch in _TORCHVISION:
        network = _from_torchvision(arch, weights)
    else:
        raise UsageError(f"there is no architecture {arch!r}", f"choose --arch from {', '.join(ARCHITECTURES)}")
    model: Classifier = Classifier(network).to(memory_format=torch.channels_last)
    return model


def _from_torchvision(arch: str, weights: Weights) -> nn.Module:
    """A network of torchvision's registry whose last layer is replaced by one of two classes."""
    from torchvision.models import get_model

    try:
        network: nn.Module = get_model(arch, weights="DEFAULT" if weights is Weights.IMAGENET else None)
    except (OSError, RuntimeError) as error:
        raise HistoError(
            f"the ImageNet weights of {arch} cannot be had: {error}",
            f"try again with a network connection, put the file into {torch.hub.get_dir()}/checkpoints, "
            "or start from --weights random",
        ) from error
    for name in ("fc", "classifier"):
        last = getattr(network, name, None)
        if isinstance(last, nn.Linear):
            setattr(network, name, nn.Linear(last.in_features, 2))
            return network
    raise AssertionError(f"torchvision's {arch} has no linear last layer")
