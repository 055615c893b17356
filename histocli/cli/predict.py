"""`histo predict`."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from histocli.cli import options
from histocli.cli.app import State, app
from histocli.config import Device, OnError, Output, Precision, Resize
from histocli.console import stdout_is_a_file
from histocli.errors import HistoError


@app.command()
def predict(
    ctx: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(help="Folders, images, zips, .npy or .h5 arrays, packed data sets; - reads paths from stdin."),
    ],
    ckpt: options.Ckpt = options.BEST,
    out: Annotated[Path | None, typer.Option("--out", help="File to write.", show_default="stdout")] = None,
    format: Annotated[Output, typer.Option("--format", help="The output's format.")] = Output.CSV,
    tta: options.Tta = False,
    raw: options.Raw = False,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="Add the column class, 1 from this probability on: a number, stored (by histo train), youden, "
            "sensitivity=0.95 or specificity=0.9 on the run's validation patches.",
        ),
    ] = None,
    flags: Annotated[
        bool,
        typer.Option(
            "--flags",
            help="Add columns that tell which scores not to believe: spread (of the probabilities of the eight flips "
            "and right-angle rotations), colour (Mahalanobis' distance from the training patches), focus (standard "
            "deviations from theirs, negative is blurred), contrast (deviation of the grey values, 0 to 128), "
            "duplicate (the id of the same patch in training), flags (blank, unfocused, stain, unstable, duplicate).",
        ),
    ] = False,
    resize: options.ResizeOption = Resize.CROP,
    errors: Annotated[
        OnError, typer.Option(help="What an unreadable file does: be skipped, or end the run.")
    ] = OnError.SKIP,
    batch_size: options.BatchSize = 256,
    device: options.DeviceOption = Device.AUTO,
    precision: options.PrecisionOption = Precision.AUTO,
) -> None:
    """Write a tumour probability for every patch as CSV: id,label."""
    state: State = ctx.obj
    from histocli.commands.predict import PredictConfig
    from histocli.commands.predict import predict as command
    from histocli.compute.distributed import WAITING, joined

    config = PredictConfig(
        inputs,
        ckpt=[str(name) for name in ckpt],
        out=out,
        format=format,
        tta=tta,
        raw=raw,
        threshold=threshold,
        flags=flags,
        resize=resize,
        errors=errors,
        batch_size=batch_size or 256,
        halve=batch_size == options.AUTO,
        device=device,
        precision=precision,
    )
    total: list[int | None] = [None]

    def start(device: str, count: int | None) -> None:
        state.report.note(device)
        total[0] = count

    hidden = out is None and not stdout_is_a_file()
    with joined(WAITING) as world, state.report.bar("scoring", hidden=hidden) as bar:
        done = command(
            state.workspace,
            config,
            sys.stdout,
            on_start=start,
            on_progress=lambda count: bar(count, total[0]),
            on_unreadable=lambda error: state.report.warn(str(error)),
            world=world,
        )
    if not world.leads:
        return
    if not done.duplicates:
        state.report.warn("the patches trained on are not in this workspace: the column duplicate is empty")
    if done.flagged:
        state.report.note("flagged: " + ", ".join(f"{count:,} {flag}" for flag, count in done.flagged.items()))
    where = str(out) if out else "stdout"
    state.report.done(f"{done.scored:,} patches scored to {where}")
    if done.unreadable:
        raise HistoError(
            f"{done.unreadable:,} of {done.scored + done.unreadable:,} files could not be read; all others are scored",
            "they are named above",
        )
