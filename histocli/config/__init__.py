"""The options of each command, as one frozen dataclass per command. The values that they take are in `histocli.enums`.

Every default is defined in these classes, once: the command line and the Python API take theirs from them. Other
modules import them from here. This is cheap, so that `histo --help` and TAB answer at once.
"""

from histocli.config.balance import SUBSET, BalanceConfig
from histocli.config.download import MIN_PACKED, PackConfig
from histocli.config.plots import PAGE_WIDTH, PlotConfig, ReportConfig
from histocli.config.scoring import (
    CHECKPOINT,
    PATCH_MPP,
    STORED_THRESHOLD,
    EvalConfig,
    ExportConfig,
    PredictConfig,
    SlideEvalConfig,
)
from histocli.config.seeds import MAX_SEED, is_seed
from histocli.config.training import (
    BATCH_SIZE,
    GPU_BATCH_PATCHES,
    GPU_BATCH_SIZE,
    LEARNING_RATE,
    MAX_LORA,
    PACKAGED_ARCH,
    RunConfig,
    TrainConfig,
    choose_batch_size,
)
from histocli.config.tuning import TuneConfig

__all__ = [
    "BATCH_SIZE",
    "CHECKPOINT",
    "GPU_BATCH_PATCHES",
    "GPU_BATCH_SIZE",
    "LEARNING_RATE",
    "MAX_LORA",
    "MAX_SEED",
    "MIN_PACKED",
    "PACKAGED_ARCH",
    "PAGE_WIDTH",
    "PATCH_MPP",
    "STORED_THRESHOLD",
    "SUBSET",
    "BalanceConfig",
    "EvalConfig",
    "ExportConfig",
    "PackConfig",
    "PlotConfig",
    "PredictConfig",
    "ReportConfig",
    "RunConfig",
    "SlideEvalConfig",
    "TrainConfig",
    "TuneConfig",
    "choose_batch_size",
    "is_seed",
]
