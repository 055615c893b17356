"""The records of a training run: `config.json`, and `history.jsonl` with a row for each epoch."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from histocli.atomic import read_json
from histocli.errors import HistoError, describe_value
from histocli.reports.audit import AuditReport
from histocli.schema import Count, Fraction, from_json
from histocli.text import format_count
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

_MEMBER = re.compile(r"(.+)-(fold|seed)(\d+)")  # the name of a fold, or of one of several seeds

Option = bool | int | float | str | None


@dataclass(frozen=True)
class Shots:
    """The patches that `--shots` drew: their number of each class, ids and slides, and from how many they are drawn.

    `slides` is None if the slides are not known.
    """

    per_class: Count
    ids: tuple[str, ...]
    slides: Count | None
    drawn_from: Count

    def describe(self, seed: int) -> str:
        """Return a sentence that says what was drawn."""
        k, slides = self.per_class, self.slides
        where = "" if slides is None else f" from {format_count(slides, 'slide')}"
        return (
            f"few-shot: {k:,} tumour and {k:,} normal patches{where}, drawn with seed {seed} from {self.drawn_from:,} "
            "training patches"
        )


def select_used_rows(manifest: "pd.DataFrame", shots: Shots | None) -> "pd.DataFrame":
    """Return the rows of a run's manifest without the training patches that `--shots` did not draw."""
    if shots is None:
        return manifest
    return manifest[(manifest["split"] != "train") | manifest["id"].isin(shots.ids)]


@dataclass(frozen=True)
class RunRecord:
    """How a run was trained: its options, data, device and versions, and the leakage audit of its subset.

    `is_repeat` is whether the run is a fold of a cross-validation or one of several seeds.
    """

    run: str
    data: str
    val_patches: Count
    train_patches: Count = 0
    options: dict[str, Option] = field(default_factory=dict)
    learning_rate: float = 0.0
    shots: Shots | None = None
    manifest_sha256: str = ""
    audit: AuditReport | None = None
    device: str = ""
    versions: dict[str, str] = field(default_factory=dict)
    git_commit: str | None = None
    is_repeat: bool = False

    def __post_init__(self) -> None:
        """Check the number of epochs, which other commands compute with."""
        epochs = self.options.get("epochs")
        if epochs is not None and (type(epochs) is not int or epochs < 0):
            raise ValueError(f"has the epochs {describe_value(epochs)}, which is not a whole number")


@dataclass(frozen=True, kw_only=True)
class Epoch:
    """The metrics of an epoch: a row of `history.jsonl`.

    Those of the validation patches are of uncalibrated probabilities; the accuracy is at the threshold 0.5.
    """

    epoch: Count
    step: Count = 0
    train_loss: float
    lr: float
    patches_per_second: float = 0.0
    seconds: float = 0.0
    val_loss: float
    val_auc: Fraction | None
    val_accuracy: Fraction


def make_epoch_key(epoch: Epoch) -> tuple[float, float]:
    """Return the key that orders epochs: the validation AUC, then the loss; only the loss if there is no AUC."""
    return (-1.0 if epoch.val_auc is None else epoch.val_auc, -epoch.val_loss)


def read_run(run_dir: Path) -> RunRecord:
    """Read the `config.json` of a run.

    Raises:
        HistoError: it cannot be read, or a field is missing or has a wrong type or value.
    """
    path = run_dir / "config.json"
    hint = "restore it from a copy; without it the run cannot be resumed"
    if (run_dir / "best.pt").is_file():
        hint += f", but --ckpt {run_dir.name} still works"
    return from_json(RunRecord, read_json(path, hint), str(path), hint)


def list_members(workspace: Workspace, name: str | None = None, kind: str | None = None) -> list[str]:
    """Return the runs that are folds or seeds, by their numbers.

    A run that only has such a name, and was trained alone, is left out. If this is not known, because its record is
    damaged, its name decides.

    Args:
        workspace: where the runs are.
        name: their common name; None for any.
        kind: folds or seeds; None for both.
    """
    numbers = {}
    for run in workspace.list_runs():
        match = _MEMBER.fullmatch(run)
        if match is None or name not in (None, match[1]) or kind not in (None, f"{match[2]}s"):
            continue
        if _may_be_repeat(workspace.run_dir(run)):
            numbers[run] = int(match[3])
    return sorted(numbers, key=lambda run: numbers[run])


def _may_be_repeat(run_dir: Path) -> bool:
    try:
        return read_run(run_dir).is_repeat
    except HistoError:
        return True


def make_history_hint(run_dir: Path) -> str:
    """Return how to get a missing or damaged `history.jsonl` back."""
    if (run_dir / "last.pt").is_file():
        return f"histo train --resume --name {run_dir.name} writes it again"
    return "restore it from a copy"


def read_history(path: Path) -> list[Epoch]:
    """Read the `history.jsonl` of a run.

    Raises:
        FileNotFoundError: the file does not exist.
        HistoError: it cannot be read, or a field is missing or has a wrong type or value.
    """
    hint = make_history_hint(path.parent)
    if path.exists() and not path.is_file():  # reading a pipe could block for ever
        raise HistoError(f"{path} is not a file", hint)
    rows = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        try:
            value = json.loads(line.decode())
        except (ValueError, RecursionError) as error:
            raise HistoError(f"cannot read {path}, line {number}, as JSON: {error}", hint) from error
        rows.append(from_json(Epoch, value, f"{path}, line {number}", hint))
    return rows
