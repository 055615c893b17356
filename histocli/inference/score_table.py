"""Scored patches as a table: written beside each evaluation, read by whatever looks at single patches."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histocli.data.groups import hanging_together
from histocli.errors import HistoError
from histocli.metrics import Clusters, by_patch
from histocli.metrics.groups import per_group
from histocli.workspace import atomic_path

if TYPE_CHECKING:
    import pandas as pd

_NEEDED = ("id", "label", "prob", "data", "index")


def write_scores(path: Path, table: "pd.DataFrame") -> None:
    """Write the columns id, label, prob, slide, data, index, sha1, and hospital and overlap group where known.

    Probabilities are written in full: what is close to 1 stays apart.
    """
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n")


def read_scores(path: Path) -> "pd.DataFrame":
    """Read an evaluation's scores: `label`, `prob` and `index` as numbers, all else as text.

    Raises:
        HistoError: the file is not there, or not such a table.
    """
    import pandas as pd

    again = "histo eval writes it again"
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False)
        if absent := set(_NEEDED) - set(table.columns):
            raise HistoError(f"{path} has no column {', '.join(sorted(absent))}", again)
        table = table.astype({"label": "int64", "prob": "float64"})
        if "sha1" not in table.columns:  # written by an earlier version
            table["sha1"] = ""
        table["index"] = pd.to_numeric(table["index"].where(table["index"] != "")).astype("Int64")
    except FileNotFoundError:
        raise HistoError(f"there is no {path}", again) from None
    except (ValueError, TypeError) as error:
        raise HistoError(f"{path} is not a table of scores: {error}", again) from error
    return table


def clusters_of(table: "pd.DataFrame") -> Clusters:
    """What to draw again as a whole: slides, else what shows the same tissue, else patches."""
    by, codes = hanging_together(table)
    return by_patch(len(table)) if by == "patch" else Clusters(by, codes, int(codes.max()) + 1)


def strata(table: "pd.DataFrame", threshold: float) -> dict[str, list[dict[str, Any]]]:
    """The keys `slides` and `hospitals` of an evaluation: each one's figures; empty where none is known."""
    labels, probs = table["label"].to_numpy(np.int64), table["prob"].to_numpy(np.float64)
    found = {}
    for name in ("slide", "hospital"):
        groups = table[name].to_numpy(str) if name in table.columns else np.full(len(table), "")
        found[f"{name}s"] = per_group(groups, labels, probs, threshold, name)
    return found
