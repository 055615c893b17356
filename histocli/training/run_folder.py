"""The files of a run's folder, except its checkpoints: write manifest.csv, config.json and history.jsonl."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from histocli.atomic import read_json, write_atomically, write_json, write_text
from histocli.config import RunConfig
from histocli.errors import HistoError
from histocli.reports.run import Epoch, RunRecord, read_run
from histocli.schema import to_json
from histocli.training.provenance import find_git_commit, find_versions

if TYPE_CHECKING:
    from histocli.training.run import Run


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
