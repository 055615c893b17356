"""Which patches a checkpoint was trained on, and which chose its epoch, temperature and threshold: by their pixels."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from histocli.data.dataset import same_patches
from histocli.data.manifest import file_sha256, read_manifest
from histocli.models.checkpoint import Checkpoint
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


class Known(NamedTuple):
    """The SHA-1 of the pixels of a run's patches, with their ids: of those it trained on, and those it validated on."""

    trained: dict[bytes, str]
    validated: dict[bytes, str]


def known_patches(workspace: Workspace, checkpoint: Checkpoint) -> Known | None:
    """The patches of a checkpoint's run; None where they are not to be had.

    They are had where the very manifest it was trained with is in the workspace, and the data set still is as it was.
    """
    path = workspace.run_dir(checkpoint.run) / "manifest.csv"
    if not path.is_file() or file_sha256(path) != checkpoint.manifest_sha256:
        return None
    own = read_manifest(path, ("id", "label", "split"))
    if "data" not in own.columns or own["data"].nunique() != 1:
        return None
    digests = pixel_digests(workspace, str(own["data"].iloc[0]), own)
    if digests is None:
        return None
    parts = own["split"].to_numpy(), own["id"].to_numpy()
    of: dict[str, dict[bytes, str]] = {"train": {}, "val": {}}
    for digest, split, key in zip(digests, *parts, strict=True):
        if split in of:
            of[split][digest] = key
    return Known(of["train"], of["val"])


def pixel_digests(workspace: Workspace, data: str, drawn: "pd.DataFrame") -> list[bytes] | None:
    """The SHA-1 of the pixels of a subset's rows; None where its data set was packed anew since, or is not there."""
    packed = workspace.manifest_path(data)
    table = read_manifest(packed) if packed.is_file() else None
    rows = drawn["index"].to_numpy(np.int64)
    if table is None or "sha1" not in table.columns or rows.max(initial=-1) >= len(table):
        return None
    patches = table.iloc[rows]
    if not same_patches(drawn, patches):
        return None
    return [bytes.fromhex(digest) for digest in patches["sha1"]]


def count_known(
    workspace: Workspace, checkpoints: list[Checkpoint], digests: Iterable[bytes] | None
) -> tuple[int | None, int | None]:
    """How many patches any of the checkpoints was trained on, and how many it validated on; None where unknown."""
    known = [known_patches(workspace, checkpoint) for checkpoint in checkpoints]
    if digests is None or None in known:
        return None, None
    of = list(digests)
    trained, validated = ({digest for one in known if one for digest in one[part]} for part in (0, 1))
    return sum(digest in trained for digest in of), sum(digest in validated for digest in of)
