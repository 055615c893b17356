"""The values that options take."""

from collections.abc import Collection
from enum import StrEnum


class Augment(StrEnum):
    """How training patches are augmented; each level includes the one before it."""

    NONE = "none"
    FLIPS = "flips"
    FULL = "full"
    SHARPNESS = "sharpness"


class Rotate(StrEnum):
    """The angles by which training patches are rotated; auto is `any` for a network that reduces its input first."""

    AUTO = "auto"
    RIGHT = "right"
    ANY = "any"


class Device(StrEnum):
    """The device to compute on."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Precision(StrEnum):
    """The number format of the convolutions; weights are always stored in fp32."""

    AUTO = "auto"
    FP32 = "fp32"
    BF16 = "bf16"
    FP16 = "fp16"


class Engine(StrEnum):
    """What runs the network: PyTorch, or ONNX Runtime on the file that `histo export` wrote."""

    AUTO = "auto"
    TORCH = "torch"
    ONNX = "onnx"


class Resize(StrEnum):
    """How an image of another size becomes a patch of 96x96 pixels."""

    CROP = "crop"
    SCALE = "scale"


class Split(StrEnum):
    """What training and validation never share: slides, overlapping patches, or only the patches themselves."""

    SLIDE = "slide"
    OVERLAP = "overlap"
    RANDOM = "random"
    FOLDERS = "folders"  # the splits train and valid of the data set itself


class Group(StrEnum):
    """A unit larger than a slide that is kept in one split."""

    HOSPITAL = "hospital"
    APPEARANCE = "appearance"  # two groups that differ in sharpness and colour


class Weights(StrEnum):
    """The weights that training starts from."""

    RANDOM = "random"
    PRETRAINED = "pretrained"
    IMAGENET = "imagenet"
    HISTONET_PCAM = "histonet-pcam"  # of the network that comes with histo


class HeadKind(StrEnum):
    """What classifies the features of a frozen backbone: a linear layer, or the nearest training patches."""

    LINEAR = "linear"
    KNN = "knn"


class Track(StrEnum):
    """A tracker of experiments that runs are sent to; each value is the name of its package and of the extra."""

    TENSORBOARD = "tensorboard"
    WANDB = "wandb"
    MLFLOW = "mlflow"


class SplitName(StrEnum):
    """The name of a split of a data set; `all` is all of its patches.

    `histo balance` writes `train` and `val`; `histo download` writes `train`, `valid` and `test`.
    """

    TRAIN = "train"
    VAL = "val"
    VALID = "valid"
    TEST = "test"
    ALL = "all"

    def choose_existing(self, names: Collection[str]) -> "SplitName":
        """Return this split, or the other of `val` and `valid` if only that one is among the names."""
        other = {SplitName.VAL: SplitName.VALID, SplitName.VALID: SplitName.VAL}.get(self, self)
        return other if self.value not in names and other.value in names else self


class OnError(StrEnum):
    """What to do about an unreadable file."""

    SKIP = "skip"
    FAIL = "fail"


class Output(StrEnum):
    """The file format of predictions."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


# The suffix of `predict --out` chooses the format.
OUTPUT_SUFFIXES = {f".{format}": format for format in Output} | {".ndjson": Output.JSONL, ".pq": Output.PARQUET}


class IdKind(StrEnum):
    """The kind of the id of an image file: `01`, `a/01` or `a/01.png` for the file `a/01.png` of a folder.

    The first kind that gives all files different ids is the default.
    """

    STEM = "stem"
    PATH_STEM = "path-stem"
    PATH = "path"


class Columns(StrEnum):
    """The columns of predictions: id and label as Kaggle wants them, or id, path, probability and class."""

    KAGGLE = "kaggle"
    FULL = "full"


class ExportFormat(StrEnum):
    """The format of an exported network; `wsinfer` is a folder, the others are files."""

    ONNX = "onnx"
    PT2 = "pt2"
    WSINFER = "wsinfer"


class PlotKind(StrEnum):
    """What to draw; `all` is every kind whose input file exists."""

    ALL = "all"
    CURVES = "curves"
    ROC = "roc"
    PR = "pr"
    CONFUSION = "confusion"
    CALIBRATION = "calibration"
    SCORES = "scores"
    BALANCE = "balance"
    SAMPLES = "samples"
    ERRORS = "errors"
    EXPLAIN = "explain"
    MAP = "map"


class RunSort(StrEnum):
    """The order in which runs are listed."""

    TIME = "time"
    AUC = "auc"
    NAME = "name"


class RunAction(StrEnum):
    """What `histo runs` does besides listing."""

    RM = "rm"


class PlotFormat(StrEnum):
    """The file format of plots."""

    PNG = "png"
    SVG = "svg"
    PDF = "pdf"
