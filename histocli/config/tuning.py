"""The options of `histo tune`."""

import math
from dataclasses import dataclass
from typing import TypeVar

from histocli.config.balance import SUBSET
from histocli.config.seeds import check_seed
from histocli.config.training import RunConfig
from histocli.enums import Augment, Device, Precision, Weights
from histocli.errors import UsageError

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True)
class TuneConfig:
    """The options of `histo tune`: those of the study, the search space, and when to stop.

    `lr` and `epochs` are a range, such as "0.001:0.01", or one value.
    """

    trials: int | None = None  # of the whole study
    hours: float | None = None  # of this call; it starts no trial afterwards
    name: str = "tune"  # an existing study is continued
    data: str = SUBSET
    folds: int = 3
    lr: str = "0.0003:0.03"
    batch_size: tuple[int, ...] = (64, 128, 256, 512)
    epochs: str = "4:16"
    augment: tuple[Augment, ...] = (Augment.NONE, Augment.FLIPS, Augment.FULL)
    arch: tuple[str, ...] = ("histonet", "histonet-wide", "histonet-64")
    weights: Weights = Weights.RANDOM
    allow_leak: bool = False
    seed: int = 0
    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO

    def check(self) -> None:
        """Raise `UsageError` naming the option whose value cannot be used."""
        if self.trials is None and self.hours is None:
            raise UsageError("--trials or --hours is needed", "--trials 30 stops when the study has 30 trials")
        if self.trials is not None and self.trials < 1:
            raise UsageError(f"--trials {self.trials}: at least 1 is needed")
        if self.hours is not None and not 0 < self.hours < math.inf:
            raise UsageError(f"--hours {self.hours:g}: a number above 0 is needed")
        if self.folds < 2:
            raise UsageError(f"--folds {self.folds}: at least 2 are needed")
        check_seed(self.seed)
        for flag, values in (("--batch-size", self.batch_size), ("--augment", self.augment), ("--arch", self.arch)):
            if not values:
                raise UsageError(f"{flag}: at least one value is needed")
            if len(set(values)) < len(values):
                raise UsageError(f"{flag}: a value is given twice", "give each value once")
        for size in self.batch_size:
            if not isinstance(size, int) or size < 2:
                raise UsageError(f"--batch-size {size}: a whole number of at least 2 is needed")
        for lr in self.lr_range:
            RunConfig(lr=lr).check()
        for epochs in self.epochs_range:
            RunConfig(epochs=epochs).check()

    @property
    def lr_range(self) -> tuple[float, float]:
        """The lowest and the highest learning rate."""
        return _parse_range("--lr", self.lr, float)

    @property
    def epochs_range(self) -> tuple[int, int]:
        """The lowest and the highest number of epochs."""
        return _parse_range("--epochs", self.epochs, int)


def _parse_range(flag: str, text: str | float, kind: type[_Number]) -> tuple[_Number, _Number]:
    """Return both ends of `LOW:HIGH`; those of a single value are equal.

    Raises:
        UsageError: the text is no range, or its ends are not in order.
    """
    low, colon, high = str(text).partition(":")
    try:
        # Python reads 0_5 as 5.
        ends = None if "_" in str(text) else (kind(low), kind(high if colon else low))
    except ValueError:
        ends = None
    if ends is None or not ends[0] <= ends[1]:
        example = "0.001:0.01" if kind is float else "4:16"
        raise UsageError(f"{flag} {text}: a range LOW:HIGH or one value is needed, such as {example}")
    return ends
