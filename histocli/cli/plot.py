"""`histo plot`."""

from typing import Annotated

import typer

from histocli.cli import options
from histocli.cli.app import State, command
from histocli.cli.listener import ConsoleListener
from histocli.config import CHECKPOINT, PlotConfig
from histocli.enums import PlotFormat, PlotKind
from histocli.text import format_count

_WHAT, _HOW = "What to draw", "How to draw"


@command(
    "histo plot --run histonet-1 --run resnet --kind roc --kind calibration --format pdf --no-title",
    "histo plot --kind explain patch.png",
)
def plot(
    ctx: typer.Context,
    files: Annotated[
        list[str] | None,
        typer.Argument(
            help="With --kind explain: the images to explain, as the inputs of histo predict. With --kind map: CSV "
            "files that histo predict wrote.",
            show_default=False,
        ),
    ] = None,
    run: Annotated[
        list[str] | None,
        typer.Option(
            help="The run to plot; several are drawn in one plot.",
            show_default="the one that was trained or evaluated last",
            autocompletion=options.complete_runs,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    kind: Annotated[
        list[PlotKind] | None,
        typer.Option(help="What to plot; may be repeated.", show_default="all", rich_help_panel=_WHAT),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="NAME",
            help="Draw only what belongs to this data set or subset; may be repeated.",
            show_default="the run's own, and all of its evaluations",
            autocompletion=options.complete_data,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    ids: Annotated[
        list[str] | None,
        typer.Option(
            "--ids",
            metavar="ID",
            help="With --kind explain: the id of a packed patch to explain; may be repeated.",
            show_default="the most confident patches of each evaluation",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    ckpt: Annotated[
        list[str] | None,
        typer.Option(
            "--ckpt",
            metavar="NAME",
            help="With --kind explain: the checkpoint that scores the files, or the patches of --ids. "
            f"{options.CKPT_HELP}; several are averaged.",
            show_default=CHECKPOINT,
            autocompletion=options.complete_checkpoints,
            rich_help_panel=_WHAT,
        ),
    ] = None,
    mpp: Annotated[
        str | None,
        typer.Option(
            "--mpp",
            metavar="NUMBER|CSV",
            help="With --kind map: micrometres per pixel of the slides, such as 0.25, or a table slide,mpp.",
            show_default="those in the manifest",
            rich_help_panel=_WHAT,
        ),
    ] = PlotConfig.mpp,
    format: Annotated[
        PlotFormat, typer.Option("--format", help="The plots' file format.", rich_help_panel=_HOW)
    ] = PlotConfig.format,
    title: Annotated[
        bool,
        typer.Option("--title/--no-title", help="Write a title with the data and the result.", rich_help_panel=_HOW),
    ] = PlotConfig.title,
    dpi: Annotated[int, typer.Option("--dpi", help="Pixels per inch of a PNG.", rich_help_panel=_HOW)] = PlotConfig.dpi,
    width: Annotated[
        float | None,
        typer.Option(
            help="Width in inches; the height changes in proportion.",
            show_default="3.5, sheets of patches 7.2",
            rich_help_panel=_HOW,
        ),
    ] = PlotConfig.width,
) -> None:
    """Plot curves, calibration, errors, explanations and slide maps."""
    state: State = ctx.obj
    from histocli.commands.plot import plot as run_plot

    config = PlotConfig(
        run=tuple(run or ()),
        kind=tuple(kind or PlotConfig.kind),
        format=format,
        data=tuple(data or ()),
        title=title,
        dpi=dpi,
        width=width,
        files=tuple(files or ()),
        ids=tuple(ids or ()),
        ckpt=tuple(ckpt or ()),
        mpp=mpp,
    )
    paths = run_plot(state.workspace, config, listener=ConsoleListener(state.reporter))
    for path in paths:
        state.reporter.note(str(path))
    state.reporter.print_done(f"drew {format_count(len(paths), 'plot')} into {state.workspace.plots_dir}")
