"""Checkpoints: tensors and plain values only, enough to rebuild the model they hold."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, get_origin

import torch

from histocli.errors import HistoError
from histocli.models import ARCHITECTURES, Classifier, create_model
from histocli.workspace import Workspace, atomic_path

FORMAT = 1


@dataclass
class Checkpoint:
    """What a checkpoint file holds.

    `model` is the state to predict with (the averaged weights); `training` is what `--resume` needs beyond it and
    is empty in `best.pt`. `config` are the options of the run, `metrics` its validation figures at `epoch`.
    """

    arch: str
    model: dict[str, torch.Tensor]
    run: str
    epoch: int
    metrics: dict[str, float | None]
    config: dict[str, Any]
    manifest_sha256: str
    threshold: float = 0.5
    training: dict[str, Any] = field(default_factory=dict)
    format: int = FORMAT

    def build(self) -> Classifier:
        """The model itself, with these weights, ready to predict.

        Raises:
            HistoError: the architecture is not known, the weights do not fit it, or they are not finite.
        """
        if self.arch not in ARCHITECTURES:
            raise HistoError(f"the checkpoint's architecture {self.arch!r} is not known", "is it of a newer histo?")
        model = create_model(self.arch)
        try:
            model.load_state_dict(self.model)
        except RuntimeError as error:
            raise HistoError(f"the checkpoint's weights do not fit {self.arch}: {_first_line(error)}") from error
        if not all(tensor.isfinite().all() for tensor in self.model.values()):
            raise HistoError("the checkpoint's weights are not finite", "use an earlier one")
        return model.eval()


def save_checkpoint(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint atomically."""
    with atomic_path(path) as temporary:
        torch.save(vars(checkpoint), temporary)


def load_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint onto the CPU; nothing in the file can run.

    Raises:
        HistoError: it is not there, no checkpoint of this tool, broken, or of another format.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise HistoError(f"there is no checkpoint {path}", "histo train makes one") from None
    except Exception as error:  # what torch raises over damaged bytes is up to the bytes
        raise HistoError(f"{path} is no checkpoint that can be read safely: {_first_line(error)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise HistoError(f"{path} is no histo checkpoint of format {FORMAT} (found {found!r})")
    try:
        checkpoint = Checkpoint(**content)
    except TypeError as error:
        raise HistoError(f"{path} lacks something a checkpoint needs: {_first_line(error)}") from error
    for item in fields(Checkpoint):
        kind: Any = get_origin(item.type) or item.type
        if not isinstance(getattr(checkpoint, item.name), kind):
            raise HistoError(f"{path} is no histo checkpoint: its {item.name!r} is of the wrong kind")
    return checkpoint


def find_checkpoint(workspace: Workspace, name: str) -> Path:
    """Resolve `--ckpt`: a path if it exists, else a file in the workspace's `checkpoints/`, else a run's best.

    Raises:
        HistoError: it is none of them; what there is is listed.
    """
    candidates = [Path(name), workspace.checkpoints_dir / name, workspace.runs_dir / name / "best.pt"]
    for path in candidates:
        if path.is_file():
            return path
    runs = ", ".join(workspace.run_names()) or "none yet"
    raise HistoError(
        f"there is no checkpoint {name!r}: no such file, none in {workspace.checkpoints_dir}, no run of that name",
        f"histo train makes one (runs: {runs})",
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
