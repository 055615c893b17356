"""The options of each command, as one frozen dataclass per command. The values that they take are in `histocli.enums`.

Every default is defined here, once: the command line and the Python API take theirs from these classes. Importing this
module is cheap, so that `histo --help` and TAB answer at once.
"""

import math
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TypeVar

from histocli.enums import (
    OUTPUT_SUFFIXES,
    Augment,
    Columns,
    Device,
    Engine,
    ExportFormat,
    Group,
    HeadKind,
    IdKind,
    OnError,
    Output,
    PlotFormat,
    PlotKind,
    Precision,
    Resize,
    Rotate,
    Split,
    SplitName,
    Track,
    Weights,
)
from histocli.errors import UsageError

_Number = TypeVar("_Number", int, float)

PATCH_MPP = 0.972  # micrometres per pixel of PatchCamelyon's patches: level 2 of Camelyon16's slides
SUBSET = "balanced"  # the subset that `histo balance` writes and `histo train` uses
CHECKPOINT = "best.pt"  # in the workspace's checkpoints/: the best epoch of the newest finished run
BATCH_SIZE = 128  # patches per training step
GPU_BATCH_SIZE = 512  # a GPU takes longer for four steps of 128; the AUC is the same (benchmarks/gpu.md)
GPU_BATCH_PATCHES = 30_000  # training patches from which the larger batch was measured: fewer would be few steps
PACKAGED_ARCH = "histonet-wide"  # the architecture of the trained network that comes with histo
LEARNING_RATE = 3e-3  # the rate at BATCH_SIZE; it grows with the square root of the batch size
MAX_LORA = 256  # the largest rank; with much more the adapters are as large as the layers
_NOT_WRITTEN = (".json", ".xlsx", ".xls", ".tsv", ".gz", ".zip", ".feather", ".arrow", ".h5", ".npy")
_FINE_TUNING = 0.1  # factor of the learning rate for weights that were trained on patches of lymph nodes


def default_batch_size(device: str, patches: int) -> int:
    """Return the patches per step for a kind of device ("cuda", "cpu") and a number of training patches."""
    return GPU_BATCH_SIZE if device == "cuda" and patches >= GPU_BATCH_PATCHES else BATCH_SIZE


@dataclass(frozen=True)
class BalanceConfig:
    """The options of `histo balance`."""

    data: str | None = None  # None: the only data set, else kaggle
    name: str = SUBSET
    n: int | None = 160_000  # None: the largest balanced subset
    val_fraction: float = 0.1
    split: Split | None = None  # None: the folders' own, else by slide where all slides are known, else by overlap
    group: Group | None = None
    audit: bool = False  # search the overlaps with every packed data set
    drop_leaks: bool = False  # drop training patches that share pixels or a slide with patches for evaluation
    seed: int = 0

    def check(self) -> None:
        """Raise `UsageError` naming the option whose value cannot be used, or options that exclude each other."""
        if self.n is not None and (self.n < 2 or self.n % 2):
            raise UsageError(
                f"--n {self.n} is not an even number of patches",
                "half are of each class: give an even number, or max for the largest subset",
            )
        if not 0 < self.val_fraction < 1:
            raise UsageError(f"--val-fraction {self.val_fraction} is not between 0 and 1", "give 0.1, for example")
        if self.group and self.split:
            raise UsageError(
                f"--group {self.group} and --split {self.split} cannot be combined", "leave one of them out"
            )


@dataclass(frozen=True)
class RunConfig:
    """The options that decide what a training run computes; its checkpoints store them."""

    epochs: int = 12
    arch: str = "histonet"
    weights: Weights = Weights.RANDOM
    data: str = SUBSET
    batch_size: int | None = None  # None: `default_batch_size`
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
        if not 0 <= self.seed < 1 << 32:
            raise UsageError(f"--seed {self.seed}: a whole number from 0 to {(1 << 32) - 1} is needed")
        if self.batch_size is not None and self.batch_size < 2:
            raise UsageError(f"--batch-size {self.batch_size}: batch norm needs at least 2")
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
            if given and self.weights is not Weights.PRETRAINED:  # the networks of histo have no backbone and head
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

    @property
    def run(self) -> RunConfig:
        """The options that the run's checkpoints store."""
        return RunConfig(**{field.name: getattr(self, field.name) for field in fields(RunConfig)})


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
    augment: tuple[Augment, ...] = tuple(Augment)
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
        RunConfig(seed=self.seed).check()
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
        ends = kind(low), kind(high if colon else low)
    except ValueError:
        ends = None
    if ends is None or not ends[0] <= ends[1]:
        example = "0.001:0.01" if kind is float else "4:16"
        raise UsageError(f"{flag} {text}: a range LOW:HIGH or one value is needed, such as {example}")
    return ends


# The fields of `EvalConfig` that say how to read a folder, as the options of `histo download --source folder` do.
FOLDER_OPTIONS = (
    "classes",
    "slides",
    "slide_pattern",
    "id_column",
    "label_column",
    "slide_column",
    "hospital_column",
    "split_column",
    "mpp",
)


@dataclass(frozen=True)
class EvalConfig:
    """The options of `histo eval`."""

    ckpt: tuple[str, ...] = (CHECKPOINT,)  # of several checkpoints, the mean probability
    data: str | None = None  # None: the validation patches that the checkpoints were trained with
    labels: Path | None = None  # of a folder, as the next nine: `FOLDER_OPTIONS`
    classes: tuple[str, ...] = ()
    slides: Path | None = None
    slide_pattern: str | None = None
    id_column: str | None = None
    label_column: str | None = None
    slide_column: str | None = None
    hospital_column: str | None = None
    split_column: str | None = None
    mpp: str | None = None  # None: the images have the patches' `PATCH_MPP`
    split: SplitName | None = None  # None: val of the run's own patches, all of `data`
    tta: bool = False
    uncalibrated: bool = False
    prevalence: float | None = None  # the share of tumour patches; None: that of the validation patches
    threshold: str = "stored"
    resize: Resize = Resize.CROP
    batch_size: int = 256
    can_halve_batch: bool = False  # halve the batches that do not fit the memory: --batch-size auto
    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO
    engine: Engine = Engine.AUTO


@dataclass(frozen=True)
class SlideEvalConfig:
    """The options of `histo eval --maps`."""

    slides: Path  # the folder that `histo predict` wrote
    labels: Path | None = None
    annotations: Path | None = None
    threshold: float | None = None  # None: that of the predictions
    choose_on: Path | None = None  # maps of training slides, on which one of the scores of slides is chosen
    seed: int = 0


@dataclass(frozen=True)
class PredictConfig:
    """The options of `histo predict`."""

    inputs: tuple[str, ...]
    ckpt: tuple[str, ...] = (CHECKPOINT,)  # of several checkpoints, the mean probability
    split: SplitName | None = None  # None: all patches; of packed data sets only
    out: Path | None = None  # None: stdout
    format: Output | None = None  # None: by the suffix of `out`, else CSV
    columns: Columns = Columns.KAGGLE
    id: IdKind | None = None  # None: the stem where all differ, else the path; of paths from stdin the path
    mpp: str | None = None  # None: the images have the patches' `PATCH_MPP`, and slides what their files say
    failed: Path | None = None  # a table of the files that cannot be read
    skip_done: bool = False  # score only the files that `out` does not hold yet
    tta: bool = False
    uncalibrated: bool = False
    prevalence: float | None = None  # the share of tumour patches; None: that of the validation patches
    threshold: str | None = None
    qc: bool = False
    escape_formulas: bool = False  # in CSV, put an apostrophe before text that a spreadsheet would compute
    resize: Resize = Resize.CROP
    errors: OnError = OnError.SKIP
    batch_size: int = 1024  # fewer keep a GPU waiting for the host
    can_halve_batch: bool = False  # halve the batches that do not fit the memory: --batch-size auto
    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO
    engine: Engine = Engine.AUTO
    step: int = 96  # whole slides: side of a square in pixels at the network's resolution
    mask: Path | None = None  # whole slides: where the tissue is; None: it is found
    no_mask: bool = False  # whole slides: score glass too

    @property
    def output_format(self) -> Output:
        """The format to write: `format` if it is given, else that of the suffix of `out`, else CSV.

        Raises:
            UsageError: the suffix is that of a format which is not written.
        """
        if self.format is not None:
            return self.format
        suffix = self.out.suffix.lower() if self.out else ""
        if suffix in OUTPUT_SUFFIXES:
            return OUTPUT_SUFFIXES[suffix]
        if suffix in _NOT_WRITTEN:
            *others, last = (f".{format}" for format in Output)
            raise UsageError(
                f"--out {self.out}: histo does not write {suffix}", f"it writes {', '.join(others)} and {last}"
            )
        return Output.CSV


@dataclass(frozen=True)
class ExportConfig:
    """The options of `histo export`."""

    ckpt: str = CHECKPOINT
    out: Path | None = None  # None: a file in the workspace's exports/
    format: ExportFormat = ExportFormat.ONNX

    def check(self) -> None:
        """Raise `UsageError` if the suffix of `out` is that of another format."""
        suffix = self.out.suffix.lower().removeprefix(".") if self.out else ""
        if suffix in set(ExportFormat) - {self.format}:
            raise UsageError(f"--out {self.out}: the format is {self.format}", f"add --format {suffix}, or rename it")


@dataclass(frozen=True)
class PlotConfig:
    """The options of `histo plot`."""

    run: tuple[str, ...] = ()  # none: the newest run; several are laid over one another
    kind: tuple[PlotKind, ...] = (PlotKind.ALL,)
    format: PlotFormat = PlotFormat.PNG
    data: tuple[str, ...] = ()  # none: the run's own data set and subset, and all of its evaluations
    title: bool = True
    dpi: int = 200
    width: float | None = None  # inches; None: 3.5, one column of a paper, and 7.2 for sheets of patches
    files: tuple[str, ...] = ()  # images to explain, as the inputs of `PredictConfig`; or tables of scores to map
    ids: tuple[str, ...] = ()  # patches of packed data sets to explain
    ckpt: tuple[str, ...] = ()  # what scores the patches to explain; none: that of `run`, else `CHECKPOINT`
    mpp: str | None = None  # of the slides to map, where the data set does not say it: a number or a table

    def check(self) -> None:
        """Raise `UsageError` naming the option whose value cannot be used."""
        is_explained, is_mapped = PlotKind.EXPLAIN in self.kind, PlotKind.MAP in self.kind
        if (what := self._only_explained) and not is_explained:
            raise UsageError(f"{what} is only for --kind explain", f"histo plot --kind explain {what}")
        if self.files and is_explained is is_mapped:
            raise UsageError(
                f"{self.files[0]} needs exactly one of --kind explain and --kind map",
                f"histo plot --kind explain {self.files[0]} (an image), or --kind map {self.files[0]} (a table)",
            )
        if self.mpp is not None and not is_mapped:
            raise UsageError("--mpp is only for --kind map", "histo plot --kind map --mpp 0.25")
        if self.files and self.ids:
            raise UsageError("--ids names patches of packed data sets, and files were given too", "give one of them")
        if self.files and self.data and not is_mapped:
            raise UsageError(
                f"--data {self.data[0]} is for packed patches, and files were given", "leave one of them out"
            )
        if self.files and self.run and is_mapped:
            raise UsageError(f"--run {self.run[0]} names evaluations, and tables were given", "leave one of them out")
        if self.ckpt and not (self.files or self.ids):
            raise UsageError("--ckpt needs the patches to explain", "give files, or --ids ID; --run names evaluations")
        if self.ckpt and self.run:
            raise UsageError("--ckpt and --run exclude each other", "a run is also a value of --ckpt")
        if not 20 <= self.dpi <= 2400:
            raise UsageError(f"--dpi {self.dpi}: a number from 20 to 2400 is needed", "200 is the default")
        if self.width is not None and not 2 <= self.width <= 40:
            raise UsageError(
                f"--width {self.width:g}: a number of inches from 2 to 40 is needed",
                "3.5 is the width of one column of a journal",
            )

    @property
    def _only_explained(self) -> str:
        """The first given option that only `PlotKind.EXPLAIN` uses, with its value; else ""."""
        options = (("--ids ", self.ids), ("--ckpt ", self.ckpt))
        return next((f"{option}{values[0]}" for option, values in options if values), "")


@dataclass(frozen=True)
class ReportConfig:
    """The options of `histo report`."""

    run: tuple[str, ...] = ()  # none: the newest run; several are compared
    data: tuple[str, ...] = ()  # none: all evaluations of the runs
    out: Path | None = None  # None: RUN-report.html in the workspace's plots/
    pictures: int = 48  # false positives, and false negatives, of each evaluation at most
    maps: Path | None = None  # the folder of maps of slides that `histo predict` wrote
    mpp: str | None = None  # of the slides of placed patches, where the data set does not say it: a number or a table
