"""The options of a training run: those that follow from others, and checks before anything is read."""

from collections.abc import Collection
from dataclasses import replace

from histocli.architectures import ENCODERS
from histocli.config import PACKAGED_ARCH, RunConfig, TuneConfig
from histocli.enums import Augment, HeadKind, Weights
from histocli.errors import UsageError
from histocli.metrics.thresholds import parse_threshold
from histocli.models import check_architecture, check_weights
from histocli.models.encoders import find_short_name
from histocli.training.lora import require_peft

_NOT_WITH_KNN = ("epochs", "lr")
_NOT_WITH_FREEZE = {
    "augment": "the features of each patch are computed once, without augmentation",
    "rotate": "the features of each patch are computed once, without augmentation",
    "compile": "only the last layer is trained",
}


def check_values(config: RunConfig) -> None:
    """Raise `UsageError` for an option whose value cannot be used, whatever the other options and the data are."""
    config.check_values()
    parse_threshold(config.threshold)


def complete_config(config: RunConfig, given: Collection[str]) -> RunConfig:
    """Return the options with those that follow from others and were not given.

    An architecture that names published weights starts from them. The weights that come with histo fit only one
    architecture. A k-NN head needs one epoch.

    Raises:
        UsageError: the architecture has no such weights, or an option was given that would change nothing.
    """
    config = replace(config, arch=PACKAGED_ARCH if uses_packaged_arch(config, given) else find_short_name(config.arch))
    if "weights" not in given:
        config = replace(config, weights=choose_weights(config.arch, config.weights))
    check_weights(config.arch, config.weights)  # a resumed run does not need them, and they may have changed
    if config.augment is Augment.NONE and "rotate" in given:
        raise UsageError("--rotate has no meaning with --augment none: the patches are not changed")
    return replace(config, epochs=1) if config.head is HeadKind.KNN and "epochs" not in given else config


def uses_packaged_arch(config: RunConfig | TuneConfig, given: Collection[str]) -> bool:
    """Return whether no architecture was given, and the weights are those that come with histo, which fit only one."""
    return config.weights is Weights.HISTONET_PCAM and "arch" not in given and config.arch == type(config).arch


def choose_weights(arch: str, weights: Weights) -> Weights:
    """Return the weights that an architecture starts from: published weights if it is a published encoder."""
    return Weights.PRETRAINED if arch in ENCODERS and weights is Weights.RANDOM else weights


def check_run_options(config: RunConfig, given: Collection[str]) -> None:
    """Check the options of a run before anything is loaded.

    Raises:
        UsageError: no architecture has the name, options exclude each other, or one was given and would change nothing.
        HistoError: an option needs a package that is not installed.
    """
    check_architecture(config.arch)  # before other options are checked, which depend on it
    for key in _NOT_WITH_KNN:
        if config.head is HeadKind.KNN and key in given:
            raise UsageError(f"--{key} has no meaning with --head knn: this head is not trained, it stores features")
    for key in _NOT_WITH_FREEZE:
        if config.freeze and key in given:
            raise UsageError(f"--{key} has no meaning with --freeze: {_NOT_WITH_FREEZE[key]}")
    config.check()
    if config.lora is not None:
        require_peft()
