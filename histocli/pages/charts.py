"""Charts of the HTML report: lines, bars and axes in the units of the data; the template draws them as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, pairwise

from histocli.metrics.curves import CalibrationBin, Histogram, PrecisionRecallCurve
from histocli.reports.evaluation import EvaluationReport
from histocli.reports.run import Epoch
from histocli.text import format_metric

Points = tuple[tuple[float, float], ...]

WIDTH, HEIGHT = 380, 300  # of a chart, in the units of its SVG
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 44  # margins
INNER_WIDTH, INNER_HEIGHT = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
_TICKS = 5  # the approximate number of ticks of an axis


@dataclass(frozen=True)
class Axis:
    """An axis: its title, its range, and its ticks with their texts."""

    title: str
    low: float
    high: float
    ticks: tuple[tuple[float, str], ...]


@dataclass(frozen=True)
class Line:
    """A line through points in data units; `style` is its CSS class: a number, or `reference`."""

    label: str
    points: Points
    style: str = "0"
    has_dots: bool = False


@dataclass(frozen=True)
class Bar:
    """A bar from 0 to `height`, in data units."""

    left: float
    right: float
    height: float
    style: str


@dataclass(frozen=True)
class Chart:
    """A chart.

    Attributes:
        title: the heading.
        summary: what the chart shows, in a sentence for people who cannot see it.
        x: the horizontal axis.
        y: the vertical axis.
        lines: the lines.
        bars: the bars.
        legend: the labels and styles that are not those of lines.
        threshold_mark: what shows the threshold: a dot on the curve `roc` or `pr`, a vertical `line`, or nothing.
    """

    title: str
    summary: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...] = ()
    bars: tuple[Bar, ...] = ()
    legend: tuple[tuple[str, str], ...] = ()
    threshold_mark: str = ""

    def compute_left(self, x: float) -> float:
        """Return the horizontal position of a value, in the units of the SVG."""
        return round(LEFT + (x - self.x.low) / (self.x.high - self.x.low) * INNER_WIDTH, 2)

    def compute_top(self, y: float) -> float:
        """Return the vertical position of a value, in the units of the SVG."""
        return round(TOP + (self.y.high - y) / (self.y.high - self.y.low) * INNER_HEIGHT, 2)

    def format_points(self, line: Line) -> str:
        """Return the points of a line as the attribute `points` of a polyline."""
        return " ".join(f"{self.compute_left(x):g},{self.compute_top(y):g}" for x, y in line.points)


def make_learning_curves(history: Sequence[Epoch]) -> list[Chart]:
    """Return the charts of the loss, and of the AUC and accuracy on the validation patches, by epoch."""
    last, epochs = history[-1], _make_epoch_axis(history)
    train = tuple((row.epoch, row.train_loss) for row in history)
    validation = tuple((row.epoch, row.val_loss) for row in history)
    auc = tuple((row.epoch, row.val_auc) for row in history if row.val_auc is not None)
    accuracy = tuple((row.epoch, row.val_accuracy) for row in history)
    loss = Chart(
        "Loss by epoch",
        f"After epoch {last.epoch}, the loss is {last.train_loss:.4f} on train and {last.val_loss:.4f} on validation.",
        epochs,
        _make_axis("log loss", 0, max(y for _, y in train + validation)),
        (Line("train", train, "0", has_dots=True), Line("validation", validation, "1", has_dots=True)),
    )
    shown = f"AUC {format_metric(last.val_auc)}, accuracy {format_metric(last.val_accuracy)}"
    lowest = min(y for _, y in auc + accuracy)
    rates = Chart(
        "Validation metrics by epoch",
        f"After epoch {last.epoch}, on the validation patches: {shown}.",
        epochs,
        _make_axis("value", min(0.95, math.floor(lowest * 20) / 20), 1),
        (Line("validation AUC", auc, "0", has_dots=True), Line("validation accuracy", accuracy, "1", has_dots=True)),
    )
    return [loss, rates]


def make_evaluation_charts(report: EvaluationReport) -> list[Chart]:
    """Return the charts of an evaluation; an undefined curve has no chart."""
    curves, metrics = report.measured.curves, report.measured.metrics
    charts = []
    if curves.roc.fpr:
        charts.append(make_roc_chart([(f"AUC {format_metric(metrics['auc'])}", report)]))
    if curves.pr.recall:
        average = format_metric(metrics["average_precision"])
        charts.append(
            Chart(
                "Precision and recall",
                f"The average precision is {average}; tumour is {report.measured.prevalence:.1%} of the patches.",
                make_rate_axis("recall (sensitivity)"),
                make_rate_axis("precision (PPV)"),
                (
                    Line("prevalence", ((0, report.measured.prevalence), (1, report.measured.prevalence)), "reference"),
                    Line(f"average precision {average}", _make_steps(curves.pr)),
                ),
                threshold_mark="pr",
            )
        )
    charts.append(_make_calibration_chart(report.measured.calibration, format_metric(metrics["ece"])))
    charts.append(_make_score_chart(report.measured.histogram))
    return charts


def make_roc_chart(reports: Sequence[tuple[str, EvaluationReport]]) -> Chart:
    """Return the ROC curves of evaluations, each with its label."""
    lines = [
        Line(label, tuple(zip(report.measured.curves.roc.fpr, report.measured.curves.roc.tpr, strict=True)), str(style))
        for style, (label, report) in enumerate(reports)
    ]
    return Chart(
        "ROC curve" if len(lines) == 1 else "ROC curves",
        f"Sensitivity against 1 - specificity: {'; '.join(line.label for line in lines)}.",
        make_rate_axis("1 - specificity"),
        make_rate_axis("sensitivity"),
        (Line("chance", ((0, 0), (1, 1)), "reference"), *lines),
        threshold_mark="roc" if len(lines) == 1 else "",
    )


def _make_calibration_chart(bins: Sequence[CalibrationBin], ece: str) -> Chart:
    points = tuple((score_bin.mean_probability, score_bin.fraction_positive) for score_bin in bins)
    return Chart(
        "Calibration",
        f"The fraction of patches with tumour in {len(bins)} bins of the predicted probability; the ECE is {ece}.",
        make_rate_axis("predicted probability"),
        make_rate_axis("fraction with tumour"),
        (Line("perfect calibration", ((0, 0), (1, 1)), "reference"), Line(f"ECE {ece}", points, "0", has_dots=True)),
        threshold_mark="line",
    )


def _make_score_chart(histogram: Histogram) -> Chart:
    bars = []
    counts = zip(histogram.edges, histogram.edges[1:], histogram.negative, histogram.positive, strict=False)
    for low, high, normal, tumour in counts:
        middle = (low + high) / 2
        bars += [Bar(low, middle, normal, "0"), Bar(middle, high, tumour, "1")]
    totals = sum(histogram.negative), sum(histogram.positive)
    return Chart(
        "Scores by class",
        f"The number of patches by predicted probability: {totals[0]:,} normal, {totals[1]:,} tumour.",
        make_rate_axis("predicted probability of tumour"),
        _make_axis("patches", 0, max(_TICKS, *histogram.negative, *histogram.positive)),
        bars=tuple(bar for bar in bars if bar.height),
        legend=((f"normal (n = {totals[0]:,})", "0"), (f"tumour (n = {totals[1]:,})", "1")),
        threshold_mark="line",
    )


def _make_steps(curve: PrecisionRecallCurve) -> Points:
    """Return the points of the precision-recall curve with the corners of the steps between them."""
    points = curve.find_drawn_points()
    corners = [((left, y), (x, y)) for (left, _), (x, y) in pairwise(points)]
    return (*points[:1], *chain.from_iterable(corners))


def make_rate_axis(title: str) -> Axis:
    """Return an axis from 0 to 1."""
    return Axis(title, 0, 1, tuple((i / 5, f"{i / 5:g}") for i in range(6)))


def _make_epoch_axis(history: Sequence[Epoch]) -> Axis:
    first, last = history[0].epoch, history[-1].epoch
    step = max(1, math.ceil((last - first) / _TICKS))
    ticks = tuple((epoch, str(epoch)) for epoch in range(first, last + 1, step))
    return Axis("epoch", first - 0.5, last + 0.5, ticks)


def _make_axis(title: str, low: float, high: float) -> Axis:
    """Return an axis with ticks at round numbers, from `low` or a little less to `high` or a little more."""
    rough = max(high - low, 1e-6) / _TICKS
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    values = [i * step for i in range(first, max(first + 1, last) + 1)]
    return Axis(title, values[0], values[-1], tuple((value, f"{value:,.10g}") for value in values))
