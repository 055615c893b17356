"""The options of the commands that use a checkpoint: `histo eval`, `histo predict` and `histo export`."""

from dataclasses import dataclass
from pathlib import Path

from histocli.enums import (
    OUTPUT_SUFFIXES,
    Columns,
    Device,
    Engine,
    ExportFormat,
    IdKind,
    OnError,
    Output,
    Precision,
    Resize,
    SplitName,
)
from histocli.errors import UsageError

PATCH_MPP = 0.972  # micrometres per pixel of PatchCamelyon's patches: level 2 of Camelyon16's slides
CHECKPOINT = "best.pt"  # in the workspace's checkpoints/: the best epoch of the newest finished run
STORED_THRESHOLD = "stored"  # the threshold that training stored in the checkpoint
_NOT_WRITTEN = (".json", ".xlsx", ".xls", ".tsv", ".gz", ".zip", ".feather", ".arrow", ".h5", ".npy")


@dataclass(frozen=True)
class EvalConfig:
    """The options of `histo eval`."""

    ckpt: tuple[str, ...] = (CHECKPOINT,)  # of several checkpoints, the mean probability
    data: str | None = None  # None: the validation patches that the checkpoints were trained with
    labels: Path | None = None  # this and the next nine options are only for a folder of images
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
    threshold: str = STORED_THRESHOLD
    resize: Resize = Resize.CROP
    batch_size: int = 256
    can_halve_batch: bool = False  # halve the batches that do not fit the memory: --batch-size auto
    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO
    engine: Engine = Engine.AUTO


@dataclass(frozen=True)
class SlideEvalConfig:
    """The options of `histo eval --maps`."""

    maps: Path  # the folder that `histo predict` wrote
    labels: Path | None = None
    annotations: Path | None = None
    threshold: float | None = None  # None: that of the predictions
    choose_on: Path | None = None  # maps of training slides, on which one of the scores of slides is chosen


@dataclass(frozen=True)
class PredictConfig:
    """The options of `histo predict`."""

    inputs: tuple[str, ...]
    ckpt: tuple[str, ...] = (CHECKPOINT,)  # of several checkpoints, the mean probability
    split: SplitName | None = None  # None: all patches; of packed data sets only
    out: Path | None = None  # None: stdout
    format: Output | None = None  # None: by the suffix of `out`, else CSV
    columns: Columns = Columns.KAGGLE
    id: IdKind | None = None  # None: as in `out` with `skip_done`, else the first kind that differs for all files
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
    can_halve_batch: bool = False  # halve batches that do not fit the memory; the command does without --batch-size
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
        """Raise `UsageError` if `out` has another suffix than a file of the format; a folder may have any."""
        suffix = self.out.suffix.lower().removeprefix(".") if self.out else ""
        if suffix in set(ExportFormat) - {self.format}:
            raise UsageError(f"--out {self.out}: the format is {self.format}", f"add --format {suffix}, or rename it")
        if suffix not in ("", self.format) and self.format is not ExportFormat.WSINFER:
            raise UsageError(
                f"--out {self.out}: {self.out.suffix if self.out else ''} is not the suffix of a network",
                "--format onnx writes .onnx, --format pt2 writes .pt2, and --format wsinfer writes a folder",
            )
