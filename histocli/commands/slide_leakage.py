"""Find the slides of an evaluation that the networks which made their maps were trained or validated on."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

from histocli.data.dataset import find_source_name
from histocli.data.manifest import read_manifest
from histocli.enums import Weights
from histocli.errors import HistoError
from histocli.models import describe_weights, packaged
from histocli.reports.run import read_run
from histocli.slides.detection import SlideFile
from histocli.slides.records import FinishedSlide
from histocli.slides.resolution import list_keys
from histocli.workspace import Workspace


class UsedSlides(NamedTuple):
    """The runs of the networks that made the maps, and the slides that these runs used; sorted by name.

    Attributes:
        checkpoints: the names of the runs; empty if an earlier version made the maps.
        unknown_checkpoints: those whose slides are not known.
        in_training: the slides with training patches of one of the other runs.
        in_validation: the slides with validation patches of one of the other runs.
        weights_notes: what a user must know of the weights that training started from.
    """

    checkpoints: list[str]
    unknown_checkpoints: list[str]
    in_training: list[str]
    in_validation: list[str]
    weights_notes: list[str]


def find_used_slides(
    workspace: Workspace, finished: Sequence[FinishedSlide], files: Mapping[str, SlideFile]
) -> UsedSlides:
    """Compare the slides of maps with the column `slide` of the manifests of the runs that made the maps.

    Args:
        workspace: where the runs are.
        finished: the maps of the slides.
        files: the file of each slide, by its path; it gives the names that can mean this slide.
    """
    checkpoints = sorted({name for slide in finished for name in slide.record.checkpoint.split("; ") if name})
    unknown, notes = [], []
    slides: dict[str, set[str]] = {"train": set(), "val": set()}
    for run in checkpoints:
        found = _read_slides(workspace, run)
        if found is None:
            unknown.append(run)
        else:
            for split, names in slides.items():
                names |= found[split]
        if note := _find_weights_note(workspace, run):
            notes.append(note)

    def list_used(names: set[str]) -> list[str]:
        used = [slide.record.slide for slide in finished if not names.isdisjoint(list_keys(files[slide.path]))]
        return sorted(used)

    return UsedSlides(
        checkpoints, unknown, list_used(slides["train"]), list_used(slides["val"]), list(dict.fromkeys(notes))
    )


def _read_slides(workspace: Workspace, run: str) -> dict[str, set[str]] | None:
    """Return the known slides of a run's splits `train` and `val`; None if none is known.

    Synthetic patches are of no slide file, although their slides have names as those of Camelyon16.
    """
    try:
        frame = read_manifest(workspace.run_dir(run) / "manifest.csv", ("id", "label", "slide", "split"))
    except HistoError:  # also if the name in the record cannot be that of a run
        return None
    if "data" in frame and frame["data"].map(partial(find_source_name, workspace)).eq("synthetic").all():
        return {"train": set(), "val": set()}
    found = {split: set(frame.loc[frame["split"] == split, "slide"]) - {""} for split in ("train", "val")}
    return found if any(found.values()) else None


def _find_weights_note(workspace: Workspace, run: str) -> str:
    """Return what a user must know of the weights that a run started from, or ""."""
    if run == packaged.NAME:
        return packaged.NOTE
    try:
        options = read_run(workspace.run_dir(run)).options
    except HistoError:
        return ""
    return describe_weights(str(options.get("arch") or ""), str(options.get("weights") or Weights.RANDOM))
