"""Score labelled patches in a folder or archive, for `histo eval --data PATH`."""

import math
import re
from contextlib import closing
from dataclasses import fields
from hashlib import sha1
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from histocli.compute.ddp import Ranks
from histocli.config import EvalConfig
from histocli.enums import SplitName
from histocli.errors import HistoError, UsageError
from histocli.images.remarks import Remarks
from histocli.inference.checkpoints import CheckpointPredictor
from histocli.inference.labelled import ScoredPatches
from histocli.inference.predictor import ScoredChunk
from histocli.inference.run_patches import ManifestCache, count_run_patches
from histocli.listeners import CommandListener
from histocli.reports.likeness import Likeness
from histocli.sources.camelyon import remove_prefix
from histocli.sources.folder import WITHOUT_SLIDE, FolderOptions, FolderSource
from histocli.text import format_count
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd


class _FolderChunk(NamedTuple):
    """Scored patches of a folder: their table, the number of unreadable files, remarks, and appearance."""

    table: "pd.DataFrame"
    unreadable: int
    remarks: Remarks
    likeness: Likeness


def score_folder(
    workspace: Workspace,
    predictor: CheckpointPredictor,
    config: EvalConfig,
    listener: CommandListener,
    ranks: Ranks,
) -> ScoredPatches:
    """Score a labelled folder or archive without packing it; the listener gets notes on what was found in it.

    Raises:
        HistoError: as `FolderSource`; or no labelled patch is in this split, or none can be read.
    """
    location = Path(config.data or "")
    given = {name: getattr(config, name) for name in list_folder_options()}
    source = FolderSource(FolderOptions(locations=(config.data or "",), **given))
    split = _find_split(source, config, location)
    if ranks.is_rank0:
        for note in source.report.notes:
            listener.on_note(note)
    labelled = (
        patch
        for patch in source.read_patches()
        if patch.label is not None and (split is SplitName.ALL or patch.split == split.value)
    )
    size = predictor.choose_chunk_size(config.batch_size)
    share = (patch for i, patch in enumerate(labelled) if i // size % ranks.size == ranks.rank)
    total = source.count_labelled(split)
    listener.on_total(math.ceil(total / ranks.size))
    meter = predictor.make_likeness_meter(total)
    with closing(predictor.predict_patches(share, size, listener)) as chunks:
        scored = [_make_folder_chunk(chunk, meter.measure(chunk.pixels), listener) for chunk in chunks]
    # Process 0 scored chunk 0, process 1 chunk 1, and so on: taking one chunk of each in turn gives the order of the
    # files.
    gathered = [chunk for turn in zip_longest(*ranks.all_gather(scored)) for chunk in turn if chunk]
    unreadable = sum(chunk.unreadable for chunk in gathered)
    table = _join_tables([chunk.table for chunk in gathered], unreadable, location)
    remarks = Remarks()
    for chunk in gathered:
        remarks.merge(chunk.remarks)
    if ranks.is_rank0:
        for note in remarks.list_sizes():
            listener.on_note(note)
    counts = {**source.count_missing(split), "unreadable": unreadable}
    if (without_slide := counts.pop(WITHOUT_SLIDE, 0)) and ranks.is_rank0:  # they are not skipped
        rest = "it is evaluated if it has a label" if without_slide == 1 else "those with a label are evaluated"
        listener.on_note(f"the slide of {format_count(without_slide, 'image')} is not known; {rest}")
    return ScoredPatches(
        data=_make_data_name(location),
        split=split.value,
        table=table,
        skipped={reason: count for reason, count in counts.items() if count},
        changed=remarks.count_images(),
        run_patches=count_run_patches(
            workspace,
            predictor.checkpoints,
            table["sha1"].tolist(),
            table["slide"].map(remove_prefix).tolist(),
            ManifestCache(),
        ),
        likeness=sum((chunk.likeness for chunk in gathered), Likeness()),
    )


def _find_split(source: FolderSource, config: EvalConfig, location: Path) -> SplitName:
    """Return the split to score; raise `UsageError` if the folder does not have it."""
    split = (config.split or SplitName.ALL).choose_existing(source.split_names)
    if split is not SplitName.ALL and split.value not in source.split_names:
        raise UsageError(
            f"--split {config.split}: {location} has no folder of this split",
            f"its splits: {', '.join(source.split_names) or 'none'}",
        )
    return split


def _join_tables(tables: "list[pd.DataFrame]", unreadable: int, location: Path) -> "pd.DataFrame":
    """Return the tables of all chunks as one; raise `HistoError` if none of them has a row."""
    import pandas as pd

    tables = [table for table in tables if len(table)]
    if not tables and unreadable:
        raise HistoError(f"none of the {unreadable:,} labelled images in {location} can be read")
    if not tables:
        raise HistoError(
            f"no patch in {location} has a label",
            "give --labels CSV with the columns id,label, or put the images into folders named 0 and 1; --classes "
            "gives the meaning of other names",
        )
    table = pd.concat(tables, ignore_index=True)
    table = table.assign(data="", index="", sha1=table.pop("sha1"))
    return table if table["hospital"].any() else table.drop(columns="hospital")


def list_folder_options() -> list[str]:
    """Return the fields of `EvalConfig` that say how to read a folder, as those of `FolderOptions` do."""
    return [field.name for field in fields(FolderOptions) if field.name != "locations"]


def _make_folder_chunk(chunk: ScoredChunk, likeness: Likeness, listener: CommandListener) -> _FolderChunk:
    """Turn the scores of a chunk into a table, without its pixels; the listener gets the errors of the others."""
    import pandas as pd

    for _, error in chunk.failures:
        listener.on_unreadable(error)
    table = pd.DataFrame(
        {
            "id": [patch.id for patch in chunk.patches],
            "label": [patch.label for patch in chunk.patches],
            "prob": chunk.scores.probs,
            "raw": chunk.scores.raw,
            "slide": [patch.slide for patch in chunk.patches],
            "hospital": [patch.hospital for patch in chunk.patches],
            "sha1": [sha1(pixels.data, usedforsecurity=False).hexdigest() for pixels in chunk.pixels],
        }
    )
    return _FolderChunk(table, len(chunk.failures), chunk.remarks, likeness)


def _make_data_name(location: Path) -> str:
    """Return the name of a folder or zip, without the characters that a file's name may not have."""
    location = location.resolve()
    return re.sub(r"[^A-Za-z0-9._-]+", "-", location.name if location.is_dir() else location.stem)
