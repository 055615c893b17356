"""Find the patches that a checkpoint was trained on, and validated on, by their pixels."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocli.data.dataset import has_same_patches
from histocli.data.manifest import hash_file, read_manifest
from histocli.models.checkpoint import Checkpoint
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


class ManifestCache:
    """Reads and hashes each manifest once, for all steps of a command."""

    def __init__(self) -> None:
        self._frames: dict[Path, pd.DataFrame] = {}
        self._digests: dict[Path, str] = {}

    def read(self, path: Path, required: tuple[str, ...] = ("id", "label")) -> "pd.DataFrame":
        """Return `read_manifest` of the file; the table is shared, so do not change it.

        Raises:
            HistoError: as `read_manifest`.
        """
        frame = self._frames.get(path)
        if frame is None or not set(required) <= set(frame.columns):
            self._frames[path] = frame = read_manifest(path, required)
        return frame

    def sha256(self, path: Path) -> str:
        """Return the SHA-256 of the file."""
        if path not in self._digests:
            self._digests[path] = hash_file(path)
        return self._digests[path]


class KnownPatches(NamedTuple):
    """The patches that a run trained on and validated on: SHA-1 of the pixels -> id."""

    train: dict[bytes, str]
    val: dict[bytes, str]


class KnownCounts(NamedTuple):
    """The number of patches that were used for training, and for validation; None if it is not known."""

    n_in_training: int | None
    n_in_validation: int | None


def load_known_patches(workspace: Workspace, checkpoint: Checkpoint, manifests: ManifestCache) -> KnownPatches | None:
    """Return the patches that a checkpoint's run trained and validated on.

    Returns None if the manifest that it was trained with is not in the workspace, or if its data set has changed.
    """
    path = find_training_manifest(workspace, [checkpoint], manifests)
    if path is None:
        return None
    frame = manifests.read(path, ("id", "label", "split"))
    if "data" not in frame.columns or frame["data"].nunique() != 1:
        return None
    digests = read_pixel_digests(workspace, str(frame["data"].iloc[0]), frame, manifests)
    if digests is None:
        return None
    known: dict[str, dict[bytes, str]] = {"train": {}, "val": {}}
    for digest, split, key in zip(digests, frame["split"].to_numpy(), frame["id"].to_numpy(), strict=True):
        if split in known:
            known[split][digest] = key
    return KnownPatches(known["train"], known["val"])


def find_training_manifest(
    workspace: Workspace, checkpoints: Sequence[Checkpoint], manifests: ManifestCache
) -> Path | None:
    """Return the manifest that the checkpoints were trained with; None if it is not in the workspace.

    It is the copy in a run's folder, or `balanced.csv`, and is recognised by its hash.
    """
    copies = [workspace.run_dir(checkpoint.run) / "manifest.csv" for checkpoint in checkpoints]
    for path in [*copies, workspace.manifest_path("balanced")]:
        if path.is_file() and manifests.sha256(path) == checkpoints[0].manifest_sha256:
            return path
    return None


def read_pixel_digests(
    workspace: Workspace, data: str, subset: "pd.DataFrame", manifests: ManifestCache
) -> list[bytes] | None:
    """Return the SHA-1 of the pixels of a subset's rows; None if its data set has changed or is missing."""
    path = workspace.manifest_path(data)
    packed = manifests.read(path) if path.is_file() else None
    rows = subset["index"].to_numpy(np.int64)
    if packed is None or "sha1" not in packed.columns or rows.max(initial=-1) >= len(packed):
        return None
    patches = packed.iloc[rows]
    if not has_same_patches(subset, patches):
        return None
    return [bytes.fromhex(digest) for digest in patches["sha1"]]


def count_known(
    workspace: Workspace,
    checkpoints: list[Checkpoint],
    digests: Iterable[bytes] | None,
    manifests: ManifestCache,
) -> KnownCounts:
    """Count the patches, by the SHA-1 of their pixels, that any of the checkpoints was trained or validated on."""
    known = [load_known_patches(workspace, checkpoint, manifests) for checkpoint in checkpoints]
    if digests is None or None in known:
        return KnownCounts(None, None)
    scored = list(digests)
    train = {digest for patches in known if patches for digest in patches.train}
    val = {digest for patches in known if patches for digest in patches.val}
    return KnownCounts(sum(digest in train for digest in scored), sum(digest in val for digest in scored))
