"""The Python API: the commands as functions; `api_predictor` has the predictor for arrays and files.

Every function takes the options of its command under the same names, as keywords or as one dataclass of
`histocli.config`; values may be text, as on the command line. An error that a user can fix is raised as
`histocli.HistoError`.
"""

import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from histocli.api_options import check_batch_size, check_option_names, convert, convert_enum, list_given, make_config
from histocli.api_predictor import Predictor
from histocli.config import BalanceConfig, EvalConfig, PackConfig, PredictConfig, TrainConfig, TuneConfig
from histocli.enums import Device, Precision
from histocli.errors import UsageError
from histocli.listeners import WarningListener
from histocli.workspace import Workspace, find_workspace

if TYPE_CHECKING:
    from histocli.commands.evaluate import Evaluation
    from histocli.commands.train import TrainReport
    from histocli.data.dataset import Dataset
    from histocli.reports.balance import BalanceReport
    from histocli.reports.repeats import RepeatsReport
    from histocli.reports.tune import TuneReport

PathLike = str | os.PathLike[str]


def download(
    workspace: Workspace | PathLike | None = None,
    source: str = "kaggle",
    *,
    name: str | None = None,
    n: int | None = PackConfig.n,
    seed: int = PackConfig.seed,
    force: bool = PackConfig.force,
    **options: Any,
) -> "Dataset":
    """Pack patches into the workspace, as `histo download` does, and return the content of its `dataset.json`.

    `options` are the options of the source: `locations` (--from), `labels`, `slides`, `resize`. If the data set
    is packed already, and the source reads files of the user, a Python warning says how to read changed files again.
    """
    from histocli.commands.download import DownloadConfig, check_request, find_dataset
    from histocli.commands.download import download as run_download
    from histocli.sources import SOURCE_NAMES, find_source_type
    from histocli.sources.options import list_declared_options, make_source_options

    folder, declared = _workspace(workspace), list_declared_options()
    check_option_names("download", options, declared)
    if source not in SOURCE_NAMES:
        raise UsageError(f"source={source!r} is not one of {', '.join(SOURCE_NAMES)}")
    n, seed, force = convert("n", n, int | None), convert("seed", seed, int), convert("force", force, bool)
    given = {key: value for key, value in options.items() if value is not None}  # None: the default of the source
    values = {key: convert(key, value, declared[key].type) for key, value in given.items()}
    config = DownloadConfig(source, make_source_options(source, values, n, seed), n=n, seed=seed, force=force)
    title = source if name is None else name
    check_request(folder, title, config)
    if not force and (dataset := find_dataset(folder, title, config)):
        if find_source_type(source).has_user_files:
            warnings.warn(
                f"{title} is packed already, and is not packed again; if the files have changed, give force=True",
                stacklevel=2,
            )
        return dataset
    return run_download(folder, title, config, listener=WarningListener())


def balance(
    workspace: Workspace | PathLike | None = None, config: BalanceConfig | None = None, **options: Any
) -> "BalanceReport":
    """Draw a balanced subset, as `histo balance` does, and return the report on it; `n="max"` takes all patches."""
    from histocli.commands.balance import balance as run_balance

    if options.get("n") == "max":
        options["n"] = None
    return run_balance(_workspace(workspace), make_config(BalanceConfig, config, options))


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
    from histocli.training.run import Run

    config = make_config(TrainConfig, config, options)
    given = list_given(config, options)

    class ApiListener(TrackerListener):
        """Warns of a GPU that cannot be used, and sends the run to the trackers."""

        def on_start(self, run: Run, steps_before: int) -> None:
            if run.compute.warning:
                self.listener.on_warning(run.compute.warning)
            super().on_start(run, steps_before)

    with ApiListener(config.track, WarningListener()) as listener:
        train_runs = train_repeats if config.folds or config.seeds else run_train
        return train_runs(_workspace(workspace), config, given=given, listener=listener)


def tune(
    workspace: Workspace | PathLike | None = None, config: TuneConfig | None = None, **options: Any
) -> "TuneReport":
    """Search the options of `train`, as `histo tune` does, and return the report on the study.

    `trials` or `hours` is needed. An option that has several values takes a list: `arch=["histonet", "resnet18"]`.
    """
    from histocli.commands.tune import tune as run_tune

    config = make_config(TuneConfig, config, options)
    return run_tune(_workspace(workspace), config, given=list_given(config, options)).report


def evaluate(
    workspace: Workspace | PathLike | None = None, config: EvalConfig | None = None, **options: Any
) -> "Evaluation":
    """Measure a checkpoint on labelled patches, as `histo eval` does; return the metrics file's path and content."""
    from histocli.commands.evaluate import evaluate as run_evaluate

    return run_evaluate(_workspace(workspace), make_config(EvalConfig, config, options), listener=WarningListener())


def load(
    *ckpt: PathLike,
    workspace: Workspace | PathLike | None = None,
    tta: bool = PredictConfig.tta,
    uncalibrated: bool = PredictConfig.uncalibrated,
    prevalence: float | None = PredictConfig.prevalence,
    device: Device | str = PredictConfig.device,
    precision: Precision | str = PredictConfig.precision,
    batch_size: int = PredictConfig.batch_size,
) -> Predictor:
    """Load a checkpoint for prediction: `best.pt` (the default), the name of a run, or the path of a file.

    The probabilities of several checkpoints are averaged. The other options are those of `histo predict`.
    """
    from histocli.inference.checkpoints import check_scoring_options, load_from_config

    for name in ckpt:
        if not isinstance(name, str | os.PathLike):
            raise UsageError(f"the checkpoint {name!r} is neither text nor a path", 'several: histo.load("a", "b")')
    names = [name if isinstance(name, str) else str(Path(name).absolute()) for name in ckpt]
    config = PredictConfig(
        (),
        ckpt=tuple(names) or PredictConfig.ckpt,
        tta=convert("tta", tta, bool),
        uncalibrated=convert("uncalibrated", uncalibrated, bool),
        prevalence=convert("prevalence", prevalence, float | None),
        device=convert_enum("device", device, Device),
        precision=convert_enum("precision", precision, Precision),
        batch_size=convert("batch_size", batch_size, int),
    )
    check_batch_size(config.batch_size)
    check_scoring_options(config)
    folder = _workspace(workspace)
    return Predictor(folder, load_from_config(folder, config), config.batch_size)


def _workspace(workspace: Workspace | PathLike | None) -> Workspace:
    """Return the workspace that a caller gave as such or as a path, else the default one."""
    if isinstance(workspace, Workspace):
        return workspace
    return Workspace(Path(workspace)) if workspace is not None else find_workspace()
