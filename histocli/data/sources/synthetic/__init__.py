"""The embedded data set: H&E-like lymph-node patches drawn from a seed, with nothing to download."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from histocli.data.sources import Patch, Pixels, SourceReport
from histocli.data.sources.synthetic.cells import draw_cells
from histocli.data.sources.synthetic.tissue import (
    BROAD,
    CENTRE,
    GRAIN,
    INNER,
    SIZE,
    WANDER,
    Blob,
    Growth,
    Layout,
    Plane,
    draw_ground,
    draw_scene,
    half_plane,
    noise,
    tumour_field,
    tumour_mask,
)
from histocli.errors import UsageError

PATCHES_PER_SLIDE = 40
FEWEST_SLIDES = 8
TUMOUR_SLIDES = 0.6
BLANK_SHARE = 0.0015
BLACK_SHARE = 0.0015
DUPLICATE_SHARE = 0.005
CLEAR = 3.0  # px: kept between an outer tumour and the centre; a central one reaches at least so far into it

# Hematoxylin and eosin, as optical density in red, green and blue, at each simulated hospital.
HOSPITALS = {
    "A": ((0.66, 1.00, 0.62), (0.15, 0.68, 0.42)),
    "B": ((0.76, 1.06, 0.36), (0.20, 0.84, 0.20)),
    "C": ((0.70, 1.00, 0.64), (0.12, 0.60, 0.40)),
    "D": ((0.62, 0.96, 0.50), (0.16, 0.78, 0.34)),
}


@dataclass(frozen=True)
class Slide:
    """One simulated slide: its name, hospital, stains, optics and, where it has one, its tumour.

    `stains` (2,3) are the optical densities of hematoxylin and eosin at concentration 1, `white` (3,) the colour
    of glass, `blur` and `sharpen` the scanner's optics, `noise` its grain in grey levels, `positives` the share
    of its patches with tumour in the centre.
    """

    number: int
    name: str
    hospital: str
    stains: Plane
    white: Plane
    blur: float
    sharpen: float
    noise: float
    has_tumour: bool
    growth: Growth
    positives: float


@dataclass(frozen=True)
class Drawing:
    """All that one patch is drawn from; two equal drawings give the same bytes."""

    slide: Slide
    layout: Layout
    kind: str = "tissue"  # or "blank", "black"


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
            label = int(tumour_mask(drawing.layout)[CENTRE, CENTRE].any())
            positives += label
            yield Patch(f"synthetic-{index:06d}", partial(render, drawing), label, slide.name, "", slide.hospital)
        self.report.counts.update(slides=len(set(owners.tolist())), tumour=positives)
        self.report.counts.update(outliers=len(kinds), duplicates=len(copies))

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


def make_slide(seed: int, number: int, name: str, has_tumour: bool) -> Slide:
    """Make one slide of a seed: its hospital's stains varied, its scanner, and the growth of its tumour."""
    rng = np.random.default_rng((seed, number, 1))
    hospital = str(rng.choice(list(HOSPITALS), p=[0.4, 0.3, 0.18, 0.12]))
    stains = np.array(HOSPITALS[hospital]) * rng.normal(1, 0.04, (2, 3))
    stains *= np.exp(rng.normal(0, 0.2, (2, 1)))
    radius = rng.uniform(4.4, 6.4)
    growth = Growth(
        radius=radius,
        spacing=radius * rng.uniform(2.2, 2.9),
        chromatin=rng.uniform(0.4, 0.85),
        rim=rng.uniform(0.1, 0.6),
        nucleolus=rng.uniform(0.5, 1.4),
        irregularity=rng.uniform(0.05, 0.16),
        eosin=rng.uniform(0.35, 0.75),
        basophilia=rng.uniform(0.1, 0.35),
        borders=rng.uniform(-0.5, 0.4),
        lumens=rng.uniform(0, 0.8) if rng.random() < 0.3 else 0.0,
        strands=rng.uniform(0.05, 0.25) if rng.random() < 0.5 else 0.0,
    )
    return Slide(
        number,
        name,
        hospital,
        stains.astype(np.float32),
        (rng.uniform(236, 244) + rng.normal(0, 1.5, 3)).astype(np.float32),
        blur=rng.uniform(0.3, 0.45),
        sharpen=rng.uniform(0.3, 0.8),
        noise=rng.uniform(0.5, 2.0),
        has_tumour=has_tumour,
        growth=growth,
        positives=rng.uniform(0.55, 0.8),
    )


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


def render(drawing: Drawing) -> Pixels:
    """Draw one patch: (96,96,3) uint8 RGB, the same bytes for equal drawings."""
    rng = np.random.default_rng((*drawing.layout.key, 2))
    if drawing.kind == "blank":
        return rng.integers(247, 253, (SIZE, SIZE, 3), np.uint8)
    if drawing.kind == "black":
        return rng.integers(0, 8, (SIZE, SIZE, 3), np.uint8)
    hematoxylin, eosin = stain(rng, drawing.layout, drawing.slide.growth)
    return photograph(rng, drawing.slide, hematoxylin, eosin)


def stain(rng: np.random.Generator, layout: Layout, growth: Growth) -> tuple[Plane, Plane]:
    """Draw the hematoxylin and eosin concentrations (96,96) of a patch."""
    scene = draw_scene(rng, tumour_field(layout), growth)
    hematoxylin, eosin = draw_ground(rng, scene, growth)
    draw_cells(rng, scene, growth, hematoxylin, eosin)
    thickness = 1 + 0.08 * noise(rng, BROAD) + 0.1 * noise(rng, GRAIN)
    if rng.random() < 0.01:  # a fold: the section lies double along a band
        thickness += np.exp(-np.square(half_plane(rng, 20)[INNER] / np.float32(rng.uniform(4, 9))))
    return hematoxylin * thickness, eosin * thickness


def photograph(rng: np.random.Generator, slide: Slide, hematoxylin: Plane, eosin: Plane) -> Pixels:
    """Turn stain (96,96) into (96,96,3) uint8 RGB, by Beer-Lambert's law and through the slide's scanner."""
    import cv2

    light = [
        (np.exp(-h * hematoxylin - e * eosin) * white + np.float32(0.5)).astype(np.uint8)
        for h, e, white in zip(*slide.stains, slide.white, strict=True)
    ]
    colour = cv2.cvtColor(cv2.merge(light), cv2.COLOR_RGB2YCrCb)
    blur = slide.blur if rng.random() > 0.02 else rng.uniform(0.7, 0.95)  # now and then out of focus
    grey = np.asarray(cv2.GaussianBlur(colour[..., 0].astype(np.float32), (0, 0), blur), np.float32)
    grey += np.float32(slide.sharpen) * (grey - cv2.GaussianBlur(grey, (7, 7), 1.2))
    grey += np.float32(slide.noise) * noise(rng, GRAIN)
    colour[..., 0] = np.clip(grey, 0, 255)
    # Colour is kept at half the resolution of brightness, as JPEG does.
    half = cv2.resize(colour, (SIZE // 2, SIZE // 2), interpolation=cv2.INTER_AREA)
    colour[..., 1:] = cv2.resize(half, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR)[..., 1:]
    return np.asarray(cv2.cvtColor(colour, cv2.COLOR_YCrCb2RGB), np.uint8)
