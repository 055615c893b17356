"""Score labelled patches of packed data sets, for `histo eval`; those in folders are in `labelled_folder.py`."""

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocli.compute.ddp import Ranks
from histocli.config import EvalConfig
from histocli.data.dataset import Subset, find_source_name, open_subset, select_labelled
from histocli.data.groups import OVERLAP
from histocli.data.likeness import choose_stride
from histocli.data.loaders import PatchLoader
from histocli.data.overlap_cache import find_overlap_groups
from histocli.enums import SplitName
from histocli.errors import HistoError
from histocli.inference.checkpoints import CheckpointPredictor
from histocli.inference.run_patches import (
    ManifestCache,
    RunPatchCounts,
    count_run_patches,
    find_training_manifest,
    list_slides,
    read_pixel_digests,
)
from histocli.inference.score_table import PATCH_COLUMNS
from histocli.listeners import CommandListener
from histocli.models import packaged
from histocli.models.checkpoint import Checkpoint
from histocli.reports.likeness import Likeness
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


class ScoredPatches(NamedTuple):
    """Scored patches and their origin.

    Attributes:
        data: the name of the data set or folder.
        split: the split of its patches that was scored, or all.
        table: the columns id, label, prob, raw (the uncalibrated probability), slide, data, index, sha1, and hospital
            and overlap_group if they are known.
        skipped: how many patches were not scored, by reason.
        changed: how many images were changed or guessed, by what was done.
        run_patches: the number of patches that the runs of the checkpoints used, and of others from the same slides.
        likeness: their likeness to the training patches; None for a run's own validation patches.
        splits: the splits of the scored patches; empty for a folder, as all that follow.
        manifest_sha256: the SHA-256 of the manifest.
        packed: the packed data set that holds the pixels.
        data_source: the source of the packed data set.
    """

    data: str
    split: str
    table: "pd.DataFrame"
    skipped: dict[str, int]
    changed: dict[str, int]
    run_patches: RunPatchCounts
    likeness: Likeness | None
    splits: tuple[str, ...] = ()
    manifest_sha256: str | None = None
    packed: str | None = None
    data_source: str = ""


def score_packed(
    workspace: Workspace,
    predictor: CheckpointPredictor,
    config: EvalConfig,
    listener: CommandListener,
    ranks: Ranks,
) -> ScoredPatches:
    """Score a packed data set by name, or the validation split of the checkpoints' own runs."""
    manifests = ManifestCache()
    path = (
        workspace.manifest_path(config.data)
        if config.data
        else _require_training_manifest(workspace, predictor.checkpoints, manifests)
    )
    ranks.check_equal(ranks.on_all_ranks(lambda: manifests.sha256(path)), "manifests")
    split = config.split or (SplitName.ALL if config.data else SplitName.VAL)
    whole = open_subset(workspace, path, manifests.read)
    split = split.choose_existing(set(whole.frame["split"]))
    subset = select_labelled(whole, split)
    loader = PatchLoader(
        subset.store,
        subset.rows,
        subset.labels,
        config.batch_size,
        predictor.compute.device,
        is_resident=False,
        ranks=ranks,
    )
    listener.on_total(len(loader))
    scores = predictor.predict_packed(loader, listener.on_progress)
    table = subset.frame[[name for name in PATCH_COLUMNS if name in subset.frame.columns]].copy()
    table.insert(2, "prob", scores.probs)
    table.insert(3, "raw", scores.raw)
    if (groups := find_overlap_groups(workspace, subset)) is not None:
        table[OVERLAP] = groups
    digests = read_pixel_digests(workspace, subset.data, subset.frame, manifests)
    table["sha1"] = "" if digests is None else digests
    return ScoredPatches(
        data=config.data or subset.data,
        split=split.value,
        splits=tuple(sorted(set(subset.frame["split"]))),
        table=table,
        manifest_sha256=manifests.sha256(path),
        skipped={},
        changed={},
        packed=subset.data,
        data_source=find_source_name(workspace, subset.data),
        run_patches=count_run_patches(
            workspace,
            predictor.checkpoints,
            digests,
            list_slides(workspace, subset.data, subset.frame),
            manifests,
        ),
        likeness=_measure_likeness(predictor, subset) if config.data else None,
    )


def _measure_likeness(predictor: CheckpointPredictor, subset: Subset) -> Likeness:
    """Compare a sample of packed patches with the training patches; only the sample is read."""
    rows = subset.rows[:: choose_stride(len(subset.rows))]
    return predictor.make_likeness_meter(len(rows)).measure(np.asarray(subset.store[rows]))


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
