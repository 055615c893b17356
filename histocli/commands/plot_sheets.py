"""The sheets of patches that `histo plot` draws: samples of a data set, and the errors of an evaluation."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from histocli.data.manifest import UNLABELLED, read_manifest
from histocli.enums import PlotKind
from histocli.errors import ExplanationError
from histocli.inference.score_table import read_scores
from histocli.patch import Pixels
from histocli.plots import MissingInputError, Plot
from histocli.reports.evaluation import EvaluationReport
from histocli.reports.run import read_run
from histocli.text import shorten_to_length
from histocli.workspace import Workspace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

    from histocli.plots.sheets import Group


def plan_samples(workspace: Workspace, run: str | None, data: Sequence[str]) -> list[Plot]:
    """Return a sheet of samples of the run's data set, or of those that `data` names."""
    names = list_packed(workspace, data)
    if not names:
        workspace.check_complete(*workspace.list_incomplete())
        raise MissingInputError("there are no packed patches yet", "histo download packs them")
    if not data and run is not None:
        names = [_find_own_data(workspace, run, names)]
    return [_plan_sample_sheet(workspace, name) for name in names]


def _find_own_data(workspace: Workspace, run: str, packed: Sequence[str]) -> str:
    """Return the data set that a run was trained on; raise `MissingInputError` if it is not known or not packed."""
    config = workspace.run_dir(run) / "config.json"
    own = read_run(config.parent).data if config.is_file() else ""
    if own in packed:
        return own
    workspace.check_complete(own)
    problem = f"it is not known which data set {run} was trained on"
    if own:
        problem = f"{run} was trained on {own}, whose patches are not in this workspace"
    raise MissingInputError(problem, f"--data NAME chooses a data set: {', '.join(packed)}")


def list_packed(workspace: Workspace, data: Sequence[str]) -> list[str]:
    """Return the packed data sets: all, or those that `data` names.

    Raises:
        MissingInputError: `data` names none of them, but for example a subset, which has no patches of its own.
    """
    names = [name for name in workspace.list_datasets() if not data or name in data]
    for name in () if names else data:
        if name not in workspace.list_subsets():
            raise MissingInputError(f"the patches of {name} are not in this workspace", "histo download packs patches")
        source = next(iter(read_manifest(workspace.manifest_path(name), ("label", "data"))["data"]), "")
        raise MissingInputError(
            f"{name} is a subset of the data set {source}, which has its patches", f"name the data set: --data {source}"
        )
    return names


def _plan_sample_sheet(workspace: Workspace, name: str) -> Plot:
    """Return a sheet of random patches of each class, the same at each call; without labels there is one group."""
    import numpy as np

    from histocli.inference.scored_patches import read_packed
    from histocli.plots.sheets import PER_GROUP, Group
    from histocli.plots.style import CLASS_NAMES

    labels = read_manifest(workspace.manifest_path(name))["label"].to_numpy()
    rng = np.random.default_rng(0)
    groups = []
    for label, heading in ((0, CLASS_NAMES[0]), (1, CLASS_NAMES[1]), (UNLABELLED, "without label")):
        rows = np.flatnonzero(labels == label)
        if not len(rows) and (label == UNLABELLED or (labels == UNLABELLED).all()):
            continue
        drawn = np.sort(rng.choice(rows, min(PER_GROUP, len(rows)), replace=False))
        groups.append(Group(f"{heading} (n = {len(rows):,})", read_packed(workspace, name, drawn)))
    counts = f"n = {len(labels):,}; label 1: tumour within the marked central 32x32 pixels"
    return plan_sheet(f"{name}-{PlotKind.SAMPLES}", groups, f"Samples of {name}", counts)


def plan_error_sheets(workspace: Workspace, evaluations: dict[Path, EvaluationReport]) -> list[Plot]:
    """Return a sheet for each evaluation whose patches can still be read: its most confident errors.

    They are explained where that is possible.

    Raises:
        MissingInputError: no patches can be read.
    """
    from histocli.inference.scored_patches import read_scored_patches
    from histocli.plots.evaluation import make_subtitles
    from histocli.plots.explanations import KEY
    from histocli.plots.sheets import Group, select_confident_errors

    plots = []
    for path, report, scores in read_tables(workspace, evaluations):
        threshold, confusion = report.measured.threshold, report.measured.confusion
        kinds = (("False positives", confusion.fp), ("False negatives", confusion.fn))
        chosen = [scores.iloc[rows] for rows in select_confident_errors(scores["label"], scores["prob"], threshold)]
        pixels = [read_scored_patches(workspace, report, errors) for errors in chosen]
        pictures: Sequence[Pixels | None]
        try:
            pictures, explained = explain_groups(workspace, report, pixels), KEY
        except ExplanationError as error:
            pictures, explained = [None, None], f"not explained: {error}"
        groups = []
        for (name, count), errors, patches, beside in zip(kinds, chosen, pixels, pictures, strict=True):
            shown = f"{len(errors):,} of {count:,}, the most confident first" if len(errors) else "none"
            groups.append(Group(f"{name}: {shown}", patches, make_captions(errors["id"], errors["prob"]), beside))
        heading = f"Most confident errors: {report.run}"
        facts = ", ".join(make_subtitles(report)), explain_captions(threshold), explained
        plots.append(plan_sheet(f"{path.stem}-{PlotKind.ERRORS}", groups, heading, *facts))
    return plots


def read_tables(
    workspace: Workspace, evaluations: dict[Path, EvaluationReport]
) -> "list[tuple[Path, EvaluationReport, pd.DataFrame]]":
    """Return the evaluations whose patches can still be read, with their scores.

    Raises:
        MissingInputError: there are none.
    """
    from histocli.inference.scored_patches import can_read_scored_patches

    tables, missing = [], []
    for path, report in evaluations.items():
        table = path.with_name(report.scores)
        if not table.is_file():
            missing.append(table)
            continue
        scores = read_scores(table)
        if can_read_scored_patches(workspace, report, scores):
            tables.append((path, report, scores))
    if not tables and missing:
        raise MissingInputError(f"there is no file {missing[0]}", "histo eval writes it again")
    if not tables:
        raise MissingInputError(
            "the scored patches are not packed in this workspace, and their folder is not there any more",
            "pack them with histo download, and score them with histo eval --data NAME",
        )
    return tables


def explain_groups(workspace: Workspace, report: EvaluationReport, groups: Sequence[Pixels]) -> list[Pixels]:
    """Return the explanations of groups of an evaluation's patches as pictures, which have the shapes of the patches.

    Raises:
        ExplanationError: a checkpoint is not there any more, or its network has no feature map.
    """
    import numpy as np

    from histocli.inference.explain_scored import explain_scored
    from histocli.plots.explanations import draw_maps

    pixels = np.concatenate(groups)
    pictures = draw_maps(pixels, explain_scored(workspace, report, pixels))
    return np.split(pictures, np.cumsum([len(group) for group in groups])[:-1])


def make_captions(ids: Iterable[str], probs: Iterable[float]) -> list[str]:
    """Return the two lines under each patch: its probability and its id."""
    return [f"{prob:.3f}\n{shorten_to_length(key, 10)}" for key, prob in zip(ids, probs, strict=True)]


def explain_captions(threshold: float) -> str:
    """Return the line under a title that says what `make_captions` writes."""
    return f"under each patch: its probability of tumour (threshold {threshold:.3g}) and its id"


def plan_sheet(stem: str, groups: "list[Group]", heading: str, *facts: str) -> Plot:
    """Return the plot of a sheet of patches."""
    from histocli.plots.sheets import draw_sheet, find_sheet_size

    def draw(figure: "Figure") -> None:
        draw_sheet(figure, groups, heading, *facts)

    return Plot(stem, *find_sheet_size(groups), draw)
