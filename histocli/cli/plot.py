"""`histo plot`."""

from typing import Annotated

import typer

from histocli.cli.app import State, app
from histocli.reports.plots import Format, Kind


@app.command()
def plot(
    ctx: typer.Context,
    run: Annotated[str | None, typer.Option(help="The run to draw.", show_default="the newest")] = None,
    kind: Annotated[list[Kind] | None, typer.Option(help="What to draw; may be repeated.", show_default="all")] = None,
    format: Annotated[Format, typer.Option("--format", help="The pictures' format.")] = Format.PNG,
) -> None:
    """Draw learning curves, ROC, calibration, errors and more."""
    state: State = ctx.obj
    from histocli.commands.plot import plot as command

    paths = command(state.workspace, run, kind or [Kind.ALL], format)
    for path in paths:
        state.report.note(str(path))
    drawn = f"{len(paths)} pictures" if len(paths) != 1 else "1 picture"
    state.report.done(f"drew {drawn} into {state.workspace.plots_dir}")
