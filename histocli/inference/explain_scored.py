"""Explain patches that were evaluated, with the checkpoints that scored them."""

from collections.abc import Sequence
from pathlib import Path

from histocli.data.manifest import hash_file
from histocli.enums import Device, Engine, Precision
from histocli.errors import ExplanationError, HistoError
from histocli.inference.checkpoints import CheckpointPredictor, load_predictor
from histocli.inference.explain import Maps, explain
from histocli.models import packaged
from histocli.patch import Pixels
from histocli.reports.evaluation import EvaluatedCheckpoint, EvaluationReport
from histocli.workspace import Workspace

_EXPORT_SUFFIXES = (".onnx", ".pt2", ".torchscript", ".ts")


def load_for_explaining(workspace: Workspace, names: Sequence[str]) -> CheckpointPredictor:
    """Load checkpoints by name or path for `explain`: in PyTorch, on the CPU, in fp32.

    Raises:
        ExplanationError: one is an exported network.
        HistoError: a checkpoint cannot be loaded.
    """
    for name in names:
        if Path(name).suffix.lower() in _EXPORT_SUFFIXES:
            raise ExplanationError(
                f"--ckpt {name}: an exported network cannot be explained, because it has no gradients",
                "give the checkpoint or the run that it was exported from",
            )
    return load_predictor(workspace, names, Device.CPU, Precision.FP32, Engine.TORCH)


def explain_scored(workspace: Workspace, report: EvaluationReport, pixels: Pixels) -> Maps:
    """Return the maps (N,96,96) of some of an evaluation's patches, uint8 (N,96,96,3), as `explain` does.

    Raises:
        ExplanationError: a checkpoint has been removed or changed, or its network has no feature map.
    """
    if not report.checkpoints:
        raise ExplanationError("the evaluation does not name its checkpoint", "histo eval writes it again")
    paths = [str(_find_checkpoint(workspace, evaluated)) for evaluated in report.checkpoints]
    if not len(pixels):
        return explain([], pixels)
    try:
        predictor = load_for_explaining(workspace, paths)
    except HistoError as error:
        raise ExplanationError(str(error), error.hint) from error
    return explain([member.network for member in predictor.networks], pixels)


def _find_checkpoint(workspace: Workspace, evaluated: EvaluatedCheckpoint) -> Path:
    """Return the file of an evaluated checkpoint: checkpoints/best.pt may be of another run by now."""
    folders = (workspace.checkpoints_dir, workspace.runs_dir / evaluated.run)
    places = [Path(evaluated.checkpoint), *(folder / name for folder in folders for name in ("best.pt", "last.pt"))]
    for path in [*places, packaged.PATH]:
        if path.is_file() and hash_file(path) == evaluated.checkpoint_sha256:
            return path.absolute()
    raise ExplanationError(
        f"the checkpoint of {evaluated.run}, epoch {evaluated.epoch}, was removed or changed",
        "histo eval scores with another checkpoint",
    )
