"""Device, precision, one training epoch, and probabilities for any stream of batches."""

import copy
import os
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from histocli.choices import Augment, Device, Precision, Rotate
from histocli.data.augment import augment, symmetries
from histocli.data.batches import Batch, Batches
from histocli.errors import HistoError

CLIP_NORM = 1.0
_CHECK_EVERY = 50  # steps between looks at the losses: on a GPU each look waits for it


@dataclass(frozen=True)
class Compute:
    """Where and in which number format the model runs; `reason` says why."""

    device: torch.device
    precision: Precision
    reason: str

    def autocast(self) -> AbstractContextManager[Any]:
        """The context for forward passes."""
        dtype = torch.float16 if self.precision is Precision.FP16 else torch.bfloat16
        return torch.autocast(self.device.type, dtype, enabled=self.precision is not Precision.FP32)


def choose_compute(device: Device = Device.AUTO, precision: Precision = Precision.AUTO) -> Compute:
    """Pick the device (CUDA, then MPS, then CPU) and the fastest precision it has units for; set torch's threads.

    Raises:
        HistoError: a device asked for is not there.
    """
    threads = thread_count()
    torch.set_num_threads(threads)
    cuda, mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if (device is Device.CUDA and not cuda) or (device is Device.MPS and not mps):
        why = "torch was built without it" if device is Device.CUDA and not torch.version.cuda else "none was found"
        raise HistoError(f"--device {device}: {why}", "--device auto takes what there is")
    kind = device.value if device is not Device.AUTO else "cuda" if cuda else "mps" if mps else "cpu"
    asked = "as asked" if device is not Device.AUTO else {"cuda": "found", "mps": "no CUDA"}.get(kind, "no GPU found")
    name = torch.cuda.get_device_name() if kind == "cuda" else f"{threads} threads" if kind == "cpu" else "Apple GPU"
    chosen, why = (precision, "as asked") if precision is not Precision.AUTO else _fastest_precision(kind)
    return Compute(torch.device(kind), chosen, f"{kind} ({name}; {asked}), {chosen} ({why})")


def thread_count() -> int:
    """OMP_NUM_THREADS, else the cores this process may use: its affinity, and a container's quota if it has one."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdecimal() and int(asked) > 0:
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = Path("/sys/fs/cgroup/cpu.max")
    if quota.is_file():
        limit, period = quota.read_text().split()
        if limit != "max":
            cores = min(cores, max(1, int(limit) // int(period)))
    return cores


def _fastest_precision(kind: str) -> tuple[Precision, str]:
    """Half precision where there are units for it; emulated bf16 is slower than fp32."""
    if kind == "cuda":
        if torch.cuda.is_bf16_supported(including_emulation=False):
            return Precision.BF16, "the GPU has bf16 units"
        return Precision.FP16, "the GPU has no bf16 units"
    if kind == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()):
        return Precision.BF16, "the processor has bf16 units"
    return Precision.FP32, "no bf16 units"


@dataclass(frozen=True)
class Recipe:
    """How one step trains, apart from the data: everything the optimiser and the augmentation need."""

    lr: float
    total_steps: int
    seed: int
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    warmup: float = 0.2
    average_over: float = 0.02
    augment: Augment = Augment.FULL
    rotate: Rotate = Rotate.RIGHT
    compile: bool = False


class Trainer:
    """All that moves while training: weights, their average, optimiser, schedule, scaler, and the step.

    AdamW without decay on biases and norms, one cycle of the learning rate (Smith and Topin 2018), gradient
    clipping, and an exponential moving average of the weights over the last `average_over` of all steps, which is
    what validates and predicts. What is random in a step follows from the seed and the step's number alone, so that
    a run can stop after any step and go on as if it had not.
    """

    def __init__(self, model: nn.Module, recipe: Recipe, compute: Compute) -> None:
        self.model = model.to(compute.device)
        self.average = copy.deepcopy(self.model).eval().requires_grad_(False)
        if recipe.compile:
            self.model.compile()
        self.recipe = recipe
        self.compute = compute
        self.step = 0
        self.losses: list[Tensor] = []  # of this epoch, on the device
        self.recent_loss: float | None = None  # the mean of the last ones looked at
        decayed = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups = [
            {"params": decayed, "weight_decay": recipe.weight_decay},
            {"params": others, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=recipe.lr, fused=compute.device.type != "mps")
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer,
            recipe.lr,
            total_steps=recipe.total_steps + 1,
            pct_start=_warmup(recipe),
            div_factor=10,
            final_div_factor=100,
        )
        self.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.precision is Precision.FP16)

    def train_epoch(self, batches: Batches, on_step: Callable[[int], bool] = lambda step: False) -> float | None:
        """Train to the end of the epoch that `step` is in; the mean loss, or None where `on_step` said to stop.

        Raises:
            HistoError: a loss is not finite.
        """
        epoch, first = divmod(self.step, batches.steps)
        self.model.train()
        for batch in batches.shuffled(_seed(self.recipe.seed, -1 - epoch), first):
            self.losses.append(self.train_step(batch))
            if len(self.losses) % _CHECK_EVERY == 0:
                self._check_losses()
            if on_step(self.step) and self.step % batches.steps:
                self._check_losses()
                return None
        self._check_losses()
        mean = float(torch.stack(self.losses).mean())
        self.losses = []
        return mean

    def train_step(self, batch: Batch) -> Tensor:
        """One optimiser step on uint8 images (N,3,96,96) and labels (N,); the loss, still on the device."""
        torch.manual_seed(_seed(self.recipe.seed, self.step))
        images = augment(batch.images, self.recipe.augment, any_angle=self.recipe.rotate is Rotate.ANY)
        with self.compute.autocast():
            logits = self.model(images)
            loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.recipe.label_smoothing)
        self.scaler.scale(loss).backward()
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIP_NORM)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.schedule.step()
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

    def _check_losses(self) -> None:
        if not self.losses:
            return
        losses = torch.stack(self.losses)
        self.recent_loss = float(losses[-_CHECK_EVERY:].mean())
        finite = losses.isfinite()
        if not finite.all():
            step = self.step - len(self.losses) + int((~finite).int().argmax()) + 1
            raise HistoError(
                f"the loss of step {step} is not finite",
                f"lower --lr (it is {self.recipe.lr:g}), or use --precision fp32",
            )

    def state(self) -> dict[str, Any]:
        """Everything needed to go on from this step, as tensors and plain values.

        Raises:
            HistoError: a loss is not finite, so that nobody would want to go on from here.
        """
        self._check_losses()
        return {
            "step": self.step,
            "losses": torch.stack(self.losses).cpu() if self.losses else torch.empty(0),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "scaler": self.scaler.state_dict(),
        }

    def load_state(self, state: dict[str, Any], average: dict[str, Tensor]) -> None:
        """Go on from what `state` gave."""
        self.step = state["step"]
        self.losses = list(state["losses"].to(self.compute.device))
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(average)
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        if state["scaler"]:  # empty where the run began in a precision that needs none
            self.scaler.load_state_dict(state["scaler"])


def _warmup(recipe: Recipe) -> float:
    """The share of steps in which the rate rises; torch's cycle cannot rise within its very first step."""
    return recipe.warmup if recipe.warmup * (recipe.total_steps + 1) != 1 else 0.9 * recipe.warmup


def _seed(seed: int, number: int) -> int:
    """A seed for step `number` >= 0, or for the order of epoch -1 - `number`."""
    return (seed * 0x9E3779B97F4A7C15 + number) % (1 << 63)


@torch.inference_mode()
def probabilities(
    model: nn.Module,
    batches: Iterable[Batch],
    compute: Compute,
    *,
    tta: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """The probability of tumour for every patch, in order: float32 (N,) on the CPU.

    `tta` averages the probabilities over the eight flips and right-angle rotations.

    Raises:
        HistoError: one is not finite.
    """
    model.eval()
    scores: list[Tensor] = []
    done = 0
    for batch in batches:
        scores.append(batch_probabilities(model, batch.images, compute, tta=tta))
        done += len(batch.images)
        on_progress(done)
    return finite(torch.cat(scores)) if scores else torch.empty(0)


def finite(probs: Tensor) -> Tensor:
    """Give back probabilities (N,) on the CPU.

    Raises:
        HistoError: one is not finite.
    """
    probs = probs.cpu()
    if not probs.isfinite().all():
        raise HistoError("the network's probabilities are not finite", "use --precision fp32; in training, lower --lr")
    return probs


@torch.inference_mode()
def batch_probabilities(model: nn.Module, images: Tensor, compute: Compute, *, tta: bool = False) -> Tensor:
    """The probability of tumour for uint8 images (N,3,96,96) on the device: float32 (N,), still there."""
    pixels = images.float().div_(255)
    views = symmetries(pixels) if tta else [pixels]
    with compute.autocast():
        logits = [model(view.contiguous(memory_format=torch.channels_last)) for view in views]
    return torch.stack([view.float().softmax(1)[:, 1] for view in logits]).mean(0)
