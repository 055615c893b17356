"""`histo eval` and `histo predict`."""

import sys
from functools import partial
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histocli.cli import options
from histocli.cli.app import State, app
from histocli.config import Device, OnError, Output, Part, Precision, Resize
from histocli.console import stdout_is_a_file, write_out
from histocli.errors import HistoError, UsageError

if TYPE_CHECKING:
    from histocli.inference.labelled import EvalConfig


@app.command(name="eval")
def evaluate(
    ctx: typer.Context,
    ckpt: options.Ckpt = options.BEST,
    data: Annotated[
        str | None,
        typer.Option(
            help="A packed data set, or a labelled folder or zip.",
            metavar="NAME|PATH",
            show_default="the run's own val",
        ),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV with the columns id,label for a folder or zip.")] = None,
    split: Annotated[
        Part | None, typer.Option(help="Which rows.", show_default="val of the run's own, all of --data")
    ] = None,
    tta: options.Tta = False,
    uncalibrated: options.Uncalibrated = False,
    raw: options.Raw = False,
    threshold: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="Probability from which a patch counts as tumour: a number, the one stored by histo train, or "
            "youden, sensitivity=0.95, specificity=0.9 on the run's validation patches.",
        ),
    ] = "stored",
    resize: options.ResizeOption = Resize.CROP,
    batch_size: options.BatchSize = 256,
    device: options.DeviceOption = Device.AUTO,
    precision: options.PrecisionOption = Precision.AUTO,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Compare the AUC of two checkpoints, or of two metric files of histo eval, on the patches that both "
            "scored.",
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure a checkpoint on patches whose labels are known."""
    state: State = ctx.obj
    from histocli.inference.labelled import EvalConfig

    if compare and is_given(ctx, "ckpt"):
        raise UsageError("--ckpt cannot be combined with --compare", "leave one of them out")
    config = EvalConfig(
        ckpt=[str(name) for name in ckpt],
        data=data,
        labels=labels,
        split=split,
        tta=tta,
        uncalibrated=uncalibrated or raw,
        threshold=threshold,
        resize=resize,
        batch_size=batch_size or 256,
        halve=batch_size == options.AUTO,
        device=device,
        precision=precision,
    )
    _evaluate(state, config, compare, json)


def is_given(ctx: typer.Context, name: str) -> bool:
    """Return whether an option is on the command line."""
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _evaluate(state: State, config: "EvalConfig", compare: tuple[str, str] | None, json: bool) -> None:
    from histocli.cli.render import show_comparison, show_evaluation
    from histocli.commands import evaluate as commands
    from histocli.compute.distributed import WAITING, joined
    from histocli.schema import to_json

    with joined(WAITING) as world, state.report.bar("scoring") as bar:
        evaluate_or_compare = partial(commands.compare, names=compare) if compare else commands.evaluate
        made = evaluate_or_compare(
            state.workspace,
            config,
            on_start=state.report.note,
            on_progress=bar,
            on_unreadable=lambda error: state.report.warn(str(error)),
            world=world,
        )
    if not world.leads:
        return
    if isinstance(made, commands.Comparison):
        show_comparison(state.report, made.report)
        state.report.done(f"wrote {made.path}")
        values = to_json(made.report)
    else:
        show_evaluation(state.report, made.report)
        state.report.done(f"wrote {made.path} and {made.path.with_suffix('.csv').name}", "histo plot")
        values = made.report.to_json()
    if json:
        write_out(dumps(values, indent=2) + "\n")


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
    uncalibrated: options.Uncalibrated = False,
    raw: options.Raw = False,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="WHERE",
            help="Add the column class, 1 from this probability on: a number, stored (by histo train), youden, "
            "sensitivity=0.95 or specificity=0.9 on the run's validation patches.",
        ),
    ] = None,
    qc: Annotated[
        bool,
        typer.Option(
            "--qc",
            help="Quality control: add columns that tell which scores are unreliable: spread (of the probabilities of "
            "the eight flips and right-angle rotations), colour (Mahalanobis distance from the training patches), "
            "focus (standard deviations from theirs, negative is blurred), contrast (standard deviation of the grey "
            "values, 0 to 128), duplicate (the id of the same patch in training), flags (blank, unfocused, stain, "
            "unstable, duplicate).",
        ),
    ] = False,
    flags: Annotated[bool, typer.Option("--flags", hidden=True, help="Former name of --qc.")] = False,
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
        raw=uncalibrated or raw,
        threshold=threshold,
        flags=qc or flags,
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
