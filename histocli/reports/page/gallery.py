"""The galleries of the HTML report: the false positives and false negatives of an evaluation, as small JPEG images."""

from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histocli.inference.scored_patches import read_scored
from histocli.reports.evaluation import EvaluationReport
from histocli.reports.plots.sheets import most_confident_errors
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_QUALITY = 88  # of JPEG; a patch then has about 4 kB


@dataclass(frozen=True)
class Picture:
    """A patch: its id, slide, score, and its pixels as a `data:` address."""

    id: str
    slide: str
    prob: float
    source: str


@dataclass(frozen=True)
class Gallery:
    """The most confident errors of one kind: `pictures` of the `total` ones."""

    title: str
    total: int
    pictures: list[Picture]


def error_galleries(
    workspace: Workspace, report: EvaluationReport, scores: "pd.DataFrame", count: int, max_bytes: int
) -> list[Gallery]:
    """Return the false positives and the false negatives at the evaluation's threshold, the most confident first.

    There are at most `count` of each kind, and their pictures have at most half of `max_bytes`.

    Raises:
        HistoError: the patches cannot be read, or are not those that were scored.
    """
    confusion = report.measured.confusion
    kinds = (("False positives", confusion.fp), ("False negatives", confusion.fn))
    errors = most_confident_errors(scores["label"], scores["prob"], report.measured.threshold, count)
    galleries = []
    for rows, (title, total) in zip(errors, kinds, strict=True):
        table = scores.iloc[rows]
        slides = table["slide"].tolist() if "slide" in table.columns else [""] * len(table)
        size, pictures = 0, []
        pixels = read_scored(workspace, report, table)
        for key, slide, prob, patch in zip(table["id"], slides, table["prob"], pixels, strict=True):
            picture = Picture(key, slide, prob, _data_address(patch))
            size += len(picture.source)
            if size > max_bytes / 2:
                break
            pictures.append(picture)
        galleries.append(Gallery(title, total, pictures))
    return galleries


def _data_address(patch: "NDArray[np.uint8]") -> str:
    """Return a patch (96,96,3) as a `data:` address of a JPEG image."""
    import cv2

    pixels = cv2.cvtColor(patch, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
    return f"data:image/jpeg;base64,{b64encode(encoded.tobytes()).decode()}"
