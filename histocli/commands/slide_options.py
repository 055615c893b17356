"""Check the options of `histo predict` on whole slides."""

from collections.abc import Sequence
from pathlib import Path

from histocli.config import PredictConfig
from histocli.enums import OUTPUT_SUFFIXES
from histocli.errors import HistoError, UsageError
from histocli.inference import checkpoints
from histocli.slides.detection import SlideFile
from histocli.slides.reading import require_slide_packages
from histocli.slides.records import TABLE
from histocli.slides.slide_files import TISSUE_MASK_SUFFIXES, find_files

# What slides have instead of some options of patches.
_INSTEAD = {
    "failed": f": {TABLE} has the error of each slide that cannot be read",
    "skip_done": ": finished slides are not scored again",
}

STEPS = (32, 96)  # side of a square in pixels at 0.972 um: that of PCam's label, or of a whole patch


def check_slide_options(config: PredictConfig, slides: Sequence[SlideFile]) -> Path:
    """Check the options that slides do not have, and return the output folder."""
    defaults = PredictConfig(config.inputs)
    for name in ("split", "format", "columns", "id", "failed", "skip_done", "qc", "escape_formulas", "resize"):
        flag = "--" + name.replace("_", "-")
        if getattr(config, name) != getattr(defaults, name):
            instead = _INSTEAD.get(name, "")
            raise UsageError(f"{flag} is for patches, and the inputs are whole slides", f"leave {flag} out{instead}")
    if config.out is None:
        raise UsageError("the scores of slides are written to a folder", "give one: --out DIR")
    if config.out.suffix.lower() in OUTPUT_SUFFIXES or (config.out.exists() and not config.out.is_dir()):
        raise UsageError(f"--out {config.out} is a file; slides need a folder", "give the name of a folder: --out DIR")
    if config.step not in STEPS:
        raise UsageError(f"--step {config.step} is not possible", f"give {' or '.join(map(str, STEPS))}")
    if config.mask is not None and config.no_mask:
        raise UsageError("--mask and --no-mask exclude each other", "leave one of them out")
    _check_mask(config.mask, slides)
    checkpoints.check_scoring_options(config)
    require_slide_packages()
    return config.out


def _check_mask(mask: Path | None, slides: Sequence[SlideFile]) -> None:
    """Check what can be known of `--mask` before the slides are opened."""
    if mask is None:
        return
    if mask.is_dir():
        if slides and not any(_has_mask(slide, mask) for slide in slides):
            raise UsageError(
                f"--mask {mask}: the folder has no mask of any of the {len(slides):,} slides",
                f"a mask has the name of its slide: {slides[0].keys[-1]}.geojson or .png",
            )
        return
    if not mask.is_file():
        raise UsageError(f"--mask {mask}: there is no such file", "give a GeoJSON or PNG file, or a folder")
    if mask.suffix.lower() not in TISSUE_MASK_SUFFIXES:
        raise UsageError(
            f"--mask {mask}: the name does not end in {', '.join(TISSUE_MASK_SUFFIXES)}",
            "give areas as GeoJSON from QuPath, in pixels of level 0, or a PNG picture of the whole slide",
        )
    if len(slides) > 1:
        raise UsageError(
            f"--mask {mask} is the mask of one slide, and the inputs are {len(slides):,} slides",
            "give a folder with one mask for each slide, which has the name of the slide",
        )


def _has_mask(slide: SlideFile, folder: Path) -> bool:
    """Return whether the folder has a mask of this slide.

    A file with a nearly right name counts too: it gives an error later, which names the file.
    """
    try:
        return bool(find_files(slide, folder, TISSUE_MASK_SUFFIXES))
    except HistoError:
        return True
