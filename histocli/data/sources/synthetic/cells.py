"""The cells of a synthetic patch: where they lie, the shape of their nuclei, and the stain these take up.

Jittered lattices put cells on every kind of tissue, and a nearest-cell pass (Worley, "A cellular texture basis
function", SIGGRAPH 1996) gives every pixel its cell: so crowded nuclei press against one another instead of
overlapping, and the borders of cells come for free.
"""

from typing import Any

import numpy as np

from histocli.data.sources.synthetic.tissue import (
    FINE,
    FRAME,
    GERMINAL,
    GLASS,
    GRAIN,
    INNER,
    LUMEN,
    LYMPH,
    MEDIUM,
    PAD,
    SINUS,
    SIZE,
    STROMA,
    TUMOUR,
    XX,
    YY,
    Growth,
    Kinds,
    Mask,
    Plane,
    Scene,
    distance,
    lattice,
    noise,
)

Owners = np.ndarray[Any, np.dtype[np.intp]]

# The properties of a cell, a row each: radii are semi-axes in pixels, the rest concentrations or shares.
X, Y, COS, SIN, LONG, SHORT, CHROMATIN, TEXTURE, RIM, IRREGULAR, NUCLEOLUS, NU, NV, RED = range(14)
PROPERTIES = 14


def place_cells(rng: np.random.Generator, scene: Scene, growth: Growth) -> Plane:
    """Place all cells of a patch, as one table (14,N) of their properties."""
    present = np.flatnonzero(np.bincount(scene.kinds.ravel(), minlength=TUMOUR + 1))
    tables = [cells_of(rng, int(kind), scene, growth) for kind in present if kind != GLASS]
    return np.concatenate([np.zeros((PROPERTIES, 0), np.float32), *tables], axis=1)


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


def cells_of(rng: np.random.Generator, kind: int, scene: Scene, growth: Growth) -> Plane:
    """Place the cells (14,N) that lie on one kind of tissue."""
    closest, widest, jitter, fewest, most = DENSITY[kind]
    unit = growth.spacing if kind == TUMOUR else 1.0
    points = lattice(rng, unit * rng.uniform(closest, widest), jitter)
    share = rng.uniform(fewest, most)
    if kind == LUMEN:  # empty, with a few red cells, or full of them
        share = (0.0, 0.1, 0.9)[rng.integers(3)]
    columns, rows = (points.T + PAD).astype(np.intp)
    kept = points[(scene.kinds[rows, columns] == kind) & (rng.random(len(points)) < share)]
    table = np.zeros((PROPERTIES, len(kept)), np.float32)
    table[X], table[Y] = kept.T
    angle = rng.uniform(0, np.pi, len(kept))
    if kind == STROMA:
        angle = scene.angle + rng.normal(0, 0.35, len(kept))
    table[COS], table[SIN] = np.cos(angle), np.sin(angle)
    shape_nuclei(rng, kind, table, growth)
    return table


# Nuclei by kind: share of the kind's cells, then mean and deviation of radius, of stretch (long over short axis)
# and of chromatin, and texture, rim and irregularity. All other cells are small lymphocytes.
Nuclei = tuple[float, tuple[float, float], tuple[float, float], tuple[float, float], tuple[float, float, float]]
LYMPHOCYTE: Nuclei = (1.0, (3.1, 0.35), (1.1, 0.28), (1.25, 0.3), (0.28, 0.15, 0.14))
NUCLEI: dict[int, Nuclei] = {
    LYMPH: (0.06, (4.1, 0.4), (1.2, 0.2), (1.0, 0.2), (0.28, 0.25, 0.12)),
    GERMINAL: (0.75, (4.3, 0.5), (1.25, 0.2), (0.95, 0.2), (0.24, 0.3, 0.15)),
    SINUS: (0.6, (4.4, 0.6), (1.5, 0.3), (0.75, 0.18), (0.22, 0.35, 0.10)),
    STROMA: (0.85, (3.1, 0.5), (4.0, 1.6), (1.05, 0.3), (0.25, 0.0, 0.2)),
}


def shape_nuclei(rng: np.random.Generator, kind: int, table: Plane, growth: Growth) -> None:
    """Fill in the size, form and chromatin of all cells of one kind of tissue."""
    count = table.shape[1]
    if kind == LUMEN:  # red blood cells: no nucleus, all eosin
        form_nuclei(rng, (1.0, (3.2, 0.2), (1.1, 0.1), (0.0, 0.0), (0.0, 0.0, 0.1)), table, None)
        table[RED] = rng.normal(1.1, 0.2, count)
        return
    form_nuclei(rng, LYMPHOCYTE, table, None)
    nuclei = NUCLEI.get(kind) or cancer_nuclei(growth)
    chosen: Mask = rng.random(count) < nuclei[0]
    form_nuclei(rng, nuclei, table, chosen)
    if kind == TUMOUR:
        table[NUCLEOLUS] = chosen * growth.nucleolus * rng.uniform(0.3, 1.3, count)
        table[[NU, NV]] = rng.uniform(-0.4, 0.4, (2, count)) * table[[LONG, SHORT]]


def cancer_nuclei(growth: Growth) -> Nuclei:
    """Describe the nuclei of one slide's tumour."""
    size, chromatin = (growth.radius, 0.15 * growth.radius), (growth.chromatin, 0.2 * growth.chromatin)
    return 0.95, size, (1.25, 0.2), chromatin, (0.24, growth.rim, growth.irregularity)


def form_nuclei(rng: np.random.Generator, nuclei: Nuclei, table: Plane, chosen: Mask | None) -> None:
    """Draw the nuclei of the chosen cells (of all, for None) into their table."""
    _, radius, stretch, chromatin, (texture, rim, irregularity) = nuclei
    where = slice(None) if chosen is None else chosen
    count = table.shape[1] if chosen is None else int(chosen.sum())
    normal = rng.standard_normal((3, count), np.float32)
    radii = np.maximum(radius[0] + radius[1] * normal[0], 0.5 * radius[0])
    stretches = np.sqrt(np.maximum(stretch[0] + stretch[1] * normal[1], 1))
    table[LONG, where], table[SHORT, where] = radii * stretches, radii / stretches
    table[CHROMATIN, where] = np.maximum(chromatin[0] + chromatin[1] * normal[2], 0.4 * chromatin[0])
    table[TEXTURE, where], table[RIM, where], table[IRREGULAR, where] = texture, rim, irregularity


def nearest_cell(table: Plane) -> Owners:
    """Find the cell (column of the table) that every pixel (96,96) of the patch is nearest to."""
    import cv2

    columns, rows = (table[[X, Y]] + PAD).astype(np.intp)
    free = np.ones((FRAME, FRAME), np.uint8)
    free[rows, columns] = 0
    _, labels = cv2.distanceTransformWithLabels(free, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    index = np.zeros(FRAME * FRAME + 1, np.intp)
    index[labels[rows, columns]] = np.arange(table.shape[1])
    owner: Owners = index[labels[INNER]]
    return owner


# How much darker (above 0) or paler the border between two cells is than their cytoplasm, as a share of it.
#                     glass lymph germ  sinus stroma lumen tumour
BORDERS = np.array([0.0, -0.7, -0.5, -0.4, 0.0, 0.0, 0.0], np.float32)


def draw_borders(owner: Owners, kinds: Kinds, growth: Growth, hematoxylin: Plane, eosin: Plane) -> None:
    """Set the cytoplasm of neighbouring cells off against one another, in place."""
    edge = np.zeros((SIZE, SIZE), np.float32)
    edge[:-1] = owner[1:] != owner[:-1]
    edge[:, 1:] += owner[:, 1:] != owner[:, :-1]
    borders = BORDERS.copy()
    borders[TUMOUR] = growth.borders
    factor = 1 + 0.5 * borders.take(kinds) * edge
    eosin *= factor
    hematoxylin *= factor


def draw_cells(rng: np.random.Generator, scene: Scene, growth: Growth, hematoxylin: Plane, eosin: Plane) -> None:
    """Lay the cells of a patch over its ground (96,96), in place."""
    table = place_cells(rng, scene, growth)
    if not table.shape[1]:
        return
    owner = nearest_cell(table)
    draw_borders(owner, scene.kinds[INNER], growth, hematoxylin, eosin)
    cell = [row.take(owner) for row in table]  # one by one: small arrays need no fresh memory
    dx, dy = XX[INNER] - cell[X], YY[INNER] - cell[Y]
    u = dx * cell[COS] + dy * cell[SIN]
    v = dy * cell[COS] - dx * cell[SIN]
    outline = 1 + cell[IRREGULAR] * (noise(rng, MEDIUM) + 0.6 * noise(rng, FINE))
    depth = (1 - distance(u / cell[LONG], v / cell[SHORT]) * outline) * cell[SHORT]  # px below the membrane
    nucleus = np.clip(1.4 * depth + 0.5, 0, 1)
    mottle = 0.5 * noise(rng, FINE) + 0.9 * noise(rng, GRAIN)
    chromatin = 1 + cell[TEXTURE] * mottle + cell[RIM] * np.maximum(1 - np.abs(depth - 0.7), 0)
    chromatin *= cell[CHROMATIN]
    if table[NUCLEOLUS].any():
        chromatin += cell[NUCLEOLUS] * np.exp(-0.7 * (np.square(u - cell[NU]) + np.square(v - cell[NV])))
    hematoxylin += nucleus * (np.maximum(chromatin, 0) - hematoxylin)
    eosin += nucleus * (cell[RED] - 0.35 * eosin)
