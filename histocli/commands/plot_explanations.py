"""The explanations that `histo plot` draws: of an evaluation's patches, of patches by their ids, and of files."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from histocli.commands.plot_sheets import (
    explain_captions,
    explain_groups,
    list_packed,
    make_captions,
    plan_sheet,
    read_tables,
)
from histocli.config import CHECKPOINT, PlotConfig
from histocli.data.manifest import read_manifest
from histocli.enums import PlotKind, Resize
from histocli.errors import HistoError, UsageError
from histocli.images.stream import load_chunk
from histocli.inference.explain import explain
from histocli.inference.explain_scored import load_for_explaining
from histocli.inference.inputs import open_inputs
from histocli.inference.scored_patches import read_packed, read_scored_patches
from histocli.listeners import CommandListener
from histocli.patch import Pixels
from histocli.plots import Plot
from histocli.reports.evaluation import EvaluationReport
from histocli.text import format_count, shorten_to_length
from histocli.workspace import Workspace, make_name

MAX_PATCHES = 64  # patches on a sheet
_PER_GROUP = 8


def plan_explanations(workspace: Workspace, evaluations: dict[Path, EvaluationReport]) -> list[Plot]:
    """Return a sheet for each evaluation: its most confident right and wrong patches of both classes, explained.

    Raises:
        MissingInputError: the scored patches cannot be read any more.
        ExplanationError: a checkpoint is not there any more, or its network has no feature map.
    """
    from histocli.plots.evaluation import make_subtitles
    from histocli.plots.explanations import KEY
    from histocli.plots.sheets import Group, select_confident_errors

    plots = []
    for path, report, scores in read_tables(workspace, evaluations):
        labels, probs, threshold = scores["label"], scores["prob"], report.measured.threshold
        wrong = select_confident_errors(labels, probs, threshold, _PER_GROUP)
        right = select_confident_errors(1 - labels, probs, threshold, _PER_GROUP)  # errors if the labels are exchanged
        names = ("True positives", "True negatives", "False positives", "False negatives")
        chosen = [scores.iloc[rows] for rows in (*right, *wrong)]
        pixels = [read_scored_patches(workspace, report, table) for table in chosen]
        pictures = explain_groups(workspace, report, pixels)
        groups = [
            Group(
                f"{name}: {f'{len(table)}, the most confident first' if len(table) else 'none'}",
                patches,
                make_captions(table["id"], table["prob"]),
                beside,
            )
            for name, table, patches, beside in zip(names, chosen, pixels, pictures, strict=True)
        ]
        key_line = explain_captions(threshold)
        heading = f"Explanations: {report.run}"
        facts = ", ".join(make_subtitles(report))
        plots.append(plan_sheet(f"{path.stem}-{PlotKind.EXPLAIN}", groups, heading, facts, key_line, KEY))
    return plots


def plan_chosen_patches(workspace: Workspace, config: PlotConfig, listener: CommandListener) -> list[Plot]:
    """Return a sheet of the files `config.files` or the packed patches `config.ids`, scored and explained.

    Raises:
        UsageError: there are too many patches.
        HistoError: a patch or a checkpoint cannot be read, or the network has no feature map.
    """
    from histocli.plots.explanations import KEY, draw_maps
    from histocli.plots.sheets import Group

    predictor = load_for_explaining(workspace, config.ckpt or tuple(dict.fromkeys(config.run)) or (CHECKPOINT,))
    if config.files:
        ids, pixels = _read_files(workspace, config.files, listener)
    else:
        ids, pixels = _read_ids(workspace, config.ids, config.data)
    for checkpoint in predictor.checkpoints:
        listener.on_note(checkpoint.describe())
    probs = predictor.predict_array(pixels).probs
    pictures = draw_maps(pixels, explain([member.network for member in predictor.networks], pixels))
    run = "+".join(predictor.runs)
    group = Group(format_count(len(ids), "patch"), pixels, make_captions(ids, probs), pictures)
    key_line = explain_captions(predictor.find_threshold())
    stem = _make_stem(run, ids, pixels, predictor.digests)
    return [plan_sheet(stem, [group], f"Explanations: {run}", key_line, KEY)]


def _make_stem(run: str, ids: Sequence[str], pixels: Pixels, checkpoints: Sequence[str]) -> str:
    """Return a file name that only the sheet of these patches and checkpoints has, so that no other is replaced."""
    digest = sha256(pixels.tobytes() + "".join(checkpoints).encode()).hexdigest()[:8]
    more = f"-and-{len(ids) - 1}-more" if len(ids) > 1 else ""
    return make_name(f"{shorten_to_length(run, 60)}-{PlotKind.EXPLAIN}-{shorten_to_length(ids[0], 50)}{more}-{digest}")


def _read_files(workspace: Workspace, names: Sequence[str], listener: CommandListener) -> tuple[list[str], Pixels]:
    """Return the ids and pixels of image files; the listener receives each kind of change or guess in them."""
    inputs = open_inputs(names, workspace, Resize.CROP)
    patches = []
    for patch in inputs.patches:
        patches.append(patch)
        _check_count(max(inputs.total or 0, len(patches)))
    chunk = load_chunk(patches)
    if chunk.failures:
        raise chunk.failures[0][1]
    for note in inputs.notes:
        listener.on_note(note)
    for what, remark in chunk.remarks.items():
        listener.on_note(f"{remark.images} of {len(patches)} images: {what} (the first: {remark.example})")
    return [patch.id for patch in chunk.patches], chunk.pixels


def _read_ids(workspace: Workspace, ids: Sequence[str], data: Sequence[str]) -> tuple[list[str], Pixels]:
    """Return the ids and pixels of patches in the packed data sets, or in those that `data` names.

    Raises:
        HistoError: no data set has a patch of that id, or several have one; or `data` names only subsets.
    """
    ids = list(dict.fromkeys(ids))
    _check_count(len(ids))
    names = list_packed(workspace, data)
    places: dict[str, list[tuple[str, int]]] = {key: [] for key in ids}
    for name in names:
        for row, key in enumerate(read_manifest(workspace.manifest_path(name), ("id",))["id"]):
            if key in places:
                places[key].append((name, row))
    for key, found in places.items():
        if not found:
            where = f"the data sets {', '.join(names)}" if names else "this workspace, which has no packed data set"
            hint = "give each id on its own: --ids A --ids B" if "," in key else "the ids are in manifests/NAME.csv"
            raise HistoError(f"--ids {key}: there is no such patch in {where}", hint)
        if len(found) > 1:
            both = ", ".join(name for name, _ in found)
            raise HistoError(f"--ids {key}: several data sets have this patch: {both}", f"add --data {found[0][0]}")
    pixels = [read_packed(workspace, name, np.array([row])) for ((name, row),) in places.values()]
    return ids, np.concatenate(pixels)


def _check_count(count: int) -> None:
    if count > MAX_PATCHES:
        raise UsageError(f"{count:,} patches are too many for a sheet", f"name at most {MAX_PATCHES} files or --ids")
