"""`histo balance`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from json import dumps
from typing import Annotated, Any

import typer

from histocli.cli import options
from histocli.cli.app import State, command
from histocli.config import BalanceConfig, Group, Split
from histocli.console import OnProgress, Reporter, write_out
from histocli.errors import UsageError


@command(
    "histo balance --n 20000",
    "histo balance --data pcam --n max --split slide --name pcam-slides",
)
def balance(
    ctx: typer.Context,
    n: Annotated[str, typer.Option("--n", help="Patches in the subset, half of each class; or max.")] = str(
        BalanceConfig.n
    ),
    data: Annotated[
        str | None, typer.Option(help="The data set.", show_default="the only one, else kaggle")
    ] = BalanceConfig.data,
    name: Annotated[
        str, typer.Option(help="The subset's name, for histo train --data NAME.", metavar="NAME")
    ] = BalanceConfig.name,
    val_fraction: Annotated[
        float, typer.Option(help="Share of the subset that is used for validation.")
    ] = BalanceConfig.val_fraction,
    split: Annotated[
        Split | None,
        typer.Option(
            help="What train and validation never share: slides, overlapping patches, or only the patches "
            "themselves, which leaks.",
            show_default="slide where known, else overlap",
        ),
    ] = BalanceConfig.split,
    group: Annotated[
        Group | None, typer.Option(help="Keep every hospital on one side: validate on other hospitals.")
    ] = BalanceConfig.group,
    audit: Annotated[
        bool, typer.Option("--audit", help="Search every packed data set for overlaps with train and val.")
    ] = BalanceConfig.audit,
    seed: options.Seed = BalanceConfig.seed,
    json: options.Json = False,
) -> None:
    """Draw the balanced subset and split it into train and validation."""
    state: State = ctx.obj
    from histocli.commands.balance import balance as run_balance

    if n != "max" and not n.isdecimal():
        raise UsageError(f"--n {n} is not a whole number", "give an even number, or max for the largest subset")
    config = BalanceConfig(
        data=data,
        name=name,
        n=None if n == "max" else int(n),
        val_fraction=val_fraction,
        split=split,
        group=group,
        audit=audit,
        seed=seed,
    )
    with _stages(state.report) as on_stage:
        report = run_balance(state.workspace, config, on_stage)
    _show(state.report, report, audit=audit)
    then = "histo train" if name == BalanceConfig.name else f"histo train --data {name}"
    state.report.done(f"wrote {state.workspace.manifest_path(name)}", then)
    if json:
        write_out(dumps(report, indent=2) + "\n")


def _show(report: Reporter, balance: dict[str, Any], *, audit: bool) -> None:
    """Show the subset's counts, and warn of leaks."""
    dropped = {name.replace("_", " "): count for name, count in balance["dropped"].items() if count}
    if dropped:
        report.note("dropped: " + ", ".join(f"{count:,} {name}" for name, count in dropped.items()))
    rows = [[part, c["negative"], c["positive"], c["slides"] or "unknown"] for part, c in balance["counts"].items()]
    title = f"balanced subset of {balance['data']}, split by {balance['split']}: patches and slides per part"
    report.table(title, ["part", "negative", "positive", "slides"], rows)
    if audit:
        _show_audit(report, balance["audit"])
    _warn_of_leaks(report, balance)


@contextmanager
def _stages(report: Reporter) -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar for each stage of a long search; each replaces the one before."""
    bars: dict[str, OnProgress] = {}
    with ExitStack() as shown:

        def on_stage(what: str, done: int, total: int) -> None:
            if what not in bars:
                shown.close()
                bars[what] = shown.enter_context(report.bar(what, unit=what.split()[-1], total=total))
            bars[what](done, total)

        yield on_stage


def _show_audit(report: Reporter, audit: dict[str, Any]) -> None:
    """Show what each part shares with train and with val, and the overlaps within the data set."""
    columns = {"duplicates": "exact duplicates", "overlaps": "overlapping", "shared_slides": "shared slides"}
    rows = [
        [leak["from"], leak["into"], leak["patches"]]
        + ["unknown" if leak[key] is None else leak[key] for key in columns]
        for leak in audit["leaks"]
    ]
    report.table(
        "audit: patches of other parts that are also in train or val",
        ["part", "also in", "patches", *columns.values()],
        rows,
    )
    within = audit["overlaps"]
    report.note(
        f"in {audit['data']}: {audit['duplicates']:,} exact duplicates; {within['patches']:,} patches overlap, "
        f"in {within['pairs']:,} pairs and {within['groups']:,} groups of at most {within['largest_group']:,}"
    )


def _warn_of_leaks(report: Reporter, balance: dict[str, Any]) -> None:
    """Warn of everything that makes the metrics to come too optimistic."""
    from histocli.data.leakage import held_out_leaks, unsearched

    audit = balance["audit"]
    at_random = "patches of one slide are in both train and val, so validation metrics are optimistic"
    if balance["leaks"] and balance["split"] == Split.OVERLAP:
        report.warn(
            f"no two of these patches share pixels, or their format hides it, so this is a random split and leaks: "
            f"{at_random}; histo download --slides CSV adds the slides"
        )
    elif balance["leaks"]:
        report.warn(f"a random split leaks: {at_random}; use --split slide or --split overlap")
    elif balance["split"] == Split.OVERLAP:
        report.note(
            f"{balance['sharing_pixels']:,} of {balance['n']:,} patches share pixels with others and are not split; "
            "other patches of one slide may still be in both parts, which makes validation metrics optimistic"
        )
    elif balance["split"] == Group.HOSPITAL:
        hospitals = "; ".join(f"{part}: {', '.join(names)}" for part, names in balance["hospitals"].items())
        report.note(f"hospitals are not split, so the share of validation is only near --val-fraction: {hospitals}")
    if count := audit["contradictions"]["patches"]:
        ids = ", ".join(audit["contradictions"]["ids"])
        report.warn(f"{count:,} patches have the same pixels as a patch with the other label: {ids}")
    if leaks := held_out_leaks(audit):
        report.warn(f"patches for evaluation leak into train: {'; '.join(leaks)}; histo train refuses this subset")
    if parts := unsearched(audit):
        report.note(f"compared with train for exact duplicates only: {', '.join(parts)}; --audit searches overlaps too")
