"""`histo runs`."""

from datetime import datetime
from typing import Annotated

import typer

from histocli.cli import options
from histocli.cli.app import State, command
from histocli.console import format_cell
from histocli.enums import RunAction, RunSort
from histocli.errors import HistoError
from histocli.fs import format_bytes
from histocli.stdio import write_out_json


@command(
    "histo runs --sort auc",
    "histo runs rm histonet-1",
)
def runs(
    ctx: typer.Context,
    action: Annotated[RunAction | None, typer.Argument(help="rm: remove the runs NAMES.")] = None,
    names: Annotated[
        list[str] | None, typer.Argument(help="The runs to remove.", autocompletion=options.complete_runs)
    ] = None,
    sort: Annotated[RunSort, typer.Option(help="Order of the list.")] = RunSort.TIME,
    json: options.Json = False,
) -> None:
    """List the runs with their validation AUC, or remove some."""
    state: State = ctx.obj
    from histocli.commands.runs import describe_default, list_runs, remove_runs
    from histocli.schema import to_json

    if action is RunAction.RM:
        removed = remove_runs(state.workspace, names or [])
        if removed.has_default:
            state.reporter.note(
                "checkpoints/best.pt, which --ckpt best.pt uses, is a copy of a removed run's checkpoint, and stays"
            )
        state.reporter.print_done(f"removed {', '.join(removed.runs)}: {format_bytes(removed.bytes)}")
        return
    runs = list_runs(state.workspace, sort)
    rows = [
        [
            run.run,
            run.state,
            format_cell(run.val_auc),
            f"{run.epochs_trained}/{run.epochs}",
            run.arch,
            run.data,
            f"{datetime.fromisoformat(run.updated).astimezone():%Y-%m-%d %H:%M}",
        ]
        for run in runs
    ]
    if json:
        write_out_json([to_json(run) for run in runs])
    elif runs:
        columns = ["run", "state", "val AUC", "epochs", "network", "data", "last written"]
        state.reporter.write_listing(columns, rows)
    for run in runs:
        if run.problem:
            state.reporter.warn(f"{run.run}: {run.problem} ({run.fix})")
    try:
        if default := describe_default(state.workspace, runs):
            state.reporter.note(default)
    except HistoError as error:  # best.pt is damaged, which is no reason to fail after the list
        state.reporter.warn(str(error))
    if not runs:
        state.reporter.note(f"there are no runs in {state.workspace.runs_dir}: histo train makes one")
