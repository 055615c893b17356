"""Draw synthetic slides as tiled pyramidal TIFF files, with exact tumour annotations.

The tissue is a mosaic of synthetic patches (`histocli.sources.synthetic`): those without tumour, and inside the
polygons of the annotation those full of it. Only a few rows of tiles are in memory at a time, so a slide can have any
size.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.sax.saxutils import quoteattr

import cv2
import numpy as np

from histocli.atomic import write_atomically, write_text
from histocli.config import PATCH_MPP
from histocli.patch import PATCH_SIDE, Pixels
from histocli.slides.polygons import Polygon, Ring, fill_polygons
from histocli.sources.synthetic.drawing import Drawing, Slide, make_slide, render
from histocli.sources.synthetic.tissue import Blob, Layout

if TYPE_CHECKING:
    import tifffile

MPP = PATCH_MPP / 4  # micrometres per pixel of level 0, as Camelyon16's scanners have
_DRAWING_FACTOR = 4  # level-0 pixels per pixel of the drawing, which has the resolution of PCam's patches
_N_PATCHES = 48  # patches of each kind in a mosaic
_OVERLAP = 16  # pixels in which neighbours of the mosaic are blended
_STRIDE = PATCH_SIDE - _OVERLAP
TILE = 256  # the height and width of a tile in pixels
_GLASS_NOISE = 1.5
_JPEG_QUALITY = 80  # the quality of JPEG, 0 to 100


@dataclass(frozen=True)
class SyntheticSlide:
    """A slide that is not drawn yet: its size in level-0 pixels, its tissue, and its lesions (none if normal)."""

    name: str
    hospital: str
    width: int
    height: int
    tissue: list[Polygon]
    lesions: list[Polygon]
    key: tuple[int, int]


def plan_synthetic_slide(seed: int, number: int, side: int, has_tumour: bool) -> SyntheticSlide:
    """Choose the outline of the tissue and of the lesions of a square slide with `side` level-0 pixels."""
    rng = np.random.default_rng((seed, number, 31))
    kind = "tumor" if has_tumour else "normal"
    name = f"{kind}_{number + 1:03d}"
    centre = np.array([side / 2, side / 2])
    tissue = [Polygon(_draw_outline(rng, centre, 0.4 * side, 0.12), [])]
    lesions = []
    if has_tumour:
        for radius in (0.16 * side, 0.08 * side, 0.04 * side)[: rng.integers(2, 4)]:
            angle, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.05, 0.24) * side
            at = centre + distance * np.array([np.cos(angle), np.sin(angle)])
            lesions.append(Polygon(_draw_outline(rng, at, radius, 0.2), [], "Tumor"))
    return SyntheticSlide(
        name, make_slide(seed, number, name, has_tumour).hospital, side, side, tissue, lesions, (seed, number)
    )


def _draw_outline(rng: np.random.Generator, centre: "np.ndarray[Any, Any]", radius: float, roughness: float) -> Ring:
    """Return an irregular closed curve (120,2) around a centre, in whole level-0 pixels."""
    angles = np.linspace(0, 2 * np.pi, 120, endpoint=False)
    waves = sum(
        rng.normal(0, roughness / order) * np.cos(order * angles + rng.uniform(0, 2 * np.pi)) for order in range(2, 7)
    )
    lengths = radius * np.exp(np.clip(waves, -0.5, 0.35))
    ring: Ring = np.round(centre + lengths[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1))
    return ring


class _SlideDrawer:
    """Draws any rows of a slide at the drawing's resolution; the same rows are always the same.

    `patches` are the patches of the mosaic, sorted by brightness: those without tumour, and those full of it.
    """

    def __init__(self, slide: SyntheticSlide) -> None:
        seed, number = slide.key
        appearance: Slide = make_slide(seed, number, slide.name, True)
        self.slide, self.white = slide, appearance.white
        self.width, self.height = math.ceil(slide.width / _DRAWING_FACTOR), math.ceil(slide.height / _DRAWING_FACTOR)
        shape = (self.height, self.width)
        self.tissue = fill_polygons(slide.tissue, shape, (_DRAWING_FACTOR, _DRAWING_FACTOR))
        self.tumour = fill_polygons(slide.lesions, shape, (_DRAWING_FACTOR, _DRAWING_FACTOR)) & self.tissue
        self.patches = [
            [render(Drawing(appearance, Layout(blobs, (seed, number, kind, index)))) for index in range(_N_PATCHES)]
            for kind, blobs in enumerate(((), (Blob(PATCH_SIDE / 2, PATCH_SIDE / 2, 200.0),)))
        ]
        for patches in self.patches:
            patches.sort(key=lambda patch: float(patch.mean()))
        rng = np.random.default_rng((*slide.key, 32))
        cells = self.height // _STRIDE + 2, self.width // _STRIDE + 2
        self.choice = np.stack([_choose_smoothly(rng, cells) for _ in self.patches])
        ramp = np.minimum(
            np.minimum(np.arange(PATCH_SIDE) + 0.5, PATCH_SIDE - 0.5 - np.arange(PATCH_SIDE)) / _OVERLAP, 1.0
        )
        self.weight = np.outer(ramp, ramp).astype(np.float32)[..., None]

    def draw(self, top: int, bottom: int) -> Pixels:
        """Return the rows from `top` to `bottom`, (bottom-top,W,3), uint8, RGB."""
        tissue = self.tissue[top:bottom, :, None]
        rng = np.random.default_rng((*self.slide.key, 33, top))
        image = self.white + rng.normal(0, _GLASS_NOISE, (bottom - top, self.width, 1)).astype(np.float32)
        if tissue.any():
            image = np.where(tissue, self._draw_mosaic(0, top, bottom, self.tissue), image)
            tumour = self.tumour[top:bottom, :, None]
            if tumour.any():
                image = np.where(tumour, self._draw_mosaic(1, top, bottom, self.tumour), image)
        pixels: Pixels = np.clip(image, 0, 255).astype(np.uint8)
        return pixels

    def _draw_mosaic(self, kind: int, top: int, bottom: int, where: "np.ndarray[Any, Any]") -> "np.ndarray[Any, Any]":
        """Blend patches of a kind where a mask needs them."""
        total = np.zeros((bottom - top, self.width, 3), np.float32)
        weights = np.full((bottom - top, self.width, 1), 1e-6, np.float32)
        for row in range(max(0, (top - PATCH_SIDE) // _STRIDE), bottom // _STRIDE + 1):
            y = row * _STRIDE - _OVERLAP
            above, below = max(top, y), min(bottom, y + PATCH_SIDE)
            if above >= below:
                continue
            for column in range(self.choice.shape[2]):
                x = column * _STRIDE - _OVERLAP
                left, right = max(0, x), min(self.width, x + PATCH_SIDE)
                if left >= right or not where[above:below, left:right].any():
                    continue
                patch = self.patches[kind][self.choice[kind, row, column]]
                inside = slice(above - y, below - y), slice(left - x, right - x)
                target = slice(above - top, below - top), slice(left, right)
                total[target] += patch[inside] * self.weight[inside]
                weights[target] += self.weight[inside]
        return total / weights


def _choose_smoothly(rng: np.random.Generator, shape: tuple[int, int]) -> "np.ndarray[Any, Any]":
    """Choose a patch for each cell, by rank of brightness: neighbours look similar, as in real tissue."""
    field = cv2.GaussianBlur(rng.standard_normal(shape), (0, 0), 1.6).ravel()
    ranks = np.empty(field.size)
    ranks[np.argsort(field)] = np.linspace(0, 1, field.size)
    choice = np.clip(np.round(ranks * (_N_PATCHES - 1) + rng.normal(0, 2.5, field.size)), 0, _N_PATCHES - 1)
    return choice.astype(np.intp).reshape(shape)


def draw_slide(
    slide: SyntheticSlide,
    path: Path,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
    factors: Sequence[int] = (1, _DRAWING_FACTOR, _DRAWING_FACTOR**2),
) -> None:
    """Draw a slide as a TIFF file with JPEG tiles and the levels 1, 1/4 and 1/16, or those of `factors`.

    `on_progress` receives the number of bytes of pixels so far, and in all.

    The pixels of level 1/4 are the drawing; level 0 repeats each of them 4x4 times.
    """
    import tifffile

    drawer = _SlideDrawer(slide)
    with write_atomically(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=True) as file:
        for level, factor in enumerate(factors):
            shape = math.ceil(slide.height / factor), math.ceil(slide.width / factor)
            write_level(file, _draw_tiles(drawer, factor, shape, on_progress), shape, factor, is_first=level == 0)


def write_level(
    file: "tifffile.TiffWriter",
    tiles: Iterator[Pixels] | Iterator[bytes],
    shape: tuple[int, int],
    factor: int,
    *,
    is_first: bool,
) -> None:
    """Write a level of a slide, with the tags that a slide needs.

    Args:
        file: the slide.
        tiles: the tiles, row by row: pixels (TILE,TILE,3), or the bytes of a JPEG file.
        shape: the height and width of the level.
        factor: the height and width of a pixel of this level, in pixels of level 0.
        is_first: whether this is level 0.
    """
    per_centimetre = 1e4 / (MPP * factor)
    file.write(
        tiles,
        shape=(*shape, 3),
        dtype=np.uint8,
        tile=(TILE, TILE),
        photometric="rgb",
        subsampling=(1, 1),
        compression="jpeg",
        compressionargs={"level": _JPEG_QUALITY},
        resolution=(per_centimetre, per_centimetre),
        resolutionunit="CENTIMETER",
        subfiletype=0 if is_first else 1,
        metadata=None,
        software="histo",
    )


def _draw_tiles(
    drawer: _SlideDrawer, factor: int, shape: tuple[int, int], on_progress: Callable[[int, int], None]
) -> Iterator[Pixels]:
    """Yield the tiles of a level, row by row; tiles at the border are filled with white."""
    for top in range(0, shape[0], TILE):
        if factor == 1:
            on_progress(top * shape[1] * 3, shape[0] * shape[1] * 3)
        rows = _draw_rows(drawer, factor, top, min(top + TILE, shape[0]), shape[1])
        down, right = -len(rows) % TILE, -rows.shape[1] % TILE
        rows = np.pad(rows, ((0, down), (0, right), (0, 0)), constant_values=255)
        yield from np.split(rows, rows.shape[1] // TILE, axis=1)


def _draw_rows(drawer: _SlideDrawer, factor: int, top: int, bottom: int, width: int) -> Pixels:
    """Return the rows `top` to `bottom` of the level that is `factor` times smaller than the slide.

    The drawing is `_DRAWING_FACTOR` times smaller than the slide. So its pixels are averaged for a smaller level,
    copied for the level of its size, and repeated for a larger one.
    """
    if factor == _DRAWING_FACTOR:
        return drawer.draw(top, bottom)
    if factor > _DRAWING_FACTOR:
        ratio = factor // _DRAWING_FACTOR
        image = drawer.draw(top * ratio, min(bottom * ratio, drawer.height))
        return np.asarray(cv2.resize(image, (width, bottom - top), interpolation=cv2.INTER_AREA), np.uint8)
    image = drawer.draw(top // _DRAWING_FACTOR, math.ceil(bottom / _DRAWING_FACTOR))
    size = image.shape[1] * _DRAWING_FACTOR, len(image) * _DRAWING_FACTOR
    finer = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_NEAREST), np.uint8)
    return finer[: bottom - top, :width]


def write_annotation(slide: SyntheticSlide, path: Path) -> None:
    """Write the lesions as ASAP's XML."""
    lines = ['<?xml version="1.0"?>', "<ASAP_Annotations>", "  <Annotations>"]
    for number, lesion in enumerate(slide.lesions):
        name = quoteattr(f"Annotation {number}")
        lines.append(f'    <Annotation Name={name} Type="Polygon" PartOfGroup="Tumor" Color="#F4FA58">')
        lines.append("      <Coordinates>")
        lines += [
            f'        <Coordinate Order="{order}" X="{x:g}" Y="{y:g}" />' for order, (x, y) in enumerate(lesion.outline)
        ]
        lines += ["      </Coordinates>", "    </Annotation>"]
    lines += ["  </Annotations>", "  <AnnotationGroups>", '    <Group Name="Tumor" PartOfGroup="None" Color="#00ff00">']
    lines += ["      <Attributes />", "    </Group>", "  </AnnotationGroups>", "</ASAP_Annotations>"]
    write_text(path, "\n".join(lines) + "\n")
