"""`histo balance`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from json import dumps
from typing import Annotated, Any

import typer

from histocli.cli import options
from histocli.cli.app import State, app
from histocli.config import Group, Split
from histocli.console import OnProgress, Reporter, write_out
from histocli.errors import UsageError


@app.command()
def balance(
    ctx: typer.Context,
    n: Annotated[str, typer.Option("--n", help="Patches in the subset, half of each class; or max.")] = "160000",
    data: Annotated[str | None, typer.Option(help="The data set.", show_default="the only one, else kaggle")] = None,
    val_fraction: Annotated[float, typer.Option(help="Share of the subset that validates.")] = 0.1,
    split: Annotated[
        Split | None,
        typer.Option(
            help="What train and validation never share: slides, patches that show the same tissue, or only the "
            "patches themselves, which leaks.",
            show_default="slide where known, else overlap",
        ),
    ] = None,
    group: Annotated[
        Group | None, typer.Option(help="Keep every hospital on one side: validation is of another hospital.")
    ] = None,
    audit: Annotated[
        bool, typer.Option("--audit", help="Search every packed data set for what it shares with train and val.")
    ] = False,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Draw the balanced subset and split it into train and validation."""
    state: State = ctx.obj
    from histocli.commands.balance import BalanceConfig
    from histocli.commands.balance import balance as command

    if n != "max" and not n.isdecimal():
        raise UsageError(f"--n {n} is not a whole number", "give an even number, or max for all there is")
    names = state.workspace.dataset_names()
    chosen = data or (names[0] if len(names) == 1 else "kaggle")
    config = BalanceConfig(chosen, None if n == "max" else int(n), val_fraction, seed, split, group, audit)
    with _stages(state.report) as on_stage:
        report = command(state.workspace, config, on_stage)
    dropped = {name.replace("_", " "): count for name, count in report["dropped"].items() if count}
    if dropped:
        state.report.note("dropped: " + ", ".join(f"{count:,} {name}" for name, count in dropped.items()))
    rows = [[part, c["negative"], c["positive"], c["slides"] or "unknown"] for part, c in report["counts"].items()]
    state.report.table(
        f"balanced from {chosen}, by {report['split']}", ["split", "negative", "positive", "slides"], rows
    )
    if audit:
        _show_audit(state.report, report["audit"])
    _tell_leaks(state.report, report)
    state.report.done(f"wrote {state.workspace.manifest_path('balanced')}", "histo train")
    if json:
        write_out(dumps(report, indent=2) + "\n")


@contextmanager
def _stages(report: Reporter) -> Iterator[Callable[[str, int, int], None]]:
    """A bar for each stage of a long search, named by it, in the place of the one before."""
    bars: dict[str, OnProgress] = {}
    with ExitStack() as shown:

        def on_stage(what: str, done: int, total: int) -> None:
            if what not in bars:
                shown.close()
                bars[what] = shown.enter_context(report.bar(what, unit=what.split()[-1], total=total))
            bars[what](done, total)

        yield on_stage


def _show_audit(report: Reporter, audit: dict[str, Any]) -> None:
    """What each part shares with train and with val, and what overlaps within the data set."""
    columns = {"duplicates": "exact duplicates", "overlaps": "overlapping", "shared_slides": "shared slides"}
    rows = [
        [leak["from"], leak["into"], leak["patches"]]
        + ["unknown" if leak[key] is None else leak[key] for key in columns]
        for leak in audit["leaks"]
    ]
    report.table("audit: what is shared", ["patches of", "with", "patches", *columns.values()], rows)
    within = audit["overlaps"]
    report.note(
        f"in {audit['data']}: {audit['duplicates']:,} exact duplicates; {within['patches']:,} patches overlap, "
        f"in {within['pairs']:,} pairs and {within['groups']:,} groups of at most {within['largest_group']:,}"
    )


def _tell_leaks(report: Reporter, found: dict[str, Any]) -> None:
    """Say aloud what flatters the figures to come."""
    from histocli.data.leakage import held_out_leaks, unsearched

    audit, at_random = found["audit"], "patches of one slide stand on both sides, so validation figures flatter"
    if found["leaks"] and found["split"] == Split.OVERLAP:
        report.warn(
            f"no two of these patches share pixels, or their format hides it, so the split is a random one and leaks: "
            f"{at_random}; histo download --slides CSV joins the slides"
        )
    elif found["leaks"]:
        report.warn(f"a random split leaks: {at_random}; --split slide or overlap does not")
    elif found["split"] == Split.OVERLAP:
        report.note(
            f"{found['sharing_pixels']:,} of {found['n']:,} patches share pixels with another and stay on its side; "
            "others of one slide may still part, and flatter the figures"
        )
    elif found["split"] == Group.HOSPITAL:
        sides = "; ".join(f"{part}: {', '.join(names)}" for part, names in found["hospitals"].items())
        report.note(f"hospitals are whole, so --val-fraction is met as nearly as they allow: {sides}")
    if count := audit["contradictions"]["patches"]:
        ids = ", ".join(audit["contradictions"]["ids"])
        report.warn(f"{count:,} patches have the pixels of another that has the other label: {ids}")
    if leaks := held_out_leaks(audit):
        report.warn(f"patches for evaluation leak into train: {'; '.join(leaks)}; histo train refuses that")
    if parts := unsearched(audit):
        report.note(f"not compared with train but for exact duplicates: {', '.join(parts)}; --audit compares all")
