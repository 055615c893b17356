"""`histo report`."""

from pathlib import Path
from typing import Annotated

import typer

from histocli.cli import options
from histocli.cli.app import State, command
from histocli.cli.listener import ConsoleListener
from histocli.config import ReportConfig
from histocli.fs import format_bytes
from histocli.text import format_count


@command(
    "histo report",
    "histo report --run histonet-1 --run resnet --data pcam --out comparison.html",
)
def report(
    ctx: typer.Context,
    run: Annotated[
        list[str] | None,
        typer.Option(
            help="The run to report on; several are compared.",
            show_default="the one that was trained or evaluated last",
            autocompletion=options.complete_runs,
        ),
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(
            "--data",
            metavar="NAME",
            help="Show only the evaluations on this data set or folder; may be repeated.",
            show_default="all evaluations",
            autocompletion=options.complete_data,
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="The HTML file to write.", show_default="RUN-report.html in the workspace's plots/"),
    ] = ReportConfig.out,
    pictures: Annotated[
        int,
        typer.Option(
            "--pictures",
            min=0,
            help="Largest number of false positives, and of false negatives, to show per evaluation.",
        ),
    ] = ReportConfig.pictures,
    maps: Annotated[
        Path | None,
        typer.Option(
            "--maps",
            metavar="DIR",
            help="Show the heat maps of slides in this folder, which histo predict --out DIR wrote. They need no run.",
            show_default=False,
        ),
    ] = ReportConfig.maps,
    mpp: Annotated[
        str | None,
        typer.Option(
            "--mpp",
            metavar="NUMBER|CSV",
            help="Micrometres per pixel of the slides, to draw maps of patches with known positions: a number such as "
            "0.25, or a table slide,mpp.",
            show_default="from the data set",
        ),
    ] = ReportConfig.mpp,
) -> None:
    """Write one HTML page about runs: metrics, curves, errors."""
    state: State = ctx.obj
    from histocli.commands.report import report as write_report

    config = ReportConfig(run=tuple(run or ()), data=tuple(data or ()), out=out, pictures=pictures, maps=maps, mpp=mpp)
    written = write_report(state.workspace, config, listener=ConsoleListener(state.reporter))
    shown = [format_count(written.evaluations, "evaluation")] if written.runs else []
    shown += [format_count(written.heat_maps, "heat map")] if written.heat_maps else []
    state.reporter.print_done(f"wrote {written.path}: {', '.join([*shown, format_bytes(written.bytes)])}")
