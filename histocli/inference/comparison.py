"""Compare two evaluations of the same patches: the paired difference of their AUCs."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histocli.errors import HistoError
from histocli.inference.score_table import find_clusters, read_scores
from histocli.metrics import compare_aucs, compute_auc
from histocli.reports.comparison import ComparedEvaluation, ComparisonReport
from histocli.reports.evaluation import read_evaluation
from histocli.threads import count_threads

if TYPE_CHECKING:
    import pandas as pd

_KEY = ["data", "id"]


def compare_evaluations(first: Path, second: Path) -> ComparisonReport:
    """Compare two metrics files of `histo eval` patch by patch; their tables of scores are in the same folder.

    Patches are paired by id and must have the same pixels. The intervals are over slides or overlap groups where these
    are known.

    Raises:
        HistoError: a file is missing or is not an evaluation; the two have no patch in common; or they disagree on the
            pixels or the label of a patch.
    """
    paths = (first, second)
    reports = [read_evaluation(path, hint="give two of the metrics/*.json files") for path in paths]
    tables = [read_scores(path.with_name(report.scores)) for path, report in zip(paths, reports, strict=True)]
    paired = _pair(tables[0], tables[1], [report.run for report in reports])
    labels = paired["label"].to_numpy(np.int64)
    probs = [paired[name].to_numpy(np.float64) for name in ("prob", "prob_other")]
    a, b = (
        ComparedEvaluation(
            file=path.name,
            run=report.run,
            data=report.data,
            split=report.split,
            tta=report.tta,
            n_in_training=report.n_in_training,
            n_in_validation=report.n_in_validation,
            auc=compute_auc(labels, scores),
            caveats=report.list_caveats(),
        )
        for path, report, scores in zip(paths, reports, probs, strict=True)
    )
    if a.auc is None:
        raise HistoError("the patches that both scored are of one class", "an AUC needs both classes")
    return ComparisonReport(
        a=a,
        b=b,
        n=len(paired),
        left_out=(len(tables[0]) - len(paired), len(tables[1]) - len(paired)),
        paired=compare_aucs(labels, probs[0], probs[1], find_clusters(paired), threads=count_threads()),
    )


def _pair(first: "pd.DataFrame", second: "pd.DataFrame", runs: list[str]) -> "pd.DataFrame":
    """Return the rows of `first` that are also in `second`, with the scores of `second` as the column `prob_other`."""
    for table, run in zip((first, second), runs, strict=True):
        if table.duplicated(_KEY).any():
            raise HistoError(f"an id occurs twice among the scores of {run}", "evaluate one split of the data set")
    right = second[[*_KEY, "label", "prob", "sha1"]]
    paired = first.merge(right, on=_KEY, suffixes=("", "_other"))
    if paired.empty:
        raise HistoError(
            f"{' and '.join(runs)} have no scored patch in common", "evaluate both on the same --data first"
        )
    pixels, others = paired["sha1"], paired["sha1_other"]
    if count := int(((pixels != others) & (pixels != "") & (others != "")).sum()):
        raise HistoError(
            f"{count:,} ids belong to other pixels in the other evaluation", "evaluate both on the same --data"
        )
    if count := int((paired["label"] != paired["label_other"]).sum()):
        raise HistoError(f"the two evaluations disagree on the label of {count:,} patches", "evaluate both again")
    return paired
