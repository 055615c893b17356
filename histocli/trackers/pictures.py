"""The pictures that trackers get at the end of a training: curves of the best epoch on the validation patches."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from histocli.reports.evaluation import EvaluationReport

_SQUARE, _TALL = 3.8, 4.2  # heights in inches, as histo plot draws them


def draw_pictures(folder: Path, report: EvaluationReport) -> dict[str, Path]:
    """Write the plots of an evaluation as PNG files into `folder`; return them by the names `best/roc`, ...

    A curve is not drawn if it is undefined because the patches have one class.
    """
    from histocli.plots.evaluation import draw_calibration, draw_confusion, draw_pr, draw_roc
    from histocli.plots.style import COLUMN, PlotStyle, save

    drawings: dict[str, tuple[float, Callable[..., None]]]
    drawings = {"calibration": (_TALL, draw_calibration), "confusion": (_SQUARE, draw_confusion)}
    if report.measured.curves.roc.fpr:
        drawings |= {"roc": (_SQUARE, draw_roc), "precision_recall": (_SQUARE, draw_pr)}
    return {
        f"best/{name}": save(folder / f"{name}.png", PlotStyle(), COLUMN, height, partial(draw, report=report))
        for name, (height, draw) in drawings.items()
    }
