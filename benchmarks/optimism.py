"""Compare validation AUCs with AUCs on unseen slides, for runs with a random split and with a split by group.

    python -m benchmarks.optimism WORKSPACE DATA RUN [RUN ...]

Train runs that differ only in their split and seed, evaluate each with `histo eval --ckpt RUN --data DATA` on patches
of other slides, and name them here. Prints a table and the gaps, and draws them in plots/optimism.png.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from histocli.console import Reporter, format_cell
from histocli.data.groups import find_split_unit
from histocli.data.leakage import count_shared_with_subset
from histocli.data.manifest import hash_file, read_manifest
from histocli.errors import HistoError
from histocli.inference.score_table import make_validation_table, measure_scores, read_scores
from histocli.metrics import Interval
from histocli.models.checkpoint import load_checkpoint
from histocli.plots.style import COLUMN, GREY, NORMAL, TUMOUR, PlotStyle, save, set_title
from histocli.reports.evaluation import EvaluationReport, read_evaluations
from histocli.reports.run import RunRecord, read_run
from histocli.workspace import Workspace

MAY_DIFFER = {"data", "seed", "device", "precision", "compile", "threshold", "allow_leak"}  # options of compared runs
PATCHES_MAY_DIFFER = 0.1  # the share by which the training splits may differ: splits by group vary in size


@dataclass(frozen=True)
class Auc:
    """An AUC and its 95% interval."""

    value: float
    interval: Interval | None


@dataclass(frozen=True)
class MeasuredRun:
    """A run: what its train and validation do not share, its AUC on validation, and its AUC on unseen patches."""

    run: str
    split_by: str
    validation: Auc
    unseen: Auc


@dataclass(frozen=True)
class Optimism:
    """Runs of one recipe, and the unseen data that all were evaluated on.

    `shared_slides` and `overlaps` count what the unseen data share with the training data; None where not known.
    """

    data: str
    runs: list[MeasuredRun]
    shared_slides: int | None
    overlaps: int | None

    def gaps(self) -> dict[str, float]:
        """Return the mean of validation AUC minus unseen AUC for each kind of split."""
        by_split: dict[str, list[float]] = {}
        for run in self.runs:
            by_split.setdefault(run.split_by, []).append(run.validation.value - run.unseen.value)
        return {split: float(np.mean(gaps)) for split, gaps in by_split.items()}


def measure(workspace: Workspace, data: str, runs: Sequence[str]) -> Optimism:
    """Collect the AUCs of the runs.

    Raises:
        HistoError: the runs are not of one recipe, or one was not evaluated on the same unseen patches.
    """
    records = [read_run(workspace.run_dir(run)) for run in runs]
    recipes = [_find_recipe(workspace, run, record) for run, record in zip(runs, records, strict=True)]
    for record, recipe in zip(records[1:], recipes[1:], strict=True):
        change = abs(record.train_patches / records[0].train_patches - 1)
        if recipe != recipes[0] or change > PATCHES_MAY_DIFFER:
            raise HistoError(
                f"{record.run} was not trained as {runs[0]} was", "name runs that differ in split and seed"
            )
    evaluations = {run: _evaluation(workspace, run, data) for run in runs}
    patches = {run: _patches_sha256(workspace, report) for run, report in evaluations.items()}
    if len(set(patches.values())) > 1:
        raise HistoError(f"these runs were not evaluated on the same patches of {data}", "evaluate them again")
    shared = [_count_shared(workspace, run, evaluations[run]) for run in runs]
    return Optimism(
        data=data,
        runs=[_measure_run(workspace, run, evaluations[run]) for run in runs],
        shared_slides=max((slides for slides, _ in shared if slides is not None), default=None),
        overlaps=max((overlaps for _, overlaps in shared if overlaps is not None), default=None),
    )


def _find_recipe(workspace: Workspace, run: str, record: RunRecord) -> tuple[object, ...]:
    """Return what must be the same in all runs: data, options, version, and the shapes of the network's weights."""
    options = {name: value for name, value in record.options.items() if name not in MAY_DIFFER}
    model = load_checkpoint(workspace.run_dir(run) / "best.pt").model
    return record.data, options, record.versions["histo"], {name: tensor.shape for name, tensor in model.items()}


def _evaluation(workspace: Workspace, run: str, data: str) -> EvaluationReport:
    """The evaluation of the best.pt of a run that is comparable with its validation: one view, calibrated, unseen."""
    best = hash_file(workspace.run_dir(run) / "best.pt")
    evaluations = [
        report
        for report in read_evaluations(workspace, run).values()
        if report.data == data and [checkpoint.checkpoint_sha256 for checkpoint in report.checkpoints] == [best]
    ]
    comparable = [report for report in evaluations if report.is_calibrated and not report.tta]
    if not comparable:
        raise HistoError(f"{run} was not evaluated on {data}", f"histo eval --ckpt {run} --data {data}")
    for report in comparable:
        if report.n_in_training == 0 and report.n_in_validation == 0:
            return report
    known = [r for r in comparable if r.n_in_training is not None and r.n_in_validation is not None]
    if not known:
        raise HistoError(
            f"it is not known whether {run} was trained on patches of {data}", "its run's data are missing"
        )
    count = (known[0].n_in_training or 0) + (known[0].n_in_validation or 0)
    raise HistoError(f"{run} was trained or validated on {count:,} patches of {data}", "leave them out")


def _patches_sha256(workspace: Workspace, report: EvaluationReport) -> str:
    """Return a hash of the evaluated data: that of the manifest, or for a folder that of its ids and labels."""
    if report.manifest_sha256:
        return report.manifest_sha256 + report.split
    table = read_scores(workspace.metrics_dir / report.scores).sort_values("id")
    return table[["id", "label"]].to_csv(index=False)


def _count_shared(workspace: Workspace, run: str, report: EvaluationReport) -> tuple[int | None, int | None]:
    """The slides of the unseen data that the run's data have too, and the patches that overlap one of them."""
    subset = read_manifest(workspace.run_dir(run) / "manifest.csv")
    if not {report.data, str(subset["data"].iloc[0])} <= set(workspace.list_datasets()):
        return None, None
    leak = count_shared_with_subset(workspace, subset, report.data, report.split)
    return leak.shared_slides, leak.overlaps


def _measure_run(workspace: Workspace, run: str, report: EvaluationReport) -> MeasuredRun:
    best = load_checkpoint(workspace.run_dir(run) / "best.pt")
    manifest = read_manifest(workspace.run_dir(run) / "manifest.csv", ("id", "label", "split"))
    measured, _, uncertainty = measure_scores(make_validation_table(best, manifest, best.temperature), best.threshold)
    unseen = report.uncertainty.find_interval("auc")
    on_validation, on_unseen = measured.metrics["auc"], report.measured.metrics["auc"]
    if on_validation is None or on_unseen is None:
        raise HistoError(f"the AUC of {run} is undefined: its patches are of one class")
    return MeasuredRun(
        run, find_split_unit(manifest), Auc(on_validation, uncertainty.find_interval("auc")), Auc(on_unseen, unseen)
    )


def draw(figure: Figure, optimism: Optimism) -> None:
    """Draw each run's AUC on its own validation patches and on unseen patches, connected by a line."""
    axes = figure.add_subplot()
    colours = {"patch": TUMOUR, "overlap group": NORMAL, "slide": NORMAL}
    drawn: set[str] = set()
    for i, run in enumerate(optimism.runs):
        x = np.array([0, 1]) + 0.03 * (
            i - (len(optimism.runs) - 1) / 2
        )  # side by side, so that intervals do not overlap
        label = None if run.split_by in drawn else f"split by {run.split_by}"
        drawn.add(run.split_by)
        colour = colours[run.split_by]
        axes.plot(x, [run.validation.value, run.unseen.value], "o-", color=colour, label=label)
        for at, auc in zip(x, (run.validation, run.unseen), strict=True):
            if auc.interval:
                axes.plot([at, at], auc.interval, color=colour, linewidth=0.8)
    axes.set_xticks([0, 1], ["own validation", f"unseen patches\n({optimism.data})"])
    axes.set(ylabel="AUC", xlim=(-0.4, 1.4))
    axes.axvline(0.5, color=GREY, linewidth=0.5, linestyle=":")
    figure.legend(loc="outside lower center", ncols=2)
    gaps = [f"split by {split}: validation minus unseen {gap:+.3f}" for split, gap in optimism.gaps().items()]
    set_title(figure, "Optimism of validation", *gaps)


def main(arguments: Sequence[str]) -> Optimism:
    """Print the table and the gaps, and draw them."""
    root, data, *runs = arguments
    workspace, reporter = Workspace(Path(root)), Reporter()
    optimism = measure(workspace, data, runs)

    def format_auc(auc: Auc) -> str:
        return format_cell(auc.value) + (f" ({auc.interval[0]:.4f} to {auc.interval[1]:.4f})" if auc.interval else "")

    rows = [[run.run, run.split_by, format_auc(run.validation), format_auc(run.unseen)] for run in optimism.runs]
    reporter.print_table("AUC of each run", ["run", "split by", "validation", f"unseen ({data})"], rows)
    rows = [[split, f"{gap:+.4f}"] for split, gap in optimism.gaps().items()]
    reporter.print_table("mean of validation AUC minus unseen AUC", ["split by", "gap"], rows)
    if optimism.shared_slides or optimism.overlaps:
        reporter.warn(
            f"{data} is not unseen: it shares {optimism.shared_slides or 0:,} slides with the training data, and "
            f"{optimism.overlaps or 0:,} of its patches overlap some of it"
        )
    elif optimism.shared_slides is None and optimism.overlaps is None:
        reporter.note(f"it is not known whether {data} shares slides with the training data")
    path = save(workspace.plots_dir / "optimism.png", PlotStyle(), COLUMN, 3.4, lambda figure: draw(figure, optimism))
    reporter.print_done(f"wrote {path}")
    return optimism


if __name__ == "__main__":
    main(sys.argv[1:])
