"""Scored patches as a table: written beside each evaluation, read by whatever looks at single patches."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from histocli.data.parted import OVERLAP
from histocli.errors import HistoError
from histocli.metrics import Clusters, by_patch
from histocli.metrics.groups import per_group
from histocli.workspace import atomic_path

if TYPE_CHECKING:
    import pandas as pd

_NEEDED = ("id", "label", "prob", "data", "index")


def write_scores(path: Path, table: "pd.DataFrame") -> None:
    """Write the columns id, label, prob, slide, data, index, and hospital and overlap group where known, atomically."""
    with atomic_path(path) as temporary:
        table.to_csv(temporary, index=False, lineterminator="\n", float_format="%.9g")


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
        table["index"] = pd.to_numeric(table["index"].where(table["index"] != "")).astype("Int64")
    except FileNotFoundError:
        raise HistoError(f"there is no {path}", again) from None
    except (ValueError, TypeError) as error:
        raise HistoError(f"{path} is not a table of scores: {error}", again) from error
    return table


def clusters_of(table: "pd.DataFrame") -> Clusters:
    """What to draw again as a whole: slides where any is known, else overlap groups, else patches.

    A patch whose slide or group is not known stands for itself.
    """
    for name, column in (("slide", "slide"), ("overlap group", OVERLAP)):
        if column in table.columns and (table[column] != "").any():
            names = table[column].to_numpy(str)
            alone = np.char.add(" ", np.arange(len(names)).astype(str))  # no slide's name begins with a space
            _, codes = np.unique(np.where(names == "", alone, names), return_inverse=True)
            return Clusters(name, codes, int(codes.max()) + 1)
    return by_patch(len(table))


def strata(table: "pd.DataFrame", threshold: float) -> dict[str, list[dict[str, Any]]]:
    """The keys `slides` and `hospitals` of an evaluation: each one's figures; empty where none is known."""
    labels, probs = table["label"].to_numpy(np.int64), table["prob"].to_numpy(np.float64)
    found = {}
    for name in ("slide", "hospital"):
        groups = table[name].to_numpy(str) if name in table.columns else np.full(len(table), "")
        found[f"{name}s"] = per_group(groups, labels, probs, threshold, name)
    return found
