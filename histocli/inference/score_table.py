"""The table of scored patches: the CSV file that `histo eval` writes next to each report."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from histocli.data.groups import OVERLAP, find_connected_components
from histocli.data.manifest import UNLABELLED, open_row_writer
from histocli.errors import HistoError, describe_value, read_first_line
from histocli.files.tables import read_columns
from histocli.metrics import Clusters, Measurement, Uncertainty, estimate_uncertainty, evaluate, make_patch_clusters
from histocli.metrics.calibration import compute_probabilities
from histocli.metrics.groups import GroupMetrics, compute_group_metrics
from histocli.metrics.registry import METRICS
from histocli.models.checkpoint import Checkpoint
from histocli.threads import count_threads

if TYPE_CHECKING:
    import pandas as pd

PATCH_COLUMNS = ("id", "label", "slide", "hospital", OVERLAP, "data", "index")  # of the manifest, where it has them
_REQUIRED = ("id", "label", "prob", "data", "index", "sha1")


def write_scores(path: Path, table: "pd.DataFrame") -> None:
    """Write a table of scores with all its columns.

    Probabilities are written with all their digits, so that values near 1 stay different.
    """
    columns = [table[name].astype(object).where(table[name].notna(), "").tolist() for name in table.columns]
    with open_row_writer(path, tuple(table.columns)) as writer:
        writer.writerows(zip(*columns, strict=True))


def read_scores(path: Path, hint: str = "histo eval writes it again") -> "pd.DataFrame":
    """Read an evaluation's scores: `label`, `prob` and `index` as numbers, other columns as text.

    `hint` is that of the errors.

    Raises:
        HistoError: the file is missing, or is not such a table.
    """
    import pandas as pd

    try:
        if path.exists() and not path.is_file():  # reading a pipe could block for ever
            raise HistoError(f"{path} is not a file", hint)
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = pd.DataFrame(read_columns(file, str(path)), dtype=str)
        if missing := set(_REQUIRED) - set(table.columns):
            raise HistoError(f"{path} has no column {', '.join(sorted(missing))}", hint)
        if table.empty:
            raise HistoError(f"{path} has no row of scores", hint)
        table = table.astype({"label": "int64", "prob": "float64"})
        table["index"] = pd.to_numeric(table["index"].where(table["index"] != "")).astype("Int64")
    except FileNotFoundError:
        raise HistoError(f"there is no file {path}", hint) from None
    except (ValueError, TypeError, OverflowError) as error:
        raise HistoError(f"{path} is not a table of scores: {read_first_line(error)}", hint) from error
    is_wrong = ~(table["label"].isin((0, 1)) & table["prob"].between(0, 1))
    if is_wrong.any():
        key, label, prob = table.loc[is_wrong, ["id", "label", "prob"]].to_numpy()[0]
        raise HistoError(
            f"{path}: {describe_value(key)} has the label {label} and the prob {prob:g}: they are not possible",
            hint,
        )
    return table


def make_validation_table(best: Checkpoint, manifest: "pd.DataFrame", temperature: float) -> "pd.DataFrame":
    """Return the validation patches of a run's manifest with their scores at a temperature, which its best.pt has."""
    rows = manifest[(manifest["split"] == "val") & (manifest["label"] != UNLABELLED)]
    labels, log_odds = best.get_validation_scores()
    table = rows[[name for name in PATCH_COLUMNS if name in rows.columns]].assign(label=labels)
    table.insert(2, "prob", compute_probabilities(log_odds, temperature))
    table.insert(3, "raw", compute_probabilities(log_odds))
    return table


def find_clusters(table: "pd.DataFrame") -> Clusters:
    """Return the groups to resample as a whole: slides, else patches of the same tissue, else single patches."""
    by, codes = find_connected_components(table)
    return make_patch_clusters(len(table)) if by == "patch" else Clusters(by, codes, int(codes.max()) + 1)


def measure_scores(table: "pd.DataFrame", threshold: float) -> tuple[Measurement, dict[str, float | None], Uncertainty]:
    """Return the metrics, the calibration metrics before calibration, and the intervals."""
    labels, probs = table["label"].to_numpy(), table["prob"].to_numpy()
    measured = evaluate(labels, probs, threshold)
    uncalibrated = evaluate(labels, table["raw"].to_numpy(), threshold).metrics
    intervals = estimate_uncertainty(
        labels, probs, measured.metrics, threshold, find_clusters(table), threads=count_threads()
    )
    changed = {metric.name: uncalibrated[metric.name] for metric in METRICS if metric.is_changed_by_calibration}
    return measured, changed, intervals


def measure_groups(column: str, table: "pd.DataFrame", threshold: float) -> list[GroupMetrics]:
    """Return the metrics of each slide or hospital (`column`) of scored patches; none if it is not known."""
    if column not in table.columns:
        return []
    labels, probs = table["label"].to_numpy(np.int64), table["prob"].to_numpy(np.float64)
    return compute_group_metrics(table[column].to_numpy(str), labels, probs, threshold)
