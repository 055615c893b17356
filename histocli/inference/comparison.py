"""Two evaluations of the same patches against each other: the paired difference of their AUCs."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histocli.compute.device import thread_count
from histocli.errors import HistoError
from histocli.inference.score_table import clusters_of, read_scores
from histocli.metrics import auc, paired_difference
from histocli.workspace import read_json

if TYPE_CHECKING:
    import pandas as pd

_KEY = ["data", "id"]


def compare(one: Path, other: Path) -> dict[str, Any]:
    """Compare two metric files of `histo eval` whose scores lie beside them, patch by patch.

    Patches are paired by id, and must be the same in their pixels.

    The result holds `a` and `b` with the AUC of each on the patches that both scored, their `difference` a - b, and its
    interval and p-value by bootstrap and by DeLong, over slides or overlap groups where known.

    Raises:
        HistoError: a file is missing or no evaluation, no patch is in both, or they disagree on pixels or a label.
    """
    reports = [_read(path) for path in (one, other)]
    tables = [read_scores(path.with_name(made["scores"])) for path, made in zip((one, other), reports, strict=True)]
    paired = _pair(tables[0], tables[1], [made["run"] for made in reports])
    labels = paired["label"].to_numpy(np.int64)
    probs = [paired[name].to_numpy(np.float64) for name in ("prob", "prob_other")]
    sides = [
        {
            "file": path.name,
            "run": made["run"],
            "data": made["data"],
            "split": made["split"],
            "tta": made["tta"],
            "trained_on": made["trained_on"],
            "chosen_on": made["chosen_on"],
            "auc": auc(labels, scores),
        }
        for path, made, scores in zip((one, other), reports, probs, strict=True)
    ]
    if sides[0]["auc"] is None:
        raise HistoError("the patches that both scored are of one class", "an AUC needs both classes")
    left_out = [len(table) - len(paired) for table in tables]
    found = paired_difference(labels, probs[0], probs[1], clusters_of(paired), threads=thread_count())
    return {"a": sides[0], "b": sides[1], "n": len(paired), "left_out": left_out, **found}


def _read(path: Path) -> dict[str, Any]:
    made = read_json(path)
    if (
        not isinstance(made, dict)
        or not {"run", "data", "split", "tta", "trained_on", "chosen_on", "scores"} <= made.keys()
    ):
        raise HistoError(f"{path} is not what histo eval writes", "give two of the metrics/*.json files")
    return made


def _pair(one: "pd.DataFrame", other: "pd.DataFrame", names: list[str]) -> "pd.DataFrame":
    """The rows of `one` that `other` has too, with its scores as `prob_other`."""
    for table, name in zip((one, other), names, strict=True):
        if table.duplicated(_KEY).any():
            raise HistoError(f"an id stands twice among the scores of {name}", "evaluate one split of the data set")
    right = other[[*_KEY, "label", "prob", "sha1"]]
    paired = one.merge(right, on=_KEY, suffixes=("", "_other"), validate="one_to_one")
    if paired.empty:
        raise HistoError(
            f"{' and '.join(names)} have no scored patch in common", "evaluate both on the same --data first"
        )
    pixels = paired["sha1"], paired["sha1_other"]
    if count := int(((pixels[0] != pixels[1]) & (pixels[0] != "") & (pixels[1] != "")).sum()):
        raise HistoError(f"{count:,} ids name other pixels in the other evaluation", "evaluate both on the same --data")
    if (paired["label"] != paired["label_other"]).any():
        count = int((paired["label"] != paired["label_other"]).sum())
        raise HistoError(f"the two evaluations disagree on the label of {count:,} patches", "evaluate both again")
    return paired
