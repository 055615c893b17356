"""The figures of each slide, or of each hospital, on its own."""

from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.metrics.curves import Floats, Ints
from histocli.metrics.weighted import NAMES, Weighted

_SHOWN = ("auc", "accuracy", "sensitivity", "specificity", "brier", "log_loss")


def per_group(
    groups: npt.NDArray[np.str_], labels: Ints, probs: Floats, threshold: float, name: str
) -> list[dict[str, Any]]:
    """Measure each group of (N,) patches, by name; patches whose group is "" are left out.

    Each row holds its name under the key `name`, `n`, `positives`, and some figures, None where undefined.
    """
    order = np.argsort(groups, kind="stable")
    names, starts = np.unique(groups[order], return_index=True)
    rows = []
    for group, part in zip(names.tolist(), np.split(order, starts[1:]), strict=True):
        if group:
            figures = Weighted(labels[part], probs[part], threshold).figures(np.ones((1, len(part))))[:, 0].tolist()
            values = {key: None if np.isnan(value) else value for key, value in zip(NAMES, figures, strict=True)}
            shown = {key: values[key] for key in _SHOWN}
            rows.append({name: group, "n": len(part), "positives": int(labels[part].sum()), **shown})
    return rows
