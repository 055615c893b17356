"""`histo plot`: pictures of what the other commands have written."""

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from histocli.config import SUBSET
from histocli.data.manifest import UNLABELLED, read_manifest
from histocli.errors import HistoError
from histocli.inference.score_table import read_scores
from histocli.reports.plots import Format, Kind, shorten
from histocli.workspace import Workspace, read_json

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from matplotlib.figure import Figure

    from histocli.reports.plots.sheets import Group
    from histocli.sources import Pixels

    Rows = np.ndarray[Any, np.dtype[np.int64]]

_HEIGHTS = {Kind.ROC: 3.8, Kind.PR: 3.8, Kind.CONFUSION: 3.6, Kind.CALIBRATION: 4.2, Kind.SCORES: 2.9}


class MissingInputError(HistoError):
    """The file that a kind of picture is drawn from is not there."""


class Picture(NamedTuple):
    """A picture to draw: its file name without extension, its size in inches, and what fills it."""

    stem: str
    width: float
    height: float
    draw: "Callable[[Figure], None]"


def plot(workspace: Workspace, run: str | None, kinds: Sequence[Kind], format: Format) -> list[Path]:
    """Draw `kinds` of the run `run` (None: the newest) into the workspace's `plots/`, and return the files.

    Every evaluation of the run gets its own pictures. With `Kind.ALL`, kinds whose input is not there are left out.

    Raises:
        HistoError: there is no such run, a kind asked for by name has no input, or an input cannot be read.

    """
    from histocli.reports.plots.style import save

    run = _chosen_run(workspace, run)
    pictures: list[Picture] = []
    for kind in [kind for kind in Kind if kind is not Kind.ALL and (kind in kinds or Kind.ALL in kinds)]:
        try:
            pictures += _pictures(workspace, run, kind)
        except MissingInputError:
            if Kind.ALL not in kinds:
                raise
    if not pictures:
        raise MissingInputError(f"there is nothing to draw in {workspace.root}", "histo train makes a run")
    return [save(workspace.plots_dir / f"{p.stem}.{format.value}", format, p.width, p.height, p.draw) for p in pictures]


def _chosen_run(workspace: Workspace, run: str | None) -> str | None:
    """Give the run to draw: `run`, if it has left something, or the newest, or None where there is none."""
    names = workspace.run_names()
    if run is None:
        return names[-1] if names else None
    if not workspace.run_dir(run).is_dir() and not _evaluations(workspace, run):
        raise HistoError(
            f"there is no run {run!r}",
            f"histo train --name {run} makes it; runs: {', '.join(names) or 'none'}",
        )
    return run


def _pictures(workspace: Workspace, run: str | None, kind: Kind) -> list[Picture]:
    """Give the pictures of one kind.

    Raises:
        MissingInputError: what they are drawn from is not there.

    """
    if kind is Kind.BALANCE:
        return _balance(workspace)
    if kind is Kind.SAMPLES:
        return _samples(workspace)
    if kind is Kind.OPTIMISM:
        return _optimism(workspace)
    if run is None:
        raise MissingInputError("there is no training run yet", "histo train makes one")
    if kind is Kind.CURVES:
        return [_curves(workspace, run)]
    evaluations = _evaluations(workspace, run)
    if not evaluations:
        newest = run == (workspace.run_names() or [run])[-1]
        raise MissingInputError(
            f"the run {run!r} has not been evaluated", f"histo eval --ckpt {'best.pt' if newest else run}"
        )
    if kind is Kind.ERRORS:
        return _errors(workspace, evaluations)
    return [_evaluation(path, metrics, kind) for path, metrics in evaluations.items()]


def _evaluations(workspace: Workspace, run: str) -> dict[Path, dict[str, Any]]:
    """Read every evaluation of `run`, in the order of their names."""
    found = {path: read_json(path) for path in sorted(workspace.metrics_dir.glob(f"{run}-*.json"))}
    return {p: m for p, m in found.items() if isinstance(m, dict) and m.get("run") == run and "curves" in m}


def _evaluation(path: Path, metrics: dict[str, Any], kind: Kind) -> Picture:
    from histocli.reports.plots import evaluation
    from histocli.reports.plots.style import COLUMN

    drawings = {
        Kind.ROC: evaluation.draw_roc,
        Kind.PR: evaluation.draw_pr,
        Kind.CONFUSION: evaluation.draw_confusion,
        Kind.CALIBRATION: evaluation.draw_calibration,
        Kind.SCORES: evaluation.draw_scores,
    }
    return Picture(f"{path.stem}-{kind}", COLUMN, _HEIGHTS[kind], partial(drawings[kind], metrics=metrics))


def _curves(workspace: Workspace, run: str) -> Picture:
    from histocli.reports.plots.style import COLUMN
    from histocli.reports.plots.training import draw_curves

    path = workspace.run_dir(run) / "history.jsonl"
    try:
        history = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        raise MissingInputError(f"the run {run!r} has no history", f"histo train --name {run}") from None
    except ValueError as error:
        raise HistoError(f"cannot read {path}: {error}", "histo train --resume writes it again") from error
    if not history:
        raise MissingInputError(f"the run {run!r} has not finished an epoch", f"histo train --resume --name {run}")
    config = read_json(workspace.run_dir(run) / "config.json")
    return Picture(f"{run}-{Kind.CURVES}", COLUMN, 4.6, partial(draw_curves, config=config, history=history))


def _balance(workspace: Workspace) -> list[Picture]:
    """Give a picture of each balanced subset."""
    from histocli.reports.plots.style import COLUMN
    from histocli.reports.plots.subset import draw_balance

    reports = {path: read_json(path) for path in workspace.balance_paths()}
    if not reports:
        raise MissingInputError("there is no balanced subset yet", "histo balance draws one")
    return [
        Picture(
            f"{report['data']}-{Kind.BALANCE}" if path == workspace.balance_path(SUBSET) else path.stem,
            COLUMN,
            4.4 if report["slides"] else 2.4,
            partial(draw_balance, report=report),
        )
        for path, report in reports.items()
    ]


def _optimism(workspace: Workspace) -> list[Picture]:
    """Give a picture for each data set whose splits were compared."""
    from histocli.reports.plots.optimism import HEIGHT, draw_optimism
    from histocli.reports.plots.style import COLUMN

    paths = sorted(workspace.metrics_dir.glob(f"*-{Kind.OPTIMISM}.json"))
    if not paths:
        raise MissingInputError("no splits have been compared yet", "histo eval --optimism compares them")
    return [Picture(path.stem, COLUMN, HEIGHT, partial(draw_optimism, report=read_json(path))) for path in paths]


def _samples(workspace: Workspace) -> list[Picture]:
    """Give a sheet for each packed data set."""
    names = workspace.dataset_names()
    if not names:
        raise MissingInputError("there are no packed patches yet", "histo download packs them")
    return [_sample_sheet(workspace, name) for name in names]


def _sample_sheet(workspace: Workspace, name: str) -> Picture:
    """Draw patches of each class by lot, always the same ones; a data set without labels is one group."""
    import numpy as np

    from histocli.reports.plots.sheets import PER_GROUP, Group
    from histocli.reports.plots.style import CLASS_NAMES

    labels = read_manifest(workspace.manifest_path(name))["label"].to_numpy()
    rng = np.random.default_rng(0)
    groups = []
    for label, heading in ((0, CLASS_NAMES[0]), (1, CLASS_NAMES[1]), (UNLABELLED, "without label")):
        rows = np.flatnonzero(labels == label)
        if not len(rows) and (label == UNLABELLED or (labels == UNLABELLED).all()):
            continue
        drawn = np.sort(rng.choice(rows, min(PER_GROUP, len(rows)), replace=False))
        groups.append(Group(f"{heading} (n = {len(rows):,})", _patches(workspace, name, drawn)))
    counts = f"n = {len(labels):,}; label 1: tumour within the marked central 32x32 pixels"
    return _sheet(f"{name}-{Kind.SAMPLES}", groups, f"Samples of {name}", counts)


def _errors(workspace: Workspace, evaluations: dict[Path, dict[str, Any]]) -> list[Picture]:
    """Give a sheet for each evaluation whose patches are packed here; those of a loose folder never are."""
    pictures, missing = [], []
    for path, metrics in evaluations.items():
        table = path.with_name(metrics["scores"])
        if not table.is_file():
            missing.append(table)
            continue
        scores = read_scores(table)
        if all(name and workspace.patches_path(name).is_file() for name in scores["data"].unique()):
            pictures.append(_error_sheet(workspace, path.stem, metrics, scores))
    if not pictures and missing:
        raise MissingInputError(f"there is no {missing[0]}", "histo eval writes it again")
    if not pictures:
        raise MissingInputError(
            "the scored patches are not packed here", "histo download packs them, histo eval --data NAME scores them"
        )
    return pictures


def _error_sheet(workspace: Workspace, stem: str, metrics: dict[str, Any], scores: "pd.DataFrame") -> Picture:
    from histocli.reports.plots.evaluation import facts
    from histocli.reports.plots.sheets import Group, most_confident_errors

    threshold, confusion = metrics["threshold"], metrics["confusion"]
    found = most_confident_errors(scores["label"], scores["prob"], threshold)
    groups = []
    for rows, name, key in zip(found, ("False positives", "False negatives"), ("fp", "fn"), strict=True):
        errors = scores.iloc[rows]
        captions = [f"{prob:.3f}\n{shorten(id, 10)}" for id, prob in zip(errors["id"], errors["prob"], strict=True)]
        shown = f"{len(rows):,} of {confusion[key]:,}, the most confident first" if len(rows) else "none"
        groups.append(Group(f"{name}: {shown}", _scored_patches(workspace, errors), captions))
    key_line = f"under each patch: its probability of tumour (threshold {threshold:.3g}) and its id"
    heading = f"Most confident errors: {metrics['run']}"
    return _sheet(f"{stem}-{Kind.ERRORS}", groups, heading, ", ".join(facts(metrics)), key_line)


def _sheet(stem: str, groups: "list[Group]", heading: str, *facts: str) -> Picture:
    from histocli.reports.plots.sheets import draw_sheet, sheet_size

    def draw(figure: "Figure") -> None:
        draw_sheet(figure, groups, heading, *facts)

    return Picture(stem, *sheet_size(groups), draw)


def _scored_patches(workspace: Workspace, scores: "pd.DataFrame") -> "Pixels":
    """Fetch (N,96,96,3) uint8 patches that may come from several data sets, in the order of `scores`.

    Raises:
        HistoError: they are not the pixels that were scored.

    """
    from hashlib import sha1

    import numpy as np

    rows = scores["index"].to_numpy(np.int64)
    patches = np.empty((len(rows), 96, 96, 3), np.uint8)
    for name in scores["data"].unique():
        here = (scores["data"] == name).to_numpy()
        patches[here] = _patches(workspace, name, rows[here])
    for patch, digest, key in zip(patches, scores["sha1"], scores["id"], strict=True):
        if digest and sha1(patch.data, usedforsecurity=False).hexdigest() != digest:
            raise HistoError(f"the patch {key!r} was scored with other pixels", "it was packed anew: evaluate again")
    return patches


def _patches(workspace: Workspace, name: str, rows: "Rows") -> "Pixels":
    """Fetch rows of the data set `name`.

    Raises:
        HistoError: it has been packed anew with fewer patches, or cannot be read.

    """
    import numpy as np

    from histocli.data.store import open_store

    store = open_store(workspace.patches_path(name))
    if len(rows) and rows.max() >= len(store):
        raise HistoError(
            f"{name} holds {len(store):,} patches, but row {rows.max():,} is asked for",
            "it was packed anew: balance and evaluate again",
        )
    return np.asarray(store[rows])
