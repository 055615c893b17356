"""All that moves while training, and one epoch of it."""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from histocli.compute.device import Compute
from histocli.compute.world import ALONE, World
from histocli.config import Augment, Precision, Rotate
from histocli.data.features import is_features
from histocli.data.loaders import Batch, Batches
from histocli.data.transforms import augment
from histocli.errors import HistoError
from histocli.models.backbone import PATCH_SIDE
from histocli.models.equivariant import GroupBatchNorm
from histocli.training.optim import Optimizers

_NORMS = _BatchNorm, GroupBatchNorm
_APART = 0x9E3779B1  # between the seeds of processes: a processor's generator takes the lower 32 bits alone
_CHECK_EVERY = 50  # steps between looks at the losses: on a GPU each look waits for it


@dataclass(frozen=True)
class Recipe:
    """How one step trains, apart from the data: everything the optimiser and the augmentation need."""

    lr: float
    total_steps: int
    seed: int
    batch_size: int = 128
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    warmup: float = 0.2
    average_over: float = 0.02
    muon: bool = True
    backbone_lr: float = 1.0  # of a pretrained backbone, as a fraction of `lr`
    augment: Augment = Augment.FULL
    rotate: Rotate = Rotate.AUTO
    compile: bool = False


class Trainer:
    """All that moves while training: weights, their average, optimiser, schedule, scaler, and the step.

    Muon and AdamW, one cycle of the learning rate, gradient clipping, and an exponential moving average of the weights
    over the last `average_over` of all steps, which is what validates and predicts. What is random in a step follows
    from the seed and the step's number alone, so that a run can stop after any step and go on as if it had not.

    Several processes (`world`) each train on their share of every batch and average their gradients; they come to
    `train_epoch` and `state` together.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, compute: Compute, world: World = ALONE) -> None:
        self.model = model.to(compute.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        if recipe.compile:
            self.model.compile()
        self.world = world
        self.recipe = recipe
        self.compute = compute
        self.step = 0
        self.losses: list[Tensor] = []  # of this epoch, on the device
        self.recent_loss: float | None = None  # the mean of the last ones looked at
        self.optimizers = Optimizers(
            self.model,
            recipe.lr,
            total_steps=recipe.total_steps,
            warmup=recipe.warmup,
            weight_decay=recipe.weight_decay,
            muon=recipe.muon,
            muon_dtype=torch.bfloat16 if compute.precision is Precision.BF16 else torch.float32,
            backbone_lr=recipe.backbone_lr,
        )
        wanted = getattr(model, "side", None)  # a head alone wants no images
        self.side = wanted if wanted and wanted < PATCH_SIDE else None
        self.any_angle = recipe.rotate is Rotate.ANY or (recipe.rotate is Rotate.AUTO and self.side is not None)
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision is Precision.FP16)

    @cached_property
    def network(self) -> nn.Module:
        """What trains: `model`, or a replica around it; made at the first step, when all processes have come so far."""
        return self.world.replicate(self.model)

    def train_epoch(self, batches: Batches, on_step: Callable[[int], bool] = lambda step: False) -> float | None:
        """Train to the end of the epoch that `step` is in; the mean loss, or None where `on_step` said to stop.

        Raises:
            HistoError: a loss is not finite.
        """
        epoch, first = divmod(self.step, batches.steps)
        self.model.train()
        for batch in batches.shuffled(_seed(self.recipe.seed, -1 - epoch), first):
            self.losses.append(self.train_step(batch, batches.share))
            if len(self.losses) % _CHECK_EVERY == 0:
                self._check_losses()
            if on_step(self.step) and self.step % batches.steps:
                self._check_losses()
                return None
        mean = float(self._check_losses().mean())
        self._average_statistics()
        self.losses = []
        return mean

    def train_step(self, batch: Batch, share: float = 1.0) -> Tensor:
        """One optimiser step on uint8 images (N,3,96,96) and labels (N,); the loss, still on the device.

        `share` is N over the mean of all processes' N, so that their averaged gradient is that of the whole batch.
        """
        torch.manual_seed(_seed(self.recipe.seed, self.step + self.world.rank * _APART))
        images = batch.images
        if not is_features(images):
            images = augment(images, self.recipe.augment, any_angle=self.any_angle, side=self.side)
        with self.compute.autocast():
            loss = F.cross_entropy(self.network(images), batch.labels, label_smoothing=self.recipe.label_smoothing)
        if share != 1:
            loss = loss * share
        self.scaler.scale(loss).backward()
        self.optimizers.step(self.scaler)
        self.step += 1
        self._update_average()
        return loss.detach()

    @torch.no_grad()
    def _update_average(self) -> None:
        """Move the average towards the weights, faster at first; counters are taken as they are."""
        span = max(1.0, self.recipe.average_over * self.recipe.total_steps)
        weight = max(1 / span, 9 / (10 + self.step))
        pairs = zip(self.average.state_dict().values(), self.model.state_dict().values(), strict=True)
        for average, current in pairs:
            if average.is_floating_point():
                average.lerp_(current, weight)
            else:
                average.copy_(current)

    @torch.no_grad()
    def _average_statistics(self) -> None:
        """Give every process the same running statistics of batch norm: the mean of all processes' own.

        They are linear in the batches' statistics, so that it makes no difference how often this is done.
        """
        if self.world.size == 1:
            return
        norms = [m for model in (self.model, self.average) for m in model.modules() if isinstance(m, _NORMS)]
        own = [value for m in norms for value in (m.running_mean, m.running_var) if value is not None]
        if own:
            means = self.world.mean(torch.cat(own)).split([len(value) for value in own])
            torch._foreach_copy_(own, list(means))

    def _check_losses(self) -> Tensor:
        """The epoch's losses so far, each of a whole batch."""
        if not self.losses:
            return torch.empty(0)
        losses = self.world.mean(torch.stack(self.losses))
        self.recent_loss = float(losses[-_CHECK_EVERY:].mean())
        finite = losses.isfinite()
        if not finite.all():
            step = self.step - len(self.losses) + int((~finite).int().argmax()) + 1
            raise HistoError(
                f"the loss of step {step} is not finite",
                f"lower --lr (it is {self.recipe.lr:g}), or use --precision fp32",
            )
        return losses

    def state(self) -> dict[str, Any]:
        """Everything needed to go on from this step, as tensors and plain values.

        Raises:
            HistoError: a loss is not finite, so that nobody would want to go on from here.
        """
        losses = self._check_losses()
        self._average_statistics()
        return {
            "step": self.step,
            "losses": losses.cpu(),
            "model": self.model.state_dict(),
            "optimizers": self.optimizers.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any], average: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.step = state["step"]
        self.losses = list(state["losses"].to(self.compute.device))
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(average)
        self.optimizers.load_state_dict(state["optimizers"])
        if state["scaler"]:  # empty where the run began in a precision that needs none
            self.scaler.load_state_dict(state["scaler"])


def _seed(seed: int, number: int) -> int:
    """A seed for step `number` >= 0, or for the order of epoch -1 - `number`."""
    return (seed * 0x9E3779B97F4A7C15 + number) % (1 << 63)
