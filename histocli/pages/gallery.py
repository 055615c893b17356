"""The galleries of the HTML report: the false positives and false negatives of an evaluation, as small JPEG images."""

from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from histocli.errors import ExplanationError
from histocli.inference.scored_patches import read_scored_patches
from histocli.plots.explanations import draw_maps
from histocli.plots.sheets import select_confident_errors
from histocli.reports.evaluation import EvaluationReport
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_QUALITY = 88  # the quality of a patch as JPEG, which then has about 4 kB
_MAP_QUALITY = 70  # the quality of an explanation as JPEG; it is smoother than a patch
_PAIR_FACTOR = 2  # a patch and its explanation together have at most twice the bytes of the patch


@dataclass(frozen=True)
class Picture:
    """A patch: its id, slide and score, its pixels as a `data:` address, and its explanation as another one, or ""."""

    id: str
    slide: str
    prob: float
    image: str
    explanation: str = ""


@dataclass(frozen=True)
class Gallery:
    """The most confident errors of one kind: `pictures` of the `total` ones.

    `not_explained` is the reason why they have no explanation, or "".
    """

    title: str
    total: int
    pictures: list[Picture]
    not_explained: str = ""


def make_error_galleries(
    workspace: Workspace, report: EvaluationReport, scores: "pd.DataFrame", count: int, max_bytes: int
) -> list[Gallery]:
    """Return the false positives and the false negatives at the evaluation's threshold, the most confident first.

    There are at most `count` of each kind, and their pictures have at most half of `max_bytes`.

    Raises:
        HistoError: the patches cannot be read, or are not those that were scored.
    """
    confusion = report.measured.confusion
    kinds = (("False positives", confusion.fp), ("False negatives", confusion.fn))
    errors = select_confident_errors(scores["label"], scores["prob"], report.measured.threshold, count)
    galleries = []
    for rows, (title, total) in zip(errors, kinds, strict=True):
        table = scores.iloc[rows]
        slides = table["slide"].tolist() if "slide" in table.columns else [""] * len(table)
        pixels = read_scored_patches(workspace, report, table)
        images = [_make_data_address(patch, _QUALITY) for patch in pixels]
        sizes = _PAIR_FACTOR * np.cumsum([len(image) for image in images])
        shown = int(np.searchsorted(sizes, max_bytes / 2, side="right"))
        explanations, reason = _explain(workspace, report, pixels[:shown])
        parts = zip(table["id"][:shown], slides, table["prob"], images, explanations, strict=False)
        galleries.append(Gallery(title, total, [Picture(*part) for part in parts], reason))
    return galleries


def _explain(workspace: Workspace, report: EvaluationReport, pixels: "NDArray[np.uint8]") -> tuple[list[str], str]:
    """Return the explanation of each patch as a `data:` address, or empty texts and the reason."""
    from histocli.inference.explain_scored import explain_scored  # imports torch

    try:
        pictures = draw_maps(pixels, explain_scored(workspace, report, pixels))
    except ExplanationError as error:
        return [""] * len(pixels), str(error)
    return [_make_data_address(picture, _MAP_QUALITY) for picture in pictures], ""


def _make_data_address(patch: "NDArray[np.uint8]", quality: int) -> str:
    """Return a picture (96,96,3) as a `data:` address of a JPEG image."""
    import cv2

    pixels = cv2.cvtColor(patch, cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return f"data:image/jpeg;base64,{b64encode(encoded.tobytes()).decode()}"
