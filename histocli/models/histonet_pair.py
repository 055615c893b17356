"""Two networks in one: `HistoNet` on the patch at 96x96 pixels, and on the same patch at 64x64."""

import math

import torch
from torch import Tensor, nn

from histocli.data.transforms import resize_images
from histocli.models.histonet import HistoNet
from histocli.models.patch_network import PatchNetwork

SIDES = 96, 64


class HistoNetPair(PatchNetwork):
    """A `histonet` and a `histonet-64`, which are trained together and predict the mean of their probabilities.

    Takes normalised images (N,3,96,96), and returns logits (N,2): the logarithm of the mean of the two probabilities.
    The two share no weights. Training gives each its own loss and augmentation (`list_members`): with one loss of the
    mean of their probabilities, each would learn only to correct the errors of the other. The loss is the mean of the
    two, and their gradients are clipped together.

    Costs for one patch, forward (a multiply-add counts as two): as `histonet-pair` 1,413,284 parameters, 180 MFLOP.
    """

    side = SIDES[0]

    def __init__(self) -> None:
        super().__init__()
        self.members = nn.ModuleList(HistoNet(side=side) for side in SIDES)

    def list_members(self) -> list[PatchNetwork]:
        """Return the network at 96x96 pixels and the one at 64x64."""
        return [member for member in self.members if isinstance(member, PatchNetwork)]

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N,2) of normalised images (N,3,96,96)."""
        logits = [member(resize_images(images, member.side)) for member in self.list_members()]
        return torch.stack(logits).log_softmax(2).logsumexp(0) - math.log(len(logits))
