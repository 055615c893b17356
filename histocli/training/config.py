"""The options of `histo train`."""

from dataclasses import dataclass

from histocli.config import Augment, Device, Precision, Rotate, Weights
from histocli.errors import UsageError

BATCH_SIZE = 128
LEARNING_RATE = 3e-3  # at BATCH_SIZE; it grows with the square root of the batch


@dataclass(frozen=True)
class TrainConfig:
    """The options of `histo train`; None stands for a default that follows from the others."""

    epochs: int = 12
    arch: str = "histonet"
    weights: Weights = Weights.RANDOM
    data: str = "balanced"
    batch_size: int = BATCH_SIZE
    lr: float | None = None
    precision: Precision = Precision.AUTO
    device: Device = Device.AUTO
    augment: Augment = Augment.FULL
    rotate: Rotate = Rotate.AUTO
    compile: bool = False
    seed: int = 0
    freeze: bool = False
    backbone_lr: float = 1.0
    threshold: str = "0.5"
    allow_leak: bool = False
    deterministic: bool = False

    def check(self) -> None:
        """Raise `UsageError` naming the flag whose value cannot be used."""
        if self.epochs < 1:
            raise UsageError(f"--epochs {self.epochs}: at least 1 is needed")
        if self.batch_size < 2:
            raise UsageError(f"--batch-size {self.batch_size}: batch norm needs at least 2")
        if self.lr is not None and not 0 < self.lr < 10:
            raise UsageError(f"--lr {self.lr}: a number between 0 and 10 is needed", f"{LEARNING_RATE} is the default")
        if not 0 < self.backbone_lr <= 1:
            raise UsageError(f"--backbone-lr {self.backbone_lr}: a fraction of --lr is needed, such as 0.1")
        pretrained = self.weights is not Weights.RANDOM
        for flag, given in (("--freeze", self.freeze), ("--backbone-lr", self.backbone_lr != 1)):
            if given and not pretrained:
                raise UsageError(f"{flag} is for pretrained networks", "--weights pretrained starts from such weights")
        if self.freeze and self.backbone_lr != 1:
            raise UsageError("--freeze does not train the backbone, --backbone-lr does", "leave one of them out")

    @property
    def learning_rate(self) -> float:
        """The highest learning rate of the cycle."""
        return self.lr if self.lr is not None else LEARNING_RATE * (self.batch_size / BATCH_SIZE) ** 0.5
