"""Several runs of one recipe, for a mean and a spread: the folds of a cross-validation, or other seeds."""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from histocli.config import Group, RunConfig
from histocli.data.dataset import open_drawn
from histocli.data.folds import make_folds
from histocli.data.groups import parted_by
from histocli.data.manifest import file_sha256, read_manifest, write_manifest
from histocli.errors import HistoError, UsageError
from histocli.metrics import evaluate
from histocli.metrics.calibration import probability
from histocli.models.checkpoint import Checkpoint, load_checkpoint
from histocli.training.calibrate import decided
from histocli.training.provenance import stem_of
from histocli.workspace import Workspace, checked_name, read_json, write_json


class Member(NamedTuple):
    """One of the runs: its name, its options, and the fold (from 1) or the seed that is its own."""

    name: str
    config: RunConfig
    number: int


class Repeats(NamedTuple):
    """The runs to be, what they are (`folds` or `seeds`), and what they are called together."""

    name: str
    kind: str
    members: list[Member]

    def path(self, workspace: Workspace) -> Path:
        """Where their mean and spread are written."""
        return workspace.metrics_dir / f"{self.name}-{self.kind}.json"


def plan_repeats(workspace: Workspace, config: RunConfig, name: str | None, folds: int, seeds: int) -> Repeats:
    """Name the runs of `folds` folds of the manifest, or of `seeds` seeds from the config's on; the other is 0.

    Raises:
        UsageError: both are asked for, or too few of one.
    """
    kind, count = ("folds", folds) if folds else ("seeds", seeds)
    if folds and seeds:
        raise UsageError("--folds and --seeds exclude one another", "give --seeds to each of the folds' manifests")
    if count < 2:
        raise UsageError(f"--{kind} {count}: at least 2 are needed")
    together = checked_name(name or _unused(workspace, config.arch), "run")
    if folds:
        numbers = range(1, folds + 1)
        members = [Member(f"{together}-fold{i}", replace(config, data=f"{together}-fold{i}"), i) for i in numbers]
    else:
        numbers = range(config.seed, config.seed + seeds)
        members = [Member(f"{together}-seed{i}", replace(config, seed=i), i) for i in numbers]
    return Repeats(together, kind, members)


def first_begun(workspace: Workspace, name: str, kind: str) -> str | None:
    """The run of the lowest fold or seed (`kind`: folds, seeds) among those that are together called `name`."""
    pattern = re.compile(rf"{re.escape(name)}-{kind.removesuffix('s')}(\d+)")
    begun = {int(found[1]): run for run in workspace.run_names() if (found := pattern.fullmatch(run))}
    return begun[min(begun)] if begun else None


def repeats_name(run: str) -> str:
    """Return what the runs of several folds or seeds are called together, given the name of one of them."""
    return re.sub(r"-(fold|seed)\d+$", "", run)


def is_member(run: str, config: RunConfig) -> bool:
    """Return whether a run is a fold of a cross-validation or one of several seeds, by its name and options."""
    return config.data == run or run.endswith(f"-seed{config.seed}")


def _unused(workspace: Workspace, arch: str) -> str:
    """The first of `<arch>-1`, `<arch>-2`, ... that no run's name begins with."""
    stem, number, runs = stem_of(arch), 1, workspace.run_names()
    while any(run == f"{stem}-{number}" or run.startswith(f"{stem}-{number}-") for run in runs):
        number += 1
    return f"{stem}-{number}"


def write_folds(workspace: Workspace, data: str, repeats: Repeats, *, again: bool) -> None:
    """Write each fold's manifest, `manifests/<name>-fold1.csv` and so on, from the manifest `data`.

    `again` leaves those that were written when the runs were begun as they are.

    Raises:
        UsageError: there were more of them, or fewer.
        HistoError: the manifest is not there, or its patches do not part into so many folds.
    """
    wanted = {member.config.data for member in repeats.members}
    ours = re.compile(rf"{re.escape(repeats.name)}-fold\d+")
    packed = set(workspace.dataset_names())
    there = {path.stem for path in workspace.manifests_dir.glob("*.csv") if ours.fullmatch(path.stem)} - packed
    if taken := wanted & packed:
        raise HistoError(f"{min(taken)} is the name of a data set, as it would be that of a fold", "--name another")
    if again:
        if there != wanted:
            raise UsageError(f"--folds {len(wanted)}: {repeats.name} was begun with {len(there)}")
        return
    seed = repeats.members[0].config.seed
    path = workspace.manifest_path(data)
    made = make_folds(open_drawn(workspace, path).frame, len(repeats.members), seed, _kept_whole(workspace, path))
    for stale in there - wanted:  # of a start that failed
        workspace.manifest_path(stale).unlink()
    for member in repeats.members:
        write_manifest(workspace.manifest_path(member.config.data), made.split(member.number - 1))


def _kept_whole(workspace: Workspace, manifest_path: Path) -> Group | None:
    """What `histo balance --group` kept on one side when it drew this manifest; None where another was drawn since."""
    report_path = workspace.balance_path(manifest_path.stem)
    report = read_json(report_path) if report_path.is_file() else {}
    drawn = report["split"] if report.get("manifest_sha256") == file_sha256(manifest_path) else None
    return Group(drawn) if drawn in list(Group) else None


def summarise(workspace: Workspace, repeats: Repeats) -> dict[str, Any]:
    """Write the mean and the spread of the finished runs' validation figures, and return what is written.

    Temperature and threshold are each run's own; of folds, what the other folds' held-out patches decide. The best
    epoch was chosen on the patches it is judged on.
    """
    best = [load_checkpoint(workspace.run_dir(member.name) / "best.pt") for member in repeats.members]
    found = _held_out(best) if repeats.kind == "folds" else [_figures(each, vars(each)) for each in best]
    runs = [
        {"run": member.name, "number": member.number, "epoch": each.epoch, **figures}
        for member, each, figures in zip(repeats.members, best, found, strict=True)
    ]
    names = runs[0]["metrics"].keys()
    values = {name: [run["metrics"][name] for run in runs] for name in names}
    known = {name: column for name, column in values.items() if None not in column}
    report = {
        "name": repeats.name,
        "kind": repeats.kind,
        "parted_by": parted_by(read_manifest(workspace.run_dir(runs[0]["run"]) / "manifest.csv")),
        "runs": runs,
        "mean": {name: float(np.mean(known[name])) if name in known else None for name in names},
        "standard_deviation": {name: float(np.std(known[name], ddof=1)) if name in known else None for name in names},
    }
    write_json(repeats.path(workspace), report)
    return report


def _held_out(best: list[Checkpoint]) -> list[dict[str, Any]]:
    """Each fold's figures at the temperature and threshold that the other folds' held-out scores decide."""
    labels, odds = ([each.validation[name].numpy() for each in best] for name in ("labels", "log_odds"))
    found = []
    for i, each in enumerate(best):
        others = [j for j in range(len(best)) if j != i]
        theirs = np.concatenate([labels[j] for j in others]).astype(np.int64)
        probs = probability(np.concatenate([odds[j] for j in others]).astype(np.float64))
        found.append(_figures(each, decided(theirs, probs, str(each.config.get("threshold", "0.5")))))
    return found


def _figures(best: Checkpoint, at: dict[str, Any]) -> dict[str, Any]:
    """A best epoch's validation figures, calibrated by one temperature and judged at one threshold."""
    labels, odds = (best.validation[name].numpy() for name in ("labels", "log_odds"))
    found = evaluate(labels, probability(odds, at["temperature"]), at["threshold"])
    return {"n": found["n"], "threshold": at["threshold"], "metrics": found["metrics"]}
