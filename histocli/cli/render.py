"""Print reports as tables and messages."""

from collections.abc import Iterable
from dataclasses import replace

from histocli.console import Reporter, format_cell
from histocli.enums import HeadKind, Weights
from histocli.errors import HistoError
from histocli.metrics import Interval
from histocli.metrics.groups import GroupMetrics, sort_by_accuracy
from histocli.metrics.registry import find_metric_title
from histocli.reports.caveats import Caveat
from histocli.reports.comparison import ComparisonReport
from histocli.reports.evaluation import EvaluationReport, format_interval
from histocli.reports.repeats import RepeatsReport
from histocli.reports.run import read_run
from histocli.reports.tune import FAILED, FINISHED, PRUNED, RUNNING, TrialReport, TuneReport
from histocli.text import format_count, shorten
from histocli.workspace import Workspace

_N_WORST_SLIDES = 5  # number of slides in the table of the lowest accuracy
_N_BEST_TRIALS = 5  # number of trials in the table of the best ones
_MIN_TRIALS = 20  # fewer trials show little about the importance of each of five options
_LONGEST_RUN = 100  # characters of a run's name in a message; a file from someone else may have a very long one
_REPEATED_METRICS = ("auc", "accuracy", "log_loss", "ece")  # the metrics in the table of folds or seeds


def show_evaluation(reporter: Reporter, evaluation: EvaluationReport, workspace: Workspace) -> None:
    """Print every metric with its interval, the confusion matrix, the worst slides and each hospital."""
    measured, uncertainty = evaluation.measured, evaluation.uncertainty
    for checkpoint in evaluation.checkpoints:
        reporter.print_detail(f"checkpoint {checkpoint.checkpoint}, SHA-256 {checkpoint.checkpoint_sha256}")
    counts = f"{format_count(measured.n, 'patch')}, {measured.positives:,} tumour"
    title = f"{evaluation.run} on {evaluation.data}, {evaluation.split}: {counts}"
    rows = [
        [find_metric_title(name), format_cell(value), format_interval(uncertainty, name) or "-"]
        for name, value in measured.metrics.items()
    ]
    rows += [
        [f"{find_metric_title(name)} at prevalence {evaluation.assumed_prevalence:g}", format_cell(value), "-"]
        for name, value in evaluation.predictive_values.items()
    ]
    reporter.print_table(title, ["metric", "value", f"95% interval by {uncertainty.bootstrap.by}"], rows)
    if uncertainty.delong and not uncertainty.has_delong_interval("auc"):
        reporter.note(f"AUC, 95% interval by DeLong: {_format_range(uncertainty.delong.interval)}")
    confusion = measured.confusion
    reporter.print_table(
        f"confusion matrix at threshold {measured.threshold:.4g}",
        ["label", "predicted as normal", "predicted as tumour"],
        [["normal", confusion.tn, confusion.fp], ["tumour", confusion.fn, confusion.tp]],
    )
    _warn_of_one_class(reporter, evaluation, workspace)
    _show_calibration(reporter, evaluation)
    _show_groups(reporter, "slide", sort_by_accuracy(evaluation.slides)[:_N_WORST_SLIDES], len(evaluation.slides))
    _show_groups(reporter, "hospital", evaluation.hospitals, len(evaluation.hospitals))
    for name, reason in measured.undefined.items():
        reporter.warn(f"{find_metric_title(name)} cannot be computed: {reason}")
    _show_missing_intervals(reporter, evaluation)
    show_caveats(reporter, evaluation.list_caveats())
    for what, count in evaluation.changed.items():
        reporter.warn(f"{format_count(count, 'image')}: {what}")
    for reason, count in evaluation.skipped.items():
        reporter.warn(f"{format_count(count, 'patch')} skipped: {reason}")


def _warn_of_one_class(reporter: Reporter, evaluation: EvaluationReport, workspace: Workspace) -> None:
    """Warn if all patches are predicted as one class: a network that was trained for few steps does this."""
    measured = evaluation.measured
    predicted_class = measured.confusion.single_class
    if not predicted_class:
        return
    text = f"at threshold {measured.threshold:.4g} every patch is predicted as {predicted_class}"
    # The network that comes with histo is trained long enough.
    if trained := [checkpoint for checkpoint in evaluation.checkpoints if checkpoint.run != Weights.HISTONET_PCAM]:
        epochs = " and ".join(f"epoch {checkpoint.epoch} of {checkpoint.run}" for checkpoint in trained)
        commands = [make_longer_command(workspace, checkpoint.run) for checkpoint in trained]
        longer = [command for command in dict.fromkeys(commands) if command]  # one for all folds
        text += f"; if {epochs} {'was' if len(trained) == 1 else 'were'} trained for few steps, train longer"
        text += f": {'; '.join(longer)}" if longer else ""
    reporter.warn(text)


def make_longer_command(workspace: Workspace, run: str) -> str:
    """Return the command that trains a run, or all folds or seeds, for more epochs; "" if there is none.

    There is none if the run is not here, has no last.pt, or has a k-NN head, which is not trained.
    """
    from histocli.training.repeats import count_members, find_repeats_name
    from histocli.training.resume import count_epochs

    try:
        record = read_run(workspace.run_dir(run))
    except HistoError:
        return ""
    epochs = record.options.get("epochs")
    has_last = (workspace.run_dir(run) / "last.pt").is_file()
    if not isinstance(epochs, int) or not has_last or record.options.get("head") == HeadKind.KNN.value:
        return ""
    which = f"--resume --name {run}"
    if record.is_repeat:
        kind, count = count_members(workspace, run)
        if count > 1:  # 1 if the others were removed; --folds and --seeds need at least 2
            which = f"--{kind} {count} --name {find_repeats_name(run)} --resume"
    is_finished = count_epochs(workspace, run) >= epochs  # only a finished run can get more epochs
    return f"histo train {which} --epochs {4 * epochs}" if is_finished else f"histo train {which}"


def show_caveats(reporter: Reporter, caveats: Iterable[Caveat]) -> None:
    """Print why the metrics may be better, or their intervals narrower, than on new slides."""
    for caveat in caveats:
        (reporter.warn if caveat.is_serious else reporter.note)(caveat.text)


def _format_range(interval: Interval | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _show_missing_intervals(reporter: Reporter, evaluation: EvaluationReport) -> None:
    """Print which metrics have no interval by bootstrap, and why; an undefined metric needs no interval."""
    uncertainty = evaluation.uncertainty
    for reason, names in uncertainty.group_missing_intervals(evaluation.measured).items():
        metrics = (
            "all metrics"
            if len(names) == len(evaluation.measured.metrics)
            else ", ".join(map(find_metric_title, names))
        )
        instead = "; the interval of the AUC is DeLong's" if any(map(uncertainty.has_delong_interval, names)) else ""
        reporter.warn(f"no 95% interval by bootstrap of {metrics}: {reason}{instead}")


def _show_calibration(reporter: Reporter, evaluation: EvaluationReport) -> None:
    """Print the metrics with and without the temperature, if the scores are calibrated and both are known."""
    temperatures = [checkpoint.temperature for checkpoint in evaluation.checkpoints]
    is_uncalibrated = not evaluation.is_calibrated or all(temperature == 1 for temperature in temperatures)
    if is_uncalibrated or not evaluation.before_calibration:
        return
    shown = ", ".join(f"{temperature:.3f}" for temperature in temperatures)
    rows = [
        [find_metric_title(name), format_cell(before), format_cell(evaluation.measured.metrics[name])]
        for name, before in evaluation.before_calibration.items()
    ]
    reporter.print_table(f"calibration with temperature {shown}", ["metric", "uncalibrated", "calibrated"], rows)


def _show_groups(reporter: Reporter, kind: str, groups: list[GroupMetrics], total: int) -> None:
    """Print a table with the metrics of each slide or hospital; nothing if there are none."""
    if not groups:
        return
    names = ("auc", "accuracy")
    title = (
        f"each {kind}" if len(groups) == total else f"the {len(groups)} of {total:,} {kind}s with the lowest accuracy"
    )
    rows = [[g.name, g.n, g.positives, *(format_cell(g.metrics[name]) for name in names)] for g in groups]
    reporter.print_table(title, [kind, "patches", "tumour patches", *map(find_metric_title, names)], rows)


def show_comparison(reporter: Reporter, comparison: ComparisonReport) -> None:
    """Print both AUCs, and their difference with its intervals and p-values."""
    both = [replace(each, run=shorten(each.run, _LONGEST_RUN)) for each in (comparison.a, comparison.b)]
    rows = [[evaluation.run, evaluation.data, evaluation.split, format_cell(evaluation.auc)] for evaluation in both]
    reporter.print_table(f"AUC on the {comparison.n:,} patches that both scored", ["run", "data", "split", "AUC"], rows)
    bootstrap, delong = comparison.paired.bootstrap, comparison.paired.delong
    methods = [[f"bootstrap by {bootstrap.by}", _format_range(bootstrap.interval), _format_p_value(bootstrap.p)]]
    if delong:
        methods.append([f"DeLong by {delong.by}", _format_range(delong.interval), _format_p_value(delong.p)])
    title = f"difference {comparison.paired.difference:+.4f}: AUC of {both[0].run} minus AUC of {both[1].run}"
    reporter.print_table(title, ["method", "95% interval", "p-value"], methods)
    if bootstrap.undefined:
        missing = "no 95% interval and no p-value" if bootstrap.p is None else "no 95% interval"
        reporter.warn(f"the difference has {missing} by bootstrap: {bootstrap.undefined}")
    for caveat in dict.fromkeys(caveat for evaluation in both for caveat in evaluation.caveats):
        runs = dict.fromkeys(evaluation.run for evaluation in both if caveat in evaluation.caveats)
        show_caveats(reporter, [replace(caveat, text=f"{' and '.join(runs)}: {caveat.text}")])
    for evaluation, count in zip(both, comparison.left_out, strict=True):
        if count:
            reporter.warn(f"{count:,} patches of {evaluation.file} were not scored by the other")


def _format_p_value(p: float | None) -> str:
    return "-" if p is None else f"{p:.2g}"


def show_repeats(reporter: Reporter, repeats: RepeatsReport, workspace: Workspace) -> None:
    """Print the validation metrics of each fold or seed, their mean and standard deviation, and a hint to train longer.

    The hint is printed if a run predicts the same class for all its validation patches.
    """
    rows = [[run.run, *(format_cell(run.metrics[name]) for name in _REPEATED_METRICS)] for run in repeats.runs]
    rows.append(["mean", *(format_cell(repeats.mean[name]) for name in _REPEATED_METRICS)])
    rows.append(["standard deviation", *(format_cell(repeats.standard_deviation[name]) for name in _REPEATED_METRICS)])
    columns = ["run", *map(find_metric_title, _REPEATED_METRICS)]
    if any(run.hospitals for run in repeats.runs):
        columns.append("validated on")
        cells = [*(", ".join(run.hospitals) for run in repeats.runs), "", ""]
        rows = [[*row, cell] for row, cell in zip(rows, cells, strict=True)]
    reporter.print_table(f"validation metrics of the {repeats.kind} of {repeats.name}", columns, rows)
    if repeats.split_by == "patch":
        reporter.warn("slides are, or may be, in both train and validation: these metrics are too good")
    rates = {run.run: {run.metrics["sensitivity"], run.metrics["specificity"]} for run in repeats.runs}
    if single := [run for run, both in rates.items() if both == {0.0, 1.0}]:
        command = make_longer_command(workspace, single[0])
        reporter.warn(
            f"{len(single)} of {len(repeats.runs)} runs {'predicts' if len(single) == 1 else 'predict'} the same class "
            "for every validation patch"
            + (f", as after few steps of training; train longer: {command}" if command else "")
        )


def format_trial(trial: TrialReport, folds: int) -> list[str]:
    """Return the columns of a trial: number, mean AUC, its standard error, trained folds, parameters."""
    chosen = trial.parameters
    return [
        str(trial.number),
        format_cell(trial.mean),
        format_cell(trial.standard_error),
        f"{len(trial.auc)}/{folds}",
        f"{chosen.lr:g}",
        str(chosen.batch_size),
        str(chosen.epochs),
        chosen.augment,
        chosen.arch,
    ]


TRIAL_COLUMNS = ("trial", "AUC", "SE", "folds", "lr", "batch", "epochs", "augment", "arch")


def show_tuning(reporter: Reporter, tuning: TuneReport) -> None:
    """Print the best trials, the importance of each parameter, and how far the best trial can be trusted."""
    states = [f"{tuning.count(state)} {state}" for state in (FINISHED, PRUNED, FAILED, RUNNING) if tuning.count(state)]
    count = len(tuning.trials)
    reporter.note(f"{format_count(count, 'trial')}: {', '.join(states) or 'none'}")
    finished = [trial for trial in tuning.trials if trial.state == FINISHED]
    best = sorted(finished, key=lambda trial: -(trial.mean or 0))[:_N_BEST_TRIALS]
    if best:
        title = "the best trials: mean validation AUC of the folds, and its standard error"
        reporter.print_table(title, TRIAL_COLUMNS, [format_trial(trial, tuning.folds) for trial in best])
    if tuning.importance:
        rows = [[name.replace("_", " "), f"{share:.2f}"] for name, share in tuning.importance.items()]
        reporter.print_table(f"importance among {len(finished)} finished trials", ["parameter", "importance"], rows)
        if len(finished) < _MIN_TRIALS:
            reporter.note(f"the importance is a rough guess with fewer than {_MIN_TRIALS} finished trials")
    if tuning.split_by == "patch":
        reporter.warn("slides are, or may be, in both train and validation: these AUCs are too good")
    if (above := tuning.above_defaults) is not None:
        chance = "; this may be chance" if tuning.may_be_chance else ""
        reporter.note(
            f"the AUC of trial {tuning.best} is {above.mean:.4f} higher than that of trial 0, whose options are "
            f"nearest to the defaults (standard error {above.standard_error:.4f}){chance}"
        )
    if best:
        reporter.note(
            "the AUC of the best of several trials is too good: train with its options, and evaluate on other slides"
        )
