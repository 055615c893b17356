"""Find patches unlike the training data, copies of training patches, and unstable scores (`--qc`)."""

from collections.abc import Sequence
from hashlib import sha1
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from histocli.data.quality import Distance, Reference, measure_appearance
from histocli.errors import HistoError
from histocli.inference.predictor import ScoredChunk
from histocli.inference.run_patches import ManifestCache, load_run_patches
from histocli.models.checkpoint import Checkpoint
from histocli.workspace import Workspace

UNSTABLE = 0.5  # a patch is flagged if its probabilities of the eight views differ by this or more


class QualityControl(NamedTuple):
    """The differences of N patches from the training data, as lists of N values.

    `colour` and `focus` are those of `Distance`. `contrast` is that of the patch itself. `duplicate` is the id of the
    training patch with the same pixels, or "". `flags` are the names of the flags of a patch, separated by ";".
    """

    colour: list[float]
    focus: list[float]
    contrast: list[float]
    duplicate: list[str]
    flags: list[str]


class Flagger:
    """Computes the quality control of scored patches.

    With several checkpoints, each patch is compared with the training data that it is least like.

    Attributes:
        has_training_pixels: whether the pixels of the training patches are known.

    Raises:
        HistoError: a checkpoint does not describe the appearance of its training data.
    """

    def __init__(self, workspace: Workspace, checkpoints: list[Checkpoint]) -> None:
        self.references: list[Reference] = []
        for checkpoint in checkpoints:
            if checkpoint.appearance is None:
                raise HistoError(
                    f"the checkpoint of run {checkpoint.run} does not describe the appearance of its training data",
                    "omit --qc, or train again with this version",
                )
            self.references.append(checkpoint.appearance)
        manifests = ManifestCache()
        known = [load_run_patches(workspace, checkpoint, manifests) for checkpoint in checkpoints]
        self.train_ids = {digest: key for patches in known if patches for digest, key in patches.train.items()}
        self.has_training_pixels = None not in known

    def check(self, chunk: ScoredChunk) -> QualityControl:
        """Return the quality control of the patches of a chunk that was scored with its spread."""
        measured = measure_appearance(chunk.pixels)
        distances = [reference.measure_distance(measured) for reference in self.references]
        digests = [sha1(patch.data, usedforsecurity=False).hexdigest() for patch in chunk.pixels]
        duplicates = [self.train_ids.get(digest, "") for digest in digests]
        furthest = Distance(
            np.max([distance.colour for distance in distances], 0),
            np.min([distance.focus for distance in distances], 0),
            *(np.any(masks, 0) for masks in zip(*(distance[2:] for distance in distances), strict=True)),
        )
        marks: dict[str, Sequence[bool] | npt.NDArray[np.bool_]] = {
            "blank": furthest.is_blank,
            "unfocused": furthest.is_unfocused,
            "stain": furthest.has_unusual_stain,
            "unstable": chunk.scores.spread >= UNSTABLE,
            "duplicate": [bool(key) for key in duplicates],
        }
        return QualityControl(
            furthest.colour.tolist(),
            furthest.focus.tolist(),
            measured.contrast.tolist(),
            duplicates,
            [";".join(m for m, mask in marks.items() if mask[i]) for i in range(len(digests))],
        )
