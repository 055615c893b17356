"""Synthetic lymph-node patches that look like H&E; they depend only on a seed and need no download."""

import os
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial

from histocli.errors import UsageError
from histocli.patch import Patch
from histocli.sources import SourceOptions, SourceReport, SourceType
from histocli.threads import count_threads

DEFAULT_N = 8_000
MIN_PATCHES_FOR_PROCESSES = 600  # with fewer patches, starting processes takes longer than drawing here
_MAX_PROCESSES = 64  # each shares 7 MB of memory with this process


@dataclass(frozen=True)
class SyntheticOptions(SourceOptions):
    """The options of a `SyntheticSource`."""

    n: int = DEFAULT_N
    seed: int = 0


class SyntheticSource:
    """`n` patches of simulated slides that look like H&E; all pixels depend on `seed`.

    Slides are from a few hospitals with different stains, and are normal or tumour. About 40% of the patches have label
    1 (tumour in the central 32x32). With 200 patches or more, a few are blank or black and a few are exact duplicates,
    as in real data. With `MIN_PATCHES_FOR_PROCESSES` patches or more, several processes draw them (not on Windows).

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
        """Yield `n` patches, slide by slide; processes draw some chunks in advance."""
        from histocli.sources.synthetic.plan import make_patches, plan_patches

        plans = plan_patches(self.total, self.seed)
        processes = min(count_threads(), _MAX_PROCESSES) if self.total >= MIN_PATCHES_FOR_PROCESSES else 1
        patches = make_patches(self.seed, plans)
        positives = 0
        for patch in patches if processes == 1 or os.name == "nt" else _draw_in_processes(patches, processes):
            positives += patch.label == 1
            yield patch
        duplicates = self.total - len({plan.number for plan in plans})
        self.report.counts.update(slides=len({plan.slide.number for plan in plans}), tumour=positives)
        self.report.counts["without tissue"] = sum(plan.kind != "tissue" for plan in plans)
        self.report.counts["duplicates"] = duplicates


def _draw_in_processes(patches: Iterator[Patch], processes: int) -> Iterator[Patch]:
    """Yield the patches, drawn by processes, because only one thread of a process runs Python code at a time."""
    from histocli.images.processes import DecodingProcesses
    from histocli.images.stream import load_chunks

    pool = DecodingProcesses(processes)
    pool.start()
    with closing(load_chunks(patches, pool=pool)) as chunks:
        for chunk in chunks:
            for index, patch in enumerate(chunk.patches):
                yield patch._replace(load=partial(chunk.pixels.__getitem__, index))


SOURCE = SourceType(SyntheticOptions, lambda options, context: SyntheticSource(options.n, options.seed))
