"""Patches of annotated slides as a data set, by PCam's rules."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from histocli.config import PATCH_MPP
from histocli.errors import HistoError, UsageError
from histocli.patch import Patch, Position
from histocli.slides.annotations import TumourAreas, check_inside, label_squares, read_tumour
from histocli.slides.detection import SlideFile, find_slides
from histocli.slides.grid import Grid, Mask, plan_grid
from histocli.slides.reading import open_slide, require_slide_packages
from histocli.slides.resolution import GivenResolutions, read_resolutions
from histocli.slides.scoring import plan_slide, read_patches
from histocli.slides.slide_files import describe_found, find_annotation
from histocli.slides.synthetic import SyntheticSlide, draw_slide, plan_synthetic_slide, write_annotation
from histocli.sources import PlannedFile, SourceContext, SourceReport
from histocli.sources.camelyon import find_hospital
from histocli.sources.slides import SlidesOptions
from histocli.sources.synthetic_slides import SyntheticSlidesOptions

LABEL_SIDE = 32  # pixels of the square that decides a patch's label
_BORDER_UM = 500.0  # squares that are nearer to tumour are hard to classify
_TISSUE, _TUMOUR, _CHOSEN = 1, 2, 4  # bits of the number of a square
_TUMOUR_SHARE = 0.5  # the share of tumour patches; it is lower if there are fewer


class AnnotatedSlide(NamedTuple):
    """A slide, the file of its annotation (None for a normal slide), and its hospital, "" if it is not known."""

    file: SlideFile
    annotation: Path | None
    hospital: str


class _CheckedSlide(NamedTuple):
    """A slide whose annotation fits it, with its annotated areas, and its micrometres per level-0 pixel (x, y)."""

    slide: AnnotatedSlide
    areas: TumourAreas
    mpp: tuple[float, float]


@dataclass
class _SlideSample:
    """The squares of a slide (rows, columns): each is a number with the bits `_TISSUE`, `_TUMOUR` and `_CHOSEN`.

    Those of all slides are in memory. A large slide has a million squares, and one byte for each is less than three
    masks.
    """

    slide: AnnotatedSlide
    grid: Grid
    mpp: tuple[float, float]
    squares: "np.ndarray[Any, np.dtype[np.uint8]]"

    def find_tumour(self) -> Mask:
        """Return the squares of tissue with tumour that are not chosen yet."""
        return np.asarray(self.squares == _TISSUE | _TUMOUR)

    def find_annotated(self) -> Mask:
        """Return the squares that have annotated tumour, with or without tissue."""
        return np.asarray(self.squares & _TUMOUR > 0)

    def find_normal(self) -> Mask:
        """Return the squares of tissue without tumour that are not chosen yet."""
        return np.asarray(self.squares == _TISSUE)

    def find_near(self) -> Mask:
        """Return the squares of tissue without tumour that are less than half a millimetre from tumour."""
        is_normal = self.squares & (_TISSUE | _TUMOUR) == _TISSUE
        away = (~self.find_annotated()).astype(np.uint8)
        distance = cv2.distanceTransform(away, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
        return np.asarray(is_normal & (distance * LABEL_SIDE * PATCH_MPP < _BORDER_UM))

    def find_chosen(self) -> Mask:
        """Return the chosen squares."""
        return np.asarray(self.squares & _CHOSEN > 0)


class SlidesSource:
    """Up to `options.n` patches of the tissue of annotated slides: half of them with tumour in the central 32x32.

    The centres of patches are squares of 32x32 pixels that do not overlap. Each class is shared evenly among the slides
    that have it. `options.near_tumour` is the share of the patches without tumour that are drawn within half a
    millimetre of tumour; it is lower if there are fewer such squares. The id of a patch is `SLIDE_xX_yY`: the slide,
    and the upper left corner of the central square in level-0 pixels.

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
        origin: str,
        options: SlidesOptions,
        context: SourceContext,
    ) -> None:
        self.slides, self.given, self.options, self.context = list(slides), given, options, context
        self.report = SourceReport(origin=origin, has_positions=True)
        self.total: int | None = None
        self._sampled: list[_SlideSample] = []

    @classmethod
    def open(cls, options: SlidesOptions, context: SourceContext) -> "SlidesSource":
        """Find the slides and their annotations, without reading pixels."""
        if not options.locations or options.annotations is None:
            raise UsageError(
                "--source slides needs --from DIR and --annotations DIR",
                "give the folder of the slides, and the folder of their annotations",
            )
        if not 0 <= options.near_tumour <= 1:
            raise UsageError(f"--near-tumour {options.near_tumour:g} is not possible", "give a share from 0 to 1")
        given = read_resolutions(options.mpp)
        for name in options.locations:
            if not Path(name).exists():
                raise HistoError(f"there is no file or folder {name}", "give a folder of slides with --from")
        require_slide_packages()
        folder, origin = options.annotations, ", ".join(options.locations)
        if not folder.is_dir():
            raise UsageError(f"--annotations {folder} is not a folder", "give the folder of the annotations")
        found = find_slides(options.locations)
        if found is None:
            raise HistoError(f"there are no slides in {origin}", "histo reads .svs, .tif, .ndpi and more")
        files = [find_annotation(file, folder) for file in found.slides]
        slides = [
            AnnotatedSlide(file, annotation.path if annotation else None, find_hospital(file.name))
            for file, annotation in zip(found.slides, files, strict=True)
        ]
        source = cls(slides, given, origin, options, context)
        source.report.notes += describe_found(files) + given.describe_unknown(found.slides)
        return source

    def plan(self) -> list[PlannedFile]:
        """Return the slides, which are on this machine."""
        return [PlannedFile(str(slide.file.path), slide.file.path.stat().st_size, True) for slide in self.slides]

    def fetch(self) -> None:
        """Check all slides and annotations, find the tissue and the tumour of each slide, and choose the patches."""
        n, near_tumour = self.options.n, self.options.near_tumour
        rng = np.random.default_rng(self.options.seed)
        self._sampled = self._find_squares([self._check(slide) for slide in self.slides])
        n_tumour = self._choose(rng, _SlideSample.find_tumour, round(n * _TUMOUR_SHARE))
        n_near = 0
        if near_tumour:
            n_near = self._choose(rng, _SlideSample.find_near, round((n - n_tumour) * near_tumour))
        self._choose(rng, _SlideSample.find_normal, n - n_tumour - n_near)
        self.total = sum(int(sample.find_chosen().sum()) for sample in self._sampled)
        if not self.total:
            raise HistoError(
                f"no tissue was found in {self.report.origin}",
                "run histo predict on these slides, and look at tissue.png",
            )
        outside = sum(int((sample.squares == _TUMOUR).sum()) for sample in self._sampled)
        counts = {"slides": len(self.slides), "tumour": n_tumour}
        if near_tumour:
            counts["normal, near tumour"] = sum(
                int((sample.find_chosen() & sample.find_near()).sum()) for sample in self._sampled
            )
        self.report.counts.update(counts | ({"annotated squares without tissue": outside} if outside else {}))

    def _choose(self, rng: np.random.Generator, find: Callable[[_SlideSample], Mask], count: int) -> int:
        """Choose up to `count` of the squares that `find` returns, evenly among the slides, and return how many.

        The masks are computed twice, because those of all slides together can take much memory.
        """
        shares = _share_evenly([int(find(sample).sum()) for sample in self._sampled], count)
        for sample, share in zip(self._sampled, shares, strict=True):
            sample.squares.flat[rng.choice(np.flatnonzero(find(sample)), share, replace=False)] |= _CHOSEN
        return sum(shares)

    def _check(self, slide: AnnotatedSlide) -> _CheckedSlide:
        """Read the annotation of a slide, and check that it fits the slide; no pixel of the slide is read.

        Raises:
            HistoError: it does not, or the slide is damaged or too coarse, or its resolution is not known.
        """
        with open_slide(slide.file.path) as opened:
            mpp, _ = self.given.find(opened, slide.file)
            grid = plan_grid(opened, mpp, PATCH_MPP, LABEL_SIDE)
        if slide.annotation is None:
            return _CheckedSlide(slide, TumourAreas([], []), mpp)
        areas = read_tumour(slide.annotation, grid.origin)
        self.report.notes += areas.describe_problems(slide.annotation)
        check_inside(areas, slide.annotation, slide.file.path, grid.size)
        if areas.mask is not None:
            areas.mask.check_fineness(grid)
        return _CheckedSlide(slide, areas, mpp)

    def _find_squares(self, checked: Sequence[_CheckedSlide]) -> list[_SlideSample]:
        """Find the tissue and the tumour of each slide, and report the bytes of the files of the finished slides."""
        samples = []
        sizes = [slide.file.path.stat().st_size for slide, _, _ in checked]
        for number, (slide, areas, mpp) in enumerate(checked):
            self.context.on_transfer("tissue of slides", sum(sizes[:number]), sum(sizes))
            with open_slide(slide.file.path) as opened:
                plan = plan_slide(opened, mpp, LABEL_SIDE, None, True)
            squares = np.zeros(plan.grid.shape, np.uint8)
            squares[plan.needed] |= _TISSUE
            squares[label_squares(areas, plan.grid)] |= _TUMOUR
            samples.append(_SlideSample(slide, plan.grid, mpp, squares))
        self.context.on_transfer("tissue of slides", sum(sizes), sum(sizes))
        return samples

    def read_patches(self) -> Iterator[Patch]:
        """Yield the chosen patches, slide by slide and row by row."""
        for sample in self._sampled:
            name, chosen, has_tumour = sample.slide.file.name, sample.find_chosen(), sample.find_annotated()
            if not chosen.any():
                continue
            with open_slide(sample.slide.file.path) as slide:
                found = read_patches(slide, sample.grid, chosen)
                for (row, column), patch in zip(np.argwhere(chosen).tolist(), found, strict=True):
                    box = sample.grid.find_box(row, column)
                    yield Patch(
                        f"{name}_x{box.x}_y{box.y}",
                        patch.load,
                        int(has_tumour[row, column]),
                        name,
                        hospital=sample.slide.hospital,
                        position=Position(box.x, box.y, *sample.mpp),
                    )


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

    def __init__(self, options: SyntheticSlidesOptions, context: SourceContext) -> None:
        seed, side = options.seed, options.slide_side
        self.folder = context.downloads_dir / "synthetic-slides" / f"seed-{seed}-side-{side}"
        # The first slide and every second one after it has tumour.
        self.plans = [plan_synthetic_slide(seed, i, side, i % 2 == 0) for i in range(options.slide_count)]
        slides = [
            AnnotatedSlide(
                SlideFile(self.folder / "slides" / f"{plan.name}.tif", plan.name),
                self._annotation_path(plan),
                plan.hospital,
            )
            for plan in self.plans
        ]
        origin = f"synthetic slides: {len(self.plans)}, seed={seed}"
        super().__init__(slides, GivenResolutions(), origin, SlidesOptions(n=options.n, seed=seed), context)

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
            draw_slide(plan, path, partial(self.context.on_transfer, path.name))
        super().fetch()
        self.report.notes.append(f"the slides are in {self.folder}")

    def plan(self) -> list[PlannedFile]:
        """Return the slides that will be drawn; their sizes are not known before."""
        return [PlannedFile(slide.file.path.name, None, slide.file.path.is_file()) for slide in self.slides]
