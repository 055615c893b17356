"""Find the slides of an evaluation that the networks which made their maps were trained or validated on."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from histocli.data.leakage import unify_name_of_file, unify_slide_names
from histocli.data.manifest import hash_file, read_manifest
from histocli.errors import HistoError
from histocli.models import describe_weights, packaged
from histocli.reports.run import read_run, select_used_rows
from histocli.slides.detection import SlideFile
from histocli.slides.records import FinishedSlide
from histocli.slides.resolution import list_keys
from histocli.workspace import Workspace


class UsedSlides(NamedTuple):
    """The runs of the networks that made the maps, and the slides that these runs used; sorted by name.

    Attributes:
        checkpoints: the names of the runs.
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
    digests = _collect_manifest_digests(finished)
    unknown = []
    slides: dict[str, set[str]] = {"train": set(), "val": set()}
    for run in digests:
        found = _read_slides(workspace, run, digests[run])
        if found is None:
            unknown.append(run)
        else:
            for split, names in slides.items():
                names |= found[split]
    # The names that each slide can have in a manifest, as `unify_slide_names` returns them.
    possible = {path: {unify_name_of_file(file.path, key) for key in list_keys(file)} for path, file in files.items()}
    notes = dict.fromkeys(note for run in digests if (note := _find_weights_note(workspace, run)))

    def list_used(names: set[str]) -> list[str]:
        return sorted(slide.record.slide for slide in finished if not names.isdisjoint(possible[slide.path]))

    return UsedSlides(list(digests), unknown, list_used(slides["train"]), list_used(slides["val"]), list(notes))


def _collect_manifest_digests(finished: Sequence[FinishedSlide]) -> dict[str, set[str]]:
    """Return the runs that made the maps, sorted, and the SHA-256 of their manifests."""
    digests: dict[str, set[str]] = {}
    for slide in finished:
        for run, digest in zip(slide.record.checkpoint.split("; "), slide.manifests.split("; "), strict=False):
            digests.setdefault(run, set()).update({digest} - {""})
    return {run: digests[run] for run in sorted(digests)}


def _read_slides(workspace: Workspace, run: str, digests: set[str]) -> dict[str, set[str]] | None:
    """Return the slides that a run trained and validated on; None if none is known, or its manifest is another one."""
    try:
        folder = workspace.run_dir(run)
        path = folder / "manifest.csv"
        frame, shots = read_manifest(path, ("id", "label", "slide", "split")), read_run(folder).shots
        if not digests <= {hash_file(path)}:  # another run has this name now
            return None
        if "data" in frame:
            for data, rows in frame.groupby("data"):
                frame.loc[rows.index, "slide"] = unify_slide_names(workspace, str(data), rows["slide"])
    except HistoError:  # also if a name cannot be that of a run or data set
        return None
    used = select_used_rows(frame, shots)
    found = {split: set(used.loc[used["split"] == split, "slide"]) - {""} for split in ("train", "val")}
    return found if any(found.values()) else None


def _find_weights_note(workspace: Workspace, run: str) -> str:
    """Return what a user must know of the weights that a run started from, or ""."""
    if run == packaged.NAME:
        return packaged.NOTE
    try:
        options = read_run(workspace.run_dir(run)).options
    except HistoError:
        return ""
    return describe_weights(options.get("arch"), options.get("weights"))
