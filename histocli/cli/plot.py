"""`histo plot`."""

from typing import Annotated

import typer

from histocli.cli.app import State, command
from histocli.config import PlotConfig, PlotFormat, PlotKind


@command(
    "histo plot",
    "histo plot --run histonet-1 --kind roc --kind calibration --format pdf",
)
def plot(
    ctx: typer.Context,
    run: Annotated[str | None, typer.Option(help="The run to plot.", show_default="the newest")] = PlotConfig.run,
    kind: Annotated[
        list[PlotKind] | None, typer.Option(help="What to plot; may be repeated.", show_default="all")
    ] = None,
    format: Annotated[PlotFormat, typer.Option("--format", help="The plots' file format.")] = PlotConfig.format,
) -> None:
    """Plot learning curves, ROC, calibration, errors and more."""
    state: State = ctx.obj
    from histocli.commands.plot import plot as run_plot

    config = PlotConfig(run=run, kind=tuple(kind or PlotConfig.kind), format=format)
    paths = run_plot(state.workspace, config)
    for path in paths:
        state.report.note(str(path))
    count = f"{len(paths)} plots" if len(paths) != 1 else "1 plot"
    state.report.done(f"drew {count} into {state.workspace.plots_dir}")
