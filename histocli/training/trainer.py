"""The training loop: one step, one epoch, and the state to continue from."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from histocli.architectures import ENCODERS
from histocli.compute.ddp import SINGLE_PROCESS, Ranks
from histocli.compute.device import Compute, move_model, seed_device
from histocli.data.features import is_features
from histocli.data.loaders import Batch, PatchLoader
from histocli.data.transforms import augment
from histocli.enums import Augment, Rotate
from histocli.errors import HistoError
from histocli.inference.forward import run_network
from histocli.models import Classifier
from histocli.models.equivariant import GroupBatchNorm
from histocli.patch import PATCH_SIDE
from histocli.schema import Count
from histocli.training.cuda_graph import GraphedStep
from histocli.training.optim import FlatOptimizer
from histocli.training.schedule import OptimConfig

_NORMS = nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm, GroupBatchNorm
_RANK_STRIDE = 0x9E3779B1  # between the seeds of two processes: the CPU generator uses only the lower 32 bits
_CHECK_INTERVAL = 50  # steps between checks of the losses: each check waits for the GPU
_MIN_LOSS_SCALE = 2.0**-14  # at first it is 2**16, so 30 steps or more had infinite or NaN gradients


class NotFiniteError(HistoError):
    """The loss or its gradients are infinite or NaN: with these options the training diverges."""


@dataclass(frozen=True)
class TrainerState:
    """Everything that a trainer needs to continue from a step: tensors on the CPU, and plain values.

    `losses` are those of the epoch's steps so far.
    """

    step: Count
    losses: Tensor
    model: dict[str, Tensor]
    optimizer: dict[str, Any]


@dataclass(frozen=True)
class Recipe(OptimConfig):
    """The settings of training that do not depend on the data: for the optimiser, the loss and the augmentation."""

    seed: int = field(kw_only=True)
    label_smoothing: float = 0.05
    augment: Augment = Augment.FULL
    rotate: Rotate = Rotate.AUTO
    compile: bool = False
    cuda_graph: bool = True  # whether a GPU may run the step as one CUDA graph, where that is valid


@dataclass(frozen=True)
class Member:
    """A network that is trained with its own loss, and how its images are made.

    `side` is the height and width that patches are made smaller to, or None. With `any_angle` they are rotated by any
    angle, and else by right angles.
    """

    network: nn.Module
    side: int | None
    any_angle: bool

    def augment(self, images: Tensor, level: Augment) -> Tensor:
        """Return randomly transformed images for this network: `histocli.data.transforms.augment`."""
        return augment(images, level, any_angle=self.any_angle, side=self.side)


class Trainer:
    """The training loop: a step, an epoch, and the state to continue from.

    A step draws random augmentations, computes the loss and its gradients, and updates the weights and their moving
    average (`ema_model`), which is used for validation and prediction. A model that averages the probabilities of
    several networks (`Classifier.split_members`) has a loss for each of them, on augmentations of its own. All random
    numbers of a step depend only on the seed and the step number, so that a run that stops after any step can continue
    with exactly the same result.

    Several processes (`ranks`) each train on their share of every batch and average their gradients; they call
    `train_epoch` and `collect_state` together.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, compute: Compute, ranks: Ranks = SINGLE_PROCESS) -> None:
        self.model = move_model(model, compute.device)
        self.ema_model = copy.deepcopy(self.model).eval().requires_grad_(False)
        self.optimizer = FlatOptimizer(self.model, self.ema_model, recipe, compute.precision)
        self.ranks = ranks
        self.recipe = recipe
        self.compute = compute
        self.step = 0
        self.losses: list[Tensor] = []  # of this epoch, on the device
        self.recent_loss: float | None = None  # mean of the latest losses at the last check
        self.graph = GraphedStep(self.compute_step) if self._can_use_graph(model) else None

    def _can_use_graph(self, model: nn.Module) -> bool:
        """Return whether the step may run as one CUDA graph: on one GPU, with a network that never waits for it."""
        return (
            self.recipe.cuda_graph
            and self.compute.device.type == "cuda"
            and torch.version.hip is None  # on AMD's GPUs; MIOpen's convolutions cannot all be captured
            and self.ranks.size == 1  # a graph cannot hold the exchange of gradients
            and not self.recipe.compile
            and not torch.are_deterministic_algorithms_enabled()
            and getattr(model, "arch", "").partition("/")[0] not in ("", "timm", *ENCODERS)
        )

    @property
    def learning_rate(self) -> float:
        """AdamW's learning rate for the next step."""
        return self.optimizer.compute_learning_rate(self.step)

    @cached_property
    def members(self) -> list[Member]:
        """The networks that are trained, each wrapped for several processes.

        Wrapping connects the processes, so it happens at the first step.
        """
        parts = self.model.split_members() if isinstance(self.model, Classifier) else [self.model]
        return [self._prepare_member(part) for part in parts]

    def _prepare_member(self, network: nn.Module) -> Member:
        if self.recipe.compile:
            network.compile()
        side = getattr(network, "side", None)  # None for a head without its backbone, which takes features
        smaller = side if side and side < PATCH_SIDE else None
        rotate = self.recipe.rotate
        any_angle = rotate is Rotate.ANY or (rotate is Rotate.AUTO and smaller is not None)
        return Member(self.ranks.wrap_model(network), smaller, any_angle)

    def train_epoch(self, batches: PatchLoader, on_step: Callable[[int], bool] = lambda step: False) -> float | None:
        """Train to the end of the current epoch; return the mean loss, or None if `on_step` returned True before.

        Raises:
            NotFiniteError: a loss is not finite, or in fp16 the gradients have not been finite for many steps.
        """
        epoch, first = divmod(self.step, batches.steps)
        self.model.train()
        for batch in batches.train_batches(_derive_seed(self.recipe.seed, -1 - epoch), first):
            self.losses.append(self.train_step(batch, batches.loss_weight))
            if len(self.losses) % _CHECK_INTERVAL == 0:
                self._check_losses()
            if on_step(self.step) and self.step % batches.steps:
                self._check_losses()
                return None
        mean = float(self._check_losses().mean())
        self._average_statistics()
        self.losses = []
        return mean

    def train_step(self, batch: Batch, loss_weight: float = 1.0) -> Tensor:
        """Take one optimiser step on uint8 images (N,3,96,96) and labels (N,); return the loss, still on the device.

        `loss_weight` is N divided by the mean N of all processes: see `PatchLoader.loss_weight`.
        """
        seed_device(self.compute.device, _derive_seed(self.recipe.seed, self.step + self.ranks.rank * _RANK_STRIDE))
        if self.graph and not is_features(batch.images):
            loss = self.graph(batch.images, batch.labels)
        else:
            loss = self.compute_step(batch.images, batch.labels, loss_weight)
        self.step += 1
        return loss

    def compute_step(self, images: Tensor, labels: Tensor, loss_weight: float = 1.0) -> Tensor:
        """Augment, compute the loss and its gradients, update weights and EMA, all on the device; return the loss.

        Nothing in it needs a value from the host, so that a CUDA graph can hold it.
        """
        loss = torch.stack([self._compute_loss(member, images, labels) for member in self.members]).mean()
        if loss_weight != 1:
            loss = loss * loss_weight
        (loss * self.optimizer.loss_scale if self.optimizer.has_loss_scale else loss).backward()
        self.optimizer.step()
        return loss.detach()

    def _compute_loss(self, member: Member, images: Tensor, labels: Tensor) -> Tensor:
        """Return the loss of one network on its own augmentations of the images."""
        inputs = images if is_features(images) else member.augment(images, self.recipe.augment)
        with self.compute.autocast():
            logits = run_network(member.network, inputs)
            return F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)

    @torch.no_grad()
    def _average_statistics(self) -> None:
        """Set the running statistics of batch norm on every process to their mean over the processes.

        They are a linear function of the statistics of the batches, so that it does not matter how often this is done.
        """
        if self.ranks.size == 1:
            return
        norms = [m for model in (self.model, self.ema_model) for m in model.modules() if isinstance(m, _NORMS)]
        values = [value for m in norms for value in (m.running_mean, m.running_var) if value is not None]
        if values:
            means = self.ranks.all_mean(torch.cat(values)).split([len(value) for value in values])
            for value, mean in zip(values, means, strict=True):
                value.copy_(mean)

    def _check_losses(self) -> Tensor:
        """Return the losses of this epoch so far, each over a whole batch.

        Raises:
            NotFiniteError: a loss is not finite, or in fp16 the gradients have not been finite for many steps.
        """
        if not self.losses:
            return torch.empty(0)
        hint = f"lower --lr (it is {self.recipe.lr:g}), or use --precision fp32"
        losses = self.ranks.all_mean(torch.stack(self.losses))
        self.recent_loss = float(losses[-_CHECK_INTERVAL:].mean())
        finite = losses.isfinite()
        if not finite.all():
            step = self.step - len(self.losses) + int((~finite).int().argmax()) + 1
            raise NotFiniteError(f"the loss of step {step} is not finite", hint)
        if self.optimizer.has_loss_scale and float(self.optimizer.loss_scale) < _MIN_LOSS_SCALE:
            raise NotFiniteError(f"by step {self.step}, the gradients of too many steps were not finite in fp16", hint)
        return losses

    def collect_state(self) -> TrainerState:
        """Return everything needed to continue from this step.

        Raises:
            NotFiniteError: a loss is not finite, or in fp16 the gradients have not been finite for many steps.
        """
        losses = self._check_losses()
        self._average_statistics()
        return TrainerState(self.step, losses.cpu(), copy_state(self.model), self.optimizer.state_dict())

    def load_state(self, state: TrainerState, ema_state: dict[str, Tensor]) -> None:
        """Continue from what `collect_state` returned."""
        self.step = state.step
        self.losses = list(state.losses.to(self.compute.device))
        self.model.load_state_dict(state.model)
        self.ema_model.load_state_dict(ema_state)
        self.optimizer.load_state_dict(state.optimizer)
        own = self.model.state_dict()
        if any(tensor.dtype != own[name].dtype for name, tensor in state.model.items()):
            raise ValueError("weights have another type")
        if state.losses.ndim != 1 or not all(tensor.isfinite().all() for tensor in (state.losses, *own.values())):
            raise ValueError("weights or losses are not finite")


def copy_state(model: nn.Module) -> dict[str, Tensor]:
    """Return a copy of a model's state on the CPU, each tensor with its own storage."""
    return {name: tensor.to("cpu", copy=True) for name, tensor in model.state_dict().items()}


def _derive_seed(seed: int, number: int) -> int:
    """Return a different seed for each number: from 0 on it is a step, and -1, -2, ... are the epochs 0, 1, ...

    The seed of an epoch gives the order of its patches.
    """
    return (seed * 0x9E3779B97F4A7C15 + number) % (1 << 63)
