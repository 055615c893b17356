"""The number of patches that are predicted as tumour at each threshold of the report's slider."""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

_STEPS = 1000  # the number of equal steps of the slider between 0 and 1; near the ends there are finer ones
_FINE_STEPS = (1e-4, 1e-5, 1e-6)  # the probabilities of an overconfident network are this near to 0 and to 1


class OperatingPoints(NamedTuple):
    """The number of tumour and of normal patches that are predicted as tumour at each of T thresholds.

    Counts need no scores in the page: they have the same size for a hundred patches and for a million, and they are
    exact at every threshold of the slider. `initial` is where the slider is at first, at the threshold of the
    evaluation.
    """

    thresholds: list[float]
    tp: list[int]
    fp: list[int]
    positives: int
    negatives: int
    initial: int


def count_operating_points(scores: "pd.DataFrame", threshold: float) -> OperatingPoints:
    """Count the scored patches (columns `label` and `prob`) that are predicted as tumour at the slider's thresholds.

    These are the multiples of 0.001, finer steps near 0 and 1, and `threshold`, the evaluation's own.
    """
    fine = [round(i * step, 7) for step in _FINE_STEPS for i in range(1, 10)]
    coarse = {i / _STEPS for i in range(_STEPS + 1)}
    stops = sorted(coarse | {*fine, *(round(1 - x, 7) for x in fine), threshold})
    labels, probs = scores["label"].to_numpy(), scores["prob"].to_numpy(np.float64)
    tumour, normal = np.sort(probs[labels == 1]), np.sort(probs[labels == 0])
    return OperatingPoints(
        thresholds=stops,
        tp=(len(tumour) - np.searchsorted(tumour, stops)).tolist(),
        fp=(len(normal) - np.searchsorted(normal, stops)).tolist(),
        positives=len(tumour),
        negatives=len(normal),
        initial=stops.index(threshold),
    )
