"""The optimiser: Muon for convolutions, AdamW for everything else, one cycle of the learning rate for both."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from histocli.models.backbone import BACKBONE

MOMENTUM = 0.95
CLIP_NORM = 1.0
MUON_LR = 2.0  # Muon's learning rate over AdamW's
_UPDATE_SIZE = 0.2  # root mean square of Muon's updates at learning rate 1, about that of AdamW's: Liu et al. 2025
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan 2024: brings singular values near 1 within five steps


class Muon(torch.optim.Optimizer):
    """Momentum whose update of a weight matrix is made orthogonal, so that all its directions learn alike fast.

    After Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024, with decoupled weight
    decay and updates about as large as AdamW's, after Liu et al., "Muon is scalable for LLM training", 2025. A weight
    (out, in, ...) is taken as the matrix (out, the rest). torch's own Muon (2.9) takes matrices alone and multiplies
    them in bf16, which processors without the units emulate: here in `dtype`.
    """

    def __init__(
        self, params: list[nn.Parameter], lr: float, weight_decay: float, dtype: torch.dtype = torch.float32
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                average = self.state[weight].setdefault("momentum", torch.zeros_like(weight))
                average.lerp_(weight.grad, 1 - MOMENTUM)
                ahead = weight.grad.lerp(average, MOMENTUM)  # Nesterov's
                update = orthogonal(ahead.flatten(1).to(self.dtype)).to(weight.dtype).view(weight.shape)
                size = _UPDATE_SIZE * max(len(weight), weight[0].numel()) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"]).add_(update, alpha=-group["lr"] * size)


def orthogonal(matrix: Tensor) -> Tensor:
    """Bring the singular values of a matrix (M,N) near 1 (0.7 to 1.2) by five Newton-Schulz steps."""
    a, b, c = _NEWTON_SCHULZ
    wide = len(matrix) <= matrix.shape[1]
    x = matrix if wide else matrix.T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x if wide else x.T


class Optimizers:
    """Muon for the convolutions, AdamW for the rest and without decay on biases and norms, on one schedule.

    The learning rate rises and falls once, after Smith and Topin, "Super-convergence", 2018; that of a pretrained
    backbone is `backbone_lr` times as large. Gradients are clipped.
    """

    def __init__(
        self,
        model: nn.Module,
        lr: float,
        *,
        total_steps: int,
        warmup: float,
        weight_decay: float,
        muon: bool,
        muon_dtype: torch.dtype = torch.float32,
        backbone_lr: float = 1.0,
    ) -> None:
        self.params = list(model.parameters())
        mixing = [p for p in self.params if muon and p.ndim > 2 and p.shape[1] > 1]  # all but depthwise ones
        chosen = {id(p) for p in mixing}
        others = [p for p in self.params if id(p) not in chosen]
        backbone = {id(p) for name, p in model.named_parameters() if name.startswith(BACKBONE)}
        groups = [
            {
                "params": [p for p in others if (id(p) in backbone) is slower and (p.ndim > 1) is decays],
                "weight_decay": weight_decay if decays else 0.0,
                "lr": lr * backbone_lr if slower else lr,
            }
            for slower in (False, True)
            for decays in (True, False)
        ]
        fused = all(p.device.type != "mps" for p in others)
        self.optimizers: list[torch.optim.Optimizer] = [torch.optim.AdamW(groups, lr=lr, fused=fused)]
        if mixing:
            self.optimizers.append(Muon(mixing, MUON_LR * lr, weight_decay, muon_dtype))
        # torch's cycle cannot rise within its very first step
        rise = warmup if warmup * (total_steps + 1) != 1 else 0.9 * warmup
        self.schedules: list[LRScheduler] = [
            OneCycleLR(
                optimizer,
                [group["lr"] for group in optimizer.param_groups],
                total_steps=total_steps + 1,
                pct_start=rise,
                cycle_momentum="betas" in optimizer.defaults,
                div_factor=10,
                final_div_factor=100,
            )
            for optimizer in self.optimizers
        ]

    @property
    def lr(self) -> float:
        """AdamW's learning rate for the next step."""
        return float(self.schedules[0].get_last_lr()[0])

    def step(self, scaler: torch.amp.GradScaler) -> None:
        """Clip the gradients, update the weights, clear the gradients, and move the learning rate on."""
        for optimizer in self.optimizers:
            scaler.unscale_(optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in self.params if p.grad is not None])
        # one optimizer's NaN, for which the scaler skips its step, would by the norm become the other's
        nn.utils.clip_grads_with_norm_(self.params, CLIP_NORM, norm.nan_to_num(nan=torch.inf, posinf=torch.inf))
        for optimizer, schedule in zip(self.optimizers, self.schedules, strict=True):
            scaler.step(optimizer)
            optimizer.zero_grad(set_to_none=True)
            schedule.step()
        scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """Everything but the weights, as tensors and plain values."""
        return {
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedules": [schedule.state_dict() for schedule in self.schedules],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what `state_dict` gave."""
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        for schedule, saved in zip(self.schedules, state["schedules"], strict=True):
            schedule.load_state_dict(saved)
