"""Plan the patches of a synthetic data set: their slides, tumour, patches without tissue, and duplicates."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np

from histocli.patch import CENTRE, PATCH_SIDE, Patch, Pixels, PortableLoader
from histocli.sources.synthetic.drawing import Drawing, Slide, make_slide, render
from histocli.sources.synthetic.tissue import MAX_OUTLINE_SHIFT, Blob, Layout, is_positive

PATCHES_PER_SLIDE = 40
MIN_SLIDES = 8
TUMOUR_SLIDE_SHARE = 0.6
BLANK_SHARE = 0.0015
BLACK_SHARE = 0.0015
DUPLICATE_SHARE = 0.005
MARGIN = 3.0  # px: distance of an outer tumour from the centre, and overlap of a central tumour with it


class PatchPlan(NamedTuple):
    """The plan of one patch: its slide, the number that its layout depends on, and its kind."""

    slide: Slide
    number: int
    kind: str = "tissue"  # or "blank", "black"


@dataclass(frozen=True, slots=True)
class SyntheticPatch(PortableLoader):
    """Draws a planned patch."""

    seed: int
    plan: PatchPlan

    def __call__(self) -> Pixels:
        """Return the pixels (96,96,3), uint8, RGB."""
        return render(plan_drawing(self.seed, self.plan))


def plan_patches(n: int, seed: int) -> list[PatchPlan]:
    """Choose the slide of each patch, the blank and black patches, and those that repeat the previous patch."""
    rng = np.random.default_rng((seed, 0))
    slides = _make_slides(rng, n, seed)
    owners = np.sort(rng.choice(len(slides), n, p=rng.dirichlet(np.full(len(slides), 20.0))))
    kinds, copies = _choose_irregular(rng, owners)
    return [
        PatchPlan(slides[owner], index - (index in copies), kinds.get(index, "tissue"))
        for index, owner in enumerate(owners.tolist())
    ]


def _make_slides(rng: np.random.Generator, n: int, seed: int) -> list[Slide]:
    """Return the slides of a data set of `n` patches; some of them have tumour."""
    count = max(1, min(n, max(MIN_SLIDES, round(n / PATCHES_PER_SLIDE))))
    has_tumour = rng.permutation(count) < round(count * TUMOUR_SLIDE_SHARE)
    numbers = np.where(has_tumour, np.cumsum(has_tumour), np.cumsum(~has_tumour))
    return [
        make_slide(seed, number, f"{'tumor' if tumour else 'normal'}_{order:03d}", bool(tumour))
        for number, (tumour, order) in enumerate(zip(has_tumour, numbers, strict=True))
    ]


def _choose_irregular(
    rng: np.random.Generator, owners: np.ndarray[Any, np.dtype[np.intp]]
) -> tuple[dict[int, str], set[int]]:
    """Choose the patches that are blank or black, and those that repeat the previous patch of the same slide."""
    n = len(owners)
    if n < 200:
        return {}, set()
    same = np.flatnonzero(owners[1:] == owners[:-1]) + 1
    irregular = rng.permutation(same[::3])  # never neighbours, so that no copy repeats a blank or black patch
    blank, black, copies = (max(1, round(n * share)) for share in (BLANK_SHARE, BLACK_SHARE, DUPLICATE_SHARE))
    kinds = dict.fromkeys(irregular[:blank].tolist(), "blank")
    kinds |= dict.fromkeys(irregular[blank : blank + black].tolist(), "black")
    return kinds, set(irregular[blank + black :][:copies].tolist())


def make_patches(seed: int, plans: list[PatchPlan]) -> Iterator[Patch]:
    """Yield the planned patches, with their labels; each is drawn when it is loaded."""
    for index, plan in enumerate(plans):
        label = int(is_positive(plan_drawing(seed, plan).layout))
        load = SyntheticPatch(seed, plan)
        yield Patch(f"synthetic-{index:06d}", load, label, plan.slide.name, "", plan.slide.hospital)


def plan_drawing(seed: int, plan: PatchPlan) -> Drawing:
    """Return the slide, layout and kind of one patch, from which it is drawn."""
    layout = draw_layout(plan.slide, (seed, plan.slide.number, plan.number))
    if plan.kind == "tissue":
        return Drawing(plan.slide, layout)
    return Drawing(plan.slide, replace(layout, blobs=()), plan.kind)


def draw_layout(slide: Slide, key: tuple[int, ...]) -> Layout:
    """Choose the position of tumour in a patch: over the centre, only in the outer ring, or nowhere."""
    rng = np.random.default_rng((*key, 0))
    chance = rng.random()
    if not slide.has_tumour:
        return Layout((), key)
    if chance < slide.positives:
        return Layout(draw_central_blobs(rng), key)
    if chance < slide.positives + (1 - slide.positives) * 0.6:
        return Layout(draw_outer_blobs(rng), key)
    return Layout((), key)


def draw_central_blobs(rng: np.random.Generator) -> tuple[Blob, ...]:
    """Return blobs of tumour that reach the central 32x32 pixels: a sheet, an edge, or nests."""
    form = rng.random()
    if form < 0.35:
        return (Blob(48, 48, 200),)
    if form < 0.75:
        return (draw_touching_blob(rng, rng.uniform(40, 120), rng.uniform(MAX_OUTLINE_SHIFT + MARGIN, 40)),)
    nests = [draw_touching_blob(rng, rng.uniform(13, 26), rng.uniform(MAX_OUTLINE_SHIFT + MARGIN, 20))]
    nests += [
        Blob(rng.uniform(0, PATCH_SIDE), rng.uniform(0, PATCH_SIDE), rng.uniform(10, 22))
        for _ in range(rng.integers(3))
    ]
    return tuple(nests)


def draw_outer_blobs(rng: np.random.Generator) -> tuple[Blob, ...]:
    """Return blobs of tumour in the outer ring that cannot reach the central 32x32 pixels."""
    blobs = [
        draw_touching_blob(
            rng, rng.choice([rng.uniform(14, 26), rng.uniform(40, 120)]), -rng.uniform(MAX_OUTLINE_SHIFT + MARGIN, 14)
        )
        for _ in range(rng.integers(1, 3))
    ]
    return tuple(blobs)


def draw_touching_blob(rng: np.random.Generator, radius: float, overlap: float) -> Blob:
    """Return a blob in a random direction that overlaps the centre by `overlap` pixels (negative: a distance)."""
    angle = rng.uniform(0, 2 * np.pi)
    across = np.array([np.cos(angle), np.sin(angle)])
    half = (CENTRE.stop - CENTRE.start) / 2
    # Walk out from a point of the square's border, along the normal of the side (or corner) it belongs to.
    border = np.clip(across * 2 * half, -half, half)
    x, y = PATCH_SIDE / 2 + border + across * (radius - overlap)
    return Blob(float(x), float(y), float(radius))
