"""Draw lymph-node tissue: a map of the kinds of tissue in a 96x96 patch, and everything except the cells.

A patch has two planes of stain concentration, hematoxylin and eosin, at 0.972 um per pixel as in PCam: 0 is glass,
about 1.5 is a dark nucleus. The map of tissue kinds is drawn first. It has a margin around the patch, because cells
near the patch change the shapes of cells inside it. All functions are vectorised over the pixels of a patch.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from histocli.patch import CENTRE, PATCH_SIDE

Plane = np.ndarray[Any, np.dtype[np.float32]]
Points = np.ndarray[Any, np.dtype[np.complex64]]
Mask = np.ndarray[Any, np.dtype[np.bool_]]
Kinds = np.ndarray[Any, np.dtype[np.uint8]]

PAD = 6
FRAME = PATCH_SIDE + 2 * PAD
INNER = (slice(PAD, -PAD), slice(PAD, -PAD))
BANK = 768

GLASS, LYMPH, GERMINAL, SINUS, STROMA, LUMEN, TUMOUR = range(7)
SIGMAS = (0.6, 1.5, 2.6, 6.0, 14.0)  # px: standard deviation of the Gaussian blur of each noise texture
GRAIN, FINE, MEDIUM, COARSE, BROAD = range(5)
# Weighted sums of these textures. They are computed once, and not for each patch.
SUMS = (
    (0, 0.6, 1, 0, 0),
    (0.9, 0.5, 0, 0, 0),
    (0, 0, 0, 2, 5),
    (0.35, 0.2, 0.7, 0.5, 0),
    (0.2, 0.15, 0.15, 0, 0),
    (0.1, 0, 0, 0, 0.08),
)
OUTLINES, MOTTLE, WAVES, TEARS, SPECKLE, THICKNESS = range(5, 5 + len(SUMS))
OUTLINE = 2.5  # px: distance by which a tumour's outline moves per standard deviation of its noise
MAX_OUTLINE_SHIFT = 2 * OUTLINE  # px: the largest such distance

YY, XX = (axis.astype(np.float32) for axis in np.mgrid[-PAD : PATCH_SIDE + PAD, -PAD : PATCH_SIDE + PAD])


@cache
def make_hexagons() -> Points:
    """Make a hexagonal lattice (81,81) of unit spacing around the origin, x + iy."""
    rows, columns = np.mgrid[-40:41, -40:41]
    return np.asarray(columns + 0.5 * (rows % 2) + 0.866j * rows, np.complex64)


def draw_lattice(rng: np.random.Generator, spacing: float, jitter: float, margin: float = PAD) -> Plane:
    """Return points (N,2) as x and y in the patch and a margin: a rotated hexagonal lattice with random moves."""
    steps = min(40, int((PATCH_SIDE + 2 * margin) * 0.8 / spacing) + 1)
    reach = slice(40 - steps, 41 + steps)
    points = make_hexagons()[reach, reach].flatten()
    moves = rng.random((points.size, 2), np.float32).view(np.complex64)[:, 0]
    points += np.float32(2 * jitter) * (moves - np.complex64(0.5 + 0.5j))
    points *= np.complex64(spacing * np.exp(1j * np.pi * rng.random()))
    points += np.complex64(PATCH_SIDE / 2 * (1 + 1j) + spacing * complex(rng.random() - 0.5, rng.random() - 0.5))
    x, y = points.real, points.imag
    inside = points[(np.minimum(x, y) >= -margin) & (np.maximum(x, y) < PATCH_SIDE + margin)]
    return inside.view(np.float32).reshape(-1, 2)


class Blob(NamedTuple):
    """A disc of tumour, in pixels of the patch; its outline is then made irregular."""

    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Growth:
    """The appearance of the tumour of a slide: lengths in pixels, other values as stain concentration or share."""

    radius: float
    spacing: float
    chromatin: float
    rim: float
    nucleolus: float
    irregularity: float
    eosin: float
    basophilia: float
    borders: float
    lumens: float
    strands: float


@dataclass(frozen=True)
class Layout:
    """The tumour of one patch, and the random key from which everything else is drawn."""

    blobs: tuple[Blob, ...]
    key: tuple[int, ...]


@dataclass
class Scene:
    """The background of one patch: kind of tissue (108,108), direction of fibres, and thin walls (96,96)."""

    kinds: Kinds
    angle: float
    walls: Plane | None


@cache
def make_noise_bank() -> Plane:
    """Return noise textures (11,768,768), from fine to coarse with variance 1, then their weighted sums."""
    import cv2

    white = np.random.default_rng(1931).standard_normal((len(SIGMAS), BANK, BANK), dtype=np.float32)
    planes = [cv2.GaussianBlur(plane, (0, 0), sigma) for plane, sigma in zip(white, SIGMAS, strict=True)]
    bank = [plane / plane.std() for plane in planes]
    for shares in SUMS:  # one by one: the rounding of a matrix product depends on the processor
        wanted = [np.float32(share) * plane for share, plane in zip(shares, bank, strict=False) if share]
        bank.append(np.add.reduce(wanted))
    return np.stack(bank)


def draw_noise(rng: np.random.Generator, scale: int, size: int = PATCH_SIDE) -> Plane:
    """Return a random window (size,size) of a noise texture; it is a view, so do not write to it."""
    x, y = int(rng.random() * (BANK - size)), int(rng.random() * (BANK - size))
    return make_noise_bank()[scale, y : y + size, x : x + size]


def compute_length(x: Plane, y: Plane) -> Plane:
    """Return the length of the vectors (x, y), several times as fast as np.hypot, which avoids overflow."""
    length: Plane = np.sqrt(x * x + y * y)
    return length


def draw_tumour_mask(layout: Layout, part: slice = slice(None)) -> Mask:
    """Return the mask of the tumour of a layout, for the whole frame (108,108) or a part of it."""
    x, y = XX[:1, part], YY[part, :1]
    if not layout.blobs:
        return np.zeros((y.size, x.size), np.bool_)
    rng = np.random.default_rng((*layout.key, 1))
    depths = [np.float32(blob.radius) - compute_length(x - blob.x, y - blob.y) for blob in layout.blobs]
    outline = OUTLINE * np.clip(draw_noise(rng, COARSE, FRAME)[part, part], -2, 2)
    field: Mask = np.maximum.reduce(depths) + outline > 0
    return field


def is_positive(layout: Layout) -> bool:
    """Return PCam's label: whether any pixel of the central 32x32 is tumour."""
    return bool(draw_tumour_mask(layout, slice(PAD + CENTRE.start, PAD + CENTRE.stop)).any())


# How often each kind, from glass to stroma, is the main one of a patch: without tumour, and around one.
MAIN_KINDS = np.cumsum([0.03, 0.36, 0.16, 0.20, 0.25])
AROUND_TUMOUR = np.cumsum([0.03, 0.38, 0.05, 0.14, 0.40])


def draw_scene(rng: np.random.Generator, tumour: Mask, growth: Growth) -> Scene:
    """Return the map of tissue kinds of a patch, given the mask of its tumour (108,108)."""
    has_tumour = bool(tumour.any())
    main, second = np.searchsorted(AROUND_TUMOUR if has_tumour else MAIN_KINDS, rng.random(2) * 0.9999)
    kinds: Kinds = np.full((FRAME, FRAME), main, np.uint8)
    if second != main and rng.random() < 0.6:
        kinds[draw_half_plane(rng, 22) > 0] = second
    if rng.random() < 0.2:  # a trabecula: a thin band of stroma
        kinds[np.abs(draw_half_plane(rng, 25)) < rng.uniform(3, 9)] = STROMA
    walls = None
    if rng.random() < (0.08 if has_tumour else 0.14):
        walls = draw_fat(rng, kinds, draw_half_plane(rng, 25) > (0 if rng.random() < 0.6 else -60))
    if rng.random() < 0.16:
        draw_vessel(rng, kinds)
    if rng.random() < 0.05:
        kinds[draw_half_plane(rng, 15) > 18] = GLASS
    if has_tumour:
        draw_tumour(rng, kinds, tumour, growth)
        if walls is not None:
            walls[tumour[INNER]] = 0
    return Scene(kinds, rng.uniform(0, np.pi), walls)


def draw_half_plane(rng: np.random.Generator, spread: float) -> Plane:
    """Return the signed distance (108,108) in pixels to a wavy line at a random position and angle."""
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    offset = np.float32(rng.normal(0, spread) + (cos + sin) * PATCH_SIDE / 2)
    field: Plane = XX[:1] * cos + (YY[:, :1] * sin - offset) + draw_noise(rng, WAVES, FRAME)
    return field


def draw_fat(rng: np.random.Generator, kinds: Kinds, where: Mask) -> Plane:
    """Turn a region into adipocytes (vacuoles of glass), and return the thin walls between them (96,96)."""
    import cv2

    spacing = rng.uniform(34, 70)
    centres = draw_lattice(rng, spacing, 0.33, margin=spacing)
    coarse = slice(None, None, 2)  # the distances are smooth, so half the resolution is enough
    warp = 0.9 * draw_noise(rng, WAVES, FRAME)[coarse, coarse]
    distances = compute_length(
        XX[coarse, coarse] + warp - centres[:, 0, None, None], YY[coarse, coarse] - centres[:, 1, None, None]
    )
    first = distances.min(axis=0)
    second = np.where(distances == first, np.float32(np.inf), distances).min(axis=0)
    gap = cv2.resize(second - first, (FRAME, FRAME), interpolation=cv2.INTER_CUBIC)
    is_corner = first > np.float32(spacing * rng.uniform(0.6, 0.8))  # corners between three cells: fibres, capillaries
    kinds[where] = GLASS
    kinds[where & cv2.resize(is_corner.astype(np.uint8), (FRAME, FRAME)).astype(bool)] = STROMA
    width = np.float32(rng.uniform(1.2, 2.6)) * (1 + 0.25 * draw_noise(rng, COARSE))
    walls: Plane = np.exp(-np.square(gap[INNER] / width)) * where[INNER]
    return walls * np.float32(rng.uniform(0.4, 1.0))


def draw_vessel(rng: np.random.Generator, kinds: Kinds) -> None:
    """Draw a blood or lymph vessel into the map: a wall of stroma around a lumen."""
    x, y = rng.uniform(0, PATCH_SIDE, 2).astype(np.float32)
    long, short = rng.uniform((12, 6), (42, 16)).astype(np.float32)
    angle = rng.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    u, v = (XX - x) * cos + (YY - y) * sin, (YY - y) * cos - (XX - x) * sin
    depth = (1 - compute_length(u / long, v / short)) * short + 1.2 * draw_noise(rng, COARSE, FRAME)
    kinds[depth > -rng.uniform(2, 6)] = STROMA
    kinds[depth > 0] = LUMEN


def draw_tumour(rng: np.random.Generator, kinds: Kinds, tumour: Mask, growth: Growth) -> None:
    """Draw the tumour into the map, with its strands of stroma and its lumens."""
    kinds[tumour] = TUMOUR
    if growth.strands:
        kinds[tumour & (np.abs(draw_noise(rng, BROAD, FRAME)) < growth.strands)] = STROMA
    if growth.lumens:
        kinds[tumour & (draw_noise(rng, COARSE, FRAME) > 2.6 - growth.lumens)] = GLASS


# The background of each kind of tissue.
#                          glass lymph germ  sinus stroma lumen tumour
GROUND = np.array(
    [  # eosin, hematoxylin, how far tears and vacuoles open, fibres
        (0.00, 0.00, 0.00, 0),  # glass
        (0.62, 0.26, 0.90, 0),  # lymph
        (0.58, 0.26, 0.50, 0),  # germinal
        (0.45, 0.16, 0.95, 0),  # sinus
        (0.46, 0.06, 0.00, 1),  # stroma
        (0.06, 0.00, 0.00, 0),  # lumen
        (0.00, 0.00, 0.30, 0),  # tumour; its stains depend on the slide
    ],
    np.float32,
)


def draw_ground(rng: np.random.Generator, scene: Scene, growth: Growth) -> tuple[Plane, Plane]:
    """Return the hematoxylin and eosin (96,96) of cytoplasm, fibres, walls and tears."""
    import cv2

    levels = GROUND.copy()
    levels[TUMOUR, :2] = growth.eosin, growth.basophilia
    levels[LUMEN, 0] = (0.02, 0.05, 0.35)[rng.integers(3)]
    levels[:, 0] *= 0.8 + 0.45 * rng.random(len(levels), np.float32)
    ground = levels.take(scene.kinds[INNER].astype(np.intp), axis=0)
    eosin, hematoxylin, gaps, fibrous = np.moveaxis(np.asarray(cv2.blur(ground, (3, 3)), np.float32), -1, 0)
    closed = 1 - gaps * np.clip(1.5 * draw_noise(rng, TEARS) - np.float32(1.5 * rng.uniform(0.2, 1.8)), 0, 1)
    eosin = eosin * closed * (1 + draw_noise(rng, SPECKLE))
    hematoxylin = hematoxylin * closed * (1 + 0.5 * draw_noise(rng, MEDIUM))
    if (scene.kinds == STROMA).any():
        eosin *= 1 + fibrous * (draw_fibres(rng, scene.angle) - 1)
    if scene.walls is not None:
        eosin += 0.6 * scene.walls
        hematoxylin += 0.15 * scene.walls
    return np.maximum(hematoxylin, 0), np.maximum(eosin, 0)


# Lowest value and range of the properties of fibres: density across, density along, looseness and contrast.
FIBRES_FROM = np.array([1.0, 0.08, -3.0, 0.1], np.float32)
FIBRES_OVER = np.array([0.8, 0.22, 2.8, 0.25], np.float32)


def draw_fibres(rng: np.random.Generator, angle: float) -> Plane:
    """Return a factor (96,96) on the eosin for wavy bundles along an angle: 0 in clefts, up to 2."""
    import cv2

    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    x, y = XX[INNER][:1], YY[INNER][:, :1]
    u, v = x * cos + y * sin, y * cos - x * sin
    v += np.float32(rng.uniform(2, 7)) * draw_noise(rng, BROAD) + np.float32(rng.uniform(0.3, 1.5)) * draw_noise(
        rng, COARSE
    )
    width, length, looseness, contrast = FIBRES_FROM + FIBRES_OVER * rng.random(4, np.float32)
    x, y = rng.uniform(200, BANK - 200, 2).astype(np.float32)
    along, across = u * length + x, v * width + y
    strands = cv2.remap(make_noise_bank()[OUTLINES], along, across, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    clefts = np.clip(1.5 * (strands - looseness), 0, 1)
    factor: Plane = np.maximum(1 + contrast * strands, 0.2) * clefts
    return factor
