"""The evaluation of a run's best epoch on its validation patches; best.pt has their scores."""

from pathlib import Path
from typing import TYPE_CHECKING

from histocli.data.manifest import hash_file
from histocli.inference.checkpoints import TORCH, LoadedCheckpoint
from histocli.inference.score_table import make_validation_table, measure_scores
from histocli.models.checkpoint import Checkpoint
from histocli.reports.evaluation import EvaluationReport

if TYPE_CHECKING:
    import pandas as pd


def evaluate_best(path: Path, checkpoint: Checkpoint, manifest: "pd.DataFrame", data: str) -> EvaluationReport:
    """Return the evaluation of a best.pt on the validation patches, calibrated and at the checkpoint's threshold.

    Args:
        path: the best.pt of a run.
        checkpoint: its content.
        manifest: the manifest of the run.
        data: the data set that the run was trained on.
    """
    table = make_validation_table(checkpoint, manifest, checkpoint.temperature)
    measured, before, uncertainty = measure_scores(table, checkpoint.threshold)
    return EvaluationReport(
        run=checkpoint.run,
        data=data,
        split="val",
        checkpoints=(LoadedCheckpoint(path, hash_file(path), checkpoint, TORCH).to_report(),),
        tta=False,
        is_calibrated=True,
        scores="none",
        measured=measured,
        before_calibration=before,
        uncertainty=uncertainty,
    )
