"""The progress of a training run: its steps, and the speed of an epoch."""

from dataclasses import dataclass
from typing import NamedTuple


class Progress(NamedTuple):
    """The state of a run after a step; `loss` is the mean of recent steps, `auc` that of the last complete epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int
    patches: int
    loss: float | None
    auc: float | None


@dataclass(frozen=True)
class EpochStats:
    """The mean loss of an epoch's training steps, patches per second, and seconds."""

    loss: float
    rate: float
    seconds: float
