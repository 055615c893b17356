"""Score labelled patches, packed or in a folder, for `histo eval`."""

import math
import re
from collections.abc import Iterator
from contextlib import closing
from dataclasses import fields
from hashlib import sha1
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocli.compute.ddp import Ranks
from histocli.config import EvalConfig
from histocli.data.dataset import Subset, open_subset, select_labelled
from histocli.data.groups import OVERLAP
from histocli.data.likeness import choose_stride
from histocli.data.loaders import PatchLoader
from histocli.data.overlap_cache import read_overlaps
from histocli.data.overlaps import group_overlaps
from histocli.enums import SplitName
from histocli.errors import HistoError, UsageError
from histocli.images.remarks import Remarks
from histocli.inference.checkpoints import CheckpointPredictor
from histocli.inference.leakage import (
    KnownCounts,
    ManifestCache,
    count_known,
    find_training_manifest,
    read_pixel_digests,
)
from histocli.inference.predictor import ScoredChunk
from histocli.inference.score_table import PATCH_COLUMNS
from histocli.listeners import CommandListener
from histocli.models import packaged
from histocli.models.checkpoint import Checkpoint
from histocli.patch import Patch
from histocli.reports.likeness import Likeness
from histocli.sources.folder import WITHOUT_SLIDE, FolderOptions, FolderSource
from histocli.text import format_count
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


class ScoredPatches(NamedTuple):
    """Scored patches and their origin.

    Attributes:
        data: the name of the data set or folder.
        split: the split of its patches that was scored.
        table: the columns id, label, prob, raw (the uncalibrated probability), slide, data, index, sha1, and hospital
            and overlap_group if they are known.
        manifest_sha256: the SHA-256 of the manifest; None for a folder.
        skipped: how many patches were not scored, by reason.
        changed: how many images were changed or guessed, by what was done.
        packed: the packed data set that holds the pixels; None for a folder.
        known: the number of patches that the checkpoints were trained on, and validated on.
        likeness: their likeness to the training patches; None for a run's own validation patches.
    """

    data: str
    split: str
    table: "pd.DataFrame"
    manifest_sha256: str | None
    skipped: dict[str, int]
    changed: dict[str, int]
    packed: str | None
    known: KnownCounts
    likeness: Likeness | None


def score_packed(
    workspace: Workspace,
    predictor: CheckpointPredictor,
    config: EvalConfig,
    listener: CommandListener,
    ranks: Ranks,
) -> ScoredPatches:
    """Score a packed data set by name, or the validation split of the checkpoints' own runs."""
    manifests = ManifestCache()
    checkpoints = [member.checkpoint for member in predictor.members]
    path = (
        workspace.manifest_path(config.data)
        if config.data
        else _require_training_manifest(workspace, checkpoints, manifests)
    )
    ranks.check_equal(ranks.on_all_ranks(lambda: manifests.sha256(path)), "manifests")
    split = config.split or (SplitName.ALL if config.data else SplitName.VAL)
    whole = open_subset(workspace, path, manifests.read)
    split = split.choose_existing(set(whole.frame["split"]))
    subset = select_labelled(whole, split)
    probs, raw = _score_subset(predictor, subset, config.batch_size, listener, ranks)
    table = subset.frame[[name for name in PATCH_COLUMNS if name in subset.frame.columns]].copy()
    table.insert(2, "prob", probs)
    table.insert(3, "raw", raw)
    _add_overlap_groups(workspace, subset, table)
    digests = read_pixel_digests(workspace, subset.data, subset.frame, manifests)
    table["sha1"] = "" if digests is None else [digest.hex() for digest in digests]
    return ScoredPatches(
        data=config.data or subset.data,
        split=split.value,
        table=table,
        manifest_sha256=manifests.sha256(path),
        skipped={},
        changed={},
        packed=subset.data,
        known=count_known(workspace, checkpoints, digests, manifests),
        likeness=_measure_likeness(predictor, subset) if config.data else None,
    )


def _score_subset(
    predictor: CheckpointPredictor,
    subset: Subset,
    batch_size: int,
    listener: CommandListener,
    ranks: Ranks,
) -> np.ndarray:
    """Return the probabilities and the uncalibrated probabilities of packed patches: (2,N)."""
    device = predictor.compute.device
    batches = PatchLoader(subset.store, subset.rows, subset.labels, batch_size, device, is_resident=False, ranks=ranks)
    listener.on_total(len(batches))
    scores = predictor.predict_packed(batches, listener.on_progress)
    return np.stack([scores.probs, scores.raw])


def _measure_likeness(predictor: CheckpointPredictor, subset: Subset) -> Likeness:
    """Compare a sample of packed patches with the training patches; only the sample is read."""
    rows = subset.rows[:: choose_stride(len(subset.rows))]
    return predictor.make_likeness_meter(len(rows)).measure(np.asarray(subset.store[rows]))


def _add_overlap_groups(workspace: Workspace, subset: Subset, table: "pd.DataFrame") -> None:
    """Add the overlap group of each patch, if slides are unknown and overlaps have been searched."""
    has_unknown_slides = "slide" not in table.columns or (table["slide"] == "").any()
    if not has_unknown_slides or OVERLAP in table.columns or not workspace.dataset_path(subset.data).is_file():
        return
    pairs = read_overlaps(workspace, subset.data)
    if pairs is not None:
        groups = group_overlaps(pairs, int(subset.store.shape[0]))[subset.rows]
        is_single = np.bincount(groups)[groups] == 1
        table[OVERLAP] = np.where(is_single, "", groups.astype(str))


def _require_training_manifest(workspace: Workspace, checkpoints: list[Checkpoint], manifests: ManifestCache) -> Path:
    """Return the manifest that the checkpoints were trained with.

    Raises:
        HistoError: the checkpoints have different manifests, or the manifest is not in the workspace.
    """
    if len({checkpoint.manifest_sha256 for checkpoint in checkpoints}) > 1:
        raise HistoError(
            "these checkpoints were validated on different patches",
            "choose what to evaluate them on: histo eval --data NAME or --data FOLDER",
        )
    first = checkpoints[0]
    if path := find_training_manifest(workspace, checkpoints, manifests):
        return path
    if first.run == packaged.NAME:
        no_run = "" if workspace.list_runs() else "there is no run in this workspace, and "
        raise HistoError(
            f"{no_run}the patches that {packaged.NAME} was trained with do not come with histo",
            f"histo train makes a run; histo eval --data NAME or --data FOLDER evaluates {packaged.NAME}",
        )
    raise HistoError(
        f"the manifest that run {first.run} was trained with is not in this workspace",
        "choose what to evaluate on: histo eval --data NAME or --data FOLDER",
    )


class _FolderChunk(NamedTuple):
    """Scored patches of a folder: their table, the SHA-1 of their pixels, unreadable files, remarks, and appearance."""

    table: "pd.DataFrame"
    digests: list[bytes]
    unreadable: int
    remarks: Remarks
    likeness: Likeness


def score_folder(
    workspace: Workspace,
    predictor: CheckpointPredictor,
    config: EvalConfig,
    listener: CommandListener,
    ranks: Ranks,
) -> ScoredPatches:
    """Score a labelled folder or archive without packing it; the listener gets notes on what was found in it.

    Raises:
        HistoError: as `FolderSource`; or no labelled patch is in this split, or none can be read.
    """
    location = Path(config.data or "")
    source = FolderSource(_make_folder_options(config))
    split = _find_split(source, config, location)
    if ranks.is_rank0:
        for note in source.report.notes:
            listener.on_note(note)
    labelled = _iterate_labelled(source, split)
    size = predictor.choose_chunk_size(config.batch_size)
    share = (patch for i, patch in enumerate(labelled) if i // size % ranks.size == ranks.rank)
    total = source.count_labelled(split)
    listener.on_total(math.ceil(total / ranks.size))
    meter = predictor.make_likeness_meter(total)
    with closing(predictor.predict_patches(share, size, listener)) as chunks:
        scored = [_make_folder_chunk(chunk, meter.measure(chunk.pixels)) for chunk in chunks]
    # The processes take the chunks in turns, so this is the order of the files.
    gathered = [chunk for turn in zip_longest(*ranks.all_gather(scored)) for chunk in turn if chunk]
    table = _join_tables(gathered, location)
    digests = [digest for chunk in gathered for digest in chunk.digests]
    table["sha1"] = [digest.hex() for digest in digests]
    remarks = Remarks()
    for chunk in gathered:
        remarks.merge(chunk.remarks)
    unreadable = sum(chunk.unreadable for chunk in gathered)
    counts = {**source.report.counts, "unreadable": unreadable}
    if (without_slide := counts.pop(WITHOUT_SLIDE, 0)) and ranks.is_rank0:  # they are not skipped
        listener.on_note(
            f"{format_count(without_slide, 'image')} without a known slide: if labelled, they are measured"
        )
    checkpoints = [member.checkpoint for member in predictor.members]
    return ScoredPatches(
        data=make_data_name(location),
        split=split.value,
        table=table,
        manifest_sha256=None,
        skipped={reason: count for reason, count in counts.items() if count},
        changed=remarks.count_images(),
        packed=None,
        known=count_known(workspace, checkpoints, digests, ManifestCache()),
        likeness=sum((chunk.likeness for chunk in gathered), Likeness()),
    )


def _iterate_labelled(source: FolderSource, split: SplitName) -> Iterator[Patch]:
    """Yield the patches of a split that have a label."""
    for patch in source.read_patches():
        if patch.label is not None and (split is SplitName.ALL or patch.split == split.value):
            yield patch


def _find_split(source: FolderSource, config: EvalConfig, location: Path) -> SplitName:
    """Return the split to score; raise `UsageError` if the folder does not have it."""
    split = (config.split or SplitName.ALL).choose_existing(source.split_names)
    if split is not SplitName.ALL and split.value not in source.split_names:
        raise UsageError(
            f"--split {config.split}: {location} has no folder of this split",
            f"its splits: {', '.join(source.split_names) or 'none'}",
        )
    return split


def _join_tables(chunks: "list[_FolderChunk]", location: Path) -> "pd.DataFrame":
    """Return the tables of all chunks as one; raise `HistoError` if none of them has a row."""
    import pandas as pd

    tables = [chunk.table for chunk in chunks if len(chunk.table)]
    unreadable = sum(chunk.unreadable for chunk in chunks)
    if not tables and unreadable:
        raise HistoError(f"none of the {unreadable:,} labelled images in {location} can be read")
    if not tables:
        raise HistoError(
            f"no patch in {location} has a label",
            "--labels CSV (id,label), a *labels*.csv next to them, or folders named 0 and 1; --classes names others",
        )
    table = pd.concat(tables, ignore_index=True).assign(data="", index="")
    return table if table["hospital"].any() else table.drop(columns="hospital")


def _make_folder_options(config: EvalConfig) -> FolderOptions:
    """Return the options of `histo eval` that say how to read a folder, as those of `FolderSource`."""
    names = {field.name for field in fields(FolderOptions)} - {"locations"}
    return FolderOptions(locations=(config.data or "",), **{name: getattr(config, name) for name in names})


def _make_folder_chunk(chunk: ScoredChunk, likeness: Likeness) -> _FolderChunk:
    """Turn the scores of a chunk into a table, without its pixels."""
    import pandas as pd

    table = pd.DataFrame(
        {
            "id": [patch.id for patch in chunk.patches],
            "label": [patch.label for patch in chunk.patches],
            "prob": chunk.scores.probs,
            "raw": chunk.scores.raw,
            "slide": [patch.slide for patch in chunk.patches],
            "hospital": [patch.hospital for patch in chunk.patches],
        }
    )
    digests = [sha1(pixels.data, usedforsecurity=False).digest() for pixels in chunk.pixels]
    return _FolderChunk(table, digests, len(chunk.failures), chunk.remarks, likeness)


def make_data_name(location: Path) -> str:
    """Return the name of a folder or zip, without the characters that a file's name may not have."""
    location = location.resolve()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", location.name if location.is_dir() else location.stem)
