"""The Python API: the commands as functions; `api_predictor` has the predictor for arrays and files.

Every function takes the options of its command under the same names, as keywords or as one dataclass of
`histocli.config`; values may be text, as on the command line. An error that a user can fix is raised as
`histocli.HistoError`.
"""

import os
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, get_args, get_type_hints

from histocli.api_predictor import Predictor
from histocli.config import CHECKPOINT, BalanceConfig, EvalConfig, PredictConfig, TrainConfig, TuneConfig
from histocli.enums import Device, Precision
from histocli.errors import UsageError
from histocli.listeners import WarningListener
from histocli.workspace import Workspace, default_workspace

if TYPE_CHECKING:
    from histocli.commands.download import Dataset
    from histocli.commands.evaluate import Evaluation
    from histocli.commands.train import TrainReport
    from histocli.reports.balance import BalanceReport
    from histocli.reports.repeats import RepeatsReport
    from histocli.reports.tune import TuneReport

Config = TypeVar("Config", BalanceConfig, EvalConfig, TrainConfig, TuneConfig)
PathLike = str | os.PathLike[str]


def download(
    workspace: Workspace | PathLike | None = None,
    source: str = "kaggle",
    *,
    name: str | None = None,
    n: int | None = None,
    seed: int = 0,
    force: bool = False,
    **options: Any,
) -> "Dataset":
    """Pack patches into the workspace, as `histo download` does, and return the content of its `dataset.json`.

    `options` are the options of the source: `locations` (--from), `labels`, `slides`, `resize`.
    """
    from histocli.commands.download import DownloadConfig, check_inputs, find_dataset, lock_dataset, open_source
    from histocli.commands.download import download as run_download
    from histocli.sources import RemoteSource, SourceContext
    from histocli.sources.options import declared_options, source_options

    folder, declared = _workspace(workspace), declared_options()
    if unknown := options.keys() - declared.keys():
        raise TypeError(f"histo download has no option {', '.join(sorted(unknown))}")
    values = {key: _convert(key, value, declared[key].type) for key, value in options.items()}
    config = DownloadConfig(source, source_options(source, values, n, seed), n, seed, force)
    title = name or source
    check_inputs(folder, title, config)
    if not force and (dataset := find_dataset(folder, title, config)):
        return dataset
    opened = open_source(config, SourceContext(folder.downloads_dir, force))
    with lock_dataset(folder, title):
        if isinstance(opened, RemoteSource):
            opened.fetch()
        return run_download(folder, title, config, opened, listener=WarningListener())


def balance(
    workspace: Workspace | PathLike | None = None, config: BalanceConfig | None = None, **options: Any
) -> "BalanceReport":
    """Draw a balanced subset, as `histo balance` does, and return the report on it; `n="max"` takes all patches."""
    from histocli.commands.balance import balance as run_balance

    if options.get("n") == "max":
        options["n"] = None
    return run_balance(_workspace(workspace), _config(BalanceConfig, config, options))


def train(
    workspace: Workspace | PathLike | None = None, config: TrainConfig | None = None, **options: Any
) -> "TrainReport | RepeatsReport":
    """Train a network, as `histo train` does.

    Returns the run's name, folder and best epoch; with `folds` or `seeds`, the metrics of all runs with their mean and
    spread. For several processes use the command line.
    """
    from histocli.commands.train import train as run_train
    from histocli.commands.train_repeats import train_repeats
    from histocli.trackers import TrackerListener

    config = _config(TrainConfig, config, options)
    track = config.track

    def listen() -> TrackerListener:
        return TrackerListener(track, WarningListener())

    if config.folds or config.seeds:
        return train_repeats(_workspace(workspace), config, given=set(options), listen=listen)
    with listen() as listener:
        return run_train(_workspace(workspace), config, given=set(options), listener=listener)


def tune(
    workspace: Workspace | PathLike | None = None, config: TuneConfig | None = None, **options: Any
) -> "TuneReport":
    """Search the options of `train`, as `histo tune` does, and return the report on the study.

    `trials` or `hours` is needed. An option that has several values takes a list: `arch=["histonet", "resnet18"]`.
    """
    from histocli.commands.tune import tune as run_tune

    return run_tune(_workspace(workspace), _config(TuneConfig, config, options), given=set(options)).report


def evaluate(
    workspace: Workspace | PathLike | None = None, config: EvalConfig | None = None, **options: Any
) -> "Evaluation":
    """Measure a checkpoint on labelled patches, as `histo eval` does; return the metrics file's path and content."""
    from histocli.commands.evaluate import evaluate as run_evaluate

    return run_evaluate(_workspace(workspace), _config(EvalConfig, config, options), listener=WarningListener())


def load(
    *ckpt: PathLike,
    workspace: Workspace | PathLike | None = None,
    tta: bool = False,
    uncalibrated: bool = False,
    prevalence: float | None = None,
    device: Device | str = Device.AUTO,
    precision: Precision | str = Precision.AUTO,
    batch_size: int = PredictConfig.batch_size,
) -> Predictor:
    """Load a checkpoint for prediction: `best.pt` (the default), the name of a run, or the path of a file.

    The probabilities of several checkpoints are averaged. The other options are those of `histo predict`.
    """
    return Predictor(
        _workspace(workspace),
        [os.fspath(name) if isinstance(name, str) else str(Path(name).absolute()) for name in ckpt] or [CHECKPOINT],
        device=Device(device),
        precision=Precision(precision),
        tta=tta,
        uncalibrated=uncalibrated,
        prevalence=prevalence,
        batch_size=batch_size,
    )


def _workspace(workspace: Workspace | PathLike | None) -> Workspace:
    """Return the workspace that a caller gave as such or as a path, else the default one."""
    if isinstance(workspace, Workspace):
        return workspace
    return Workspace(Path(workspace)) if workspace is not None else default_workspace()


def _config(kind: type[Config], config: Config | None, options: dict[str, Any]) -> Config:
    """Return the options as the dataclass of the command; text becomes a member of an enumeration, or a path.

    Raises:
        TypeError: both a dataclass and options are given, or an option does not exist.
        UsageError: a value is not allowed.
    """
    if config is not None:
        if options:
            raise TypeError("give either a config or options, not both")
        return config
    hints = get_type_hints(kind)
    if options.get("batch_size") == "auto" and "can_halve_batch" in hints:
        options = {name: value for name, value in options.items() if name != "batch_size"} | {"can_halve_batch": True}
    return kind(**{name: _convert(name, value, hints.get(name)) for name, value in options.items()})


def _convert(name: str, value: Any, hint: Any) -> Any:
    """Return a value as the type that its field has: an enumeration's member, a path, or a tuple."""
    kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type)]
    if value is None:
        return None
    if str(hint).startswith("tuple"):
        values = (value,) if isinstance(value, str | os.PathLike | int) else value
        items = (os.fspath(item) if isinstance(item, os.PathLike) else item for item in values)
        return tuple(_convert(name, item, get_args(hint)[0]) for item in items)
    for kind in kinds:
        if issubclass(kind, Enum):
            try:
                return kind(value)
            except ValueError:
                raise UsageError(
                    f"{name}={value!r} is not one of {', '.join(member.value for member in kind)}"
                ) from None
        if issubclass(kind, Path):
            return Path(value)
    return value
