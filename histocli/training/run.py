"""One training run: its data, its network, the loop over the epochs, and saving and resuming."""

import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from histocli.atomic import create_folder_atomically
from histocli.compute.ddp import SINGLE_PROCESS, Ranks, gather_torchrun_agents
from histocli.compute.device import choose_compute
from histocli.config import RunConfig
from histocli.data.dataset import open_balanced
from histocli.data.folds import is_fold
from histocli.data.groups import explain_weak_validation
from histocli.data.leakage import audit
from histocli.data.manifest import hash_file
from histocli.data.readahead import read_ahead
from histocli.inference.predictor import BatchPredictor, CalibratedNetwork
from histocli.metrics import compute_auc
from histocli.models.checkpoint import hash_backbone
from histocli.reports.run import Epoch, make_epoch_key
from histocli.signals import Stopped, StopRequest
from histocli.training import run_folder
from histocli.training.appearance import TrainingAppearance
from histocli.training.calibrate import calibrate, check_rule, make_default_calibration
from histocli.training.cuda_graph import WARM_UP
from histocli.training.listeners import Listener, Progress
from histocli.training.lora import add_lora
from histocli.training.probe import extract_features, open_cache
from histocli.training.provenance import write_job
from histocli.training.run_state import EpochStats, collect_training_state, load_training_state, write_checkpoints
from histocli.training.setup import make_loaders, make_model, make_trainer
from histocli.workspace import Workspace

_SAVE_INTERVAL = 600.0  # seconds between saves within an epoch


class Run:
    """A training run. After construction call `create` for a new run, or `resume` for a resumed one; then `fit`.

    All processes of a job (`ranks`) make the same calls; only process 0 writes files. The constructor does not exchange
    data between processes, so an error in one of them can be reported by all. It also writes nothing, so the name of a
    new run is reserved only after the options and the data have been checked.
    """

    def __init__(
        self, workspace: Workspace, config: RunConfig, resumed: str = "", ranks: Ranks = SINGLE_PROCESS
    ) -> None:
        """Load the patches and build the network; write nothing.

        Args:
            workspace: has the data set, the subset and the runs.
            config: the options of the run.
            resumed: the name of the run to resume: its own manifest and its last.pt are read. A new run ("") reads the
                manifest of `config.data`, is audited, and gets its name from `create`.
            ranks: the processes of the job.

        Raises:
            UsageError: an option cannot be used.
            HistoError: the data, the device, the pretrained weights or last.pt cannot be used; or patches for
                evaluation would be trained on, and `config.allow_leak` is false.
        """
        config.check()
        self.workspace, self.name, self.config, self.ranks = workspace, resumed, config, ranks
        self.is_resumed = bool(resumed)
        self.processes_before = ranks.size  # the number of processes when a resumed run was saved
        self.epochs_before = config.epochs  # the number of epochs of a resumed run before it was extended
        self.compute = choose_compute(config.device, config.precision)
        self.manifest = self.dir / "manifest.csv" if resumed else workspace.manifest_path(config.data)
        subset = open_balanced(workspace, self.manifest)
        read_ahead(workspace.patches_path(subset.data))
        self.train_loader, self.val_loader, self.shots = make_loaders(subset, config, self.compute.device, ranks)
        # The default batch size depends on the device.
        self.config = config = replace(config, batch_size=self.train_loader.batch_size)
        self.labels = self.val_loader.labels.numpy(force=True)
        check_rule(config.threshold, self.labels)
        # A resumed run was audited when it began.
        self.audit = None if resumed else audit(workspace, subset.frame, subset.packed, is_fold=is_fold(config.data))
        if self.audit and not config.allow_leak:
            self.audit.refuse_leaks()
        self.is_weakly_validated = bool(explain_weak_validation([subset.frame]))
        self.data = subset.data
        self.manifest_sha256 = hash_file(self.manifest)
        torch.manual_seed(config.seed)
        self.model = make_model(config, self.compute.device, ranks, self.dir if resumed else None)
        if config.lora:
            add_lora(self.model, config.lora)
        self.backbone_sha256 = hash_backbone(self.model.state_dict()) if config.freeze else ""
        self.trainer = make_trainer(self.model, config, self.compute, ranks, self.train_loader)
        # One for all epochs: it remembers the batch size that fits the memory.
        self.predictor = BatchPredictor([CalibratedNetwork(self.trainer.ema_model)], self.compute, can_halve_batch=True)
        self.history: list[Epoch] = []
        self.best: Epoch | None = None
        self.epoch_stats: EpochStats | None = None  # of an epoch that is trained but not validated yet
        self.calibration = make_default_calibration(config.threshold)
        self.appearance = TrainingAppearance(self.train_loader, config.seed)

    @property
    def dir(self) -> Path:
        """The run's folder."""
        return self.workspace.run_dir(self.name)

    @property
    def is_finished(self) -> bool:
        """Whether all epochs are trained."""
        return len(self.history) >= self.config.epochs

    def fit(self, listener: Listener, stop: StopRequest) -> None:
        """Train and validate each remaining epoch; save after training, after validation, and after a signal.

        Raises:
            Stopped: a process received a signal; the state is saved.
            HistoError: the loss is not finite, or the disk is full.
        """
        if self.config.freeze:
            self._extract_features(listener, stop)
        while not self.is_finished:
            if self.epoch_stats is None:  # otherwise the run stopped after the last step of this epoch
                self.epoch_stats = self._train_epoch(listener, stop)
                self._save()
                if self.epoch_stats is None:
                    raise self._make_stopped_error(stop)
            epoch = self._validate(self.epoch_stats, stop)
            self.epoch_stats = None
            self.history.append(epoch)
            is_best = self.best is None or make_epoch_key(epoch) > make_epoch_key(self.best)
            if is_best:
                self.best = epoch
            self._save(is_best=is_best)
            listener.on_epoch_end(epoch, is_best)
            if not self.is_finished and self.ranks.all_max(stop.signal or 0):
                raise self._make_stopped_error(stop)

    def _train_epoch(self, listener: Listener, stop: StopRequest) -> EpochStats | None:
        """Train to the end of the current epoch; return None if a signal stopped it before."""
        start, first_step = time.monotonic(), self.trainer.step
        last_save = start

        def on_step(step: int) -> bool:
            nonlocal last_save
            listener.on_step(self._make_progress())
            # Only process 0 writes the checkpoints. In the first steps, before a GPU has a CUDA graph to replay, it
            # waits for what Python does.
            if self.ranks.is_rank0 and step > WARM_UP:
                self.appearance.start()
            is_due = self.ranks.is_rank0 and time.monotonic() - last_save > _SAVE_INTERVAL
            if is_due:
                last_save = time.monotonic()
            signal, save = self.ranks.all_max_async(stop.signal or 0, is_due)
            if save and step % self.train_loader.steps:  # after the last step of an epoch, `fit` saves
                self._save()
            return bool(signal)

        loss = self.trainer.train_epoch(self.train_loader, on_step)
        if loss is None:
            return None
        seconds = time.monotonic() - start
        return EpochStats(loss, self._count_patches(self.trainer.step - first_step) / seconds, seconds)

    def _validate(self, stats: EpochStats, stop: StopRequest) -> Epoch:
        """Score the validation patches with the EMA of the weights, and calibrate on them."""
        probs = self.predictor.predict_packed(self.val_loader, lambda done: self._stop_single_process(stop)).probs
        self.calibration = calibrate(self.labels, probs, self.config.threshold, is_weak=self.is_weakly_validated)
        label_probs = np.where(self.labels == 1, probs, 1 - probs)
        return Epoch(
            epoch=len(self.history) + 1,
            step=self.trainer.step,
            train_loss=stats.loss,
            lr=self.trainer.learning_rate,
            patches_per_second=stats.rate,
            seconds=stats.seconds,
            val_loss=float(-np.log(np.clip(label_probs, 1e-7, 1)).mean()),
            val_auc=compute_auc(self.labels, probs),
            val_accuracy=float(((probs >= 0.5) == self.labels).mean()),
        )

    def _extract_features(self, listener: Listener, stop: StopRequest) -> None:
        """Replace the patches of both loaders by the features that the frozen backbone computes from them."""
        done, total = 0, len(self.train_loader) + len(self.val_loader)

        def on_patches(count: int) -> None:
            nonlocal done
            done += count
            listener.on_features(done, total)
            self._stop_single_process(stop)

        cache = self.ranks.on_all_ranks(
            lambda: open_cache(self.workspace, self.model, self.compute, self.backbone_sha256)
        )
        features = extract_features(self.model, self.trainer, self.train_loader, self.val_loader, cache, on_patches)
        self.train_loader, self.val_loader = features.train, features.val
        listener.on_features_end(features)
        if self.ranks.all_max(stop.signal or 0):
            raise self._make_stopped_error(stop)

    def create(self, name: str, *, is_repeat: bool) -> None:
        """Create the run's folder with its manifest, config.json, an empty history and a last.pt to resume from.

        The folder appears with all of its files at once. No other run has the name. `is_repeat` says whether the run
        is a fold of a cross-validation or one of several seeds.

        Raises:
            HistoError: the folder cannot be written.
        """
        self.name = name
        self.ranks.check_equal(self.manifest_sha256, "manifests")
        self._check_same_device()
        state, agents = collect_training_state(self), gather_torchrun_agents(self.ranks)

        def write() -> None:
            with create_folder_atomically(self.dir) as folder:
                run_folder.write_run_record(self, folder, is_repeat=is_repeat)
                write_job(folder, agents)
                write_checkpoints(self, folder, state, is_best=False)

        self.ranks.on_rank0(write)

    def resume(self) -> None:
        """Continue from `last.pt`."""
        self.ranks.on_all_ranks(lambda: load_training_state(self))
        self.ranks.check_equal((self.manifest_sha256, self.trainer.step), "manifests or checkpoints")
        self._check_same_device()
        agents = gather_torchrun_agents(self.ranks)
        if self.epochs_before != self.config.epochs:
            self._save()  # so that the run continues to its new number of epochs, even if it is killed now

        def write() -> None:
            run_folder.write_options(self.dir, self.config)
            run_folder.write_history(self.dir, self.history)  # a killed process may have saved last.pt only
            write_job(self.dir, agents)

        self.ranks.on_rank0(write)

    def _check_same_device(self) -> None:
        """Raise `HistoError` if a process has another kind of device or precision: all would wait for ever."""
        kind = self.compute.device.type, self.compute.precision
        hint = "nvidia-smi shows whether another program uses a GPU; --device and --precision name one for all"
        self.ranks.check_equal(kind, "devices or precisions", hint)

    def _save(self, *, is_best: bool = False) -> None:
        """Write last.pt and the history, and with `is_best` also best.pt."""
        state = collect_training_state(self)

        def write() -> None:
            with run_folder.require_folder(self.dir, self.name) as folder:
                write_checkpoints(self, folder, state, is_best=is_best)

        self.ranks.on_rank0(write)

    def _stop_single_process(self, stop: StopRequest) -> None:
        """Raise `Stopped` after a signal. Several processes wait for the end of a stage, to stop at the same place."""
        if stop and self.ranks.size == 1:
            raise self._make_stopped_error(stop)

    def _make_stopped_error(self, stop: StopRequest) -> Stopped:
        signal = self.ranks.all_max(stop.signal or 0)
        step, steps = self.trainer.step, self.trainer.recipe.total_steps
        after = f"step {step:,} of {steps:,}" if step else ""
        return Stopped(signal, f"histo train --resume --name {self.name}", after)

    def _make_progress(self) -> Progress:
        return Progress(
            epoch=len(self.history) + 1,
            epochs=self.config.epochs,
            step=self.trainer.step,
            steps=self.trainer.recipe.total_steps,
            patches=self._count_patches(self.trainer.step),
            loss=self.trainer.recent_loss,
            auc=self.history[-1].val_auc if self.history else None,
        )

    def _count_patches(self, steps: int) -> int:
        """Return the number of patches in a number of steps."""
        return steps * min(self.train_loader.batch_size, len(self.train_loader))
