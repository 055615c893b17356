"""What the HTML report shows, as dataclasses, and the template that writes them as one page."""

import re
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any

from histocli import __version__
from histocli.data.dataset import Dataset
from histocli.metrics.groups import sort_by_accuracy
from histocli.metrics.registry import find_metric_title
from histocli.pages import charts
from histocli.pages.charts import Chart
from histocli.pages.gallery import Gallery
from histocli.pages.maps import MapGallery
from histocli.pages.operating import OperatingPoints
from histocli.pages.slides import SlideSection
from histocli.reports.audit import SPLIT_SENTENCES
from histocli.reports.balance import SplitCounts
from histocli.reports.comparison import ComparisonReport
from histocli.reports.evaluation import EvaluationReport, format_interval
from histocli.reports.repeats import RepeatsReport
from histocli.reports.run import RunRecord
from histocli.text import escape_control_characters

if TYPE_CHECKING:
    from jinja2 import Environment

_MAX_ROWS = 300  # a table of slides has at most this many rows, so that the page is small enough for an e-mail


@dataclass(frozen=True)
class EvaluationSection:
    """One evaluation.

    `points` is None without the table of scores; `problems` say why something is not shown.
    """

    report: EvaluationReport
    file: str
    charts: list[Chart]
    points: OperatingPoints | None
    galleries: list[Gallery]
    maps: MapGallery
    problems: list[str]


@dataclass(frozen=True)
class RunSection:
    """A training run: its record, or None if its folder is not in the workspace, its data and its evaluations.

    `weights_note` is what a reader must know of the weights that training started from, or "".
    `repeats` are the folds or seeds that it is one of, or that have this common name.
    """

    run: str
    record: RunRecord | None
    charts: list[Chart]
    splits: dict[str, SplitCounts]
    split_by: str
    dataset: Dataset | None
    repeats: list[RepeatsReport]
    evaluations: list[EvaluationSection]
    weights_note: str = ""


@dataclass(frozen=True)
class ComparisonSection:
    """Several runs that were evaluated on the same data: their evaluations, and the paired differences of their AUCs.

    `problems` say why a difference is not shown, and that the runs scored different patches.
    """

    title: str
    reports: list[EvaluationReport]
    chart: Chart | None
    differences: list[ComparisonReport]
    problems: list[str] = field(default_factory=list)


def render(
    runs: list[RunSection], comparisons: list[ComparisonSection], slides: SlideSection | None, problems: list[str]
) -> str:
    """Return the page: HTML that needs no other file and no network; `problems` say what is missing and why."""
    template = _make_environment().get_template("report.html.j2")
    return template.render(
        runs=runs, comparisons=comparisons, slides=slides, problems=problems, sizes=charts, version=__version__
    )


@cache
def _make_environment() -> "Environment":
    """Return a Jinja environment that escapes HTML in all values, and shows control characters as escape sequences."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("histocli.pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_make_printable,
    )
    environment.filters |= {
        "number": lambda value: "undefined" if value is None else f"{value:.4f}",
        "known": lambda count: "not known" if count is None else f"{count:,}",
        "metric": find_metric_title,
        "interval": lambda uncertainty, name: format_interval(uncertainty, name) or "-",
        "file_name": lambda path: re.split(r"[/\\]", path.rstrip("/\\"))[-1],  # a page for others names no folder
        "select_worst_groups": lambda groups: sort_by_accuracy(groups)[:_MAX_ROWS],
        "first_rows": lambda rows: list(rows)[:_MAX_ROWS],
        "split_sentence": SPLIT_SENTENCES.__getitem__,
    }
    return environment


def _make_printable(value: Any) -> Any:
    """Return text without control characters; text that is HTML already stays as it is."""
    return escape_control_characters(value) if isinstance(value, str) and not hasattr(value, "__html__") else value
