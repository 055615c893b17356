"""`histo train`: a network from the balanced subset, validated each epoch."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from histocli.choices import Augment, Device, Precision, Rotate, Weights
from histocli.errors import HistoError
from histocli.interrupt import stop_request
from histocli.models.checkpoint import load_checkpoint
from histocli.run import Listener, Run, TrainConfig, name_taken
from histocli.workspace import Workspace


class Result(NamedTuple):
    """What training came to: the run's folder, the best epoch's row, and how many steps were taken now."""

    run: str
    run_dir: Path
    best: dict[str, Any]
    seconds: float
    steps: int


def train(
    workspace: Workspace,
    config: TrainConfig,
    *,
    name: str | None = None,
    resume: bool = False,
    listener: Listener | None = None,
) -> Result:
    """Train a new run, or go on with one; `name` defaults to the next number, or the newest run to resume.

    Raises:
        HistoError: the data, the device or the options cannot be used, or the loss is not finite.
        Stopped: a signal came; the state is saved and `--resume` goes on from it.
    """
    listener = listener or Listener()
    began = time.monotonic()
    if resume:
        name = name or stored_config(workspace, None)[0]
        run = Run(workspace, config, name)
        run.resume()
    else:
        if name and workspace.run_dir(name).exists():
            raise name_taken(name)
        run = Run(workspace, config)
    with stop_request() as stop:
        if not resume:
            run.begin(name)
        resumed_at = run.trainer.step
        if not run.finished:
            listener.started(run, resumed_at)
            run.fit(listener, stop)
    return Result(run.name, run.dir, run.best or {}, time.monotonic() - began, run.trainer.step - resumed_at)


def stored_config(workspace: Workspace, name: str | None) -> tuple[str, TrainConfig]:
    """The name and options of the run to resume: `name`, or the newest.

    Raises:
        HistoError: there is no such run.
    """
    runs = [run for run in workspace.run_names() if (workspace.run_dir(run) / "last.pt").is_file()]
    if not runs or (name and name not in runs):
        raise HistoError(
            f"there is no run {name!r} to resume" if name else "there is no run to resume",
            f"runs with a last.pt: {', '.join(runs) or 'none'}",
        )
    run = name or runs[-1]
    saved = load_checkpoint(workspace.run_dir(run) / "last.pt").config
    kinds: dict[str, Callable[[str], Any]] = {
        "weights": Weights,
        "precision": Precision,
        "device": Device,
        "augment": Augment,
        "rotate": Rotate,
    }
    return run, TrainConfig(**{key: kinds[key](value) if key in kinds else value for key, value in saved.items()})
