"""Measure two or more methods in turn in one run; the result is a ratio, not a time.

Absolute times on shared machines drift, within minutes and between days; what is measured a few seconds apart drifts
together.
"""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

PAIRS = 5


@dataclass
class Row:
    """A row of the table: `ours` and `theirs` are medians in `unit`, `ratio` the median of the pairs' ratios."""

    what: str
    against: str
    unit: str
    ours: float
    theirs: float
    ratio: float
    lowest: float
    highest: float
    goal: str = ""

    def cells(self) -> list[str]:
        """Return the cells of a row of the table."""
        spread = f"{self.ratio:.2f} ({self.lowest:.2f} to {self.highest:.2f})"
        # Without an exponent such as 1.8e+04.
        ours, theirs = (f"{value:,.0f}" if value >= 1000 else f"{value:.4g}" for value in (self.ours, self.theirs))
        return [self.what, self.against, ours, theirs, self.unit, spread, self.goal]


def alternate(ways: Mapping[str, Callable[[], float]], pairs: int = PAIRS) -> dict[str, list[float]]:
    """Call each method once to warm up, then in turn `times` times; return the results of each, in order."""
    for way in ways.values():
        way()
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(pairs):
        for name, way in ways.items():
            found[name].append(way())
    return found


def row(found: Mapping[str, list[float]], ours: str, theirs: str, unit: str, goal: str = "") -> Row:
    """Compare two of the ways, rates or times alike: the ratio is ours over theirs."""
    ratios = [a / b for a, b in zip(found[ours], found[theirs], strict=True)]
    return Row(
        ours,
        theirs,
        unit,
        statistics.median(found[ours]),
        statistics.median(found[theirs]),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        goal,
    )


def record(rows: list[Row]) -> list[dict[str, object]]:
    """Return the rows as JSON values."""
    return [asdict(each) for each in rows]
