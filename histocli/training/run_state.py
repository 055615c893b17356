"""The state of a run in its checkpoints: what last.pt and best.pt hold, and how a run continues from last.pt."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from histocli.models.checkpoint import Checkpoint, save_checkpoint
from histocli.training.calibrate import Calibration, make_default_calibration
from histocli.training.lora import copy_adapters, merge_adapters, restore_ema_state
from histocli.training.probe import copy_head_weights, join_state, select_head_state
from histocli.training.progress import Epoch, EpochStats
from histocli.training.run_folder import write_history

if TYPE_CHECKING:
    from histocli.training.run import Run


def collect_training_state(run: "Run") -> dict[str, Any]:
    """Return what last.pt needs to resume; all processes must call this together."""
    return {
        "trainer": run.trainer.state(),
        "adapters": copy_adapters(run.trainer.ema_model),
        "history": [epoch._asdict() for epoch in run.history],
        "best": run.best and run.best._asdict(),
        "trained": run.epoch_stats._asdict() if run.epoch_stats else {},
        "processes": run.ranks.size,
    }


def load_training_state(run: "Run", checkpoint: Checkpoint) -> None:
    """Put the state of a checkpoint into a run; a state that does not fit raises an error of Python or torch."""
    state = checkpoint.training
    ema_state = select_head_state(checkpoint.model) if run.config.freeze else checkpoint.model
    if run.config.lora:
        ema_state = restore_ema_state(state["trainer"]["model"], state["adapters"], checkpoint.model)
    run.trainer.load_state(state["trainer"], ema_state)
    run.history = [Epoch(**row) for row in state["history"]]
    run.best = Epoch(**state["best"]) if state["best"] else None
    run.epoch_stats = EpochStats(**state["trained"]) if state.get("trained") else None
    run.processes_before = state.get("processes", 1)
    run.epochs_before = int(checkpoint.config.get("epochs") or run.config.epochs)
    run.calibration = Calibration(checkpoint.temperature, checkpoint.threshold, checkpoint.validation)
    run.appearance.values = checkpoint.appearance


def write_checkpoints(run: "Run", folder: Path, state: dict[str, Any], *, is_best: bool) -> None:
    """Write last.pt with a training state, the history, and with `is_best` also best.pt.

    A frozen backbone is written into best.pt only. last.pt has the head and the SHA-256 of the backbone, so that each
    save writes kilobytes, even if the backbone has gigabytes.
    """
    ema = run.trainer.ema_model
    checkpoint = _make_checkpoint(run, copy_head_weights(ema) if run.config.freeze else merge_adapters(ema))
    if is_best:
        best = replace(checkpoint, model=join_state(run.model, ema)) if run.config.freeze else checkpoint
        save_checkpoint(best, folder / "best.pt")
    last = replace(checkpoint, training=state, backbone_sha256=run.backbone_sha256)
    save_checkpoint(last, folder / "last.pt")
    write_history(folder, run.history)


def _make_checkpoint(run: "Run", weights: dict[str, torch.Tensor]) -> Checkpoint:
    """Return the checkpoint of the current step, with `weights`."""
    epoch = run.history[-1] if run.history else None
    if epoch and epoch.step != run.trainer.step:  # its metrics and calibration are those of other weights
        epoch = None
    metrics = epoch._asdict() if epoch else {}
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
        appearance=run.appearance.values,
        **calibration._asdict(),
    )
