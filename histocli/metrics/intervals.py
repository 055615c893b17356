"""95% intervals of metrics by bootstrap, which draws whole clusters of patches."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from histocli.metrics.curves import Floats, Ints
from histocli.metrics.registry import BY_NAME, NAMES, Metric, compute_metrics
from histocli.metrics.weighted import SortedScores
from histocli.schema import Count, Fraction
from histocli.text import pluralise

LEVEL = 0.95
REPLICATES = 2000
FEW_CLUSTERS = 10  # with fewer there is no interval: a resample cannot be worse than the worst cluster
_BLOCK_CELLS = 1 << 16  # weights in memory per thread: few enough for the cache of a core
MIN_DEFINED_SHARE = 0.95  # the share of resamples in which a metric must have a value

Interval = tuple[float, float]


@dataclass(frozen=True)
class ClassCounts:
    """How many clusters have patches of each class."""

    normal: Count
    tumour: Count


class Clusters(NamedTuple):
    """Groups of patches that are drawn together.

    `by` names their kind (slide, overlap group or patch), `codes` (N,) is the group of each patch, 0 to n - 1.
    """

    by: str
    codes: Ints
    n: int

    def count_by_class(self, labels: Ints) -> ClassCounts:
        """Count the clusters with normal patches and those with tumour, by the labels (N,)."""
        normal, tumour = (len(np.unique(self.codes[labels == label])) for label in (0, 1))
        return ClassCounts(normal, tumour)


def make_patch_clusters(n: int) -> Clusters:
    """Return clusters of one patch each."""
    return Clusters("patch", np.arange(n), n)


@dataclass(frozen=True)
class Resampling:
    """How the intervals were computed: the clusters, the number of resamples and the seed.

    `undefined` gives, for each metric without an interval, the reason.
    """

    by: str
    clusters: Count
    clusters_by_class: ClassCounts
    replicates: Count
    seed: int
    level: Fraction
    undefined: dict[str, str]


def count_informative(metric: Metric, clusters: int, by_class: ClassCounts) -> int:
    """Return how many of the clusters carry information about a metric."""
    both = min(by_class.normal, by_class.tumour)
    counts = {"either": clusters, "both": both, "normal": by_class.normal, "tumour": by_class.tumour}
    return counts[metric.classes]


def explain_few_clusters(metric: Metric, by: str, clusters: int, by_class: ClassCounts) -> str:
    """Return why a metric has no interval by bootstrap, if too few clusters carry information about it; else ""."""
    count = count_informative(metric, clusters, by_class)
    if count >= FEW_CLUSTERS:
        return ""
    rarer = "tumour" if by_class.tumour <= by_class.normal else "normal"  # it limits a metric that needs both classes
    kind = rarer if metric.classes == "both" else metric.classes
    if count == 0:
        return f"there are no {kind} patches"
    if count == clusters:
        text = f"there {'is' if count == 1 else 'are'} only {count}"
    elif by == "patch":
        text = f"only {count} {f'is a {kind} patch' if count == 1 else f'are {kind} patches'}"
    else:
        text = f"only {count} {'has' if count == 1 else 'have'} {kind} patches"
    return f"the bootstrap needs {FEW_CLUSTERS} {pluralise(by)}, and {text}"


class Bootstrap(NamedTuple):
    """Every metric of R resamples: `values` (len(METRICS),R), NaN if undefined, and how the resamples were drawn."""

    values: Floats
    by: str
    clusters: int
    by_class: ClassCounts
    seed: int

    def compute_interval(self, metric: Metric, values: Floats, estimate: float | None = None) -> Interval | str:
        """Return the 95% interval of a metric from its resampled values (R,), or the reason why it has none.

        With many clusters the interval goes from the 2.5th to the 97.5th percentile. With fewer clusters it is wider,
        as in Hesterberg, "What Teachers Should Know About the Bootstrap" (2015), section 5.3, and with fewer than
        `FEW_CLUSTERS` there is none. Only informative clusters are counted: if four of forty slides have tumour, there
        are four for the sensitivity.

        Resampling makes a metric that is biased upwards larger again. If its `estimate` is given, the interval is the
        basic bootstrap interval of the squared metric: from 2 * estimate**2 - high**2 to 2 * estimate**2 - low**2. It
        is at least 0, and is widened to contain the estimate.
        """
        if self.clusters < 2:
            return "there is only one patch" if self.by == "patch" else f"all patches are of one {self.by}"
        informative = count_informative(metric, self.clusters, self.by_class)
        if informative == 1:
            is_single = self.by == "patch"
            return "a class has only one patch" if is_single else f"all patches of a class are of one {self.by}"
        if reason := explain_few_clusters(metric, self.by, self.clusters, self.by_class):
            return reason
        defined = values[~np.isnan(values)]
        if len(defined) < MIN_DEFINED_SHARE * len(values):
            return f"it is defined in only {len(defined):,} of {len(values):,} resamples"
        if np.ptp(defined) == 0:
            return "it is the same in every resample, so its error is not known"
        low, high = np.quantile(defined, find_tails(informative)).tolist()
        if metric.is_biased_upwards and estimate is not None:
            low, high = (max(0.0, 2 * estimate**2 - end**2) ** 0.5 for end in (high, low))
            low, high = min(low, estimate), max(high, estimate)
        return low, high


def resample(
    labels: Ints,
    scored: list[SortedScores],
    clusters: Clusters,
    *,
    replicates: int = REPLICATES,
    seed: int = 0,
    threads: int = 1,
) -> list[Bootstrap]:
    """Compute every metric on `replicates` resamples of the clusters, drawn with replacement.

    All of `scored` are scores of the same patches, which have the `labels` (N,), and they get the same resamples. The
    resamples depend on the seed, but not on the number of threads. A resample of 57,458 patches takes a thread about a
    millisecond.
    """
    patches = len(clusters.codes)
    is_order_free = clusters.n == patches and len(scored) == 1  # then it does not matter which patch gets which count
    rows = max(1, _BLOCK_CELLS // patches)
    sizes = [min(rows, replicates - start) for start in range(0, replicates, rows)]
    seeds = np.random.SeedSequence(seed).spawn(len(sizes))
    codes = [None if is_order_free else clusters.codes[scores.order] for scores in scored]

    def block(size: int, seed: np.random.SeedSequence) -> Floats:
        counts = draw_counts(np.random.default_rng(seed), size, clusters.n)
        pairs = zip(scored, codes, strict=True)
        return np.stack(
            [compute_metrics(scores, counts if code is None else counts.take(code, 1)) for scores, code in pairs]
        )

    with ThreadPoolExecutor(threads) as pool:
        values = np.concatenate(list(pool.map(block, sizes, seeds)), 2)  # (len(scored),len(METRICS),R)
    return [Bootstrap(each, clusters.by, clusters.n, clusters.count_by_class(labels), seed) for each in values]


def compute_intervals(
    bootstrap: Bootstrap, metrics: dict[str, float | None]
) -> tuple[dict[str, Interval | None], Resampling]:
    """Return the interval of each metric (None if it has none), and how the intervals were computed.

    Args:
        bootstrap: every metric of each resample.
        metrics: the value of each metric on all patches, by name.
    """
    results: dict[str, Interval | str] = {}
    for name, values in zip(NAMES, bootstrap.values, strict=True):
        if metrics[name] is None:
            results[name] = "the metric itself is undefined"
        else:
            results[name] = bootstrap.compute_interval(BY_NAME[name], values, metrics[name])
    resampling = Resampling(
        by=bootstrap.by,
        clusters=bootstrap.clusters,
        clusters_by_class=bootstrap.by_class,
        replicates=bootstrap.values.shape[1],
        seed=bootstrap.seed,
        level=LEVEL,
        undefined={name: why for name, why in results.items() if isinstance(why, str)},
    )
    return {name: None if isinstance(value, str) else value for name, value in results.items()}, resampling


def draw_counts(rng: np.random.Generator, n_resamples: int, n_clusters: int) -> Floats:
    """Return how often each of C clusters is drawn in each of R resamples: (R,C); each resample draws C times."""
    drawn = rng.integers(0, n_clusters, (n_resamples, n_clusters), np.uint32).astype(np.int64)  # uint32 is drawn faster
    drawn += n_clusters * np.arange(n_resamples)[:, None]
    counts = np.bincount(drawn.ravel(), minlength=n_resamples * n_clusters)
    return counts.reshape(n_resamples, n_clusters).astype(np.float64)


def find_tails(clusters: int) -> list[float]:
    """Return the two quantiles that bound an interval; the fewer clusters, the closer they are to 0 and 1."""
    from scipy.special import ndtr, stdtrit

    tail = (1 - LEVEL) / 2
    expanded = float(ndtr(np.sqrt(clusters / (clusters - 1)) * stdtrit(clusters - 1, tail)))
    return [expanded, 1 - expanded]
