"""The files of a run's folder: write manifest.csv, config.json and history.jsonl; read last.pt."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from histocli.atomic import read_json, write_atomically, write_json, write_text
from histocli.compute.memory import is_out_of_memory
from histocli.config import RunConfig
from histocli.errors import HistoError, read_first_line
from histocli.models.checkpoint import Checkpoint, load_checkpoint
from histocli.reports.run import RunRecord, read_run
from histocli.schema import to_json
from histocli.training.progress import Epoch
from histocli.training.provenance import find_git_commit, find_versions

if TYPE_CHECKING:
    from histocli.training.run import Run

NEW_RUN_HINT = "start a new run with another --name"


def write_run_record(run: "Run", folder: Path, *, is_repeat: bool) -> None:
    """Write the manifest and config.json of a new run."""
    with write_atomically(folder / "manifest.csv") as copy:  # an exact copy, because its SHA-256 is stored
        shutil.copyfile(run.manifest, copy)
    record = RunRecord(
        run=run.name,
        options=asdict(run.config),
        learning_rate=run.config.learning_rate,
        data=run.data,
        train_patches=len(run.train_loader),
        val_patches=len(run.val_loader),
        shots=run.shots,
        manifest_sha256=run.manifest_sha256,
        audit=run.audit,
        device=run.compute.reason,
        versions=find_versions(),
        git_commit=find_git_commit(),
        is_repeat=is_repeat,
    )
    write_json(folder / "config.json", to_json(record))


def write_options(folder: Path, config: RunConfig) -> None:
    """Write the options of a run that was extended into its config.json."""
    if read_run(folder).options.get("epochs") != config.epochs:
        path = folder / "config.json"
        write_json(path, read_json(path) | {"options": asdict(config)})


def write_history(folder: Path, history: Sequence[Epoch]) -> None:
    """Write history.jsonl: one line for each epoch."""
    lines = [json.dumps(asdict(epoch), allow_nan=False) + "\n" for epoch in history]
    write_text(folder / "history.jsonl", "".join(lines))


def load_last(folder: Path, manifest_sha256: str) -> Checkpoint:
    """Return the checkpoint last.pt of a run, to resume from.

    Raises:
        HistoError: it cannot be read or has no training state, or the run's manifest has changed.
    """
    checkpoint = load_checkpoint(folder / "last.pt")
    if not checkpoint.training:
        raise HistoError(f"{folder / 'last.pt'} has no training state to resume from", NEW_RUN_HINT)
    if checkpoint.manifest_sha256 != manifest_sha256:
        raise HistoError(f"{folder / 'manifest.csv'} has changed since the run was started", NEW_RUN_HINT)
    return checkpoint


@contextmanager
def explain_state_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a damaged training state into a `HistoError` that names its file."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, OverflowError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise HistoError(f"{path}: its training state is damaged: {read_first_line(error)}", NEW_RUN_HINT) from error


@contextmanager
def require_folder(folder: Path, run: str) -> Iterator[Path]:
    """Yield the folder of a run, which must not be created again if the workspace was moved.

    Raises:
        HistoError: it does not exist, or was moved or deleted while the block wrote into it.
    """
    gone = HistoError(
        f"{folder} is gone: it was moved or deleted during the training",
        f"move it back, and continue: histo train --resume --name {run}",
    )
    if not folder.is_dir():
        raise gone
    try:
        yield folder
    except (OSError, HistoError) as error:
        if not folder.is_dir():
            raise gone from error
        raise
