"""The maps of slides in the HTML report: of an evaluation's patches, and those that `histo predict` wrote."""

from base64 import b64encode
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from histocli.errors import HistoError
from histocli.metrics.groups import sort_by_accuracy
from histocli.reports.evaluation import EvaluationReport
from histocli.slides.records import HEATMAP_PICTURE, FinishedSlide
from histocli.slides.resolution import GivenResolutions
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd

    from histocli.slides.patch_maps import PatchMap

_MAX_MAPS = 24  # the largest number of maps of an evaluation: each takes a third of a second
_QUALITY = 85  # of JPEG


@dataclass(frozen=True)
class MapPicture:
    """The map of a slide as a `data:` address, and what it shows in a sentence."""

    slide: str
    summary: str
    image: str


@dataclass(frozen=True)
class MapGallery:
    """Some or all of the `total` maps."""

    total: int = 0
    pictures: list[MapPicture] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """The size of the pictures in the page."""
        return sum(len(picture.image) for picture in self.pictures)


def make_evaluation_maps(
    workspace: Workspace,
    report: EvaluationReport,
    scores: "pd.DataFrame",
    max_bytes: int,
    resolutions: GivenResolutions,
) -> MapGallery:
    """Return the maps of an evaluation's slides, those with the lowest accuracy first; none without positions.

    Raises:
        HistoError: a manifest cannot be read, or the resolution of a slide is not known.
    """
    from histocli.slides.patch_maps import make_patch_maps, place_evaluation

    placed = place_evaluation(workspace, scores)
    maps = make_patch_maps(placed, resolutions) if len(placed.table) else []
    ranks = {group.name: rank for rank, group in enumerate(sort_by_accuracy(report.slides))}
    maps.sort(key=lambda patch_map: (ranks.get(patch_map.slide, -1), patch_map.slide))
    gallery = MapGallery(len(maps))
    for patch_map in maps[:_MAX_MAPS]:
        picture = MapPicture(
            patch_map.slide,
            f"{patch_map.patches:,} scored patches at their positions in the slide",
            _draw(patch_map, report),
        )
        if gallery.bytes + len(picture.image) > max_bytes:
            break
        gallery.pictures.append(picture)
    return gallery


def make_folder_maps(finished: list[tuple[Path, FinishedSlide]], max_bytes: int) -> MapGallery:
    """Return the heat maps that `histo predict` wrote, those with most tumour first, reduced to fit `max_bytes`.

    Raises:
        HistoError: a picture cannot be read.
    """
    found = [(folder, slide) for folder, slide in finished if (folder / HEATMAP_PICTURE).is_file()]
    found.sort(key=lambda item: (-(item[1].record.tumour_mm2 or 0), item[1].record.slide))
    gallery = MapGallery(len(found))
    for number, (folder, slide) in enumerate(found):
        share = (max_bytes - gallery.bytes) // (len(found) - number)
        if not (image := _shrink(folder / HEATMAP_PICTURE, share)):
            break
        record = slide.record
        areas = (("tissue", record.tissue_mm2), ("of it above the threshold", record.tumour_mm2))
        texts = [f"{area:.2f} mm² {name}" for name, area in areas if area is not None]
        text = ", ".join([f"{record.squares:,} squares", *texts])
        gallery.pictures.append(MapPicture(record.slide, f"{text}; threshold {slide.threshold:.3g}", image))
    return gallery


def _draw(shown: "PatchMap", report: EvaluationReport) -> str:
    """Return the map of a slide as a `data:` address of a PNG image."""
    from histocli.plots.evaluation import describe_scored
    from histocli.plots.maps import draw_map, find_map_size
    from histocli.plots.style import PlotStyle, render

    source = f"{report.run}, {describe_scored(report)}"
    draw = partial(draw_map, shown=shown, source=source, threshold=report.measured.threshold)
    buffer = BytesIO()
    render(buffer, PlotStyle(dpi=150), *find_map_size(shown), draw)
    return f"data:image/png;base64,{b64encode(buffer.getvalue()).decode()}"


def _shrink(path: Path, max_bytes: int) -> str:
    """Return a picture as a `data:` address of a JPEG image of at most `max_bytes`, "" if it would be too small."""
    import cv2

    from histocli.images.headers import check_header
    from histocli.images.sizes import ImageError
    from histocli.images.tiff_segments import decode_with_opencv

    problem, image = "", None
    try:
        data = path.read_bytes()
        if size := check_header(data):
            image = decode_with_opencv(data, size.width * size.height, cv2.IMREAD_COLOR)
    except (ImageError, OSError) as error:
        problem = f": {error}"
    if image is None:
        hint = "remove the folder of this slide, and histo predict writes it again"
        raise HistoError(f"{path} is not a picture that can be read{problem}", hint)
    while min(image.shape[:2]) >= 150:
        encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
        address = f"data:image/jpeg;base64,{b64encode(encoded.tobytes()).decode()}"
        if len(address) <= max_bytes:
            return address
        image = cv2.resize(image, None, fx=0.75, fy=0.75, interpolation=cv2.INTER_AREA)
    return ""
