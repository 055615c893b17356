"""The cells of a synthetic patch: where they lie, the shape of their nuclei, and the stain these take up.

Jittered lattices put cells on every kind of tissue, and a nearest-cell pass (Worley, "A cellular texture basis
function", SIGGRAPH 1996) gives every pixel its cell: so crowded nuclei press against one another instead of
overlapping, and the borders of cells come for free. What all the cells of a patch need is worked out in one pass
over them: a patch has few cells and many kinds of step, so that the number of steps is what costs.
"""

from typing import Any, NamedTuple

import numpy as np

from histocli.sources.synthetic.tissue import (
    FRAME,
    GERMINAL,
    GLASS,
    INNER,
    LUMEN,
    LYMPH,
    MOTTLE,
    OUTLINES,
    PAD,
    SINUS,
    SIZE,
    STROMA,
    TUMOUR,
    XX,
    YY,
    Growth,
    Kinds,
    Plane,
    Scene,
    distance,
    lattice,
    noise,
)

Labels = np.ndarray[Any, np.dtype[np.intp]]


class Cells(NamedTuple):
    """Where the cells of a patch lie: `points` (N,2) as x, y, each one's kind of tissue (N,), its `angle` (N,)."""

    points: Plane
    kinds: Kinds
    angle: Plane


# Cells by kind: their spacing from and to (pixels; for tumour in units of its own), how far they stray from
# the lattice, and the share of its places that are taken, from and to.
DENSITY = {
    LYMPH: (6.1, 7.6, 0.34, 0.88, 0.99),
    GERMINAL: (8.4, 10.4, 0.30, 0.93, 0.97),
    SINUS: (8.6, 12.5, 0.38, 0.60, 0.95),
    STROMA: (9.0, 14.0, 0.48, 0.05, 0.65),
    LUMEN: (6.4, 7.2, 0.35, 0.90, 0.90),
    TUMOUR: (0.92, 1.08, 0.26, 0.94, 0.98),
}


def place_cells(rng: np.random.Generator, scene: Scene, growth: Growth) -> Cells:
    """Place all cells of a patch, kind by kind."""
    placed = {kind: places_of(rng, kind, scene, growth) for kind in DENSITY if (scene.kinds == kind).any()}
    points = np.concatenate([np.zeros((0, 2), np.float32), *placed.values()])
    kinds = np.repeat(np.array([*placed], np.uint8), [len(places) for places in placed.values()])
    angle = np.float32(np.pi) * rng.random(len(points), np.float32)
    fibrous = kinds == STROMA
    along = np.float32(scene.angle) + np.float32(0.35) * rng.standard_normal(len(points), np.float32)
    return Cells(points, kinds, np.where(fibrous, along, angle))


def places_of(rng: np.random.Generator, kind: int, scene: Scene, growth: Growth) -> Plane:
    """Choose the points (N,2) of the cells that lie on one kind of tissue."""
    closest, widest, jitter, fewest, most = DENSITY[kind]
    unit = growth.spacing if kind == TUMOUR else 1.0
    points = lattice(rng, unit * rng.uniform(closest, widest), jitter)
    share = rng.uniform(fewest, most)
    if kind == LUMEN:  # empty, with a few red cells, or full of them
        share = (0.0, 0.1, 0.9)[rng.integers(3)]
    columns, rows = (points.T + PAD).astype(np.intp)
    kept: Plane = points[(scene.kinds[rows, columns] == kind) & (rng.random(len(points), np.float32) < share)]
    return kept


# Nuclei by kind: the share of the kind's cells that have them (the others are small lymphocytes), then the mean and
# deviation of their radius (pixels), stretch (long over short axis) and chromatin, then texture, rim, irregularity.
LYMPHOCYTE = (3.1, 0.35, 1.1, 0.28, 1.25, 0.3, 0.28, 0.15, 0.14)
RED_CELL = (3.2, 0.2, 1.1, 0.1, 0.0, 0.0, 0.0, 0.0, 0.1)
NUCLEI = {
    GLASS: (0.0, LYMPHOCYTE),
    LYMPH: (0.06, (4.1, 0.4, 1.2, 0.2, 1.0, 0.2, 0.28, 0.25, 0.12)),
    GERMINAL: (0.75, (4.3, 0.5, 1.25, 0.2, 0.95, 0.2, 0.24, 0.3, 0.15)),
    SINUS: (0.6, (4.4, 0.6, 1.5, 0.3, 0.75, 0.18, 0.22, 0.35, 0.10)),
    STROMA: (0.85, (3.1, 0.5, 4.0, 1.6, 1.05, 0.3, 0.25, 0.0, 0.2)),
    LUMEN: (1.0, RED_CELL),
    TUMOUR: (0.95, LYMPHOCYTE),  # in place of these, each slide has cancer cells of its own
}
SHARES = np.array([NUCLEI[kind][0] for kind in range(TUMOUR + 1)], np.float32)
FORMS = np.array([form for kind in range(TUMOUR + 1) for form in (LYMPHOCYTE, NUCLEI[kind][1])], np.float32)

# How much darker (above 0) or paler the border between two cells is than their cytoplasm, as a share of it.
#                     glass lymph germ  sinus stroma lumen tumour
BORDERS = np.array([0.0, -0.7, -0.5, -0.4, 0.0, 0.0, 0.0], np.float32)

# What is drawn of a cell, a column each. Where in a nucleus a pixel lies comes of two forms linear in x and y, both
# from -1 to 1 between its ends: U along its long axis, V along its short one. Then its nucleolus, in the same units:
# of what strength it is, where its middle lies, and how fast it fades, about as many pixels wide in every nucleus.
UX, UY, U0, SHORT, VX, VY, V0, IRREGULAR, CHROMATIN, TEXTURE, RIM, RED = range(12)
NUCLEOLUS, NU, NV, SHARPNESS = range(12, 16)
COLUMNS = 16
TOGETHER = 4  # columns that a pixel copies at once, 16 bytes, far faster than one after another or all of them


def shape_cells(rng: np.random.Generator, cells: Cells, growth: Growth) -> Plane:
    """Choose the nucleus of every cell; return the table (N,16) of what is drawn of each."""
    count = len(cells.points)
    table = np.empty((count, COLUMNS), np.float32)
    special = rng.random(count, np.float32) < SHARES.take(cells.kinds)
    forms = FORMS.copy()
    forms[2 * TUMOUR + 1] = cancer_nuclei(growth)
    form = forms.take(2 * cells.kinds + special, axis=0).T
    normal = rng.standard_normal((3, count), np.float32)
    radius, stretch, chromatin = form[0:6:2] + form[1:6:2] * normal
    radius, chromatin = np.maximum(radius, 0.5 * form[0]), np.maximum(chromatin, 0.4 * form[4])
    stretch = np.sqrt(np.maximum(stretch, 1))
    long, short = radius * stretch, radius / stretch
    cos, sin = np.cos(cells.angle), np.sin(cells.angle)
    x, y = cells.points.T
    table[:, UX], table[:, UY], table[:, U0] = cos / long, sin / long, -(x * cos + y * sin) / long
    table[:, VX], table[:, VY], table[:, V0] = -sin / short, cos / short, (x * sin - y * cos) / short
    table[:, SHORT], table[:, IRREGULAR], table[:, CHROMATIN] = short, form[8], chromatin
    table[:, TEXTURE], table[:, RIM] = form[6] * chromatin, form[7] * chromatin
    table[:, RED] = (cells.kinds == LUMEN) * (1.1 + 0.2 * normal[2])
    cancer = special & (cells.kinds == TUMOUR)
    some = rng.random((3, count), np.float32)
    table[:, NUCLEOLUS] = cancer * growth.nucleolus * (0.3 + some[0])
    table[:, NU], table[:, NV] = 0.8 * some[1:] - 0.4
    table[:, SHARPNESS] = -0.7 * long * short
    return table


def cancer_nuclei(growth: Growth) -> tuple[float, ...]:
    """Describe the nuclei of one slide's tumour, as `NUCLEI` does those of other kinds."""
    size, chromatin = (growth.radius, 0.15 * growth.radius), (growth.chromatin, 0.2 * growth.chromatin)
    return (*size, 1.25, 0.2, *chromatin, 0.24, growth.rim, growth.irregularity)


def nearest_cell(points: Plane) -> tuple[Labels, Labels]:
    """Label every pixel (96,96) of the patch with the cell that is nearest; and say which cell (L,) has which label."""
    import cv2

    columns, rows = (points.T + PAD).astype(np.intp)
    free = np.ones((FRAME, FRAME), np.uint8)
    free[rows, columns] = 0
    _, labels = cv2.distanceTransformWithLabels(free, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    own = labels[rows, columns]
    cells = np.zeros(own.max() + 1, np.intp)  # labels count from 1, in the order of the pixels
    cells[own] = np.arange(len(points))
    return labels[INNER].astype(np.intp), cells


def draw_borders(labels: Labels, strength: Plane, hematoxylin: Plane, eosin: Plane) -> None:
    """Set the cytoplasm of neighbouring cells off against one another, in place; `strength` is each label's."""
    edges = np.zeros((SIZE, SIZE), np.uint8)
    edges[:-1] = labels[1:] != labels[:-1]
    edges[:, 1:] += (labels[:, 1:] != labels[:, :-1]).view(np.uint8)
    factor = 1 + strength.take(labels) * edges
    eosin *= factor
    hematoxylin *= factor


def draw_cells(rng: np.random.Generator, scene: Scene, growth: Growth, hematoxylin: Plane, eosin: Plane) -> None:
    """Lay the cells of a patch over its ground (96,96), in place."""
    cells = place_cells(rng, scene, growth)
    if not len(cells.points):
        return
    labels, owners = nearest_cell(cells.points)
    borders = BORDERS.copy()
    borders[TUMOUR] = growth.borders
    draw_borders(labels, 0.5 * borders.take(cells.kinds.take(owners)), hematoxylin, eosin)
    table = shape_cells(rng, cells, growth).take(owners, axis=0)
    columns = COLUMNS if table[:, NUCLEOLUS].any() else NUCLEOLUS
    parts = [table[:, first : first + TOGETHER].copy().take(labels, axis=0) for first in range(0, columns, TOGETHER)]
    cell = [part[..., column] for part in parts for column in range(TOGETHER)]
    x, y = XX[INNER][:1], YY[INNER][:, :1]
    u = cell[UX] * x + cell[UY] * y + cell[U0]
    v = cell[VX] * x + cell[VY] * y + cell[V0]
    outline = 1 + cell[IRREGULAR] * noise(rng, OUTLINES)
    depth = (1 - distance(u, v) * outline) * cell[SHORT]  # px below the membrane
    nucleus = np.clip(1.4 * depth + 0.5, 0, 1)
    chromatin = cell[CHROMATIN] + cell[TEXTURE] * noise(rng, MOTTLE)
    chromatin += cell[RIM] * np.maximum(1 - np.abs(depth - 0.7), 0)
    if columns == COLUMNS:
        off = np.square(u - cell[NU]) + np.square(v - cell[NV])
        chromatin += cell[NUCLEOLUS] * np.exp(cell[SHARPNESS] * off)
    hematoxylin += nucleus * (np.maximum(chromatin, 0) - hematoxylin)
    eosin += nucleus * (cell[RED] - 0.35 * eosin)
