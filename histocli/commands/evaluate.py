"""`histo eval`: how good a checkpoint is on patches whose labels are known."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from histocli.choices import Device, Part, Precision, Resize
from histocli.data.batches import Batches
from histocli.data.manifest import file_sha256, read_manifest
from histocli.data.sources.folder import FolderSource
from histocli.data.stream import load_chunks
from histocli.data.subset import Subset, labelled_part, open_subset
from histocli.engine import Compute, batch_probabilities, choose_compute, finite, probabilities
from histocli.errors import HistoError, UsageError
from histocli.metrics import evaluate as measure
from histocli.models.checkpoint import Checkpoint, find_checkpoint, load_checkpoint
from histocli.workspace import Workspace, atomic_path, checked_name, write_json

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class EvalConfig:
    """The options of `histo eval`; `data` None is the validation split the checkpoint was trained with."""

    ckpt: str = "best.pt"
    data: str | None = None
    labels: Path | None = None
    split: Part | None = None
    tta: bool = False
    threshold: float | None = None
    resize: Resize = Resize.CROP
    batch_size: int = 256
    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO


class Scores(NamedTuple):
    """Scored patches: a table `id,label,prob,data,index`, and what it came from."""

    data: str
    split: str
    frame: "pd.DataFrame"
    manifest_sha256: str | None
    skipped: dict[str, int]
    trained_on: int = 0


class Evaluation(NamedTuple):
    """The metrics file's path and what it holds."""

    path: Path
    report: dict[str, Any]


def evaluate(
    workspace: Workspace,
    config: EvalConfig,
    *,
    on_start: Callable[[str], None] = lambda device: None,
    on_progress: Callable[[int, int | None], None] = lambda done, total: None,
    on_unreadable: Callable[[HistoError], None] = lambda error: None,
) -> Evaluation:
    """Score the data, write `metrics/<run>-<data>-<split>.json` and the scores as CSV beside it.

    Raises:
        HistoError: the checkpoint, the data or the device cannot be used, or nothing is labelled.
    """
    on_disk = config.data is not None and Path(config.data).exists()
    _check(workspace, config, on_disk)
    path = find_checkpoint(workspace, config.ckpt)
    checkpoint = load_checkpoint(path)
    compute = choose_compute(config.device, config.precision)
    model = checkpoint.build().to(compute.device)
    on_start(compute.reason)
    if on_disk:
        scores = _score_folder(model, compute, config, on_progress, on_unreadable)
    else:
        scores = _score_packed(workspace, checkpoint, model, compute, config, on_progress)
    threshold = checkpoint.threshold if config.threshold is None else config.threshold
    stem = f"{checkpoint.run}-{scores.data}-{scores.split}" + ("-tta" if config.tta else "")
    target = workspace.metrics_dir / f"{checked_name(stem, 'metrics file')}.json"
    report = {
        "run": checkpoint.run,
        "data": scores.data,
        "split": scores.split,
        "arch": checkpoint.arch,
        "epoch": checkpoint.epoch,
        "checkpoint": str(path),
        "checkpoint_sha256": file_sha256(path),
        "manifest_sha256": scores.manifest_sha256,
        "tta": config.tta,
        "skipped": scores.skipped,
        "trained_on": scores.trained_on,
        "scores": target.with_suffix(".csv").name,
        **measure(scores.frame["label"].to_numpy(), scores.frame["prob"].to_numpy(), threshold),
    }
    with atomic_path(target.with_suffix(".csv")) as temporary:
        scores.frame.to_csv(temporary, index=False, lineterminator="\n", float_format="%.6f")
    write_json(target, report)
    return Evaluation(target, report)


def _check(workspace: Workspace, config: EvalConfig, on_disk: bool) -> None:
    """Raise an error for data that is not there, and for options that do not fit it."""
    manifests = {path.stem for path in workspace.manifests_dir.glob("*.csv")}
    if config.data is not None and not on_disk and config.data not in manifests:
        known = ", ".join(workspace.dataset_names()) or "none"
        raise HistoError(
            f"there is no {config.data}: no such path, and no data set of that name", f"data sets: {known}"
        )
    if config.labels and not on_disk:
        raise UsageError("--labels is for a folder or zip", "packed data sets have theirs: histo download --labels")
    if on_disk and config.split not in (None, Part.ALL):
        raise UsageError(f"--split {config.split}: a folder has no splits", "leave it out, or pack it: histo download")


def _score_packed(
    workspace: Workspace,
    checkpoint: Checkpoint,
    model: torch.nn.Module,
    compute: Compute,
    config: EvalConfig,
    on_progress: Callable[[int, int | None], None],
) -> Scores:
    """Score a packed data set by name, or the validation split of the checkpoint's own run."""
    manifest = workspace.manifest_path(config.data) if config.data else _own_manifest(workspace, checkpoint)
    part = config.split or (Part.ALL if config.data else Part.VAL)
    subset = open_subset(workspace, manifest)
    chosen = labelled_part(subset, part)
    batches = Batches(chosen.store, chosen.rows, chosen.labels, config.batch_size, compute.device, resident=False)
    total = len(batches)
    probs = probabilities(
        model, batches.in_order(), compute, tta=config.tta, on_progress=lambda done: on_progress(done, total)
    )
    frame = chosen.frame[["id", "label", "slide", "data", "index"]].copy()
    frame.insert(2, "prob", probs.numpy().astype(np.float64))
    trained_on = _trained_on(workspace, checkpoint, chosen)
    return Scores(config.data or chosen.data, part.value, frame, file_sha256(manifest), {}, trained_on)


def _trained_on(workspace: Workspace, checkpoint: Checkpoint, scored: Subset) -> int:
    """How many of the patches the checkpoint's own run was trained on, as far as its manifest is here."""
    path = workspace.run_dir(checkpoint.run) / "manifest.csv"
    if not path.is_file():
        return 0
    own = read_manifest(path, ("id", "label", "split"))
    if "data" not in own.columns:
        return 0
    trained = own.loc[(own["split"] == "train") & (own["data"] == scored.data), "index"]
    return int(np.isin(scored.rows, trained.to_numpy()).sum())


def _own_manifest(workspace: Workspace, checkpoint: Checkpoint) -> Path:
    """The manifest that the checkpoint was trained with, known by its hash."""
    candidates = [workspace.run_dir(checkpoint.run) / "manifest.csv", workspace.manifest_path("balanced")]
    for path in candidates:
        if path.is_file() and file_sha256(path) == checkpoint.manifest_sha256:
            return path
    raise HistoError(
        f"the manifest that run {checkpoint.run} was trained with is not in this workspace",
        "name what to evaluate on: histo eval --data NAME or --data FOLDER",
    )


def _score_folder(
    model: torch.nn.Module,
    compute: Compute,
    config: EvalConfig,
    on_progress: Callable[[int, int | None], None],
    on_unreadable: Callable[[HistoError], None],
) -> Scores:
    """Score a labelled folder or zip without packing it."""
    import pandas as pd

    location = Path(config.data or "")
    source = FolderSource([location], labels=config.labels, resize=config.resize)
    ids: list[str] = []
    labels: list[int] = []
    probs: list[float] = []
    unreadable = done = 0
    labelled = (patch for patch in source.patches() if patch.label is not None)
    for chunk in load_chunks(labelled, config.batch_size):
        for _, error in chunk.failures:
            on_unreadable(error)
        unreadable += len(chunk.failures)
        if chunk.patches:
            images = torch.from_numpy(chunk.pixels).permute(0, 3, 1, 2).to(compute.device)
            probs += finite(batch_probabilities(model, images, compute, tta=config.tta)).tolist()
            ids += [patch.id for patch in chunk.patches]
            labels += [patch.label for patch in chunk.patches if patch.label is not None]
        done += len(chunk.patches) + len(chunk.failures)
        on_progress(done, source.total)
    if not ids:
        raise HistoError(
            f"no patch in {location} has a label",
            "--labels CSV (id,label), a *labels*.csv beside them, or folders named 0 and 1",
        )
    frame = pd.DataFrame({"id": ids, "label": labels, "prob": probs, "slide": "", "data": "", "index": ""})
    skipped = {name: n for name, n in {**source.report.counts, "unreadable": unreadable}.items() if n}
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", location.resolve().stem)
    return Scores(name, "all", frame, None, skipped)
