"""The search space of `histo tune`, and the options of `histo train` for each point in it."""

import math
import shlex
from collections.abc import Mapping
from dataclasses import fields, replace
from typing import TYPE_CHECKING

from histocli.config import RunConfig, TuneConfig
from histocli.enums import Augment
from histocli.reports.tune import Parameters
from histocli.training.options import choose_weights

if TYPE_CHECKING:
    from optuna.trial import Trial

Value = int | float | str
NAMES = frozenset(field.name for field in fields(Parameters))
_ROUNDING = 1e-9  # of a learning rate at the end of its range
_DIGITS = 3  # significant digits of a learning rate, so that the command of the best trial can be read and typed


def make_base_config(config: TuneConfig) -> RunConfig:
    """Return the options that all trials share; a trial changes the parameters of the search space."""
    return RunConfig(
        data=config.data,
        weights=config.weights,
        allow_leak=config.allow_leak,
        seed=config.seed,
        device=config.device,
        precision=config.precision,
    )


def suggest_parameters(trial: "Trial", config: TuneConfig) -> Parameters:
    """Return the parameters of a trial; the sampler chooses those that it does not have yet."""
    low, high = config.lr_range
    fewest, most = config.epochs_range
    return Parameters(
        lr=round_lr(trial.suggest_float("lr", low, high, log=True)),
        batch_size=trial.suggest_categorical("batch_size", config.batch_size),
        epochs=trial.suggest_int("epochs", fewest, most),
        augment=trial.suggest_categorical("augment", [str(level) for level in config.augment]),
        arch=trial.suggest_categorical("arch", config.arch),
    )


def is_in_space(config: TuneConfig, parameters: Mapping[str, object]) -> bool:
    """Return whether the search space has each of these parameters, by name, with its value."""
    low, high = config.lr_range
    ranges = {"lr": (low * (1 - _ROUNDING), high * (1 + _ROUNDING)), "epochs": config.epochs_range}
    choices = {"batch_size": config.batch_size, "augment": list(map(str, config.augment)), "arch": config.arch}

    def has(name: str, value: object) -> bool:
        if name in ranges:
            return isinstance(value, int | float) and ranges[name][0] <= value <= ranges[name][1]
        return value in choices.get(name, ())

    return all(has(name, value) for name, value in parameters.items())


def round_lr(lr: float) -> float:
    """Return a learning rate with three significant digits."""
    return float(f"{lr:.{_DIGITS}g}")


def find_default_point(config: TuneConfig, batch_size: int) -> dict[str, Value]:
    """Return the defaults of `histo train`, or the values of the search space that are nearest to them.

    `batch_size` is the default for the device and the number of training patches: `choose_batch_size` returns it.
    """
    defaults = RunConfig(weights=config.weights)
    size = min(config.batch_size, key=lambda size: abs(math.log(size / batch_size)))
    low, high = config.lr_range
    fewest, most = config.epochs_range
    return {
        "lr": min(max(replace(defaults, batch_size=size).learning_rate, low), high),
        "batch_size": size,
        "epochs": min(max(defaults.epochs, fewest), most),
        "augment": str(defaults.augment if defaults.augment in config.augment else config.augment[0]),
        "arch": defaults.arch if defaults.arch in config.arch else config.arch[0],
    }


def make_trial_config(base: RunConfig, parameters: Parameters) -> RunConfig:
    """Return the options of a trial's training runs."""
    return replace(
        base,
        weights=choose_weights(parameters.arch, base.weights),
        lr=parameters.lr,
        batch_size=parameters.batch_size,
        epochs=parameters.epochs,
        augment=Augment(parameters.augment),
        arch=parameters.arch,
    )


def format_train_command(config: RunConfig) -> str:
    """Return the `histo train` command with these options: the tuned ones, and others that are not the default."""
    words = ["histo", "train"]
    for field in fields(RunConfig):
        value = getattr(config, field.name)
        if field.name not in NAMES and value == field.default:
            continue
        flag = "--" + field.name.replace("_", "-")
        words += [flag] if value is True else [flag, str(value)]
    return shlex.join(words)
