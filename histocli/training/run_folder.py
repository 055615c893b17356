"""Write the files of a run's folder that are not checkpoints: manifest.csv, config.json and history.jsonl."""

import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from histocli.compute.memory import is_out_of_memory
from histocli.errors import HistoError, first_line
from histocli.schema import to_json
from histocli.training.progress import Epoch
from histocli.training.provenance import git_commit, versions
from histocli.workspace import atomic_path, read_json, write_json, write_text

if TYPE_CHECKING:
    from histocli.training.run import Run


def describe_run(run: "Run", folder: Path) -> None:
    """Write the manifest and config.json of a new run."""
    with atomic_path(folder / "manifest.csv") as copy:  # an exact copy, because its SHA-256 is stored
        shutil.copyfile(run.manifest, copy)
    write_json(
        folder / "config.json",
        {
            "run": run.name,
            "options": asdict(run.config),
            "learning_rate": run.config.learning_rate,
            "data": run.data,
            "train_patches": len(run.train),
            "val_patches": len(run.val),
            "shots": run.shots and run.shots._asdict(),
            "manifest_sha256": run.manifest_sha256,
            "audit": run.audit and to_json(run.audit),
            "device": run.compute.reason,
            "versions": versions(),
            "git_commit": git_commit(),
        },
    )


def write_options(run: "Run") -> None:
    """Write the options of a run that was extended into its config.json."""
    path = run.dir / "config.json"
    record = read_json(path)
    options = asdict(run.config)
    if record["options"].get("epochs") != options["epochs"]:
        write_json(path, record | {"options": options})


def write_history(folder: Path, history: Sequence[Epoch]) -> None:
    """Write history.jsonl: one line for each epoch."""
    lines = [json.dumps(epoch._asdict(), allow_nan=False) + "\n" for epoch in history]
    write_text(folder / "history.jsonl", "".join(lines))


@contextmanager
def state_errors(path: Path) -> Iterator[None]:
    """Turn the errors of a damaged training state into a `HistoError` that names its file."""
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        raise HistoError(f"{path}: its training state is damaged: {first_line(error)}", "use another --name") from error


def require_folder(folder: Path, run: str) -> Path:
    """Return the folder of a run, which must not be made again in a workspace that was moved.

    Raises:
        HistoError: it does not exist any more.
    """
    if not folder.is_dir():
        raise HistoError(
            f"{folder} is gone: it was moved or deleted during the training",
            f"move it back, and continue: histo train --resume --name {run}",
        )
    return folder
