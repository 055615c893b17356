"""Labelled patches, packed or in a folder, scored: what `histo eval` measures."""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha1
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocli.compute.world import World
from histocli.config import Device, Engine, Part, Precision, Resize
from histocli.data.dataset import Subset, labelled_part, open_subset
from histocli.data.groups import OVERLAP
from histocli.data.loaders import Batches
from histocli.data.manifest import file_sha256
from histocli.data.overlap_cache import known_overlaps
from histocli.data.overlaps import overlap_groups
from histocli.errors import HistoError
from histocli.inference.checkpoints import STORED, CheckpointPredictor
from histocli.inference.leakage import count_known, pixel_digests
from histocli.models.checkpoint import Checkpoint
from histocli.sources.folder import RESIZED, FolderSource
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

_COLUMNS = ("id", "label", "slide", "hospital", OVERLAP, "data", "index")


@dataclass(frozen=True)
class EvalConfig:
    """The options of `histo eval`; `data` None is the validation split the checkpoints were trained with."""

    ckpt: Sequence[str] = ("best.pt",)
    data: str | None = None
    labels: Path | None = None
    split: Part | None = None
    tta: bool = False
    raw: bool = False
    threshold: str = STORED
    resize: Resize = Resize.CROP
    batch_size: int = 256
    halve: bool = False  # the batches that do not fit the memory
    device: Device = Device.AUTO
    precision: Precision = Precision.AUTO
    engine: Engine = Engine.AUTO


class Scored(NamedTuple):
    """Scored patches: a table `id,label,prob,raw,slide,data,index`, and what it came from."""

    data: str
    split: str
    table: "pd.DataFrame"
    manifest_sha256: str | None
    skipped: dict[str, int]
    packed: str | None  # the data set that holds them
    trained_on: int | None  # how many of them a checkpoint was trained on, None where that is not known
    chosen_on: int | None  # how many of them chose a checkpoint's epoch, temperature and threshold


def score_packed(
    workspace: Workspace,
    scorer: CheckpointPredictor,
    config: EvalConfig,
    on_progress: Callable[[int, int | None], None],
    world: World,
) -> Scored:
    """Score a packed data set by name, or the validation split of the checkpoints' own runs."""
    checkpoints = [member.checkpoint for member in scorer.members]
    manifest = workspace.manifest_path(config.data) if config.data else _own_manifest(workspace, checkpoints)
    world.agree(world.each(lambda: file_sha256(manifest)), "manifests")
    part = config.split or (Part.ALL if config.data else Part.VAL)
    chosen = labelled_part(open_subset(workspace, manifest), part)
    device = scorer.compute.device
    batches = Batches(chosen.store, chosen.rows, chosen.labels, config.batch_size, device, resident=False, world=world)
    scores = scorer.predict_packed(batches, lambda done: on_progress(done, len(batches)))
    table = chosen.frame[[name for name in _COLUMNS if name in chosen.frame.columns]].copy()
    table.insert(2, "prob", scores.probs)
    table.insert(3, "raw", scores.raw)
    _note_overlaps(workspace, chosen, table)
    digests = pixel_digests(workspace, chosen.data, chosen.frame)
    table["sha1"] = "" if digests is None else [digest.hex() for digest in digests]
    counts = count_known(workspace, checkpoints, digests)
    return Scored(config.data or chosen.data, part.value, table, file_sha256(manifest), {}, chosen.data, *counts)


def _note_overlaps(workspace: Workspace, chosen: Subset, table: "pd.DataFrame") -> None:
    """Name each patch's group of those that show the same tissue, where slides are unknown and they were searched."""
    unknown = "slide" not in table.columns or (table["slide"] == "").any()
    if not unknown or OVERLAP in table.columns or not workspace.dataset_path(chosen.data).is_file():
        return
    pairs = known_overlaps(workspace, chosen.data)
    if pairs is not None:
        ours = overlap_groups(pairs, int(chosen.store.shape[0]))[chosen.rows]
        alone = np.bincount(ours)[ours] == 1
        table[OVERLAP] = np.where(alone, "", ours.astype(str))


def _own_manifest(workspace: Workspace, checkpoints: list[Checkpoint]) -> Path:
    """The manifest that the checkpoints were trained with, known by its hash."""
    if len({checkpoint.manifest_sha256 for checkpoint in checkpoints}) > 1:
        raise HistoError(
            "these checkpoints were validated on different patches",
            "name what to evaluate them on: histo eval --data NAME or --data FOLDER",
        )
    first = checkpoints[0]
    candidates = [workspace.run_dir(checkpoint.run) / "manifest.csv" for checkpoint in checkpoints]
    for path in [*candidates, workspace.manifest_path("balanced")]:
        if path.is_file() and file_sha256(path) == first.manifest_sha256:
            return path
    raise HistoError(
        f"the manifest that run {first.run} was trained with is not in this workspace",
        "name what to evaluate on: histo eval --data NAME or --data FOLDER",
    )


def score_folder(
    workspace: Workspace,
    scorer: CheckpointPredictor,
    config: EvalConfig,
    on_progress: Callable[[int, int | None], None],
    on_unreadable: Callable[[HistoError], None],
    world: World,
) -> Scored:
    """Score a labelled folder or zip without packing it."""
    import pandas as pd

    location = Path(config.data or "")
    source = FolderSource([location], labels=config.labels, resize=config.resize)
    labelled = (patch for patch in source.patches() if patch.label is not None)
    size = scorer.chunk_size(config.batch_size)
    share = (patch for i, patch in enumerate(labelled) if i // size % world.size == world.rank)
    progress = lambda done: on_progress(done * world.size, source.total)  # noqa: E731
    with closing(scorer.predict_patches(share, size, on_unreadable, progress)) as chunks:
        own = [
            (
                len(chunk.failures),
                pd.DataFrame(
                    {
                        "id": [patch.id for patch in chunk.patches],
                        "label": [patch.label for patch in chunk.patches],
                        "prob": chunk.scores.probs,
                        "raw": chunk.scores.raw,
                    }
                ),
                [sha1(patch.data, usedforsecurity=False).digest() for patch in chunk.pixels],
            )
            for chunk in chunks
        ]
    scored = [chunk for turn in zip_longest(*world.gather(own)) for chunk in turn if chunk]  # each had one in turn
    decoded: Counter[str] = Counter()
    for its in world.gather({what: source.report.counts.get(what, 0) for what in RESIZED.values()}):
        decoded.update(its)
    unreadable = sum(failures for failures, _, _ in scored)
    parts = [part for _, part, _ in scored if len(part)]
    if not parts and unreadable:
        raise HistoError(f"none of the {unreadable:,} labelled images in {location} can be read")
    if not parts:
        raise HistoError(
            f"no patch in {location} has a label",
            "--labels CSV (id,label), a *labels*.csv beside them, or folders named 0 and 1",
        )
    digests = [digest for _, _, some in scored for digest in some]
    table = pd.concat(parts, ignore_index=True).assign(slide="", data="", index="")
    table["sha1"] = [digest.hex() for digest in digests]
    skipped = {name: n for name, n in {**source.report.counts, **decoded, "unreadable": unreadable}.items() if n}
    counts = count_known(workspace, [member.checkpoint for member in scorer.members], digests)
    return Scored(name_of(location), "all", table, None, skipped, None, *counts)


def name_of(location: Path) -> str:
    """What an evaluation of a folder or zip is called: by its name, without what a file's name may not hold."""
    location = location.resolve()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", location.name if location.is_dir() else location.stem)
