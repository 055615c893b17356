"""What changes from step to step: the learning-rate cycle, AdamW's beta1 and the weight of the EMA."""

from dataclasses import dataclass

import numpy as np

BETA2 = 0.999  # of AdamW
BETA1_RANGE = (0.85, 0.95)  # AdamW's beta1 falls while the learning rate rises, as in PyTorch's OneCycleLR
DIV_FACTOR, FINAL_DIV_FACTOR = 10, 100  # the peak learning rate divided by the first, and the first divided by the last


@dataclass(frozen=True)
class OptimConfig:
    """The settings of the optimiser."""

    lr: float
    total_steps: int
    first_step: int = 0  # the step where the cycle begins; above 0 if the run was extended
    warmup: float = 0.2
    weight_decay: float = 0.05
    ema_span: float = 0.02  # time constant of the moving average of the weights, as a fraction of all steps
    muon: bool = True
    backbone_lr: float = 1.0  # learning rate of a pretrained backbone, as a fraction of `lr`


def compute_one_cycle(config: OptimConfig) -> tuple[np.ndarray, np.ndarray]:
    """Return AdamW's learning rates and beta1, each (total_steps + 1,), as torch.optim.lr_scheduler.OneCycleLR does.

    In an extended run, the steps before the added ones have the values of the first added step: they have been
    taken already.
    """
    count = config.total_steps - config.first_step + 1
    warmup = config.warmup if config.warmup * count != 1 else 0.9 * config.warmup  # the first step cannot be the peak
    rise = warmup * count - 1
    step = np.arange(count, dtype=np.float64)
    first, last = config.lr / DIV_FACTOR, config.lr / DIV_FACTOR / FINAL_DIV_FACTOR
    low, high = BETA1_RANGE
    is_rising = step <= rise
    up = step / rise
    down = (step - rise) / (count - 1 - rise)
    rates = np.where(is_rising, _anneal(first, config.lr, up), _anneal(config.lr, last, down))
    beta1 = np.where(is_rising, _anneal(high, low, up), _anneal(low, high, down))
    return np.pad(rates, (config.first_step, 0), "edge"), np.pad(beta1, (config.first_step, 0), "edge")


def make_step_table(config: OptimConfig) -> np.ndarray:
    """Return what changes from step to step, float32 (total_steps, 5).

    The columns are AdamW's learning rate, beta1 and its two bias corrections, and the weight of the EMA's update, which
    is larger at first.
    """
    rates, beta1 = (values[: config.total_steps] for values in compute_one_cycle(config))
    number = np.arange(1, config.total_steps + 1, dtype=np.float64)
    ema_weight = np.maximum(1 / max(1.0, config.ema_span * config.total_steps), 9 / (10 + number))
    columns = rates, beta1, 1 - beta1**number, np.sqrt(1 - BETA2**number), ema_weight
    return np.stack(columns, 1).astype(np.float32)


def _anneal(start: float, end: float, fraction: np.ndarray) -> np.ndarray:
    return end + (start - end) / 2 * (1 + np.cos(np.pi * fraction))
