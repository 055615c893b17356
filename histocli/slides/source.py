"""Patches of annotated slides as a data set, by PCam's rules."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from histocli.config import PATCH_MPP
from histocli.errors import HistoError, UsageError
from histocli.patch import Patch, Position
from histocli.slides.annotations import TumourAreas, check_inside, label_squares, read_tumour
from histocli.slides.detection import SlideFile, find_slides
from histocli.slides.grid import Grid, Mask
from histocli.slides.reading import open_slide, require_slide_packages
from histocli.slides.resolution import GivenResolutions, read_resolutions
from histocli.slides.scoring import plan_slide, read_patches
from histocli.slides.slide_files import describe_others, find_annotation
from histocli.slides.synthetic import SyntheticSlide, draw_slide, plan_synthetic_slide, write_annotation
from histocli.sources import PlannedFile, SourceContext, SourceReport
from histocli.sources.camelyon import find_hospital

LABEL_SIDE = 32  # pixels of the square that decides a patch's label
_BORDER_UM = 500.0  # squares that are nearer to tumour are hard to classify
_TUMOUR_SHARE = 0.5  # the share of tumour patches; it is lower if there are fewer


class AnnotatedSlide(NamedTuple):
    """A slide, the file of its annotation (None for a normal slide), and its hospital, "" if it is not known."""

    file: SlideFile
    annotation: Path | None
    hospital: str


@dataclass
class _SlideSample:
    """The chosen squares of a slide (rows, columns), and the squares with tumour."""

    slide: AnnotatedSlide
    grid: Grid
    mpp: tuple[float, float]
    tissue: Mask
    tumour: Mask
    chosen: Mask


class SlidesSource:
    """Up to `n` patches of the tissue of annotated slides: half of them with tumour in the central 32x32.

    The centres of patches are squares of 32x32 pixels that do not overlap. Each class is shared evenly among the slides
    that have it. `near_tumour` is the share of the patches without tumour that are drawn within half a millimetre of
    tumour; it is lower if there are fewer such squares. The id of a patch is `SLIDE_xX_yY`: the slide, and the upper
    left corner of the central square in level-0 pixels.

    Raises:
        HistoError: a slide has no annotation and its name does not begin with `normal`, or the inputs have no slides.
    """

    has_sha1_ids = False
    should_drop_duplicates = False
    is_remote = False

    def __init__(
        self,
        slides: Sequence[AnnotatedSlide],
        given: GivenResolutions,
        n: int,
        seed: int,
        origin: str,
        near_tumour: float,
    ) -> None:
        self.slides, self.given, self.n, self.seed = list(slides), given, n, seed
        self.near_tumour = near_tumour
        self.report = SourceReport(origin=origin, has_positions=True)
        self.total: int | None = None
        self._sampled: list[_SlideSample] = []

    @classmethod
    def open(
        cls, locations: Sequence[str], annotations: Path, mpp: str | None, n: int, seed: int, near_tumour: float
    ) -> "SlidesSource":
        """Find the slides in `locations`, and the annotation of each in the folder `annotations`."""
        given = read_resolutions(mpp)
        for name in locations:
            if not Path(name).exists():
                raise HistoError(f"there is no file or folder {name}", "give a folder of slides with --from")
        require_slide_packages()
        if not annotations.is_dir():
            raise UsageError(f"--annotations {annotations} is not a folder", "give the folder of the annotations")
        found = find_slides(locations)
        if found is None:
            raise HistoError(f"there are no slides in {', '.join(locations)}", "histo reads .svs, .tif, .ndpi and more")
        files = [find_annotation(file, annotations) for file in found.slides]
        slides = [
            AnnotatedSlide(file, annotation.path if annotation else None, find_hospital(file.name))
            for file, annotation in zip(found.slides, files, strict=True)
        ]
        source = cls(slides, given, n, seed, ", ".join(locations), near_tumour)
        source.report.notes += describe_others(files) + given.describe_unknown(found.slides)
        return source

    def plan(self) -> list[PlannedFile]:
        """Return the slides, which are on this machine."""
        return [PlannedFile(str(slide.file.path), slide.file.path.stat().st_size, True) for slide in self.slides]

    def fetch(self) -> None:
        """Find the tissue and the tumour of each slide, and choose the patches."""
        rng = np.random.default_rng(self.seed)
        self._sampled = [self._find_squares(slide) for slide in self.slides]
        with_tumour = [sample.tissue & sample.tumour for sample in self._sampled]
        near = [sample.tissue & ~sample.tumour & _find_near_squares(sample.tumour) for sample in self._sampled]
        n_tumour = self._choose(rng, with_tumour, round(self.n * _TUMOUR_SHARE))
        n_near = self._choose(rng, near, round((self.n - n_tumour) * self.near_tumour)) if self.near_tumour else 0
        without = [sample.tissue & ~sample.tumour & ~sample.chosen for sample in self._sampled]
        self._choose(rng, without, self.n - n_tumour - n_near)
        self.total = sum(int(sample.chosen.sum()) for sample in self._sampled)
        if not self.total:
            raise HistoError(f"no tissue was found in {self.report.origin}", "histo predict shows the tissue it finds")
        outside = sum(int((sample.tumour & ~sample.tissue).sum()) for sample in self._sampled)
        counts = {"slides": len(self.slides), "tumour": sum(int((o.chosen & o.tumour).sum()) for o in self._sampled)}
        if self.near_tumour:
            counts["normal, near tumour"] = sum(
                int((sample.chosen & mask).sum()) for sample, mask in zip(self._sampled, near, strict=True)
            )
        self.report.counts.update(counts | ({"annotated squares without tissue": outside} if outside else {}))

    def _choose(self, rng: np.random.Generator, masks: list[Mask], count: int) -> int:
        """Choose up to `count` squares of the masks of the slides, evenly, and return how many."""
        shares = _share_evenly([int(mask.sum()) for mask in masks], count)
        for sample, mask, share in zip(self._sampled, masks, shares, strict=True):
            sample.chosen.flat[rng.choice(np.flatnonzero(mask), share, replace=False)] = True
        return sum(shares)

    def _find_squares(self, slide: AnnotatedSlide) -> _SlideSample:
        areas = read_tumour(slide.annotation) if slide.annotation else TumourAreas([], [])
        if slide.annotation:
            self.report.notes += areas.describe_problems(slide.annotation)
        with open_slide(slide.file.path) as opened:
            mpp, _ = self.given.find(opened, slide.file)
            plan = plan_slide(opened, mpp, LABEL_SIDE, None, True)
        if slide.annotation:
            check_inside(areas, slide.annotation, slide.file.path, plan.grid.size)
        tumour = label_squares(areas, plan.grid)
        return _SlideSample(slide, plan.grid, mpp, plan.needed, tumour, np.zeros(plan.grid.shape, np.bool_))

    def read_patches(self) -> Iterator[Patch]:
        """Yield the chosen patches, slide by slide and row by row."""
        for sample in self._sampled:
            yield from self._read_slide_patches(sample)

    def _read_slide_patches(self, sample: _SlideSample) -> Iterator[Patch]:
        name = sample.slide.file.name
        squares = np.argwhere(sample.chosen).tolist()
        if not squares:
            return
        with open_slide(sample.slide.file.path) as slide:
            found = read_patches(slide, sample.grid, sample.chosen)
            for (row, column), patch in zip(squares, found, strict=True):
                box = sample.grid.find_box(row, column)
                label = int(sample.tumour[row, column])
                yield Patch(
                    f"{name}_x{box.x}_y{box.y}",
                    patch.load,
                    label,
                    name,
                    hospital=sample.slide.hospital,
                    position=Position(box.x, box.y, *sample.mpp),
                )


def _find_near_squares(tumour: Mask) -> Mask:
    """Return which squares are less than half a millimetre from a square of tumour; these include the tumour."""
    distance = cv2.distanceTransform((~tumour).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(distance * LABEL_SIDE * PATCH_MPP < _BORDER_UM, np.bool_)


def _share_evenly(sizes: list[int], total: int) -> list[int]:
    """Share `total` evenly among slides that have `sizes` squares; large slides replace what small ones lack."""
    shares = [0] * len(sizes)
    rest = min(total, sum(sizes))
    while rest:
        open_ones = [i for i, size in enumerate(sizes) if shares[i] < size]
        portion = max(1, rest // len(open_ones))
        for i in open_ones:
            more = min(portion, sizes[i] - shares[i], rest)
            shares[i] += more
            rest -= more
    return shares


class SyntheticSlidesSource(SlidesSource):
    """Patches of synthetic slides, which are drawn into the downloads with their annotations."""

    def __init__(self, plans: list[SyntheticSlide], folder: Path, n: int, seed: int, context: SourceContext) -> None:
        self.plans, self.folder, self.context = plans, folder, context
        slides = [
            AnnotatedSlide(
                SlideFile(folder / "slides" / f"{plan.name}.tif", plan.name),
                self._annotation_path(plan),
                plan.hospital,
            )
            for plan in plans
        ]
        super().__init__(slides, GivenResolutions(), n, seed, f"synthetic slides: {len(plans)}, seed={seed}", 0.0)

    @classmethod
    def plan_source(cls, count: int, side: int, n: int, seed: int, context: SourceContext) -> "SyntheticSlidesSource":
        """Plan `count` slides; the first and every second one after it has tumour."""
        plans = [plan_synthetic_slide(seed, number, side, number % 2 == 0) for number in range(count)]
        folder = context.downloads_dir / "synthetic-slides" / f"seed-{seed}-side-{side}"
        return cls(plans, folder, n, seed, context)

    def _annotation_path(self, slide: SyntheticSlide) -> Path:
        return self.folder / "annotations" / f"{slide.name}.xml"

    def fetch(self) -> None:
        """Draw the slides that are missing, and choose the patches."""
        require_slide_packages()
        for plan, slide in zip(self.plans, self.slides, strict=True):
            path = slide.file.path
            if path.is_file() and not self.context.force:
                continue
            write_annotation(plan, self._annotation_path(plan))
            write_annotation(plan, self._annotation_path(plan).with_suffix(".geojson"))
            draw_slide(plan, path, partial(self.context.on_transfer, path.name))
        super().fetch()
        self.report.notes.append(f"the slides are in {self.folder}")

    def plan(self) -> list[PlannedFile]:
        """Return the slides that will be drawn; their sizes are not known before."""
        return [PlannedFile(slide.file.path.name, None, slide.file.path.is_file()) for slide in self.slides]
