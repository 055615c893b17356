"""Write and read checkpoints, which have only tensors and plain values, and build their networks."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from hashlib import sha256
from io import BytesIO
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from histocli.atomic import write_atomically
from histocli.compute.memory import is_out_of_memory
from histocli.data.quality import Reference
from histocli.errors import DamagedError, HistoError, UsageError, describe_value, read_first_line
from histocli.locks import hold
from histocli.metrics.calibration import HIGHEST, LOWEST
from histocli.metrics.curves import Floats, Ints
from histocli.models import Classifier, packaged
from histocli.models.archive import load_archive
from histocli.models.backbone import HEAD
from histocli.models.limits import build_for
from histocli.reports.run import list_members
from histocli.schema import Count, Fraction, Range, from_json
from histocli.similar import find_similar, find_similar_path
from histocli.workspace import Workspace, check_name, is_path

_VALIDATION = {"labels": (torch.uint8, 1), "log_odds": (torch.float32, 1)}
_MAX_VALIDATION = 10_000_000  # validation patches; to choose a threshold takes some 40 bytes of memory for each
FORMAT = 4  # in format 3, histonet was the network that is now histonet-64


@dataclass
class Checkpoint:
    """The content of a checkpoint file.

    `model` has the weights that predict (the EMA). `training` has the other state that `--resume` needs; it is empty in
    best.pt. `config` has the options of the run, and `metrics` its validation metrics at `epoch`.

    `temperature` and `threshold` (on calibrated probabilities) were chosen on the validation patches; `validation` has
    the `labels` uint8 (N,) and `log_odds` float32 (N,) of these. `appearance` is that of the training patches;
    None if it was not measured.

    If `backbone_sha256` is not empty, `model` has the weights of the head only. The backbone is the one of the network
    `arch` whose weights have this SHA-256, and best.pt in the same folder contains it.
    """

    arch: str
    model: dict[str, torch.Tensor]
    run: str
    epoch: Count
    metrics: dict[str, float | None]
    config: dict[str, bool | int | float | str | None]
    manifest_sha256: str
    threshold: Fraction = 0.5
    temperature: Annotated[float, Range(LOWEST, HIGHEST)] = 1.0
    validation: dict[str, torch.Tensor] = field(default_factory=dict)
    appearance: Reference | None = None
    training: dict[str, Any] = field(default_factory=dict)
    backbone_sha256: str = ""
    format: int = FORMAT
    origin: str = field(default="the checkpoint", init=False)  # the path of the file; it is not stored in the file

    def describe(self) -> str:
        """Describe this checkpoint for the user: its file, run, epoch, validation AUC, and the time of writing."""
        if self.origin == str(packaged.PATH):
            return packaged.NOTICE
        auc = self.metrics.get("val_auc")
        score = "no validation AUC" if auc is None else f"validation AUC {auc:.4f}"
        path = Path(self.origin)
        written = f", written {datetime.fromtimestamp(path.stat().st_mtime):%Y-%m-%d %H:%M}" if path.is_file() else ""
        return f"checkpoint {self.origin}: run {self.run}, epoch {self.epoch}, {score}{written}"

    def build(self, backbone: Mapping[str, torch.Tensor] | None = None) -> Classifier:
        """Return the network with these weights, in evaluation mode.

        If this checkpoint has the weights of the head only, those of the backbone are taken from the state `backbone`
        of a whole network, or else from best.pt in the same folder.

        Raises:
            HistoError: the architecture is not known, the weights do not fit it or are not finite, or the backbone is
                missing or a different one.
        """
        weights = self.model | self._backbone_weights(backbone) if self.backbone_sha256 else self.model
        try:
            model = build_for(self.arch, weights)
            model.load_state_dict(weights)
        except UsageError as error:
            raise HistoError(
                f"{self.origin}: the architecture {describe_value(self.arch)} is not known",
                "a newer version of histo may know it",
            ) from error
        except RuntimeError as error:
            raise HistoError(f"{self.origin}: the weights do not fit {self.arch}: {read_first_line(error)}") from error
        except HistoError as error:
            raise HistoError(
                f"{self.origin}: {read_first_line(error)}",
                error.hint or "if an older version of histo wrote it, train again",
            ) from error
        if not all(tensor.isfinite().all() for tensor in weights.values()):
            raise HistoError(f"{self.origin}: the weights are not finite", "use an earlier checkpoint")
        return model.eval()

    def get_validation_scores(self) -> tuple[Ints, Floats]:
        """Return the labels (N,) and log odds (N,) of the validation patches, in the order of the run's manifest.

        Raises:
            HistoError: the checkpoint does not have them.
        """
        if not self.validation:
            raise HistoError(f"{self.origin} has no scores of the validation patches", "train again")
        labels, log_odds = (self.validation[name].numpy() for name in ("labels", "log_odds"))
        return labels.astype(np.int64), log_odds.astype(np.float64)

    def _backbone_weights(self, state: Mapping[str, torch.Tensor] | None) -> dict[str, torch.Tensor]:
        """Return all weights but the head's, from `state` or else from best.pt in the same folder."""
        source = f"the pretrained network {self.arch}"
        if state is None:
            best = Path(self.origin).with_name("best.pt")
            if not best.is_file():
                raise HistoError(
                    f"{self.origin} has the weights of the head only, and {best} does not exist",
                    "copy both files, or use best.pt",
                )
            source, state = str(best), load_checkpoint(best).model
        if hash_backbone(state) != self.backbone_sha256:
            raise HistoError(f"{self.origin} was trained with another backbone than that of {source}", "train again")
        return {name: tensor for name, tensor in state.items() if not name.startswith(HEAD)}


def hash_backbone(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of all weights of a network but the head's, whatever their device and memory format."""
    digest = sha256()
    for name in sorted(name for name in state if not name.startswith(HEAD)):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint atomically."""
    content = BytesIO()  # PyTorch writes the name of a file into it, and does not report a full disk clearly
    values = {name: value for name, value in vars(checkpoint).items() if name != "origin"}
    values["appearance"] = asdict(checkpoint.appearance) if checkpoint.appearance else {}
    torch.save({name: _intern_texts(value) for name, value in values.items()}, content)
    with write_atomically(path, len(content.getbuffer())) as temporary:
        temporary.write_bytes(content.getbuffer())


def _intern_texts(value: Any) -> Any:
    """Return a copy in which equal texts are one object, so that equal values are pickled to equal bytes."""
    if type(value) is dict:
        return {_intern_texts(key): _intern_texts(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(map(_intern_texts, value))
    return sys.intern(value) if type(value) is str else value


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU, without running any code that the file may contain.

    Raises:
        HistoError: the file is missing or damaged, is not a checkpoint of histo, or has another format.
    """
    try:
        content = load_archive(path)
    except FileNotFoundError:
        raise DamagedError(f"there is no checkpoint {path}", "histo train makes one") from None
    except Exception as error:  # damaged bytes can cause any kind of exception
        is_onnx = path.suffix.lower() == ".onnx"
        hint = "give the checkpoint that it was exported from, and --engine onnx" if is_onnx else ""
        is_temporary = isinstance(error, OSError) or is_out_of_memory(error)
        kind = HistoError if is_temporary else DamagedError
        raise kind(f"{path} cannot be read safely as a checkpoint: {read_first_line(error)}", hint) from error
    found = content.get("format") if isinstance(content, dict) else content
    if not isinstance(content, dict) or type(found) is not int or found != FORMAT:
        raise HistoError(f"{path} is not a histo checkpoint of format {FORMAT} (found {describe_value(found)})")
    names = {item.name for item in fields(Checkpoint) if item.init}
    if unknown := [name for name in content if name not in names]:
        raise HistoError(f"{path} is not a histo checkpoint: it has the field {describe_value(unknown[0])}")
    if content.get("appearance", {}) == {}:
        content = {**content, "appearance": None}
    checkpoint = from_json(Checkpoint, content, str(path), "it is damaged, or was not written by histo train")
    checkpoint.origin = str(path)
    try:
        check_name(checkpoint.run, "run")
    except UsageError as error:
        raise HistoError(f"{path}: the field run: {error}", "it was not written by histo train") from error
    checkpoint.model = {  # the network that comes with histo is stored in 16 bits
        name: tensor.float() if tensor.dtype is torch.float16 else tensor for name, tensor in checkpoint.model.items()
    }
    if problem := _find_validation_problem(checkpoint.validation):
        raise HistoError(f"{path}: the field validation {problem}", "train again, or use another checkpoint")
    return checkpoint


def _find_validation_problem(validation: dict[str, torch.Tensor]) -> str:
    """Return the error in the labels and log odds of the validation patches, or ""."""
    if not validation:
        return ""
    if {name: (t.dtype, t.ndim) for name, t in validation.items()} != _VALIDATION:
        return "does not have labels uint8 (N,) and log_odds float32 (N,)"
    labels, odds = validation["labels"], validation["log_odds"]
    if len(labels) != len(odds) or not len(labels):
        return f"has {len(labels):,} labels and {len(odds):,} log_odds"
    if len(labels) > _MAX_VALIDATION:
        return f"has {len(labels):,} patches, more than {_MAX_VALIDATION:,}"
    if labels.max() > 1:
        return f"has the label {int(labels.max())}, not 0 or 1"
    if not odds.isfinite().all():
        return f"has {int((~odds.isfinite()).sum()):,} log_odds that are not finite"
    return ""


def publish_checkpoints(workspace: Workspace, run_dir: Path) -> bool:
    """Copy a finished run's checkpoints to `checkpoints/`, unless those there are of a run that finished later.

    Returns whether they were copied.
    """
    target = workspace.checkpoints_dir
    with hold(target / ".lock", "the workspace's checkpoints", wait=True):
        last, published = run_dir / "last.pt", target / "last.pt"
        if published.is_file() and published.stat().st_mtime_ns > last.stat().st_mtime_ns:
            return False
        for name in ("best.pt", "last.pt"):
            with write_atomically(target / name, (run_dir / name).stat().st_size) as temporary:
                shutil.copy2(run_dir / name, temporary)  # copy2 keeps the time, which is the end of training
    return True


def find_checkpoint(workspace: Workspace, name: str) -> Path:
    """Return the file of a `--ckpt`: in the workspace's `checkpoints/`, or the best.pt of a run, or a path.

    Only a name with a path separator is a path: files in the current directory are never used by chance. In a
    workspace without any run, best.pt is the network that comes with `histo`.

    Raises:
        HistoError: there is no such checkpoint.
    """
    if is_path(name):
        if Path(name).is_file():
            return Path(name)
        runs = [part for part in Path(name).parts if part in workspace.list_runs()]
        hint = f"of a run, write only its name: --ckpt {runs[-1]}" if runs else "give a file, a run, or best.pt"
        if not runs and (similar := find_similar_path(name)):
            hint = f"did you mean --ckpt {similar if is_path(similar) else f'.{os.sep}{similar}'}?"
        raise HistoError(f"there is no checkpoint {name}", hint)
    for path in (workspace.checkpoints_dir / name, workspace.runs_dir / name / "best.pt"):
        if path.is_file():
            return path
    if name == packaged.NAME or (name == "best.pt" and not workspace.list_runs() and not Path(name).is_file()):
        return packaged.PATH
    if name in workspace.list_runs():
        if (best := workspace.runs_dir / name / "best.pt").exists():
            raise HistoError(f"{best} is not a file", "restore the checkpoint, or train again")
        raise HistoError(f"the run {name!r} has not finished an epoch", f"histo train --resume --name {name}")
    if members := list_members(workspace, name):
        options = " ".join(f"--ckpt {run}" for run in members)
        raise HistoError(
            f"{name!r} is the common name of {len(members)} runs, and not a checkpoint",
            f"for the mean of their probabilities: {options}",
        )
    where = f"there is no checkpoint {name!r} in {workspace.checkpoints_dir}, and no run of this name"
    raise HistoError(where, _make_checkpoint_hint(workspace, name))


def _make_checkpoint_hint(workspace: Workspace, name: str) -> str:
    """Return a hint: how to name an existing checkpoint, or how to make one."""
    if Path(name).is_file():
        return f"to use the file in the current directory, write .{os.sep}{name}"
    if (workspace.checkpoints_dir / f"{name}.pt").is_file():
        return f"did you mean {name}.pt?"
    runs = workspace.list_runs()
    others = [packaged.NAME] if runs else [packaged.NAME, "best.pt"]
    if similar := find_similar(name, [*workspace.list_checkpoints(), *runs, *others]):
        return f"did you mean --ckpt {similar}?" + (f" (runs: {', '.join(runs)})" if runs else "")
    if not runs:
        return "histo train makes one"
    if (workspace.run_dir(runs[-1]) / "best.pt").is_file():
        return f"--ckpt {runs[-1]} uses the best epoch of the run {runs[-1]} (runs: {', '.join(runs)})"
    return f"histo train --resume finishes {runs[-1]} (runs: {', '.join(runs)})"
