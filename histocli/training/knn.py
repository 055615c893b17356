"""`--head knn`: a head that remembers the features of the training patches, in one epoch and without an optimiser."""

from collections.abc import Callable

import torch
from torch import Tensor

from histocli.compute.ddp import Ranks
from histocli.compute.device import Compute
from histocli.data.loaders import PatchLoader
from histocli.models.knn import KnnHead
from histocli.training.trainer import Recipe, Trainer, TrainerState


class KnnTrainer(Trainer):
    """Has the interface of a trainer for a head that has nothing to train: `model` is its own average."""

    def __init__(self, model: KnnHead, recipe: Recipe, compute: Compute, ranks: Ranks) -> None:
        self.model = self.ema_model = self.head = model.to(compute.device).eval()
        self.recipe, self.compute, self.ranks = recipe, compute, ranks
        self.step, self.losses, self.recent_loss, self.graph = 0, [], None, None

    @property
    def learning_rate(self) -> float:
        """0, because nothing is trained."""
        return 0.0

    @torch.no_grad()
    def train_epoch(self, batches: PatchLoader, on_step: Callable[[int], bool] = lambda step: False) -> float | None:
        """Return the leave-one-out loss of the patches that the head remembers."""
        self.step += batches.steps
        return float(self.head.compute_leave_one_out_loss())

    def collect_state(self) -> TrainerState:
        """Return the step; the head is in the checkpoint."""
        return TrainerState(self.step, torch.empty(0), {}, {})

    def load_state(self, state: TrainerState, ema_state: dict[str, Tensor]) -> None:
        """Continue from what `collect_state` returned."""
        self.step = state.step
        self.head.load_state_dict(ema_state)
