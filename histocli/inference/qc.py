"""Marks on predictions that should not be believed: unlike the training data, part of it, or unstable when turned."""

from collections.abc import Sequence
from hashlib import sha1
from typing import Any

import numpy as np
import numpy.typing as npt

from histocli.data.quality import Distance, Reference, appearance
from histocli.errors import HistoError
from histocli.inference.leakage import known_patches
from histocli.inference.predictor import ScoredChunk
from histocli.models.checkpoint import Checkpoint
from histocli.workspace import Workspace

UNSTABLE = 0.5  # a spread over the eight orientations from which a patch is flagged
COLUMNS: dict[str, type] = {
    "spread": float,
    "colour": float,
    "focus": float,
    "contrast": float,
    "duplicate": str,
    "flags": str,
}


class Flagger:
    """Knows what checkpoints were trained on; gives the `COLUMNS` of any scored patches.

    `duplicates` is whether the training patches' pixels are known. Of several checkpoints, the one that a patch is
    furthest from counts.

    Raises:
        HistoError: a checkpoint does not hold what its training data look like.
    """

    def __init__(self, workspace: Workspace, checkpoints: list[Checkpoint]) -> None:
        for checkpoint in checkpoints:
            if not checkpoint.appearance:
                raise HistoError(
                    f"the checkpoint of run {checkpoint.run} does not say what its training data look like",
                    "leave --flags out, or train again with this version",
                )
        self.references = [Reference(**checkpoint.appearance) for checkpoint in checkpoints]
        known = [known_patches(workspace, checkpoint) for checkpoint in checkpoints]
        self.trained_on = {digest: key for one in known if one for digest, key in one.trained.items()}
        self.duplicates = None not in known

    def columns(self, chunk: ScoredChunk) -> dict[str, list[Any]]:
        """The values of `COLUMNS` for each patch of a chunk that was scored with its spread."""
        seen = appearance(chunk.pixels)
        found = [reference.distance(seen) for reference in self.references]
        digests = [sha1(patch.data, usedforsecurity=False).digest() for patch in chunk.pixels]
        duplicates = [self.trained_on.get(digest, "") for digest in digests]
        furthest = Distance(
            np.max([one.colour for one in found], 0),
            np.min([one.focus for one in found], 0),
            *(np.any(masks, 0) for masks in zip(*(one[2:] for one in found), strict=True)),
        )
        spread = chunk.scores.spread
        marks: dict[str, Sequence[bool] | npt.NDArray[np.bool_]] = {
            "blank": furthest.blank,
            "unfocused": furthest.unfocused,
            "stain": furthest.stained_otherwise,
            "unstable": spread >= UNSTABLE,
            "duplicate": [bool(key) for key in duplicates],
        }
        return {
            "spread": spread.tolist(),
            "colour": furthest.colour.tolist(),
            "focus": furthest.focus.tolist(),
            "contrast": seen.contrast.tolist(),
            "duplicate": duplicates,
            "flags": [";".join(m for m, mask in marks.items() if mask[i]) for i in range(len(digests))],
        }
