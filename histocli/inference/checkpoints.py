"""Load predictors from checkpoints: choose the engine that runs each network, and its threshold."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Unpack

import numpy as np

from histocli.compute.device import Compute, choose_compute, move_model
from histocli.config import STORED_THRESHOLD, EvalConfig, PredictConfig
from histocli.data.likeness import LikenessMeter
from histocli.data.manifest import hash_file
from histocli.enums import Device, Engine, ExportFormat, Precision
from histocli.errors import HistoError, UsageError
from histocli.inference.forward import Network
from histocli.inference.predictor import BatchPredictor, CalibratedNetwork, PredictorOptions
from histocli.listeners import CommandListener
from histocli.metrics.calibration import compute_probabilities, rescale_threshold
from histocli.metrics.thresholds import choose_threshold, parse_threshold
from histocli.models import describe_weights
from histocli.models.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from histocli.models.fuse import fuse_batch_norm
from histocli.models.onnx_network import OnnxNetwork
from histocli.packages import is_installed, require_packages
from histocli.reports.evaluation import EvaluatedCheckpoint
from histocli.workspace import Workspace

TORCH, ONNX_RUNTIME = "torch", "ONNX Runtime"


class LoadedCheckpoint(NamedTuple):
    """A checkpoint of a predictor: its file and SHA-256, its content, and the engine that runs its network."""

    path: Path
    sha256: str
    checkpoint: Checkpoint
    engine: str

    def to_report(self) -> EvaluatedCheckpoint:
        """Return the facts about the checkpoint that an evaluation has."""
        return EvaluatedCheckpoint(
            run=self.checkpoint.run,
            arch=self.checkpoint.arch,
            epoch=self.checkpoint.epoch,
            temperature=self.checkpoint.temperature,
            checkpoint=str(self.path),
            checkpoint_sha256=self.sha256,
            engine=self.engine,
            weights_note=describe_weights(self.checkpoint.arch, self.checkpoint.config.get("weights")),
        )


class CheckpointPredictor(BatchPredictor):
    """A `BatchPredictor` that is made from one checkpoint or several; `members` has an entry for each."""

    def __init__(
        self,
        members: Sequence[LoadedCheckpoint],
        networks: Sequence[Network],
        compute: Compute,
        **options: Unpack[PredictorOptions],
    ) -> None:
        temperatures = [member.checkpoint.temperature for member in members]
        calibrated = [CalibratedNetwork(*pair) for pair in zip(networks, temperatures, strict=True)]
        super().__init__(calibrated, compute, **options)
        self.members = list(members)
        self.calibrated_prevalence = float(np.mean([_measure_prevalence(member.checkpoint) for member in members]))

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The content of the checkpoints."""
        return [member.checkpoint for member in self.members]

    @property
    def runs(self) -> list[str]:
        """The names of the runs of the checkpoints."""
        return [checkpoint.run for checkpoint in self.checkpoints]

    @property
    def digests(self) -> list[str]:
        """The SHA-256 of the checkpoints' files."""
        return [member.sha256 for member in self.members]

    @property
    def reason(self) -> str:
        """The device, the number format and the engine, and why they were chosen: a text for the user."""
        engines = {"PyTorch" if member.engine == TORCH else member.engine: None for member in self.members}
        remark = " (with the file of histo export; --engine torch ignores it)" if ONNX_RUNTIME in engines else ""
        return f"{self.compute.reason}, by {' and '.join(engines)}{remark}"

    def report_device(self, listener: CommandListener, more: str = "") -> None:
        """Tell the listener `reason` and `more`, and warn if there is a GPU that cannot be used."""
        if self.compute.warning:
            listener.on_warning(self.compute.warning)
        listener.on_note(self.reason + more)

    @property
    def kind(self) -> list[str]:
        """The kind of device, number format and engines: the last bits of a score depend on these."""
        return [self.compute.device.type, str(self.compute.precision), *(member.engine for member in self.members)]

    def make_likeness_meter(self, total: int | None) -> LikenessMeter:
        """Return a meter that compares the `total` patches to score with those that the networks were trained on."""
        known = [checkpoint.appearance for checkpoint in self.checkpoints if checkpoint.appearance]
        return LikenessMeter(known, total)

    def find_threshold(self, rule: str = STORED_THRESHOLD) -> float:
        """Return the threshold for this predictor's probabilities.

        `rule` is a number, which is returned unchanged; `stored`, the threshold that training chose; or a rule, such as
        `youden`, which is applied to the scores of the validation patches in the checkpoint. For several checkpoints
        the mean is returned.

        Raises:
            UsageError: `rule` is none of these.
            HistoError: a checkpoint has no validation scores to apply a rule to.
        """
        if rule != STORED_THRESHOLD and (value := parse_threshold(rule)) is not None:
            return value
        thresholds = [_choose_threshold(checkpoint, rule) for checkpoint in self.checkpoints]
        if self.uncalibrated:  # the checkpoints have thresholds for calibrated probabilities
            temperatures = [checkpoint.temperature for checkpoint in self.checkpoints]
            thresholds = [rescale_threshold(*pair) for pair in zip(thresholds, temperatures, strict=True)]
        # The prevalence adjusts the mean of the probabilities, so it also adjusts the mean of the thresholds.
        return float(self._adjust(np.array(sum(thresholds) / len(thresholds))))


def check_scoring_options(config: EvalConfig | PredictConfig) -> None:
    """Check the values of `--prevalence` and `--threshold`, without the checkpoints.

    Raises:
        UsageError: one of them cannot be used.
    """
    if config.prevalence is not None and not 0 < config.prevalence < 1:
        hint = "give the share of the patches that contain tumour, such as 0.05 for 5%"
        raise UsageError(f"--prevalence {config.prevalence:g} is not above 0 and below 1", hint)
    if config.threshold not in (None, STORED_THRESHOLD):
        parse_threshold(str(config.threshold))


def load_from_config(workspace: Workspace, config: EvalConfig | PredictConfig) -> CheckpointPredictor:
    """Load the checkpoints in the options of `histo eval` or `histo predict`.

    Raises:
        HistoError: as `load_predictor`.
    """
    return load_predictor(
        workspace,
        config.ckpt,
        config.device,
        config.precision,
        config.engine,
        tta=config.tta,
        uncalibrated=config.uncalibrated,
        prevalence=config.prevalence,
        should_compute_spread=isinstance(config, PredictConfig) and config.qc,
        can_halve_batch=config.can_halve_batch,
    )


def load_predictor(
    workspace: Workspace,
    names: Sequence[str],
    device: Device = Device.AUTO,
    precision: Precision = Precision.AUTO,
    engine: Engine = Engine.AUTO,
    **options: Unpack[PredictorOptions],
) -> CheckpointPredictor:
    """Load checkpoints by name or path, and put their networks on the device.

    `options` are those of `BatchPredictor`. The engine `auto` is ONNX Runtime where `histo export` wrote the
    checkpoint's network, the device is the CPU and the number format is fp32; else it is torch.

    Raises:
        UsageError: no checkpoint is given, or one is given twice; or the engine does not fit the device or the number
            format.
        HistoError: a checkpoint, the device or the engine cannot be used.
    """
    if not names:
        raise UsageError("no checkpoint is given", "give a file, a run, or best.pt")
    compute = _choose_compute(device, precision, engine)
    paths = [find_checkpoint(workspace, name) for name in names]
    checkpoints = [load_checkpoint(path) for path in paths]
    digests = [hash_file(path) for path in paths]
    for i, digest in enumerate(digests):
        if digest in digests[:i]:
            raise UsageError(f"--ckpt {names[i]} is given twice", "an ensemble needs different checkpoints")
    members, networks = [], []
    for path, digest, checkpoint in zip(paths, digests, checkpoints, strict=True):
        exported = workspace.export_path(digest, ExportFormat.ONNX)
        is_onnx = _should_use_onnx(engine, exported, checkpoint, compute)
        members.append(LoadedCheckpoint(path, digest, checkpoint, ONNX_RUNTIME if is_onnx else TORCH))
        networks.append(OnnxNetwork(exported, digest) if is_onnx else _build_torch_network(checkpoint, compute))
    return CheckpointPredictor(members, networks, compute, **options)


def _choose_compute(device: Device, precision: Precision, engine: Engine) -> Compute:
    """Choose the device and the number format; ONNX Runtime needs the CPU and fp32."""
    if engine is Engine.ONNX:
        if device not in (Device.AUTO, Device.CPU) or precision not in (Precision.AUTO, Precision.FP32):
            option = f"--device {device}" if device not in (Device.AUTO, Device.CPU) else f"--precision {precision}"
            raise UsageError(f"--engine onnx does not run with {option}", "it runs on the CPU in fp32")
        return choose_compute(Device.CPU, Precision.FP32)
    return choose_compute(device, precision)


def _should_use_onnx(engine: Engine, exported: Path, checkpoint: Checkpoint, compute: Compute) -> bool:
    """Return whether ONNX Runtime runs this checkpoint; raise `HistoError` if `engine` requires it and it cannot."""
    if engine is Engine.ONNX:
        require_packages("--engine onnx", "onnxruntime", extra="onnx")
        if not exported.is_file():
            hint = f"write it: histo export --ckpt {checkpoint.run}"
            raise HistoError(f"--engine onnx: the workspace has no ONNX file of run {checkpoint.run}", hint)
        return True
    is_possible = compute.device.type == "cpu" and compute.precision is Precision.FP32
    return engine is Engine.AUTO and is_possible and exported.is_file() and is_installed("onnxruntime")


def _build_torch_network(checkpoint: Checkpoint, compute: Compute) -> Network:
    network = move_model(checkpoint.build(), compute.device)
    fuse_batch_norm(network)
    return network


def _choose_threshold(checkpoint: Checkpoint, rule: str) -> float:
    """Return the stored threshold, or the one that a rule chooses on the calibrated validation scores."""
    if rule == STORED_THRESHOLD:
        return checkpoint.threshold
    if not checkpoint.validation:
        raise HistoError(
            f"the checkpoint of run {checkpoint.run} has no validation scores, which --threshold {rule} needs",
            "give a number, or train again",
        )
    labels, log_odds = checkpoint.get_validation_scores()
    return choose_threshold(rule, labels, compute_probabilities(log_odds, checkpoint.temperature))


def _measure_prevalence(checkpoint: Checkpoint) -> float:
    """Return the share of tumour among the validation patches; 0.5, as `histo balance` makes it, if it is not known."""
    labels = checkpoint.validation.get("labels")
    share = 0.5 if labels is None or not len(labels) else float(labels.double().mean())
    return share if 0 < share < 1 else 0.5
