"""Draw the cells of a synthetic patch: their positions, the shapes of their nuclei, and their stain.

The cells of each kind of tissue are the points of a hexagonal lattice, moved at random. Each pixel belongs to the
nearest cell (Worley, "A cellular texture basis function", SIGGRAPH 1996). So neighbouring nuclei do not overlap, and
the borders of cells are where this label changes. All cells of a patch are drawn together: a patch has few cells, so
the time depends mainly on the number of NumPy calls.
"""

from typing import Any, NamedTuple

import numpy as np

from histocli.patch import PATCH_SIDE
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
    STROMA,
    TUMOUR,
    XX,
    YY,
    Growth,
    Kinds,
    Plane,
    Scene,
    compute_length,
    draw_lattice,
    draw_noise,
)

Labels = np.ndarray[Any, np.dtype[np.intp]]


class Cells(NamedTuple):
    """The cells of a patch: `points` (N,2) as x and y, the kind of tissue of each (N,), and its `angle` (N,)."""

    points: Plane
    kinds: Kinds
    angle: Plane


# Cells of each kind of tissue: lowest and highest spacing (pixels; for tumour a factor on `Growth.spacing`), size of
# the random moves, and lowest and highest share of lattice points that have a cell.
DENSITY = {
    LYMPH: (6.1, 7.6, 0.34, 0.88, 0.99),
    GERMINAL: (8.4, 10.4, 0.30, 0.93, 0.97),
    SINUS: (8.6, 12.5, 0.38, 0.60, 0.95),
    STROMA: (9.0, 14.0, 0.48, 0.05, 0.65),
    LUMEN: (6.4, 7.2, 0.35, 0.90, 0.90),
    TUMOUR: (0.92, 1.08, 0.26, 0.94, 0.98),
}


def place_cells(rng: np.random.Generator, scene: Scene, growth: Growth) -> Cells:
    """Choose the positions of all cells of a patch, one kind of tissue after the other."""
    placed = {kind: place_cells_of_kind(rng, kind, scene, growth) for kind in DENSITY if (scene.kinds == kind).any()}
    points = np.concatenate([np.zeros((0, 2), np.float32), *placed.values()])
    kinds = np.repeat(np.array([*placed], np.uint8), [len(places) for places in placed.values()])
    angle = np.float32(np.pi) * rng.random(len(points), np.float32)
    is_fibrous = kinds == STROMA
    along = np.float32(scene.angle) + np.float32(0.35) * rng.standard_normal(len(points), np.float32)
    return Cells(points, kinds, np.where(is_fibrous, along, angle))


def place_cells_of_kind(rng: np.random.Generator, kind: int, scene: Scene, growth: Growth) -> Plane:
    """Choose the positions (N,2) of the cells of one kind of tissue."""
    closest, widest, jitter, fewest, most = DENSITY[kind]
    unit = growth.spacing if kind == TUMOUR else 1.0
    points = draw_lattice(rng, unit * rng.uniform(closest, widest), jitter)
    share = rng.uniform(fewest, most)
    if kind == LUMEN:  # empty, with a few red cells, or with many
        share = (0.0, 0.1, 0.9)[rng.integers(3)]
    columns, rows = (points.T + PAD).astype(np.intp)
    chosen: Plane = points[(scene.kinds[rows, columns] == kind) & (rng.random(len(points), np.float32) < share)]
    return chosen


# Nuclei of each kind of tissue: the share of cells that have them (the other cells are small lymphocytes), then mean
# and deviation of radius (pixels), of long axis / short axis, and of chromatin, then texture, rim and irregularity.
LYMPHOCYTE = (3.1, 0.35, 1.1, 0.28, 1.25, 0.3, 0.28, 0.15, 0.14)
RED_CELL = (3.2, 0.2, 1.1, 0.1, 0.0, 0.0, 0.0, 0.0, 0.1)
NUCLEI = {
    GLASS: (0.0, LYMPHOCYTE),
    LYMPH: (0.06, (4.1, 0.4, 1.2, 0.2, 1.0, 0.2, 0.28, 0.25, 0.12)),
    GERMINAL: (0.75, (4.3, 0.5, 1.25, 0.2, 0.95, 0.2, 0.24, 0.3, 0.15)),
    SINUS: (0.6, (4.4, 0.6, 1.5, 0.3, 0.75, 0.18, 0.22, 0.35, 0.10)),
    STROMA: (0.85, (3.1, 0.5, 4.0, 1.6, 1.05, 0.3, 0.25, 0.0, 0.2)),
    LUMEN: (1.0, RED_CELL),
    TUMOUR: (0.95, LYMPHOCYTE),  # replaced by the cancer cells of the slide
}
SHARES = np.array([NUCLEI[kind][0] for kind in range(TUMOUR + 1)], np.float32)
FORMS = np.array([form for kind in range(TUMOUR + 1) for form in (LYMPHOCYTE, NUCLEI[kind][1])], np.float32)

# How much darker (above 0) or paler (below 0) than the cytoplasm a border between two cells is, as a share.
#                     glass lymph germ  sinus stroma lumen tumour
BORDERS = np.array([0.0, -0.7, -0.5, -0.4, 0.0, 0.0, 0.0], np.float32)

# The columns of the table of cells. The position of a pixel in a nucleus is u = UX * x + UY * y + U0 along the long
# axis and v = VX * x + VY * y + V0 along the short axis, both from -1 to 1. The last four columns are the nucleolus:
# its strength, its centre (NU, NV) in these units, and how fast it fades, so that its width (pixels) is about constant.
UX, UY, U0, SHORT, VX, VY, V0, IRREGULAR, CHROMATIN, TEXTURE, RIM, RED = range(12)
NUCLEOLUS, NU, NV, SHARPNESS = range(12, 16)
COLUMNS = 16
COLUMNS_PER_COPY = 4  # columns that are copied at once: 16 bytes per pixel is much faster than one column, or all


def shape_cells(rng: np.random.Generator, cells: Cells, growth: Growth) -> Plane:
    """Choose the nucleus of each cell, and return the table (N,16) of cells."""
    count = len(cells.points)
    table = np.empty((count, COLUMNS), np.float32)
    is_special = rng.random(count, np.float32) < SHARES.take(cells.kinds)
    forms = FORMS.copy()
    forms[2 * TUMOUR + 1] = list_nucleus_parameters(growth)
    form = forms.take(2 * cells.kinds + is_special, axis=0).T
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
    is_cancer = is_special & (cells.kinds == TUMOUR)
    random = rng.random((3, count), np.float32)
    table[:, NUCLEOLUS] = is_cancer * growth.nucleolus * (0.3 + random[0])
    table[:, NU], table[:, NV] = 0.8 * random[1:] - 0.4
    table[:, SHARPNESS] = -0.7 * long * short
    return table


def list_nucleus_parameters(growth: Growth) -> tuple[float, ...]:
    """Return the nuclei of the tumour of a slide, as numbers like those in `NUCLEI`."""
    size, chromatin = (growth.radius, 0.15 * growth.radius), (growth.chromatin, 0.2 * growth.chromatin)
    return (*size, 1.25, 0.2, *chromatin, 0.24, growth.rim, growth.irregularity)


def find_nearest_cells(points: Plane) -> tuple[Labels, Labels]:
    """Return the label (96,96) of the nearest cell of each pixel, and the cell (L,) of each label."""
    import cv2

    columns, rows = (points.T + PAD).astype(np.intp)
    free = np.ones((FRAME, FRAME), np.uint8)
    free[rows, columns] = 0
    _, labels = cv2.distanceTransformWithLabels(free, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    label_of_cell = labels[rows, columns]
    cells = np.zeros(label_of_cell.max() + 1, np.intp)  # labels begin at 1, in the order of the pixels
    cells[label_of_cell] = np.arange(len(points))
    return labels[INNER].astype(np.intp), cells


def draw_borders(labels: Labels, strength: Plane, hematoxylin: Plane, eosin: Plane) -> None:
    """Make the borders between cells darker or paler, in place; `strength` (L,) is that of each label."""
    edges = np.zeros((PATCH_SIDE, PATCH_SIDE), np.uint8)
    edges[:-1] = labels[1:] != labels[:-1]
    edges[:, 1:] += (labels[:, 1:] != labels[:, :-1]).view(np.uint8)
    factor = 1 + strength.take(labels) * edges
    eosin *= factor
    hematoxylin *= factor


def draw_cells(rng: np.random.Generator, scene: Scene, growth: Growth, hematoxylin: Plane, eosin: Plane) -> None:
    """Draw the cells of a patch over its background (96,96), in place."""
    cells = place_cells(rng, scene, growth)
    if not len(cells.points):
        return
    labels, owners = find_nearest_cells(cells.points)
    borders = BORDERS.copy()
    borders[TUMOUR] = growth.borders
    draw_borders(labels, 0.5 * borders.take(cells.kinds.take(owners)), hematoxylin, eosin)
    table = shape_cells(rng, cells, growth).take(owners, axis=0)
    columns = COLUMNS if table[:, NUCLEOLUS].any() else NUCLEOLUS
    parts = [
        table[:, first : first + COLUMNS_PER_COPY].copy().take(labels, axis=0)
        for first in range(0, columns, COLUMNS_PER_COPY)
    ]
    cell = [part[..., column] for part in parts for column in range(COLUMNS_PER_COPY)]
    x, y = XX[INNER][:1], YY[INNER][:, :1]
    u = cell[UX] * x + cell[UY] * y + cell[U0]
    v = cell[VX] * x + cell[VY] * y + cell[V0]
    outline = 1 + cell[IRREGULAR] * draw_noise(rng, OUTLINES)
    depth = (1 - compute_length(u, v) * outline) * cell[SHORT]  # px below the membrane
    nucleus = np.clip(1.4 * depth + 0.5, 0, 1)
    chromatin = cell[CHROMATIN] + cell[TEXTURE] * draw_noise(rng, MOTTLE)
    chromatin += cell[RIM] * np.maximum(1 - np.abs(depth - 0.7), 0)
    if columns == COLUMNS:
        off = np.square(u - cell[NU]) + np.square(v - cell[NV])
        chromatin += cell[NUCLEOLUS] * np.exp(cell[SHARPNESS] * off)
    hematoxylin += nucleus * (np.maximum(chromatin, 0) - hematoxylin)
    eosin += nucleus * (cell[RED] - 0.35 * eosin)
