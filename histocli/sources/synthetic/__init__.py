"""The embedded data set: H&E-like lymph-node patches drawn from a seed, with nothing to download."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from histocli.data.stream import worker_count
from histocli.errors import UsageError
from histocli.sources import Patch, Pixels, SourceReport
from histocli.sources.synthetic.drawing import Drawing, Slide, make_slide, render
from histocli.sources.synthetic.tissue import CENTRE, SIZE, WANDER, Blob, Layout, is_positive

PATCHES_PER_SLIDE = 40
FEWEST_SLIDES = 8
TUMOUR_SLIDES = 0.6
BLANK_SHARE = 0.0015
BLACK_SHARE = 0.0015
DUPLICATE_SHARE = 0.005
MANY = 600  # patches from which it pays to start processes that draw them
CLEAR = 3.0  # px: kept between an outer tumour and the centre; a central one reaches at least so far into it


class SyntheticSource:
    """H&E-like patches of simulated slides, `n` of them, every byte decided by `seed`.

    Slides come from a few hospitals, each with stains of its own, and are normal or tumour; about 40 % of the
    patches are positive by PCam's rule (tumour in the central 32x32). From 200 patches on, a few blank and black
    outliers and a few exact duplicates are among them, as in the real data. Raises `UsageError` for a number of
    patches below 1 or a negative seed.
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
        """Yield `n` patches, slide by slide."""
        rng = np.random.default_rng((self.seed, 0))
        slides = self._slides(rng)
        owners = np.sort(rng.choice(len(slides), self.total, p=rng.dirichlet(np.full(len(slides), 20.0))))
        kinds, copies = self._irregular(rng, owners)
        drawn: dict[int, Drawing] = {}
        positives = 0
        draw = self._draw()
        for index, owner in enumerate(owners.tolist()):
            slide = slides[owner]
            if index in copies:
                drawing = drawn[index - 1]
            else:
                layout = draw_layout(slide, (self.seed, slide.number, index))
                drawing = Drawing(slide, layout)
                if index in kinds:
                    drawing = Drawing(slide, replace(layout, blobs=()), kinds[index])
            drawn = {index: drawing}
            label = int(is_positive(drawing.layout))
            positives += label
            yield Patch(f"synthetic-{index:06d}", partial(draw, drawing), label, slide.name, "", slide.hospital)
        self.report.counts.update(slides=len(set(owners.tolist())), tumour=positives)
        self.report.counts.update(outliers=len(kinds), duplicates=len(copies))

    def _draw(self) -> Callable[[Drawing], Pixels]:
        if self.total < MANY or not sys.executable:
            return render
        from histocli.sources.synthetic.artists import Artists

        return Artists(worker_count()).render

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
