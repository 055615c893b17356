"""How sure a figure is: 95 % intervals by resampling whole clusters of patches."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np

from histocli.metrics.curves import Floats, Ints
from histocli.metrics.weighted import NAMES, Weighted

LEVEL = 0.95
REPLICATES = 2000
FEW_CLUSTERS = 10  # from fewer an interval is a rough one, however expanded: none reaches beyond the worst cluster
_BLOCK_CELLS = 1 << 16  # weights held at once by a thread: few enough to stay in its cache
_OF_ALL = {"accuracy", "brier", "log_loss", "ece"}  # figures that patches of either class tell of
_OF_CLASS = {"specificity": 0, "sensitivity": 1}
_DEFINED = 0.95  # the share of replicates in which a figure must exist


class Clusters(NamedTuple):
    """What is drawn again as a whole: `by` names it (slide, overlap group, patch), `codes` (N,) number the `n`."""

    by: str
    codes: Ints
    n: int

    def holding(self, labels: Ints) -> tuple[int, int]:
        """How many of them hold normal patches, and how many hold tumour, by the labels (N,)."""
        normal, tumour = (len(np.unique(self.codes[labels == label])) for label in (0, 1))
        return normal, tumour


def by_patch(n: int) -> Clusters:
    """Every patch for itself."""
    return Clusters("patch", np.arange(n), n)


class Bootstrap(NamedTuple):
    """Figures of `replicates` resamples: `figures` (len(NAMES),R), NaN where undefined, and how they were drawn.

    `holding` are the clusters with normal patches and those with tumour.
    """

    figures: Floats
    by: str
    clusters: int
    holding: tuple[int, int]
    seed: int

    def telling(self, name: str) -> int:
        """How many clusters tell of a figure: of an AUC, say, no more than hold the class that fewer hold."""
        if name in _OF_ALL:
            return self.clusters
        return self.holding[_OF_CLASS[name]] if name in _OF_CLASS else min(self.holding)

    def interval(self, name: str, values: Floats, *, basic_at: float | None = None) -> list[float] | str:
        """The 95 % interval of the replicates (R,) of the figure `name`, or why there is none.

        Percentiles, expanded for few clusters after Hesterberg, "What Teachers Should Know About the Bootstrap"
        (2015), section 5.3; with many clusters these are the plain 2.5 % and 97.5 %. Those that count are the ones that
        tell of the figure: where four slides of forty hold tumour, the sensitivity is known from four. With `basic_at`,
        the estimate, the squares of the percentiles are mirrored in its square (the basic interval), kept at or above
        0, and widened to hold it: for a figure that chance makes larger, and resampling larger again, as it does a
        calibration error.
        """
        defined = values[~np.isnan(values)]
        if len(defined) < _DEFINED * len(values):
            return f"it exists in only {len(defined):,} of {len(values):,} resamples"
        if self.clusters < 2:
            return f"all patches are of one {self.by}"
        if self.telling(name) < 2:
            return f"all patches of a class are of one {self.by}"
        if np.ptp(defined) == 0:
            return "it is the same in every resample, which says nothing of its error"
        low, high = np.quantile(defined, _tails(self.telling(name))).tolist()
        if basic_at is not None:
            low, high = (max(0.0, 2 * basic_at**2 - end**2) ** 0.5 for end in (high, low))
            low, high = min(low, basic_at), max(high, basic_at)
        return [low, high]


def resampled(
    labels: Ints,
    measured: list[Weighted],
    clusters: Clusters,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    threads: int = 1,
) -> list[Bootstrap]:
    """Compute every figure on `replicates` resamples of the clusters, drawn with replacement.

    All of `measured` are of the same patches, labelled `labels` (N,), and see the same resamples. What is drawn follows
    from the seed alone, whatever the number of threads. 57,458 patches take about a millisecond a replicate and thread.
    """
    patches = len(clusters.codes)
    alone = clusters.n == patches and len(measured) == 1  # then the draws are as good in any order
    rows = max(1, _BLOCK_CELLS // patches)
    sizes = [min(rows, replicates - start) for start in range(0, replicates, rows)]
    seeds = np.random.SeedSequence(seed).spawn(len(sizes))
    codes = [None if alone else clusters.codes[weighted.order] for weighted in measured]

    def block(size: int, seed: np.random.SeedSequence) -> Floats:
        counts = _draw(np.random.default_rng(seed), size, clusters.n)
        pairs = zip(measured, codes, strict=True)
        return np.stack([one.figures(counts if ours is None else counts.take(ours, 1)) for one, ours in pairs])

    with ThreadPoolExecutor(threads) as pool:
        figures = np.concatenate(list(pool.map(block, sizes, seeds)), 2)  # (len(measured),len(NAMES),R)
    return [Bootstrap(values, clusters.by, clusters.n, clusters.holding(labels), seed) for values in figures]


def intervals(made: Bootstrap, metrics: dict[str, float | None]) -> dict[str, Any]:
    """The keys `intervals` and `bootstrap` of an evaluation, ready for JSON.

    `metrics` are the estimates; a figure without an interval has None, and its reason in `bootstrap.undefined`.
    """
    found = {name: _of(made, name, metrics[name], values) for name, values in zip(NAMES, made.figures, strict=True)}
    return {
        "intervals": {name: interval if isinstance(interval, list) else None for name, interval in found.items()},
        "bootstrap": {
            "by": made.by,
            "clusters": made.clusters,
            "holding": dict(zip(("normal", "tumour"), made.holding, strict=True)),
            "replicates": made.figures.shape[1],
            "seed": made.seed,
            "level": LEVEL,
            "undefined": {name: why for name, why in found.items() if isinstance(why, str)},
        },
    }


def _of(made: Bootstrap, name: str, estimate: float | None, values: Floats) -> list[float] | str:
    if estimate is None:
        return "the figure itself is undefined"
    return made.interval(name, values, basic_at=estimate if name == "ece" else None)


def _draw(rng: np.random.Generator, replicates: int, clusters: int) -> Floats:
    """How often each cluster is drawn, in `replicates` draws of as many as there are: (R,C)."""
    drawn = rng.integers(0, clusters, (replicates, clusters), np.uint32).astype(np.int64)  # faster than 64 bits each
    drawn += clusters * np.arange(replicates)[:, None]
    return np.bincount(drawn.ravel(), minlength=replicates * clusters).reshape(replicates, clusters).astype(np.float64)


def _tails(clusters: int) -> list[float]:
    """The two quantiles to read, further out the fewer clusters there are."""
    from scipy.special import ndtr, stdtrit

    tail = (1 - LEVEL) / 2
    expanded = float(ndtr(np.sqrt(clusters / (clusters - 1)) * stdtrit(clusters - 1, tail)))
    return [expanded, 1 - expanded]
