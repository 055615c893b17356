"""The options of `histo train`."""

import math
from dataclasses import dataclass, fields

from histocli.config.balance import SUBSET
from histocli.config.seeds import check_seed
from histocli.enums import Augment, Device, HeadKind, Precision, Rotate, Track, Weights
from histocli.errors import UsageError

BATCH_SIZE = 128  # patches per training step
GPU_BATCH_SIZE = 512  # a GPU takes longer for four steps of 128; the AUC is the same (benchmarks/gpu.md)
GPU_BATCH_PATCHES = 30_000  # training patches from which the larger batch was measured: fewer would be few steps
PACKAGED_ARCH = "histonet-pair"  # the architecture of the trained network that comes with histo
LEARNING_RATE = 3e-3  # the rate at BATCH_SIZE; it grows with the square root of the batch size
MAX_LORA = 256  # the largest rank; with much more the adapters are as large as the layers
_FINE_TUNING = 0.1  # factor of the learning rate for weights that were trained on patches of lymph nodes


def choose_batch_size(device: str, patches: int) -> int:
    """Return the patches per step for a kind of device ("cuda", "cpu") and a number of training patches."""
    return GPU_BATCH_SIZE if device == "cuda" and patches >= GPU_BATCH_PATCHES else BATCH_SIZE


@dataclass(frozen=True)
class RunConfig:
    """The options that decide what a training run computes; its checkpoints store them."""

    epochs: int = 12
    arch: str = "histonet"
    weights: Weights = Weights.RANDOM
    data: str = SUBSET
    batch_size: int | None = None  # None: `choose_batch_size`
    lr: float | None = None  # None: `LEARNING_RATE`, scaled to the batch size
    precision: Precision = Precision.AUTO
    device: Device = Device.AUTO
    augment: Augment = Augment.FULL
    rotate: Rotate = Rotate.AUTO
    compile: bool = False
    seed: int = 0
    freeze: bool = False
    head: HeadKind = HeadKind.LINEAR
    lora: int | None = None  # train only adapters of this rank beside the linear layers; None: train all weights
    shots: int | None = None  # training patches of each class; None: all
    backbone_lr: float = 1.0
    threshold: str = "0.5"
    allow_leak: bool = False
    deterministic: bool = False
    extended_after: int = 0  # epochs that were trained before `--resume --epochs` added more, in a cycle of their own

    def check_values(self) -> None:
        """Raise `UsageError` naming the option whose value cannot be used, whatever the other options are."""
        if self.epochs < 1:
            raise UsageError(f"--epochs {self.epochs}: at least 1 is needed")
        check_seed(self.seed)
        if self.batch_size is not None and self.batch_size < 2:
            raise UsageError(f"--batch-size {self.batch_size}: batch norm needs at least 2 patches")
        if self.lr is not None and not 0 < self.lr < 10:
            raise UsageError(
                f"--lr {self.lr}: a number above 0 and below 10 is needed", f"{LEARNING_RATE} is the default"
            )
        if not 0 < self.backbone_lr <= 1:
            raise UsageError(f"--backbone-lr {self.backbone_lr}: a fraction of --lr is needed, such as 0.1")
        if self.lora is not None and not 1 <= self.lora <= MAX_LORA:
            raise UsageError(f"--lora {self.lora}: a rank from 1 to {MAX_LORA} is needed", "8 is usual")
        if self.shots is not None and self.shots < 1:
            raise UsageError(f"--shots {self.shots}: at least 1 patch of each class is needed")

    def check(self) -> None:
        """Raise `UsageError` naming the option whose value cannot be used, or options that exclude each other."""
        self.check_values()
        if self.lora is not None and self.freeze:
            raise UsageError("--freeze does not train the backbone, --lora does", "leave one of them out")
        for flag, given in (
            ("--freeze", self.freeze),
            ("--lora", self.lora is not None),
            ("--backbone-lr", self.backbone_lr != 1),
        ):
            # The networks of histo have no backbone and head.
            if given and self.weights not in (Weights.PRETRAINED, Weights.IMAGENET):
                raise UsageError(
                    f"{flag} is for pretrained networks, and not for those of histo",
                    "choose one, such as --arch resnet18 --weights pretrained, or --arch resnet50-pcam",
                )
        if self.head is HeadKind.KNN and not self.freeze:
            raise UsageError("--head knn needs --freeze", "add --freeze")
        if self.freeze and self.backbone_lr != 1:
            raise UsageError("--freeze does not train the backbone, --backbone-lr does", "leave one of them out")

    @property
    def learning_rate(self) -> float:
        """The highest learning rate of the cycle."""
        if self.lr is not None:
            return self.lr
        factor = _FINE_TUNING if self.weights is Weights.HISTONET_PCAM else 1.0
        return factor * LEARNING_RATE * math.sqrt((self.batch_size or BATCH_SIZE) / BATCH_SIZE)


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """The options of `histo train`: those of a run, and which runs to train."""

    can_halve_batch: bool = False  # halve the batch size until a step fits the memory: --batch-size auto
    name: str | None = None  # None: ARCH-1, ARCH-2, ...; with `resume` the newest run
    resume: bool = False
    folds: int | None = None  # the number of folds of a cross-validation; one run is trained for each
    seeds: int | None = None  # the number of seeds, starting from `seed`; one run is trained for each
    track: tuple[Track, ...] = ()  # send the configuration and the metrics there

    def check_values(self) -> None:
        """Raise `UsageError` naming the option whose value cannot be used, or for both `folds` and `seeds`."""
        super().check_values()
        for flag, count in (("--folds", self.folds), ("--seeds", self.seeds)):
            if count is not None and count < 2:
                raise UsageError(f"{flag} {count}: at least 2 are needed", f"leave {flag} out to train a single run")
        if self.folds and self.seeds:
            raise UsageError("--folds and --seeds cannot be combined", "leave one of them out")

    @property
    def run(self) -> RunConfig:
        """The options that the run's checkpoints store."""
        return RunConfig(**{field.name: getattr(self, field.name) for field in fields(RunConfig)})
