"""`histo train`: train a network on the balanced subset, validating after each epoch."""

import time
from collections.abc import Collection
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from histocli.compute.ddp import SINGLE_PROCESS, Ranks, gather_torchrun_agents
from histocli.compute.device import apply_compute_settings, make_deterministic
from histocli.compute.memory import explain_out_of_memory, is_out_of_memory, make_memory_error, release_memory
from histocli.config import BATCH_SIZE, RunConfig, TrainConfig
from histocli.errors import UsageError
from histocli.models.checkpoint import publish_checkpoints
from histocli.pages.model_card import write_card
from histocli.reports.run import Epoch, read_run
from histocli.signals import catch_signals
from histocli.training.cuda_graph import WARM_UP
from histocli.training.listeners import Listener
from histocli.training.options import check_run_options, check_values, complete_config
from histocli.training.probe import compute_backbone_features
from histocli.training.provenance import (
    check_name_unused,
    check_run_name,
    find_interrupted_run,
    lock_run,
    reserve_name,
)
from histocli.training.resume import StoredRun, apply_given_options, extend_config, load_run_config
from histocli.training.run import Run
from histocli.workspace import Workspace


class TrainReport(NamedTuple):
    """The result of a training run: its name and folder, its best epoch, and the seconds and steps of this call.

    `signal` is the number of a signal that came too late to stop the run. `epochs` is that of the run. `single_class`
    is "tumour" or "normal" if the best epoch predicts this class for all validation patches, as a network does that was
    trained for few steps; else it is "". `is_published` is whether best.pt and last.pt were copied to `checkpoints/`.
    """

    run: str
    run_dir: Path
    best: Epoch
    seconds: float
    steps: int
    signal: int | None
    epochs: int
    single_class: str
    is_published: bool


def train(
    workspace: Workspace,
    config: TrainConfig,
    *,
    given: Collection[str] = (),
    listener: Listener | None = None,
    ranks: Ranks = SINGLE_PROCESS,
) -> TrainReport:
    """Train a new run, or with `config.resume` continue one with the options that it was started with.

    `given` names the options that the user gave: a resumed run refuses those that differ from its own, except for
    the device and, if it is finished, a larger number of epochs. Every process of a job calls this with the same
    values.

    Raises:
        HistoError: the data, the device or the options cannot be used, or the loss is not finite.
        Stopped: a signal came; the state is saved and `--resume` continues from it.
    """
    ranks.on_all_ranks(lambda: check_values(config))
    agents = gather_torchrun_agents(ranks)
    stored, is_repeat = ranks.on_rank0(lambda: _find_run_to_resume(workspace, config, given, agents))
    return train_run(
        workspace,
        ranks.on_all_ranks(lambda: _make_run_config(config, given, stored)),
        stored.name if stored else config.name,
        resume=stored is not None,
        can_halve_batch=config.can_halve_batch,
        is_repeat=is_repeat,
        listener=listener or Listener(),
        ranks=ranks,
    )


def _find_run_to_resume(
    workspace: Workspace, config: TrainConfig, given: Collection[str], agents: set[str]
) -> tuple[StoredRun | None, bool]:
    """Return the run to resume, or None for a new run, and whether the run is a fold or one of several seeds.

    A finished run gets more epochs if they are given. A run that one of the torchrun `agents` trained before it
    restarted its processes is resumed.
    """
    restarted = find_interrupted_run(workspace, agents)
    if not (config.resume or restarted):
        return None, False
    stored = load_run_config(workspace, restarted or config.name)
    if "epochs" in given and config.epochs > stored.config.epochs:
        stored = stored._replace(config=extend_config(stored, config.epochs))
    return stored, read_run(workspace.run_dir(stored.name)).is_repeat


def _make_run_config(config: TrainConfig, given: Collection[str], stored: StoredRun | None) -> RunConfig:
    """Return the checked options of a new run, or of the run to resume with those that the user gave again."""
    if stored:
        run_config = apply_given_options(stored.config, config, given)
    else:
        check_run_name(config.name)
        run_config = complete_config(config.run, given)
    check_run_options(run_config, given)
    return run_config


@apply_compute_settings()
def train_run(
    workspace: Workspace,
    config: RunConfig,
    name: str | None,
    *,
    resume: bool,
    can_halve_batch: bool,
    is_repeat: bool,
    listener: Listener,
    ranks: Ranks,
) -> TrainReport:
    """Train a new run, or with `resume` continue the run `name`.

    `name` is None if `histo` chooses the name of a new run. With `can_halve_batch`, the batch size is halved until a
    step fits the memory. `is_repeat` says that the run is a fold of a cross-validation or one of several seeds; the
    checkpoints of all other runs are copied to `checkpoints/` at the end.
    """
    start = time.monotonic()
    with ExitStack() as stack:
        stack.enter_context(make_deterministic(config.deterministic))
        if resume:
            assert name is not None
            ranks.on_rank0(lambda: stack.enter_context(lock_run(workspace, name)))
            run = ranks.on_all_ranks(lambda: Run(workspace, config, resumed=name, ranks=ranks))
            run.resume()
        else:
            if name:
                ranks.on_rank0(lambda: check_name_unused(workspace, name))
            if can_halve_batch:
                config = _halve_batch_size(workspace, config, ranks)
            run = ranks.on_all_ranks(lambda: Run(workspace, config, ranks=ranks))
        stack.enter_context(explain_out_of_memory(run.train_loader.batch_size))
        with catch_signals(listener.on_signal) as stop:
            if not resume:
                new_name = ranks.on_rank0(lambda: stack.enter_context(reserve_name(workspace, name, config.arch)))
                run.create(new_name, is_repeat=is_repeat)
            steps_before = run.trainer.step
            if is_training := not run.is_finished:
                listener.on_start(run, steps_before)
                run.fit(listener, stop)
        is_published = not is_repeat and ranks.on_rank0(lambda: publish_checkpoints(workspace, run.dir))
        single_class = ranks.on_rank0(lambda: write_card(workspace, run.name).measured.confusion.single_class)
        if is_training:
            listener.on_end(run)
    assert run.best is not None
    seconds, steps = time.monotonic() - start, run.trainer.step - steps_before
    return TrainReport(
        run.name, run.dir, run.best, seconds, steps, stop.signal, run.config.epochs, single_class, is_published
    )


def _halve_batch_size(workspace: Workspace, config: RunConfig, ranks: Ranks) -> RunConfig:
    """Return the options with the batch size halved until a training step fits the memory."""
    if ranks.size > 1:
        raise UsageError("--batch-size auto is for one process", "give a number")
    while True:
        fits, run = True, None
        try:
            run = Run(workspace, config)
            config = run.config
            _try_step(run)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            size = config.batch_size or BATCH_SIZE
            if size < 4:
                raise make_memory_error(size, error) from error
            fits = False
        del run
        release_memory()
        if fits:
            return config
        config = replace(config, batch_size=size // 2)


def _try_step(run: Run) -> None:
    """Train one batch, to see whether the memory is enough; the run cannot be used afterwards.

    Validation halves its own batch where it must. With --freeze, the backbone computes the features of each batch as a
    whole, so the largest batch is tested.
    """
    if run.config.freeze:
        largest = max(run.train_loader, run.val_loader, key=lambda loader: min(loader.batch_size, len(loader)))
        compute_backbone_features(run.model.eval(), next(largest.eval_batches()).images, run.compute)
        return
    batch = next(iter(run.train_loader.train_batches(0)))
    for _ in range(WARM_UP + 1 if run.trainer.graph else 1):  # the graph needs memory too
        run.trainer.train_step(batch, run.train_loader.loss_weight)
