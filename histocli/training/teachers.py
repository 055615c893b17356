"""`--teacher`: trained networks from whose scores a run learns, besides the labels."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from histocli.compute.cores import in_pieces
from histocli.compute.device import Compute
from histocli.data.manifest import file_sha256
from histocli.errors import HistoError
from histocli.models.checkpoint import Checkpoint, find_checkpoint, load_checkpoint, save_checkpoint
from histocli.models.folding import fold
from histocli.workspace import Workspace

TRUST = 0.8  # the weight of the teachers' word in a target; the label has the rest


class Teachers:
    """Trained networks as one: the mean of their probabilities is what a student learns of each patch.

    After Hinton et al., "Distilling the knowledge in a neural network", 2015: what is hard to tell is not told for
    certain. And after Beyer et al., "Knowledge distillation: a good teacher is patient and consistent", 2022: the
    teachers look at the very pixels that the student sees, turned and stained anew each time.

    Raises:
        HistoError: a checkpoint cannot be used.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint], compute: Compute) -> None:
        self.compute = compute
        self.networks = [checkpoint.build().to(compute.device) for checkpoint in checkpoints]
        self.sides = {network.side for network in self.networks}
        for network in self.networks:
            fold(network)

    @torch.no_grad()
    def targets(self, images: Tensor, labels: Tensor, smoothing: float) -> Tensor:
        """What a student is to say of augmented images (N,3,S,S) in [0, 1] with labels (N,): probabilities (N,2)."""
        tumour = torch.stack([in_pieces(partial(self._tumour, own), images) for own in self.networks]).mean(0)
        hard = one_hot(labels, 2) * (1 - smoothing) + smoothing / 2
        return TRUST * torch.stack([1 - tumour, tumour], 1) + (1 - TRUST) * hard

    @torch.no_grad()  # it counts for the thread that computes
    def _tumour(self, network: torch.nn.Module, images: Tensor) -> Tensor:
        with self.compute.autocast():
            logits: Tensor = network(images)
        return logits.float().softmax(1)[:, 1]


def find_teachers(workspace: Workspace, names: Sequence[str], manifest_sha256: str) -> list[Checkpoint]:
    """Read the checkpoints that are to teach a new run on a manifest, by their names as `--ckpt` takes them.

    Raises:
        HistoError: there is no such checkpoint, or it was trained on another manifest: it may know the patches that
            validate the run, and the student would be told.
    """
    found = [replace(load_checkpoint(find_checkpoint(workspace, name)), training={}) for name in names]
    for name, checkpoint in zip(names, found, strict=True):
        if checkpoint.manifest_sha256 != manifest_sha256:
            raise HistoError(
                f"--teacher {name} was trained on another manifest, and may know the patches that validate",
                "train the teacher on the same one",
            )
    return found


def lasting_names(workspace: Workspace, names: Sequence[str]) -> tuple[str, ...]:
    """Names that mean the same checkpoints once another run is the workspace's newest."""
    paths = [find_checkpoint(workspace, name) for name in names]
    newest = workspace.checkpoints_dir.resolve()
    return tuple(
        str(workspace.run_dir(load_checkpoint(path).run) / path.name if path.parent.resolve() == newest else path)
        for path in paths
    )


def keep_teachers(checkpoints: Sequence[Checkpoint], run_dir: Path) -> list[dict[str, str]]:
    """Write a run's teachers into its folder; the run that each is of, and the SHA-256 of its file."""
    kept = []
    for path, checkpoint in zip(_paths(run_dir, len(checkpoints)), checkpoints, strict=True):
        save_checkpoint(checkpoint, path)
        kept.append({"run": checkpoint.run, "sha256": file_sha256(path)})
    return kept


def kept_teachers(run_dir: Path, count: int) -> list[Checkpoint]:
    """Read the teachers of a run that goes on.

    Raises:
        HistoError: one is not there any more.
    """
    paths = _paths(run_dir, count)
    for path in paths:
        if not path.is_file():
            raise HistoError(f"{path} is not there any more: what taught the run", "train anew under another --name")
    return [load_checkpoint(path) for path in paths]


def _paths(run_dir: Path, count: int) -> list[Path]:
    return [run_dir / f"teacher-{number}.pt" for number in range(1, count + 1)]
