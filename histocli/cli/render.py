"""What `histo eval` shows a person of its report."""

from typing import Any

from histocli.console import Reporter, number
from histocli.data.groups import plural
from histocli.metrics.intervals import FEW_CLUSTERS

_WORST = 5  # slides that are named


def show_evaluation(report: Reporter, made: dict[str, Any]) -> None:
    """Print every figure with its interval, the confusion matrix, the worst slides and each hospital."""
    counts = f"{made['n']:,} patches, {made['positives']:,} tumour"
    for member in made["ensemble"] or [made]:
        report.detail(f"checkpoint {member['checkpoint']}, SHA-256 {member['checkpoint_sha256']}")
    intervals = made["intervals"]
    rows = [[key.replace("_", " "), number(v), _range(intervals[key])] for key, v in made["metrics"].items()]
    drawn = made["bootstrap"]
    title = f"{made['run']} on {made['data']}, {made['split']}: {counts}"
    report.table(title, ["metric", "value", f"95 % by {drawn['by']}"], rows)
    if made["delong"]:
        report.note(f"AUC by DeLong: {_range(made['delong']['interval'])}")
    confusion = made["confusion"]
    report.table(
        f"at threshold {made['threshold']:.4g}",
        ["", "said normal", "said tumour"],
        [["normal", confusion["tn"], confusion["fp"]], ["tumour", confusion["fn"], confusion["tp"]]],
    )
    _show_calibration(report, made)
    _show_groups(report, made)
    for metric, reason in made["undefined"].items():
        report.warn(f"{metric.replace('_', ' ')} cannot be computed: {reason}")
    _warn_of_few(report, drawn)
    _show_doubts(report, made)
    for what, count in made["skipped"].items():
        report.warn(f"{count:,} {what}")


def _show_doubts(report: Reporter, made: dict[str, Any]) -> None:
    """Say what makes the figures look better, or surer, than they are."""
    if made["trained_on"] is None:
        report.note("whether patches of these were trained on is not known: the run's manifest or data are not here")
    elif made["trained_on"]:
        report.warn(f"{made['trained_on']:,} of these patches were trained on: the figures flatter")
    if made["chosen_on"]:
        report.note(f"{made['chosen_on']:,} of these patches chose the epoch, temperature and threshold")
    if made["fitted_otherwise"]:
        report.note("temperature and threshold were fitted to single networks and views, not to this mean of several")
    if (by := made["bootstrap"]["by"]) != "slide":
        report.note(f"not all slides are known: intervals by {by} are too narrow where slides differ")


def _range(interval: list[float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}"


def _warn_of_few(report: Reporter, drawn: dict[str, Any]) -> None:
    if drawn["by"] == "patch":
        return
    if drawn["clusters"] == 1:
        report.warn(f"all patches are of one {drawn['by']}: nothing tells how sure these figures are")
        return
    if drawn["clusters"] < FEW_CLUSTERS:
        report.warn(f"only {drawn['clusters']} {plural(drawn['by'])}: intervals and p-values are rough")
        return
    for what, count in drawn["holding"].items():
        if 1 < count < FEW_CLUSTERS:
            report.warn(f"only {count} {plural(drawn['by'])} hold {what} patches: intervals and p-values are rough")


def _show_calibration(report: Reporter, made: dict[str, Any]) -> None:
    """Print what the temperature did, unless there was none."""
    temperatures = [member["temperature"] for member in made["ensemble"] or [made]]
    if made["raw"] or all(value == 1 for value in temperatures):
        return
    changes = [
        f"{key.replace('_', ' ').replace('ece', 'ECE').replace('brier', 'Brier score')} "
        f"{before:.4f} to {made['metrics'][key]:.4f}"
        for key, before in made["uncalibrated"].items()
    ]
    at = ", ".join(f"{value:.3f}" for value in temperatures)
    report.note(f"calibrated at temperature {at}: {', '.join(changes)}")


def _show_groups(report: Reporter, made: dict[str, Any]) -> None:
    """Print the slides with the lowest accuracy, and all hospitals."""
    slides = sorted(made["slides"], key=lambda row: (row["accuracy"], -row["n"]))
    groups = {
        "slide": ("the slide" if len(slides) == 1 else f"the worst of {len(slides):,} slides", slides[:_WORST]),
        "hospital": ("by hospital", made["hospitals"]),
    }
    for key, (title, chosen) in groups.items():
        if chosen:
            rows = [
                [row[key], row["n"], row["positives"], number(row["auc"]), number(row["accuracy"])] for row in chosen
            ]
            report.table(title, [key, "patches", "tumour", "AUC", "accuracy"], rows)


def show_comparison(report: Reporter, made: dict[str, Any]) -> None:
    """Print both AUCs, and their difference with its intervals and p-values."""
    sides = [[made[key]["run"], made[key]["data"], made[key]["split"], number(made[key]["auc"])] for key in ("a", "b")]
    report.table(f"on the {made['n']:,} patches that both scored", ["run", "data", "split", "AUC"], sides)
    rows = [
        [f"{name} by {found['by']}", _range(found["interval"]), "-" if found["p"] is None else f"{found['p']:.2g}"]
        for name, found in (("bootstrap", made["bootstrap"]), ("DeLong", made["delong"]))
        if found
    ]
    report.table(f"difference {made['difference']:+.4f}", ["", "95 %", "p"], rows)
    _warn_of_few(report, made["bootstrap"])
    for key in ("a", "b"):
        if made[key]["trained_on"]:
            report.warn(f"{made[key]['run']} was trained on {made[key]['trained_on']:,} of the patches it scored")
        if made[key]["chosen_on"]:
            report.note(
                f"{made[key]['chosen_on']:,} of the patches chose the epoch and temperature of {made[key]['run']}"
            )
    for key, count in zip(("a", "b"), made["left_out"], strict=True):
        if count:
            report.warn(f"{count:,} patches of {made[key]['file']} were not scored by the other")


def show_optimism(report: Reporter, made: dict[str, Any]) -> None:
    """Print every run's AUC on its own validation patches and on unseen slides, and the gaps."""
    rows = [
        [row["run"], row["parted_by"], *(_auc(row[key]) for key in ("validation", "unseen"))] for row in made["runs"]
    ]
    unseen = made["unseen"]
    where = f"{unseen['data']} {unseen['split']}" if unseen else "unseen"
    report.table(f"AUC of runs on {made['data']}", ["run", "split by", "validation", where], rows)
    gaps = [[name.replace("_", " "), "-" if v is None else f"{v:+.4f}"] for name, v in made["gaps"].items()]
    report.table("optimism", ["gap", "AUC"], gaps)
    if unseen and (unseen["shared_slides"] or unseen["overlaps"]):
        report.warn(
            f"{where} is not unseen: it has {unseen['shared_slides'] or 0:,} slides of {made['data']}, and "
            f"{unseen['overlaps'] or 0:,} patches that overlap some of it"
        )
    elif unseen and unseen["shared_slides"] is None and unseen["overlaps"] is None:
        report.note(
            f"whether {where} has slides of {made['data']} is not known: histo balance --audit compares packed data"
        )
    for kind, mean in made["means"].items():
        if mean["runs"] == 1:
            report.note(f"one run alone has a {kind} split: another seed's figures may differ by more than the gaps")
    for row in made["runs"]:
        if not row["unseen"]:
            data = unseen["data"] if unseen else "NAME"
            part = f" --split {unseen['split']}" if unseen and unseen["split"] != "all" else ""
            report.warn(f"{row['run']} was not evaluated there: histo eval --ckpt {row['run']} --data {data}{part}")


def _auc(found: dict[str, Any] | None) -> str:
    if not found:
        return "-"
    return number(found["auc"]) + (f" ({_range(found['interval'])})" if found["interval"] else "")
