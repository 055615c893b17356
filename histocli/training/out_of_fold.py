"""The out-of-fold evaluation of a cross-validation: each patch is scored by the run that did not train on it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from histocli.data.dataset import find_source_name
from histocli.data.manifest import hash_file, read_manifest
from histocli.inference.checkpoints import TORCH, LoadedCheckpoint
from histocli.inference.run_patches import ManifestCache, find_used_rows, read_pixel_digests
from histocli.inference.score_table import make_validation_table, measure_groups, measure_scores, write_scores
from histocli.models.checkpoint import Checkpoint
from histocli.reports.evaluation import OUT_OF_FOLD, EvaluatedCheckpoint, EvaluationReport, write_evaluation
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


def write_out_of_fold(
    workspace: Workspace, name: str, best: Sequence[Checkpoint], calibrations: Sequence[tuple[float, float]]
) -> None:
    """Write `metrics/<name>-<data>-out-of-fold.json` and its scores, as `histo eval` writes an evaluation.

    Args:
        workspace: where the runs are.
        name: what the folds are called together; it is the name of the run in the evaluation.
        best: the best.pt of each fold.
        calibrations: the temperature and the threshold of each fold; the evaluation uses the mean of the thresholds.
    """
    import pandas as pd

    folds = [
        _read_fold_scores(workspace, checkpoint, temperature)
        for checkpoint, (temperature, _) in zip(best, calibrations, strict=True)
    ]
    tables = [table for table, _ in folds]
    of_training_slides = [count for _, count in folds if count is not None]
    table = pd.concat(tables, ignore_index=True)
    threshold = float(np.mean([threshold for _, threshold in calibrations]))
    measured, before, uncertainty = measure_scores(table, threshold)
    data = str(table["data"].iloc[0])
    path = workspace.metrics_dir / f"{name}-{data}-{OUT_OF_FOLD}.json"
    report = EvaluationReport(
        run=name,
        data=data,
        split=OUT_OF_FOLD,
        checkpoints=tuple(_make_report_entry(workspace, checkpoint) for checkpoint in best),
        tta=False,
        is_calibrated=True,
        packed=data,
        data_source=find_source_name(workspace, data),
        n_in_training=0,
        n_in_validation=len(table),
        n_of_training_slides=sum(of_training_slides) if of_training_slides else None,
        scores=path.with_suffix(".csv").name,
        measured=measured,
        before_calibration=before,
        uncertainty=uncertainty,
        slides=measure_groups("slide", table, threshold),
        hospitals=measure_groups("hospital", table, threshold),
    )
    write_scores(path.with_suffix(".csv"), table.drop(columns="raw"))
    write_evaluation(path, report)


def _read_fold_scores(workspace: Workspace, best: Checkpoint, temperature: float) -> tuple["pd.DataFrame", int | None]:
    """Return the validation patches of a fold with their scores, and how many are of its training slides.

    The number is None if no slides are known.
    """
    manifest = read_manifest(workspace.run_dir(best.run) / "manifest.csv", ("id", "label", "split", "data", "index"))
    used = find_used_rows(workspace, best, manifest)
    table = make_validation_table(best, manifest, temperature)
    digests = read_pixel_digests(workspace, str(table["data"].iloc[0]), table, ManifestCache())
    table["sha1"] = "" if digests is None else digests
    table["fold"] = best.run
    slides: set[str] = set()
    if used is not None and "slide" in used:
        slides = set(used.loc[used["split"] == "train", "slide"]) - {""}
    return table, int(table["slide"].isin(slides).sum()) if slides else None


def _make_report_entry(workspace: Workspace, checkpoint: Checkpoint) -> EvaluatedCheckpoint:
    """Return the facts about the best.pt of a fold that an evaluation has."""
    path = workspace.run_dir(checkpoint.run) / "best.pt"
    return LoadedCheckpoint(path, hash_file(path), checkpoint, TORCH).to_report()
