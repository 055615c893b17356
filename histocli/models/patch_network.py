"""The base class of this project's own networks."""

from torch import nn


class PatchNetwork(nn.Module):
    """A network that takes normalised RGB images (N,3,S,S) and returns logits (N,2).

    `side` is S, the height and width that images are resized to. If it is None, images keep their size.
    """

    side: int | None = None

    def list_members(self) -> "list[PatchNetwork]":
        """Return the networks whose probabilities this network averages: none, if it is a single network."""
        return []
