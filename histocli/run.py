"""A training run: its options, its folder, its data, its trainer."""

import json
import os
import platform
import shutil
import subprocess
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import histocli
from histocli.choices import Augment, Device, Part, Precision, Rotate, Weights
from histocli.data.batches import Batches
from histocli.data.manifest import file_sha256
from histocli.data.subset import labelled_part, open_subset
from histocli.engine import Recipe, Trainer, choose_compute, probabilities
from histocli.errors import HistoError, UsageError
from histocli.interrupt import Stopped, StopRequest
from histocli.metrics import auc
from histocli.models import create_model
from histocli.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from histocli.workspace import Workspace, atomic_path, write_json, write_text

BATCH_SIZE = 128
LEARNING_RATE = 3e-3  # at BATCH_SIZE; it grows with the square root of the batch
_SAVE_EVERY = 600.0  # seconds between saves within an epoch


@dataclass(frozen=True)
class TrainConfig:
    """The options of `histo train`; None stands for a default that follows from the others."""

    epochs: int = 10
    arch: str = "histonet"
    weights: Weights = Weights.RANDOM
    data: str = "balanced"
    batch_size: int = BATCH_SIZE
    lr: float | None = None
    precision: Precision = Precision.AUTO
    device: Device = Device.AUTO
    augment: Augment = Augment.FULL
    rotate: Rotate = Rotate.RIGHT
    compile: bool = False
    seed: int = 0

    def check(self) -> None:
        """Raise `UsageError` naming the flag whose value cannot be used."""
        if self.epochs < 1:
            raise UsageError(f"--epochs {self.epochs}: at least 1 is needed")
        if self.batch_size < 2:
            raise UsageError(f"--batch-size {self.batch_size}: batch norm needs at least 2")
        if self.lr is not None and not 0 < self.lr < 10:
            raise UsageError(f"--lr {self.lr}: a number between 0 and 10 is needed", f"{LEARNING_RATE} is the default")

    @property
    def learning_rate(self) -> float:
        """The highest learning rate of the cycle."""
        return self.lr if self.lr is not None else LEARNING_RATE * (self.batch_size / BATCH_SIZE) ** 0.5


class Progress(NamedTuple):
    """Where a run stands after a step; `loss` is the mean of recent steps, `auc` that of the last full epoch."""

    epoch: int
    epochs: int
    step: int
    steps: int
    patches: int
    loss: float | None
    auc: float | None


class Epoch(NamedTuple):
    """A row of `history.jsonl`."""

    epoch: int
    step: int
    train_loss: float
    lr: float
    patches_per_second: float
    seconds: float
    val_loss: float
    val_auc: float | None
    val_accuracy: float


class Listener:
    """Told how training goes; this one says nothing."""

    def started(self, run: "Run", at: int) -> None:
        """Everything is checked and the step after `at` comes next; that is 0 for a new run."""

    def stepped(self, progress: Progress) -> None:
        """A step is done."""

    def finished_epoch(self, row: Epoch, best: bool) -> None:
        """An epoch is trained, validated and saved."""


class Run:
    """A training run: its folder, its data, its trainer; then `begin` or, with the name it has, `resume`."""

    def __init__(self, workspace: Workspace, config: TrainConfig, name: str = "") -> None:
        config.check()
        self.workspace, self.name, self.config = workspace, name, config
        self.compute = choose_compute(config.device, config.precision)
        self.manifest = self.dir / "manifest.csv" if name else workspace.manifest_path(config.data)
        subset = open_subset(workspace, self.manifest)
        train, val = labelled_part(subset, Part.TRAIN), labelled_part(subset, Part.VAL)
        if len(set(train.labels)) < 2:
            raise HistoError("all training patches have the same label", "histo balance takes both classes")
        self.data = subset.data
        self.manifest_sha256 = file_sha256(self.manifest)
        self.train = Batches(train.store, train.rows, train.labels, config.batch_size, self.compute.device)
        self.val = Batches(val.store, val.rows, val.labels, 2 * config.batch_size, self.compute.device)
        self.labels = val.labels
        torch.manual_seed(config.seed)
        model = create_model(config.arch, Weights.RANDOM if name else config.weights)  # resumed, it has its own
        recipe = Recipe(
            config.learning_rate,
            self.train.steps * config.epochs,
            config.seed,
            augment=config.augment,
            rotate=config.rotate,
            compile=config.compile,
        )
        self.trainer = Trainer(model, recipe, self.compute)
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None

    @property
    def dir(self) -> Path:
        """The run's folder."""
        return self.workspace.run_dir(self.name)

    @property
    def finished(self) -> bool:
        """Whether all epochs are trained."""
        return len(self.history) >= self.config.epochs

    def fit(self, listener: Listener, stop: StopRequest) -> None:
        """Train and validate until the last epoch; after each, and when told to stop, save.

        Raises:
            Stopped: a signal came; the state is saved.
            HistoError: the loss is not finite, or the disk is full.
        """
        for epoch in range(len(self.history) + 1, self.config.epochs + 1):
            began, first, saved = time.monotonic(), self.trainer.step, time.monotonic()

            def on_step(step: int, epoch: int = epoch) -> bool:
                nonlocal saved
                listener.stepped(self._progress(epoch))
                if time.monotonic() - saved > _SAVE_EVERY:
                    self._save(best=False)
                    saved = time.monotonic()
                return bool(stop)

            loss = self.trainer.train_epoch(self.train, on_step)
            if loss is None:
                self._save(best=False)
                raise Stopped(stop.signal or 2, f"histo train --resume --name {self.name}")
            seconds = time.monotonic() - began
            row = self._validate(epoch, loss, self._patches(self.trainer.step - first) / seconds, seconds)
            self.history.append(row._asdict())
            best = self.best is None or _quality(row._asdict()) > _quality(self.best)
            self.best = row._asdict() if best else self.best
            self._save(best)
            listener.finished_epoch(row, best)
            if stop and epoch < self.config.epochs:
                raise Stopped(stop.signal or 2, f"histo train --resume --name {self.name}")

    def resume(self) -> None:
        """Go on from `last.pt`."""
        checkpoint = load_checkpoint(self.dir / "last.pt")
        if not checkpoint.training:
            raise HistoError(f"{self.dir / 'last.pt'} holds no training state", "train under another --name")
        if checkpoint.manifest_sha256 != self.manifest_sha256:
            raise HistoError(f"{self.manifest} is not what the run was begun with", "train under another --name")
        self.trainer.load_state(checkpoint.training["trainer"], checkpoint.model)
        self.history, self.best = checkpoint.training["history"], checkpoint.training["best"]
        self._publish()

    def begin(self, name: str | None) -> None:
        """Lay the run's folder: the manifest as it is, the configuration, an empty history, and what to resume from.

        Raises:
            HistoError: there is a run of that name, or the folder cannot be written.
        """
        self.name = _claim(self.workspace, name, self.config.arch)
        write_text(self.dir / "manifest.csv", self.manifest.read_text(encoding="utf-8"))
        write_json(
            self.dir / "config.json",
            {
                "run": self.name,
                "options": asdict(self.config),
                "learning_rate": self.config.learning_rate,
                "data": self.data,
                "train_patches": len(self.train),
                "val_patches": len(self.val),
                "manifest_sha256": self.manifest_sha256,
                "device": self.compute.reason,
                "versions": _versions(),
                "git_commit": _git_commit(),
            },
        )
        self._save(best=False)

    def _progress(self, epoch: int) -> Progress:
        return Progress(
            epoch=epoch,
            epochs=self.config.epochs,
            step=self.trainer.step,
            steps=self.trainer.recipe.total_steps,
            patches=self._patches(self.trainer.step),
            loss=self.trainer.recent_loss,
            auc=self.history[-1]["val_auc"] if self.history else None,
        )

    def _patches(self, steps: int) -> int:
        return steps * min(self.config.batch_size, len(self.train))

    def _validate(self, epoch: int, loss: float, rate: float, seconds: float) -> Epoch:
        probs = probabilities(self.trainer.average, self.val.in_order(), self.compute).numpy().astype(np.float64)
        certain = np.clip(np.where(self.labels == 1, probs, 1 - probs), 1e-7, 1)
        return Epoch(
            epoch=epoch,
            step=self.trainer.step,
            train_loss=loss,
            lr=float(self.trainer.schedule.get_last_lr()[0]),
            patches_per_second=rate,
            seconds=seconds,
            val_loss=float(-np.log(certain).mean()),
            val_auc=auc(self.labels, probs),
            val_accuracy=float(((probs >= 0.5) == self.labels).mean()),
        )

    def _save(self, best: bool) -> None:
        state = {"trainer": self.trainer.state(), "history": self.history, "best": self.best}
        row = self.history[-1] if self.history else {}
        checkpoint = Checkpoint(
            arch=self.config.arch,
            model={name: tensor.cpu() for name, tensor in self.trainer.average.state_dict().items()},
            run=self.name,
            epoch=len(self.history),
            metrics={name: row.get(name) for name in ("val_auc", "val_accuracy", "val_loss")},
            config={name: str(v) if isinstance(v, str) else v for name, v in asdict(self.config).items()},
            manifest_sha256=self.manifest_sha256,
        )
        if best:
            save_checkpoint(checkpoint, self.dir / "best.pt")
        save_checkpoint(replace(checkpoint, training=state), self.dir / "last.pt")
        self._publish()
        write_text(self.dir / "history.jsonl", "".join(json.dumps(row) + "\n" for row in self.history))

    def _publish(self) -> None:
        """Copy both checkpoints to the workspace's, once there is a best one, so that the two are of one run."""
        if (self.dir / "best.pt").is_file():
            for name in ("best.pt", "last.pt"):
                with atomic_path(self.workspace.checkpoints_dir / name) as temporary:
                    shutil.copyfile(self.dir / name, temporary)


def next_name(workspace: Workspace, arch: str) -> str:
    """The first unused of `<arch>-1`, `<arch>-2`, ..."""
    stem = arch.replace("/", "-")
    number = 1
    while workspace.run_dir(f"{stem}-{number}").exists():
        number += 1
    return f"{stem}-{number}"


def _claim(workspace: Workspace, name: str | None, arch: str) -> str:
    """Make the folder of a new run; of several that begin at the same moment, one alone gets a name."""
    run = name or next_name(workspace, arch)
    try:
        workspace.run_dir(run).mkdir(parents=True)
    except FileExistsError:
        if name:
            raise name_taken(name) from None
        return _claim(workspace, None, arch)
    except OSError as error:
        raise HistoError(
            f"cannot write {workspace.runs_dir}: {error.strerror}", "choose another --workspace"
        ) from error
    return run


def name_taken(name: str) -> HistoError:
    """The error of a new run whose name another has."""
    return HistoError(f"there is a run {name!r} already", "--resume goes on with it; another --name starts anew")


def _quality(row: dict[str, Any]) -> tuple[float, float]:
    """What makes an epoch the best: the validation AUC, then the loss; the loss alone where there is no AUC."""
    return (-1.0 if row["val_auc"] is None else row["val_auc"], -row["val_loss"])


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    packages = {name: version(name) for name in ("torch", "torchvision", "numpy", "opencv-python-headless")}
    return {"histo": histocli.__version__, "python": platform.python_version(), **packages}


def _git_commit() -> str | None:
    """The commit of this tool's checkout, where it runs from one."""
    if not Path(histocli.__file__).parents[1].joinpath(".git").exists():
        return None
    command = ["git", "-C", os.fspath(Path(histocli.__file__).parent), "rev-parse", "HEAD"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - a fixed command
    return done.stdout.strip() or None
