"""The embedded data set: H&E-like lymph-node patches drawn from a seed, with nothing to download."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from histocli.data.stream import CHUNK, chunked
from histocli.errors import UsageError
from histocli.sources import Patch, Pixels, SourceReport
from histocli.sources.synthetic.drawing import Drawing, Slide, make_slide, render
from histocli.sources.synthetic.pool import map_in_processes
from histocli.sources.synthetic.tissue import CENTRE, SIZE, WANDER, Blob, Layout, is_positive
from histocli.threads import thread_count

PATCHES_PER_SLIDE = 40
FEWEST_SLIDES = 8
TUMOUR_SLIDES = 0.6
BLANK_SHARE = 0.0015
BLACK_SHARE = 0.0015
DUPLICATE_SHARE = 0.005
MANY = 600  # patches from which it pays to start processes that draw them
CLEAR = 3.0  # px: kept between an outer tumour and the centre; a central one reaches at least so far into it


class PatchPlan(NamedTuple):
    """What one patch is drawn from: its slide, the number that its layout depends on, and its kind."""

    slide: Slide
    number: int
    kind: str = "tissue"  # or "blank", "black"


class SyntheticSource:
    """H&E-like patches of simulated slides, `n` of them; `seed` decides every byte.

    Slides come from a few hospitals, each with its own stains, and are normal or tumour; about 40 % of the patches
    are positive by PCam's rule (tumour in the central 32x32). From 200 patches on, a few are blank or black, and a
    few are exact duplicates, as in the real data. From `MANY` patches on, several processes draw them.

    Raises:
        UsageError: `n` is below 1, or `seed` is negative.
    """

    id_is_sha1 = False
    drop_duplicates = False

    def __init__(self, n: int, seed: int) -> None:
        if n < 1:
            raise UsageError(f"a synthetic data set of {n} patches cannot be made", "give --n 1 or more")
        if seed < 0:
            raise UsageError(f"the seed is {seed}", "give a --seed of 0 or more")
        self.total = n
        self.seed = seed
        self.report = SourceReport(origin=f"synthetic: n={n}, seed={seed}")

    def patches(self) -> Iterator[Patch]:
        """Yield `n` patches, slide by slide; they are drawn some chunks ahead of the one that is taken."""
        plans = self.plan_patches()
        processes = thread_count() if self.total >= MANY else 1
        draw = partial(draw_chunk, self.seed)
        chunks = chunked(plans, CHUNK)
        drawn = map_in_processes(draw, chunks, processes) if processes > 1 else map(draw, chunks)
        positives = 0
        for start, (labels, pixels) in zip(range(0, self.total, CHUNK), drawn, strict=True):
            positives += sum(labels)
            for index, (label, plan) in enumerate(zip(labels, plans[start : start + CHUNK], strict=True)):
                key = f"synthetic-{start + index:06d}"
                yield Patch(key, partial(pixels.__getitem__, index), label, plan.slide.name, "", plan.slide.hospital)
        duplicates = self.total - len({plan.number for plan in plans})
        self.report.counts.update(slides=len({plan.slide.number for plan in plans}), tumour=positives)
        self.report.counts.update(outliers=sum(plan.kind != "tissue" for plan in plans), duplicates=duplicates)

    def plan_patches(self) -> list[PatchPlan]:
        """Decide from which slide each patch is, which ones are blank or black, and which repeat the one before."""
        rng = np.random.default_rng((self.seed, 0))
        slides = self._slides(rng)
        owners = np.sort(rng.choice(len(slides), self.total, p=rng.dirichlet(np.full(len(slides), 20.0))))
        kinds, copies = self._irregular(rng, owners)
        return [
            PatchPlan(slides[owner], index - (index in copies), kinds.get(index, "tissue"))
            for index, owner in enumerate(owners.tolist())
        ]

    def _slides(self, rng: np.random.Generator) -> list[Slide]:
        count = max(1, min(self.total, max(FEWEST_SLIDES, round(self.total / PATCHES_PER_SLIDE))))
        with_tumour = rng.permutation(count) < round(count * TUMOUR_SLIDES)
        numbers = np.where(with_tumour, np.cumsum(with_tumour), np.cumsum(~with_tumour))
        return [
            make_slide(self.seed, number, f"{'tumor' if tumour else 'normal'}_{order:03d}", bool(tumour))
            for number, (tumour, order) in enumerate(zip(with_tumour, numbers, strict=True))
        ]

    def _irregular(
        self, rng: np.random.Generator, owners: np.ndarray[Any, np.dtype[np.intp]]
    ) -> tuple[dict[int, str], set[int]]:
        """Which patches are outliers, and which repeat the patch before them (always of the same slide)."""
        if self.total < 200:
            return {}, set()
        same = np.flatnonzero(owners[1:] == owners[:-1]) + 1
        odd = rng.permutation(same[::3])  # never neighbours, so that no copy repeats an outlier
        blank, black, copies = (
            max(1, round(self.total * share)) for share in (BLANK_SHARE, BLACK_SHARE, DUPLICATE_SHARE)
        )
        kinds = dict.fromkeys(odd[:blank].tolist(), "blank")
        kinds |= dict.fromkeys(odd[blank : blank + black].tolist(), "black")
        return kinds, set(odd[blank + black :][:copies].tolist())


def draw_chunk(seed: int, plans: list[PatchPlan]) -> tuple[list[int], Pixels]:
    """Draw some patches: their labels, 0 or 1, and their pixels (k,96,96,3) uint8 RGB."""
    drawings = [make_drawing(seed, plan) for plan in plans]
    labels = [int(is_positive(drawing.layout)) for drawing in drawings]
    return labels, np.stack([render(drawing) for drawing in drawings])


def make_drawing(seed: int, plan: PatchPlan) -> Drawing:
    """Decide everything that is seen on one patch."""
    layout = draw_layout(plan.slide, (seed, plan.slide.number, plan.number))
    if plan.kind == "tissue":
        return Drawing(plan.slide, layout)
    return Drawing(plan.slide, replace(layout, blobs=()), plan.kind)


def draw_layout(slide: Slide, key: tuple[int, ...]) -> Layout:
    """Decide where the tumour of one patch lies: over the centre, in the outer ring alone, or nowhere."""
    rng = np.random.default_rng((*key, 0))
    chance = rng.random()
    if not slide.has_tumour:
        return Layout((), key)
    if chance < slide.positives:
        return Layout(central_blobs(rng), key)
    if chance < slide.positives + (1 - slide.positives) * 0.6:
        return Layout(outer_blobs(rng), key)
    return Layout((), key)


def central_blobs(rng: np.random.Generator) -> tuple[Blob, ...]:
    """Draw tumour that reaches the central 32x32: a sheet, an edge, or nests."""
    form = rng.random()
    if form < 0.35:
        return (Blob(48, 48, 200),)
    if form < 0.75:
        return (touching_blob(rng, rng.uniform(40, 120), rng.uniform(WANDER + CLEAR, 40)),)
    nests = [touching_blob(rng, rng.uniform(13, 26), rng.uniform(WANDER + CLEAR, 20))]
    nests += [Blob(rng.uniform(0, SIZE), rng.uniform(0, SIZE), rng.uniform(10, 22)) for _ in range(rng.integers(3))]
    return tuple(nests)


def outer_blobs(rng: np.random.Generator) -> tuple[Blob, ...]:
    """Draw tumour in the outer ring that stays clear of the central 32x32, whatever its outline does."""
    blobs = [
        touching_blob(rng, rng.choice([rng.uniform(14, 26), rng.uniform(40, 120)]), -rng.uniform(WANDER + CLEAR, 14))
        for _ in range(rng.integers(1, 3))
    ]
    return tuple(blobs)


def touching_blob(rng: np.random.Generator, radius: float, overlap: float) -> Blob:
    """Draw a blob in a random direction that reaches `overlap` pixels into the centre (below 0: stays off it)."""
    angle = rng.uniform(0, 2 * np.pi)
    across = np.array([np.cos(angle), np.sin(angle)])
    half = (CENTRE.stop - CENTRE.start) / 2
    # Walk out from a point of the square's border, along the normal of the side (or corner) it belongs to.
    border = np.clip(across * 2 * half, -half, half)
    x, y = SIZE / 2 + border + across * (radius - overlap)
    return Blob(float(x), float(y), float(radius))
