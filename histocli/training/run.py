"""A training run: its folder, its data, its trainer."""

import json
import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from histocli.compute.ddp import SINGLE_PROCESS, Ranks, torchrun_agents
from histocli.compute.device import choose_compute
from histocli.config import Part, RunConfig, Weights
from histocli.data.dataset import labelled_part, open_drawn
from histocli.data.leakage import audit
from histocli.data.loaders import PatchLoader
from histocli.data.manifest import file_sha256
from histocli.data.quality import Reference
from histocli.errors import HistoError, UsageError
from histocli.inference.forward import batch_log_odds
from histocli.inference.predictor import CalibratedNetwork, Predictor
from histocli.metrics import auc
from histocli.models import create_model
from histocli.models.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from histocli.schema import to_json
from histocli.signals import Stopped, StopRequest
from histocli.training.calibrate import CHECKPOINT_FIELDS, calibrate, check_rule, without_validation
from histocli.training.cuda_graph import WARM_UP
from histocli.training.probe import describe, head_state, whole_state
from histocli.training.progress import Epoch, Listener, Progress, quality
from histocli.training.provenance import git_commit, note_job, versions
from histocli.training.trainer import Recipe, Trainer, copy_state
from histocli.workspace import Workspace, atomic_folder, atomic_path, write_json, write_text

_SAVE_EVERY = 600.0  # seconds between saves within an epoch
_GPU_VAL_BATCH = 1024  # patches that a GPU validates at a time at least: with fewer it waits for the host
_NORMED = 32  # patches that batch norm should see at least: Wu and He, "Group normalization", 2018


class Run:
    """A training run: its folder, its data, its trainer; then `begin` or, with the name it has, `resume`.

    Several processes (`ranks`) make the same calls; the leading one alone writes.
    """

    def __init__(self, workspace: Workspace, config: RunConfig, name: str = "", ranks: Ranks = SINGLE_PROCESS) -> None:
        config.check()
        self.workspace, self.name, self.config, self.ranks = workspace, name, config, ranks
        self.processes_before = ranks.size  # of a resumed run, before it was
        self.compute = choose_compute(config.device, config.precision)
        self.manifest = self.dir / "manifest.csv" if name else workspace.manifest_path(config.data)
        subset = open_drawn(workspace, self.manifest)
        train, val = labelled_part(subset, Part.TRAIN), labelled_part(subset, Part.VAL)
        if len(set(train.labels)) < 2:
            raise HistoError("all training patches have the same label", "histo balance takes both classes")
        check_rule(config.threshold, val.labels)
        self.audit = None if name else audit(workspace, subset.frame)  # a resumed run keeps what it was begun with
        if self.audit and not config.allow_leak:
            self.audit.refuse_leaks()
        self.data = subset.data
        self.manifest_sha256 = file_sha256(self.manifest)
        device, size = self.compute.device, config.batch_size
        self.train = PatchLoader(train.store, train.rows, train.labels, size, device, ranks=ranks)
        val_size = max(2 * size, _GPU_VAL_BATCH) if device.type == "cuda" else 2 * size
        self.val = PatchLoader(val.store, val.rows, val.labels, val_size, device, ranks=ranks)
        self.labels = val.labels
        if ranks.size > 1 and min(size, len(self.train)) < 2 * ranks.size:
            raise UsageError(f"--batch-size {size}: {ranks.size} processes need {2 * ranks.size} patches a step")
        torch.manual_seed(config.seed)
        model = load_checkpoint(self.dir / "last.pt").build() if name else create_model(config.arch, config.weights)
        if device.type == "cuda" and ranks.size > 1 and size < _NORMED * ranks.size:
            model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
        self.model = model.to(device)
        recipe = Recipe(
            config.learning_rate,
            self.train.steps * config.epochs,
            config.seed,
            augment=config.augment,
            rotate=config.rotate,
            compile=config.compile,
            backbone_lr=config.backbone_lr,
            muon=config.weights is Weights.RANDOM,  # what AdamW trained before, AdamW had better train on
        )
        trained = model.headed.head if config.freeze else model
        self.trainer = Trainer(trained, recipe, self.compute, ranks)
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] | None = None
        self.trained: dict[str, float] = {}  # of an epoch whose steps are done: all but its validation
        self.appearance: Future[dict[str, Any]] | None = None  # of the training patches
        self.kept: dict[str, Any] = {}  # what a checkpoint holds besides: see `CHECKPOINT_FIELDS`

    @property
    def dir(self) -> Path:
        """The run's folder."""
        return self.workspace.run_dir(self.name)

    @property
    def finished(self) -> bool:
        """Whether all epochs are trained."""
        return len(self.history) >= self.config.epochs

    def try_step(self) -> None:
        """Take a step and score a validation batch, to see whether the memory is enough; the run is spoilt by it."""
        if not self.config.freeze:
            batch = next(iter(self.train.train_batches(0)))
            for _ in range(WARM_UP + 1 if self.trainer.graph else 1):  # the graph has memory of its own
                self.trainer.train_step(batch, self.train.loss_weight)
        batch_log_odds(self.model, next(iter(self.val.eval_batches())).images, self.compute)
        if self.compute.device.type == "cuda":
            torch.cuda.empty_cache()

    def fit(self, listener: Listener, stop: StopRequest) -> None:
        """Train and validate until the last epoch; after each, and when told to stop, save.

        Raises:
            Stopped: a signal came, to any process; the state is saved.
            HistoError: the loss is not finite, or the disk is full.
        """
        if self.config.freeze:
            self._describe(listener, stop)
        for epoch in range(len(self.history) + 1, self.config.epochs + 1):
            began, first, saved = time.monotonic(), self.trainer.step, time.monotonic()

            def on_step(step: int, epoch: int = epoch) -> bool:
                nonlocal saved
                listener.stepped(self._progress(epoch))
                if due := self.ranks.is_rank0 and time.monotonic() - saved > _SAVE_EVERY:
                    saved = time.monotonic()
                number, save = self.ranks.all_max_async(stop.signal or 0, due)
                if save:
                    self._save(best=False)
                return bool(number)

            if not self.trained:
                loss = self.trainer.train_epoch(self.train, on_step)
                if loss is not None:
                    seconds = time.monotonic() - began
                    rate = self._patches(self.trainer.step - first) / seconds
                    self.trained = {"loss": loss, "rate": rate, "seconds": seconds}
                self._save(best=False)
                if loss is None:
                    raise self._stopped(stop)
            row = self._validate(epoch, **self.trained, stop=stop)
            self.trained = {}
            self.history.append(row._asdict())
            best = self.best is None or quality(row._asdict()) > quality(self.best)
            self.best = row._asdict() if best else self.best
            self._save(best)
            listener.finished_epoch(row, best)
            if epoch < self.config.epochs and any(self.ranks.all_max(stop.signal or 0)):
                raise self._stopped(stop)

    def _describe(self, listener: Listener, stop: StopRequest) -> None:
        """Put the features that the frozen backbone gives of the patches in their place."""
        total = len(self.train) + len(self.val)

        def on_patches(done: int) -> None:
            listener.described(done, total)
            if stop and self.ranks.size == 1:
                raise self._stopped(stop)

        self.train, self.val = describe(self.model, self.trainer, self.train, self.val, on_patches)
        if any(self.ranks.all_max(stop.signal or 0)):
            raise self._stopped(stop)

    def resume(self) -> None:
        """Go on from `last.pt`."""
        self.ranks.on_all_ranks(self._load)
        self.ranks.check_equal((self.manifest_sha256, self.trainer.step), "manifests or checkpoints")
        self.ranks.on_rank0(self._rewrite)
        here = torchrun_agents(self.ranks)
        self.ranks.on_rank0(lambda: note_job(self.dir, here))

    def _load(self) -> None:
        checkpoint = load_checkpoint(self.dir / "last.pt")
        if not checkpoint.training:
            raise HistoError(f"{self.dir / 'last.pt'} holds no training state", "train under another --name")
        if checkpoint.manifest_sha256 != self.manifest_sha256:
            raise HistoError(f"{self.manifest} is not what the run was begun with", "train under another --name")
        average = checkpoint.model
        if self.config.freeze:
            self.model.load_state_dict(average)
            average = head_state(average)
        self.trainer.load_state(checkpoint.training["trainer"], average)
        self.history, self.best = checkpoint.training["history"], checkpoint.training["best"]
        self.trained = checkpoint.training.get("trained", {})
        self.processes_before = checkpoint.training.get("processes", 1)
        self.kept = {name: getattr(checkpoint, name) for name in CHECKPOINT_FIELDS}
        if not self.kept["appearance"]:  # the run was stopped before its first step
            self._measure_appearance()

    def _measure_appearance(self) -> None:
        """Start to measure the appearance of the training patches on a thread, beside the first epoch."""
        if self.ranks.is_rank0:
            store, rows, seed = self.train.store, self.train.rows, self.config.seed
            self.appearance = ThreadPoolExecutor(1).submit(lambda: asdict(Reference.of(store, rows, seed)))

    def begin(self, name: str) -> None:
        """Lay the run's folder: the manifest as it is, the configuration, an empty history, and what to resume from.

        It appears with all that is in it. The name is not another run's.

        Raises:
            HistoError: the folder cannot be written.
        """
        self.name = name
        self.ranks.check_equal(self.manifest_sha256, "manifests")
        self._measure_appearance()
        state, here = self._state(), torchrun_agents(self.ranks)
        self.ranks.on_rank0(lambda: self._lay(state, here))

    def _lay(self, state: dict[str, Any], here: set[str]) -> None:
        with atomic_folder(self.dir) as folder:
            self._describe_run(folder)
            note_job(folder, here)
            self._write(folder, state, best=False)

    def _describe_run(self, folder: Path) -> None:
        with atomic_path(folder / "manifest.csv") as copy:  # to the byte, however its lines end: its hash is kept
            shutil.copyfile(self.manifest, copy)
        write_json(
            folder / "config.json",
            {
                "run": self.name,
                "options": asdict(self.config),
                "learning_rate": self.config.learning_rate,
                "data": self.data,
                "train_patches": len(self.train),
                "val_patches": len(self.val),
                "manifest_sha256": self.manifest_sha256,
                "audit": self.audit and to_json(self.audit),
                "device": self.compute.reason,
                "versions": versions(),
                "git_commit": git_commit(),
            },
        )

    def _stopped(self, stop: StopRequest) -> Stopped:
        number = max(self.ranks.all_gather(stop.signal or 0))
        return Stopped(number, f"histo train --resume --name {self.name}")

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

    def _validate(self, epoch: int, loss: float, rate: float, seconds: float, stop: StopRequest) -> Epoch:
        def on_patches(done: int) -> None:
            if stop and self.ranks.size == 1:
                raise self._stopped(stop)

        predictor = Predictor([CalibratedNetwork(self.trainer.ema_model)], self.compute)
        probs = predictor.predict_packed(self.val, on_patches).probs
        self.kept |= calibrate(self.labels, probs, self.config.threshold)._asdict()
        certain = np.clip(np.where(self.labels == 1, probs, 1 - probs), 1e-7, 1)
        return Epoch(
            epoch=epoch,
            step=self.trainer.step,
            train_loss=loss,
            lr=self.trainer.learning_rate,
            patches_per_second=rate,
            seconds=seconds,
            val_loss=float(-np.log(certain).mean()),
            val_auc=auc(self.labels, probs),
            val_accuracy=float(((probs >= 0.5) == self.labels).mean()),
        )

    def _save(self, best: bool) -> None:
        state = self._state()
        self.ranks.on_rank0(lambda: self._write(self.dir, state, best))

    def _state(self) -> dict[str, Any]:
        return {
            "trainer": self.trainer.state(),
            "history": self.history,
            "best": self.best,
            "trained": self.trained,
            "processes": self.ranks.size,
        }

    def _write(self, folder: Path, state: dict[str, Any], best: bool) -> None:
        last = self.history[-1] if self.history else {}
        row = last if last.get("step") == self.trainer.step else {}
        if self.appearance and self.trainer.step:
            self.kept["appearance"] = self.appearance.result()
        kept = self.kept if row else without_validation(self.kept, self.config.threshold)
        ema = self.trainer.ema_model
        weights = whole_state(self.model, ema) if self.config.freeze else copy_state(ema)
        checkpoint = Checkpoint(
            arch=self.model.arch,
            model={name: tensor.cpu() for name, tensor in weights.items()},
            run=self.name,
            epoch=len(self.history),
            metrics={name: row.get(name) for name in ("val_auc", "val_accuracy", "val_loss")},
            config={name: str(v) if isinstance(v, str) else v for name, v in asdict(self.config).items()},
            manifest_sha256=self.manifest_sha256,
            **kept,
        )
        if best:
            save_checkpoint(checkpoint, folder / "best.pt")
        save_checkpoint(replace(checkpoint, training=state), folder / "last.pt")
        self._write_history(folder)

    def _write_history(self, folder: Path) -> None:
        write_text(folder / "history.jsonl", "".join(json.dumps(row, allow_nan=False) + "\n" for row in self.history))

    def _rewrite(self) -> None:
        """Make the history agree with `last.pt`: a process that was killed may not have come so far."""
        self._write_history(self.dir)
