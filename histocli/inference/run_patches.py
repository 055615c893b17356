"""Find the patches and slides that a checkpoint was trained on, and validated on."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocli.data.dataset import has_same_patches
from histocli.data.leakage import unify_slide_names
from histocli.data.manifest import hash_file, read_manifest
from histocli.errors import HistoError
from histocli.models.checkpoint import Checkpoint
from histocli.reports.run import read_run, select_used_rows
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


class ManifestCache:
    """Reads and hashes each manifest once, for all steps of a command."""

    def __init__(self) -> None:
        self._frames: dict[Path, pd.DataFrame] = {}
        self.sha256 = cache(hash_file)

    def read(self, path: Path, required: tuple[str, ...] = ("id", "label")) -> "pd.DataFrame":
        """Return `read_manifest` of the file; the table is shared, so do not change it.

        Raises:
            HistoError: as `read_manifest`.
        """
        frame = self._frames.get(path)
        if frame is None or not set(required) <= set(frame.columns):
            self._frames[path] = frame = read_manifest(path, required)
        return frame


class RunPatches(NamedTuple):
    """The patches that a run trained on and validated on (SHA-1 of the pixels -> id), and the names of their slides."""

    train: dict[str, str]
    val: dict[str, str]
    train_slides: frozenset[str]
    val_slides: frozenset[str]


class RunPatchCounts(NamedTuple):
    """The number of scored patches that the runs of the checkpoints used, and of others from the same slides.

    Attributes:
        n_in_training: the number of patches that a checkpoint was trained on; None if it is not known.
        n_in_validation: the number of patches that a checkpoint was validated on.
        n_of_training_slides: the number of other patches whose slide has training patches; None if it is not known.
        n_of_validation_slides: the number of other patches whose slide has validation patches.
        n_unknown: the number of checkpoints whose patches are not known; the counts are those of the others.
    """

    n_in_training: int | None
    n_in_validation: int | None
    n_of_training_slides: int | None
    n_of_validation_slides: int | None
    n_unknown: int


def load_run_patches(workspace: Workspace, checkpoint: Checkpoint, manifests: ManifestCache) -> RunPatches | None:
    """Return the patches that a checkpoint's run trained and validated on.

    Returns None if the manifest that it was trained with is not in the workspace, if its data set has changed, or if it
    is not known which patches `--shots` drew.
    """
    path = find_training_manifest(workspace, [checkpoint], manifests)
    if path is None:
        return None
    frame = find_used_rows(workspace, checkpoint, manifests.read(path, ("id", "label", "split")))
    if frame is None or "data" not in frame.columns or frame["data"].nunique() != 1:
        return None
    data = str(frame["data"].iloc[0])
    digests = read_pixel_digests(workspace, data, frame, manifests)
    if digests is None:
        return None
    patches: dict[str, dict[str, str]] = {"train": {}, "val": {}}
    for digest, split, key in zip(digests, frame["split"].to_numpy(), frame["id"].to_numpy(), strict=True):
        if split in patches:
            patches[split][digest] = key
    slides = set(zip(frame["split"], list_slides(workspace, data, frame), strict=True))
    train, val = (frozenset(name for split, name in slides if split == wanted and name) for wanted in patches)
    return RunPatches(patches["train"], patches["val"], train, val)


def find_used_rows(workspace: Workspace, checkpoint: Checkpoint, manifest: "pd.DataFrame") -> "pd.DataFrame | None":
    """Return the rows of the manifest that the run of a checkpoint trained and validated on.

    Returns None if it is not known which patches `--shots` drew. The draw depends only on the manifest, the number of
    patches and the seed, which may be different in a later run of the same name.
    """
    if checkpoint.config.get("shots") is None:
        return manifest
    try:
        record = read_run(workspace.run_dir(checkpoint.run))
    except HistoError:
        return None
    is_same_draw = record.manifest_sha256 == checkpoint.manifest_sha256 and all(
        record.options.get(name) == checkpoint.config.get(name) for name in ("shots", "seed")
    )
    return select_used_rows(manifest, record.shots) if is_same_draw and record.shots else None


def find_training_manifest(
    workspace: Workspace, checkpoints: Sequence[Checkpoint], manifests: ManifestCache
) -> Path | None:
    """Return the manifest that the checkpoints were trained with; None if it is not in the workspace.

    It is the copy in a run's folder, or that of a subset, and is recognised by its hash.
    """
    copies = [workspace.run_dir(checkpoint.run) / "manifest.csv" for checkpoint in checkpoints]
    for path in [*copies, *map(workspace.manifest_path, workspace.list_subsets())]:
        if path.is_file() and manifests.sha256(path) == checkpoints[0].manifest_sha256:
            return path
    return None


def read_pixel_digests(
    workspace: Workspace, data: str, subset: "pd.DataFrame", manifests: ManifestCache
) -> list[str] | None:
    """Return the SHA-1 of the pixels of a subset's rows; None if its data set has changed or is missing."""
    path = workspace.manifest_path(data)
    packed = manifests.read(path) if path.is_file() else None
    rows = subset["index"].to_numpy(np.int64)
    if packed is None or "sha1" not in packed.columns or rows.max(initial=-1) >= len(packed):
        return None
    patches = packed.iloc[rows]
    if not has_same_patches(subset, patches):
        return None
    digests: list[str] = patches["sha1"].tolist()
    return digests


def list_slides(workspace: Workspace, data: str, frame: "pd.DataFrame") -> list[str]:
    """Return the slide of each row of a packed data set, "" if it is not known; a slide has this name in all data."""
    if "slide" not in frame.columns:
        return [""] * len(frame)
    return unify_slide_names(workspace, data, frame["slide"]).tolist()


def count_run_patches(
    workspace: Workspace,
    checkpoints: list[Checkpoint],
    digests: Sequence[str] | None,
    slides: Sequence[str],
    manifests: ManifestCache,
) -> RunPatchCounts:
    """Count the patches that any of the checkpoints was trained or validated on, and those of the same slides.

    Args:
        workspace: where the runs of the checkpoints are.
        checkpoints: the checkpoints.
        digests: (N,) the SHA-1 of the pixels of each patch; None if they are not known.
        slides: (N,) the slide of each patch, "" if it is not known.
        manifests: the manifests that were read already.
    """
    found = [load_run_patches(workspace, checkpoint, manifests) for checkpoint in checkpoints]
    known = [patches for patches in found if patches is not None]
    if digests is None or not known:
        return RunPatchCounts(None, None, None, None, len(checkpoints))
    train = set[str]().union(*(patches.train for patches in known))
    val = set[str]().union(*(patches.val for patches in known))
    train_slides = frozenset().union(*(patches.train_slides for patches in known))
    val_slides = frozenset().union(*(patches.val_slides for patches in known)) - train_slides
    are_slides_known = any(slides) and bool(train_slides | val_slides)
    in_training = np.array([digest in train for digest in digests], bool)
    in_validation = np.array([digest in val for digest in digests], bool)
    of_training = np.array([slide in train_slides for slide in slides], bool) & ~in_training
    of_validation = np.array([slide in val_slides for slide in slides], bool) & ~in_training & ~in_validation
    return RunPatchCounts(
        n_in_training=int(in_training.sum()),
        n_in_validation=int(in_validation.sum()),
        n_of_training_slides=int(of_training.sum()) if are_slides_known else None,
        n_of_validation_slides=int(of_validation.sum()) if are_slides_known else None,
        n_unknown=len(checkpoints) - len(known),
    )
