"""The words that options take; importing them costs nothing, so that help and completion answer at once."""

from enum import StrEnum


class Augment(StrEnum):
    """What is done to training patches; each level includes the one before it."""

    NONE = "none"
    FLIPS = "flips"
    FULL = "full"


class Rotate(StrEnum):
    """The angles a training patch is turned by; auto is any where the network looks at smaller images than patches."""

    AUTO = "auto"
    RIGHT = "right"
    ANY = "any"


class Device(StrEnum):
    """Where the arithmetic is done."""

    AUTO = "auto"
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class Precision(StrEnum):
    """The number format of the convolutions; weights are always kept in fp32."""

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
    """How an image of another size becomes a patch."""

    CROP = "crop"
    SCALE = "scale"


class SourceKind(StrEnum):
    """Where patches come from."""

    KAGGLE = "kaggle"
    PCAM = "pcam"
    FOLDER = "folder"
    SYNTHETIC = "synthetic"


class Split(StrEnum):
    """What train and validation never share: slides, patches that show the same tissue, or only the patches."""

    SLIDE = "slide"
    OVERLAP = "overlap"
    RANDOM = "random"


class Group(StrEnum):
    """What is kept on one side of the split, beyond slides."""

    HOSPITAL = "hospital"


class Weights(StrEnum):
    """What a network starts from."""

    RANDOM = "random"
    PRETRAINED = "pretrained"
    IMAGENET = "imagenet"


class Part(StrEnum):
    """The rows of a manifest that are evaluated."""

    TRAIN = "train"
    VAL = "val"
    VALID = "valid"
    TEST = "test"
    ALL = "all"


class OnError(StrEnum):
    """What becomes of an unreadable file."""

    SKIP = "skip"
    FAIL = "fail"


class Output(StrEnum):
    """The format of predictions."""

    CSV = "csv"
    JSONL = "jsonl"
    PARQUET = "parquet"


class ExportFormat(StrEnum):
    """The format of an exported network."""

    ONNX = "onnx"
    PT2 = "pt2"
