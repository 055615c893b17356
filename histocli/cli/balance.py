"""`histo balance`."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Annotated

import typer

from histocli.cli import options
from histocli.cli.app import State, command
from histocli.config import BalanceConfig
from histocli.console import OnProgress, Reporter
from histocli.enums import Group, Split
from histocli.errors import UsageError
from histocli.stdio import write_out_json


@command(
    "histo balance --n 20000",
    "histo balance --data pcam --n max --split slide --name pcam-slides",
)
def balance(
    ctx: typer.Context,
    n: Annotated[
        str, typer.Option("--n", metavar="INTEGER|max", help="Number of patches, half of each class; or max.")
    ] = str(BalanceConfig.n),
    data: Annotated[
        str | None,
        typer.Option(
            help="Data set to draw from.",
            show_default="the only one, else kaggle",
            autocompletion=options.complete_datasets,
        ),
    ] = BalanceConfig.data,
    name: Annotated[
        str, typer.Option("--name", help="Name of the subset, for histo train --data NAME.", metavar="NAME")
    ] = BalanceConfig.name,
    val_fraction: Annotated[
        float, typer.Option(help="Share of the subset that is used for validation.")
    ] = BalanceConfig.val_fraction,
    split: Annotated[
        Split | None,
        typer.Option(
            help="What is never divided between train and validation. slide: a slide. overlap: a group of overlapping "
            "patches. random: nothing is kept together; a slide can then have patches in both, and the validation "
            "metrics are too good. folders: use the folders train and val as they are.",
            show_default="folders if there are such folders; slide if all slides are known, else overlap",
        ),
    ] = BalanceConfig.split,
    group: Annotated[
        Group | None,
        typer.Option(
            help="Keep these patches together, instead of --split. hospital: all patches of a hospital. appearance: "
            "two groups, found by sharpness and colour, one of which is the validation split; for data without known "
            "hospitals."
        ),
    ] = BalanceConfig.group,
    audit: Annotated[
        bool, typer.Option("--audit", help="Search all packed data sets for patches that overlap with the subset.")
    ] = BalanceConfig.audit,
    drop_leaks: Annotated[
        bool,
        typer.Option(
            "--drop-leaks",
            help="Drop the training patches that share pixels or a slide with evaluation patches: those of a data set "
            "or split whose name has the word test or valid.",
        ),
    ] = BalanceConfig.drop_leaks,
    seed: options.Seed = BalanceConfig.seed,
    json: options.Json = False,
) -> None:
    """Draw the balanced subset and split it into train and validation."""
    state: State = ctx.obj
    from histocli.cli.render_balance import show_balance
    from histocli.commands.balance import balance as run_balance
    from histocli.schema import to_json

    if n != "max" and not n.isdecimal():
        raise UsageError(
            f"--n {n}: a whole number above 0 is needed", "give an even number, or max for the largest subset"
        )
    config = BalanceConfig(
        data=data,
        name=name,
        n=None if n == "max" else int(n),
        val_fraction=val_fraction,
        split=split,
        group=group,
        audit=audit,
        drop_leaks=drop_leaks,
        seed=seed,
    )
    with _show_stages(state.reporter) as on_stage:
        report = run_balance(state.workspace, config, on_stage)
    show_balance(state.reporter, report, has_audit=audit)
    then = "histo train" if name == BalanceConfig.name else f"histo train --data {name}"
    state.reporter.print_done(f"wrote {state.workspace.manifest_path(name)}", then)
    if json:
        write_out_json(to_json(report))


@contextmanager
def _show_stages(reporter: Reporter) -> Iterator[Callable[[str, int, int], None]]:
    """Show a progress bar for the current stage of a long search."""
    bars: dict[str, OnProgress] = {}
    with ExitStack() as shown:

        def on_stage(what: str, done: int, total: int) -> None:
            if what not in bars:
                shown.close()
                bars[what] = shown.enter_context(reporter.show_bar(what, unit=what.split()[-1], total=total))
            bars[what](done, total)

        yield on_stage
