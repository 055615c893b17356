"""Synthetic lymph-node patches that look like H&E; they depend only on a seed and need no download."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

from histocli.errors import UsageError
from histocli.patch import Patch
from histocli.sources import SourceOptions, SourceReport, SourceType
from histocli.threads import count_threads

DEFAULT_N = 8_000
MIN_PATCHES_FOR_PROCESSES = 600  # with fewer patches, starting processes takes longer than drawing here


@dataclass(frozen=True)
class SyntheticOptions(SourceOptions):
    """The options of a `SyntheticSource`."""

    n: int = DEFAULT_N
    seed: int = 0


class SyntheticSource:
    """`n` patches of simulated slides that look like H&E; all pixels depend on `seed`.

    Slides are from a few hospitals with different stains, and are normal or tumour. About 40% of the patches have label
    1 (tumour in the central 32x32). With 200 patches or more, a few are blank or black and a few are exact duplicates,
    as in real data. With `MIN_PATCHES_FOR_PROCESSES` patches or more, several processes draw them.

    Raises:
        UsageError: `n` is below 1, or `seed` is negative.
    """

    has_sha1_ids = False
    should_drop_duplicates = False

    def __init__(self, n: int, seed: int) -> None:
        if n < 1:
            raise UsageError(f"a synthetic data set of {n} patches cannot be made", "give --n 1 or more")
        if seed < 0:
            raise UsageError(f"the seed is {seed}", "give a --seed of 0 or more")
        self.total = n
        self.seed = seed
        self.report = SourceReport(origin=f"synthetic: n={n}, seed={seed}")

    def read_patches(self) -> Iterator[Patch]:
        """Yield `n` patches, slide by slide; some chunks are drawn in advance."""
        from histocli.images.stream import CHUNK, iterate_chunks
        from histocli.sources.synthetic.plan import draw_chunk, plan_patches
        from histocli.sources.synthetic.pool import map_in_processes

        plans = plan_patches(self.total, self.seed)
        processes = count_threads() if self.total >= MIN_PATCHES_FOR_PROCESSES else 1
        draw = partial(draw_chunk, self.seed)
        chunks = iterate_chunks(plans, CHUNK)
        drawn = map_in_processes(draw, chunks, processes) if processes > 1 else map(draw, chunks)
        positives = 0
        for start, (labels, pixels) in zip(range(0, self.total, CHUNK), drawn, strict=True):
            positives += sum(labels)
            for index, (label, plan) in enumerate(zip(labels, plans[start : start + CHUNK], strict=True)):
                key = f"synthetic-{start + index:06d}"
                yield Patch(key, partial(pixels.__getitem__, index), label, plan.slide.name, "", plan.slide.hospital)
        duplicates = self.total - len({plan.number for plan in plans})
        self.report.counts.update(slides=len({plan.slide.number for plan in plans}), tumour=positives)
        self.report.counts["without tissue"] = sum(plan.kind != "tissue" for plan in plans)
        self.report.counts["duplicates"] = duplicates


SOURCE = SourceType(SyntheticOptions, lambda options, context: SyntheticSource(options.n, options.seed))
