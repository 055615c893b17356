"""The state of a run in its checkpoints: what last.pt and best.pt hold, and how a run continues from last.pt."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import torch

from histocli.compute.memory import is_out_of_memory
from histocli.errors import HistoError, read_first_line
from histocli.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from histocli.reports.run import Epoch
from histocli.schema import Range, from_json, to_json
from histocli.training.calibrate import Calibration, make_default_calibration
from histocli.training.lora import copy_adapters, merge_adapters, restore_ema_state
from histocli.training.probe import copy_head_weights, select_head_state
from histocli.training.resume import NEW_RUN_HINT
from histocli.training.run_folder import write_history
from histocli.training.trainer import TrainerState, copy_state

if TYPE_CHECKING:
    from histocli.training.run import Run


@dataclass(frozen=True)
class EpochStats:
    """The mean loss of an epoch's training steps, patches per second, and seconds."""

    loss: float
    rate: float
    seconds: float


@dataclass(frozen=True)
class TrainingState:
    """What last.pt stores besides the weights of the EMA, so that a run can be resumed.

    `epoch_stats` is None, except after an epoch that is trained and not yet validated. `adapters` are the LoRA adapters
    of the EMA; without `--lora` there are none. `processes` is the number of processes that trained the run.
    """

    trainer: TrainerState
    history: list[Epoch]
    best: Epoch | None
    epoch_stats: EpochStats | None
    adapters: dict[str, torch.Tensor]
    processes: Annotated[int, Range(1, 1 << 20)]


def collect_training_state(run: "Run") -> TrainingState:
    """Return what last.pt needs to resume; all processes must call this together."""
    return TrainingState(
        trainer=run.trainer.collect_state(),
        history=run.history,
        best=run.best,
        epoch_stats=run.epoch_stats,
        adapters=copy_adapters(run.trainer.ema_model),
        processes=run.ranks.size,
    )


def load_training_state(run: "Run") -> None:
    """Put the state of a run's last.pt into the run, which then continues from there.

    Raises:
        HistoError: last.pt cannot be read, its training state is missing or damaged, or the run's manifest has changed.
    """
    path = run.dir / "last.pt"
    checkpoint = load_checkpoint(path)
    if not checkpoint.training:
        raise HistoError(f"{path} has no training state to resume from", NEW_RUN_HINT)
    if checkpoint.manifest_sha256 != run.manifest_sha256:
        raise HistoError(f"{run.dir / 'manifest.csv'} has changed since the run was started", NEW_RUN_HINT)
    try:
        _apply_checkpoint(run, checkpoint)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise HistoError(f"{path}: its training state is damaged: {read_first_line(error)}", NEW_RUN_HINT) from error


def _apply_checkpoint(run: "Run", checkpoint: Checkpoint) -> None:
    """Put a checkpoint into a run; a training state that does not fit raises `HistoError`, or an error of torch."""
    state = from_json(TrainingState, checkpoint.training, f"{checkpoint.origin}, training", NEW_RUN_HINT)
    steps = state.trainer.step - (state.history[-1].step if state.history else 0)
    if not 0 <= steps <= run.train_loader.steps:
        raise ValueError(f"step {state.trainer.step:,} is not one of the epoch after {len(state.history):,} epochs")
    ema_state = select_head_state(checkpoint.model) if run.config.freeze else checkpoint.model
    if run.config.lora:
        ema_state = restore_ema_state(state.trainer.model, state.adapters, checkpoint.model)
    run.trainer.load_state(state.trainer, ema_state)
    run.history, run.best, run.epoch_stats = state.history, state.best, state.epoch_stats
    run.processes_before = state.processes
    run.epochs_before = int(checkpoint.config.get("epochs") or run.config.epochs)
    run.calibration = Calibration(checkpoint.temperature, checkpoint.threshold, checkpoint.validation)
    run.appearance.result = checkpoint.appearance


def write_checkpoints(run: "Run", folder: Path, state: TrainingState, *, is_best: bool) -> None:
    """Write last.pt with a training state, the history, and with `is_best` also best.pt.

    A frozen backbone is written into best.pt only. last.pt has the head and the SHA-256 of the backbone, so that each
    save writes kilobytes, even if the backbone has gigabytes.
    """
    ema = run.trainer.ema_model
    checkpoint = _make_checkpoint(run, copy_head_weights(ema) if run.config.freeze else merge_adapters(ema))
    if is_best:
        whole = copy_state(run.model) | checkpoint.model if run.config.freeze else checkpoint.model
        save_checkpoint(replace(checkpoint, model=whole), folder / "best.pt")
    last = replace(checkpoint, training=to_json(state), backbone_sha256=run.backbone_sha256)
    save_checkpoint(last, folder / "last.pt")
    write_history(folder, run.history)


def _make_checkpoint(run: "Run", weights: dict[str, torch.Tensor]) -> Checkpoint:
    """Return the checkpoint of the current step, with `weights`."""
    epoch = run.history[-1] if run.history else None
    if epoch and epoch.step != run.trainer.step:  # its metrics and calibration are those of other weights
        epoch = None
    metrics = asdict(epoch) if epoch else {}
    calibration = run.calibration if epoch else make_default_calibration(run.config.threshold)
    if run.trainer.step:
        run.appearance.wait()
    return Checkpoint(
        arch=run.model.arch,
        model=weights,
        run=run.name,
        epoch=len(run.history),
        metrics={name: metrics.get(name) for name in ("val_auc", "val_accuracy", "val_loss")},
        config={name: str(v) if isinstance(v, str) else v for name, v in asdict(run.config).items()},
        manifest_sha256=run.manifest_sha256,
        appearance=run.appearance.result,
        **calibration._asdict(),
    )
