"""Draw one synthetic patch from its slide, of a simulated hospital, and its layout."""

from dataclasses import dataclass

import numpy as np

from histocli.patch import PATCH_SIDE, Pixels
from histocli.sources.synthetic.cells import draw_cells
from histocli.sources.synthetic.tissue import (
    GRAIN,
    INNER,
    THICKNESS,
    Growth,
    Layout,
    Plane,
    draw_ground,
    draw_half_plane,
    draw_noise,
    draw_scene,
    draw_tumour_mask,
)

# Hematoxylin and eosin, as optical density in red, green and blue, at each simulated hospital.
HOSPITALS = {
    "A": ((0.66, 1.00, 0.62), (0.15, 0.68, 0.42)),
    "B": ((0.76, 1.06, 0.36), (0.20, 0.84, 0.20)),
    "C": ((0.70, 1.00, 0.64), (0.12, 0.60, 0.40)),
    "D": ((0.62, 0.96, 0.50), (0.16, 0.78, 0.34)),
}


@dataclass(frozen=True)
class Slide:
    """One simulated slide: its name, hospital, stains, scanner, and its tumour, if it has one.

    `stains` (2,3) are the optical densities of hematoxylin and eosin at concentration 1, and `white` (3,) is the colour
    of glass. `blur`, `sharpen` and `noise` (in grey levels) are properties of the scanner. `positives` is the share of
    patches with tumour in the centre.
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
    """Everything that one patch depends on; equal drawings give the same bytes."""

    slide: Slide
    layout: Layout
    kind: str = "tissue"  # or "blank", "black"


def make_slide(seed: int, number: int, name: str, has_tumour: bool) -> Slide:
    """Return a slide with random stains near those of its hospital, a scanner, and the growth of its tumour."""
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


def render(drawing: Drawing) -> Pixels:
    """Draw one patch: (96,96,3) uint8 RGB, the same bytes for equal drawings."""
    rng = np.random.default_rng((*drawing.layout.key, 2))
    if drawing.kind == "blank":
        return rng.integers(247, 253, (PATCH_SIDE, PATCH_SIDE, 3), np.uint8)
    if drawing.kind == "black":
        return rng.integers(0, 8, (PATCH_SIDE, PATCH_SIDE, 3), np.uint8)
    hematoxylin, eosin = draw_stains(rng, drawing.layout, drawing.slide.growth)
    return compute_image(rng, drawing.slide, hematoxylin, eosin)


def draw_stains(rng: np.random.Generator, layout: Layout, growth: Growth) -> tuple[Plane, Plane]:
    """Draw the hematoxylin and eosin concentrations (96,96) of a patch."""
    scene = draw_scene(rng, draw_tumour_mask(layout), growth)
    hematoxylin, eosin = draw_ground(rng, scene, growth)
    draw_cells(rng, scene, growth, hematoxylin, eosin)
    thickness = 1 + draw_noise(rng, THICKNESS)
    if rng.random() < 0.01:  # a fold: along a band the section is double
        thickness += np.exp(-np.square(draw_half_plane(rng, 20)[INNER] / np.float32(rng.uniform(4, 9))))
    return hematoxylin * thickness, eosin * thickness


def compute_image(rng: np.random.Generator, slide: Slide, hematoxylin: Plane, eosin: Plane) -> Pixels:
    """Return the image (96,96,3), uint8, RGB, of stain concentrations (96,96), by Beer-Lambert's law."""
    import cv2

    h, e = slide.stains
    light = [np.exp(np.log(white) - h[i] * hematoxylin - e[i] * eosin) for i, white in enumerate(slide.white)]
    colour = cv2.cvtColor(cv2.convertScaleAbs(cv2.merge(light)), cv2.COLOR_RGB2YCrCb)
    blur = slide.blur if rng.random() > 0.02 else rng.uniform(0.7, 0.95)  # 2% are out of focus
    grey = np.asarray(cv2.GaussianBlur(colour[..., 0].astype(np.float32), (5, 5), blur), np.float32)
    grey += np.float32(slide.sharpen) * (grey - cv2.GaussianBlur(grey, (7, 7), 1.2))
    grey += np.float32(slide.noise) * draw_noise(rng, GRAIN)
    # Colour has half the resolution of brightness, as in JPEG.
    half = cv2.resize(colour, (PATCH_SIDE // 2, PATCH_SIDE // 2), interpolation=cv2.INTER_AREA)
    colour = cv2.resize(half, (PATCH_SIDE, PATCH_SIDE), interpolation=cv2.INTER_LINEAR)
    cv2.insertChannel(cv2.convertScaleAbs(np.maximum(grey, 0)), colour, 0)
    return np.asarray(cv2.cvtColor(colour, cv2.COLOR_YCrCb2RGB), np.uint8)
