"""A head without training: the votes of the most similar training patches."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

K, TEMPERATURE = 20, 0.07  # as in Caron et al. 2021 (DINO), appendix on the k-NN classifier
_PRIOR = 0.5  # votes that each class has at the start: a probability is then never 0 or 1
_MAX_LOSS_PATCHES = 2048  # the loss is computed on at most this many patches


class KnnHead(nn.Module):
    """The votes of the K most similar patches of a bank: features (N,F) -> logits (N,2).

    The similarity is the cosine of the features minus the bank's mean, as in Wang et al. 2019 (SimpleShot). A vote has
    the weight exp(similarity / TEMPERATURE). The votes are scaled to K in all, and the logits are the logarithms of the
    votes of each class, plus half a vote.
    """

    mean: Tensor
    bank: Tensor
    labels: Tensor

    def __init__(self, width: int, patches: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("bank", torch.zeros(patches, width))
        self.register_buffer("labels", torch.zeros(patches, dtype=torch.uint8))

    def remember(self, features: Tensor, labels: Tensor) -> None:
        """Store the features (N,F) and labels (N,) of all training patches."""
        self.mean.copy_(features.mean(0))
        self.bank.copy_(self._normalise(features))
        self.labels.copy_(labels)

    def forward(self, features: Tensor) -> Tensor:
        """Return the logits (N,2) of features (N,F)."""
        return self._vote(self._normalise(features) @ self.bank.T)

    def compute_leave_one_out_loss(self) -> Tensor:
        """Return the cross entropy of patches throughout the bank, each without its own vote."""
        count = min(_MAX_LOSS_PATCHES, len(self.bank))
        rows = torch.linspace(0, len(self.bank) - 1, count, device=self.bank.device).long()
        similarity = self.bank[rows] @ self.bank.T
        similarity[torch.arange(count, device=rows.device), rows] = -torch.inf
        return F.cross_entropy(self._vote(similarity), self.labels[rows].long())

    def _normalise(self, features: Tensor) -> Tensor:
        return F.normalize(features - self.mean, dim=-1)

    def _vote(self, similarity: Tensor) -> Tensor:
        k = min(K, self.bank.shape[0])
        nearest = similarity.topk(k, dim=-1)
        weights = torch.softmax(nearest.values / TEMPERATURE, dim=-1) * k
        tumour = (weights * self.labels[nearest.indices]).sum(-1)
        votes = torch.stack([k - tumour, tumour], dim=-1).clamp(min=0)
        return torch.log(votes + _PRIOR)
