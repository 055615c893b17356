"""Several runs that differ in fold or seed: the folds of a cross-validation, or repeats with other seeds."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from histocli.config import MAX_SEED, RunConfig, is_seed
from histocli.data.dataset import open_balanced
from histocli.data.folds import make_folds
from histocli.data.groups import OVERLAP, explain_weak_validation, find_held_out_hospitals, find_split_unit
from histocli.data.manifest import hash_file, read_manifest, write_manifest
from histocli.data.overlap_cache import find_overlap_groups
from histocli.enums import Group
from histocli.errors import DamagedError, HistoError, UsageError
from histocli.metrics import evaluate
from histocli.metrics.calibration import compute_probabilities
from histocli.models.checkpoint import Checkpoint, load_checkpoint
from histocli.pages.model_card import has_card
from histocli.reports.balance import read_balance_report
from histocli.reports.repeats import RepeatedRun, RepeatsReport, write_repeats
from histocli.reports.run import list_members
from histocli.training.calibrate import calibrate
from histocli.training.out_of_fold import write_out_of_fold
from histocli.training.provenance import find_unused_names
from histocli.training.resume import count_epochs
from histocli.workspace import Workspace, check_name

if TYPE_CHECKING:
    import pandas as pd


class PlannedRun(NamedTuple):
    """A run of `--folds` or `--seeds`: its name, its options, and its fold (from 1) or its seed as `number`."""

    name: str
    config: RunConfig
    number: int


class Repeats(NamedTuple):
    """The planned runs, what differs between them (`folds` or `seeds`), and the beginning of their names."""

    name: str
    kind: Literal["folds", "seeds"]
    members: list[PlannedRun]

    @property
    def resume_command(self) -> str:
        """The command that trains the runs that are not finished.

        It contains the first seed, because the run of that seed may have been removed.
        """
        first = f" --seed {self.members[0].number}" if self.kind == "seeds" else ""
        return f"histo train --{self.kind} {len(self.members)}{first} --name {self.name} --resume"


def plan_repeats(workspace: Workspace, config: RunConfig, name: str | None, folds: int, seeds: int) -> Repeats:
    """Return one run for each of `folds` folds, or for each of `seeds` seeds (`config.seed` and the next ones).

    Either `folds` or `seeds` is 0.

    Raises:
        UsageError: the last seed would be too large.
    """
    kind: Literal["folds", "seeds"] = "folds" if folds else "seeds"
    prefix = check_name(name or next(find_unused_names(workspace, config.arch)), "run")
    if folds:
        numbers = range(1, folds + 1)
        members = [PlannedRun(f"{prefix}-fold{i}", replace(config, data=f"{prefix}-fold{i}"), i) for i in numbers]
    else:
        if not is_seed(config.seed + seeds - 1):
            raise UsageError(
                f"--seed {config.seed} with --seeds {seeds}: the last seed would be {config.seed + seeds - 1}",
                f"the largest seed is {MAX_SEED}",
            )
        numbers = range(config.seed, config.seed + seeds)
        members = [PlannedRun(f"{prefix}-seed{i}", replace(config, seed=i), i) for i in numbers]
    return Repeats(prefix, kind, members)


def is_complete(workspace: Workspace, member: PlannedRun) -> bool:
    """Return whether a run has all its epochs and its model card, which is written after them."""
    return has_card(workspace, member.name) and count_epochs(workspace, member.name) >= member.config.epochs


@contextmanager
def explain_damaged_member(workspace: Workspace, repeats: Repeats, member: PlannedRun) -> Iterator[None]:
    """In this block, add a hint to the error of a missing or damaged file of a fold or seed.

    The hint is how to train the run again. If a run is complete and its best.pt can be read, its last.pt is needed only
    to extend it: then the hint is to leave out --epochs. Other errors, such as missing permissions, pass unchanged.
    """
    run = member.name
    try:
        yield
    except DamagedError as error:
        if is_complete(workspace, member) and _has_readable_best(workspace, run):
            hint = f"leave --epochs out: without it, {run} is complete, and its best.pt is used"
        else:
            hint = f"histo runs rm {run} removes this run, and {repeats.resume_command} trains it again"
        raise DamagedError(str(error), hint) from error


def _has_readable_best(workspace: Workspace, run: str) -> bool:
    try:
        load_checkpoint(workspace.run_dir(run) / "best.pt")
    except HistoError:
        return False
    return True


def find_first_run(workspace: Workspace, name: str, kind: str) -> str | None:
    """Return the run of the lowest fold or seed (`kind`: folds, seeds) with the common name `name`."""
    return next(iter(list_members(workspace, name, kind)), None)


def find_newest_run(workspace: Workspace, kind: str) -> str | None:
    """Return the newest run that is a fold or one of several seeds (`kind`: folds, seeds)."""
    return max(list_members(workspace, kind=kind), key=workspace.list_runs().index, default=None)


def find_repeats_name(run: str) -> str:
    """Return the common name of the runs of all folds or seeds, from the name of one of them."""
    return re.sub(r"-(fold|seed)\d+$", "", run)


def count_members(workspace: Workspace, run: str) -> tuple[str, int]:
    """Return "folds" or "seeds", and the number of runs that are folds or seeds together with this one."""
    name = find_repeats_name(run)
    kind = run[len(name) + 1 :].rstrip("0123456789") + "s"
    return kind, len(list_members(workspace, name, kind))


def write_folds(
    workspace: Workspace, data: str, repeats: Repeats, *, resume: bool = False, is_study: bool = False
) -> None:
    """Write the manifest of each fold, `manifests/<name>-fold1.csv` and so on, from the manifest `data`.

    With `resume`, the manifests that were written when the runs were started are not changed. If the slides are not all
    known, and the overlaps of the data set have been searched, overlapping patches are in the same fold.

    With `is_study`, `histo tune` writes the folds of its own study. The folder of this study exists already, and is no
    reason to refuse.

    Raises:
        UsageError: the runs were started with another number of folds.
        HistoError: the manifest is missing, its patches cannot be divided into the folds, a fold would have the name
            of a data set, or there is a study of `histo tune` with this name.
    """
    names = {member.config.data for member in repeats.members}
    pattern = re.compile(rf"{re.escape(repeats.name)}-fold\d+")
    packed = set(workspace.list_datasets())
    existing = {path.stem for path in workspace.manifests_dir.glob("*.csv") if pattern.fullmatch(path.stem)} - packed
    if conflicts := names & packed:
        raise HistoError(
            f"{min(conflicts)} is the name of a data set and cannot be the name of a fold", "use another --name"
        )
    if resume:
        if existing != names:
            raise UsageError(f"--folds {len(names)}: {repeats.name} was started with --folds {len(existing)}")
        return
    if not is_study and os.path.lexists(workspace.study_path(repeats.name).parent):
        raise HistoError(
            f"{repeats.name} is a study of histo tune, whose folds would be replaced", "use another --name"
        )
    seed = repeats.members[0].config.seed
    path = workspace.manifest_path(data)
    subset, group = open_balanced(workspace, path), _find_balance_group(workspace, path)
    frame = subset.frame
    if group is None and (overlap_groups := find_overlap_groups(workspace, subset)) is not None:
        frame = frame.assign(**{OVERLAP: overlap_groups})
    folds = make_folds(frame, len(repeats.members), seed, group)
    for stale in existing - names:  # of an earlier start that failed
        workspace.manifest_path(stale).unlink()
    for member in repeats.members:
        write_manifest(workspace.manifest_path(member.config.data), folds.split(member.number - 1))


def _find_balance_group(workspace: Workspace, manifest_path: Path) -> Group | None:
    """Return the `--group` that `histo balance` drew this manifest with, or None."""
    path = workspace.balance_path(manifest_path.stem)
    report = read_balance_report(path) if path.is_file() else None
    if report is None or report.manifest_sha256 != hash_file(manifest_path) or report.split not in list(Group):
        return None
    return Group(report.split)


def summarise(workspace: Workspace, repeats: Repeats) -> RepeatsReport:
    """Write and return the validation metrics of the finished runs, with mean and standard deviation.

    The scores of all patches of a cross-validation are also written, as an evaluation.

    Each run of `--seeds` uses its own temperature and threshold. The temperature and threshold of a fold are chosen on
    the validation patches of the other folds, so not on the patches that they are applied to. The best epoch of a fold
    is still chosen on its own validation patches.
    """
    best = [_load_best(workspace, repeats, member) for member in repeats.members]
    divided = repeats.members if repeats.kind == "folds" else repeats.members[:1]  # seeds share one manifest
    manifests = [read_manifest(workspace.run_dir(member.name) / "manifest.csv") for member in divided]
    if repeats.kind == "folds":
        calibrations = _calibrate_on_other_folds(best, manifests)
        write_out_of_fold(workspace, repeats.name, best, calibrations)
    else:
        calibrations = [(checkpoint.temperature, checkpoint.threshold) for checkpoint in best]
    runs = [
        _measure_run(member, checkpoint, temperature, threshold)
        for member, checkpoint, (temperature, threshold) in zip(repeats.members, best, calibrations, strict=True)
    ]
    if repeats.kind == "folds" and all(held_out := list(map(find_held_out_hospitals, manifests))):
        runs = [replace(run, hospitals=hospitals) for run, hospitals in zip(runs, held_out, strict=True)]
    names = list(runs[0].metrics)
    values = {name: [run.metrics[name] for run in runs] for name in names}
    known = {name: np.array(column, np.float64) for name, column in values.items() if None not in column}
    report = RepeatsReport(
        name=repeats.name,
        kind=repeats.kind,
        split_by=find_split_unit(manifests[0]),
        runs=runs,
        mean={name: float(np.mean(known[name])) if name in known else None for name in names},
        standard_deviation={name: float(np.std(known[name], ddof=1)) if name in known else None for name in names},
    )
    write_repeats(workspace, report)
    return report


def _load_best(workspace: Workspace, repeats: Repeats, member: PlannedRun) -> Checkpoint:
    with explain_damaged_member(workspace, repeats, member):
        return load_checkpoint(workspace.run_dir(member.name) / "best.pt")


def _calibrate_on_other_folds(best: list[Checkpoint], manifests: "list[pd.DataFrame]") -> list[tuple[float, float]]:
    """Return the temperature and threshold of each fold, chosen on the validation scores of the other folds."""
    scores = [checkpoint.get_validation_scores() for checkpoint in best]
    calibrations = []
    for i, checkpoint in enumerate(best):
        others = zip(*scores[:i], *scores[i + 1 :], strict=True)
        labels, log_odds = (np.concatenate(arrays) for arrays in others)
        rule = str(checkpoint.config.get("threshold", "0.5"))
        is_weak = bool(explain_weak_validation(manifests[:i] + manifests[i + 1 :]))
        calibration = calibrate(labels, compute_probabilities(log_odds), rule, is_weak=is_weak)
        calibrations.append((calibration.temperature, calibration.threshold))
    return calibrations


def _measure_run(member: PlannedRun, best: Checkpoint, temperature: float, threshold: float) -> RepeatedRun:
    """Return the validation metrics of a run's best epoch at a temperature and a threshold."""
    labels, log_odds = best.get_validation_scores()
    measured = evaluate(labels, compute_probabilities(log_odds, temperature), threshold)
    return RepeatedRun(member.name, member.number, best.epoch, measured.n, threshold, measured.metrics)
