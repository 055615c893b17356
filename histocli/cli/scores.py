"""`histo eval` and `histo predict`."""

import sys
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histocli.cli import options
from histocli.cli.app import State, app
from histocli.config import Device, Engine, OnError, Output, Part, Precision, Resize
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
    engine: options.EngineOption = Engine.AUTO,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Compare the AUC of two checkpoints, or of two metric files of histo eval, on the patches that both "
            "scored.",
        ),
    ] = None,
    optimism: Annotated[
        bool,
        typer.Option(
            "--optimism",
            help="Train and score nothing: compare the validation AUC of the run, and of others of its recipe, with "
            "what they were measured to reach on unseen slides (--data), and a random split with one by group.",
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """Measure a checkpoint on patches whose labels are known."""
    state: State = ctx.obj
    from histocli.inference.labelled import EvalConfig

    _refuse_others(ctx)
    if optimism:
        _show_optimism(state, [str(name) for name in ckpt], data, json)
        return
    config = EvalConfig(
        ckpt=[str(name) for name in ckpt],
        data=data,
        labels=labels,
        split=split,
        tta=tta,
        raw=raw,
        threshold=threshold,
        resize=resize,
        batch_size=batch_size or 256,
        halve=batch_size == options.AUTO,
        device=device,
        precision=precision,
        engine=engine,
    )
    _evaluate(state, config, compare, json)


def _refuse_others(ctx: typer.Context) -> None:
    """An option that would change nothing is an error in what was asked for."""
    sense = {"optimism": {"ckpt", "data", "json", "optimism"}}
    if ctx.params["compare"]:
        sense["compare"] = set(ctx.params) - {"ckpt", "optimism"}
    for mode, taken in sense.items():
        for key in set(ctx.params) - taken if ctx.params[mode] else ():
            source = ctx.get_parameter_source(key)
            if source is not None and source.name == "COMMANDLINE":
                raise UsageError(f"--{key.replace('_', '-')} means nothing with --{mode}", "leave one of them out")


def _evaluate(state: State, config: "EvalConfig", compare: tuple[str, str] | None, json: bool) -> None:
    from histocli.cli.render import show_comparison, show_evaluation
    from histocli.commands import evaluate as commands
    from histocli.compute.distributed import WAITING, joined

    with joined(WAITING) as world, state.report.bar("scoring") as bar:
        told: dict[str, Any] = {
            "on_start": state.report.note,
            "on_progress": bar,
            "on_unreadable": lambda error: state.report.warn(str(error)),
            "world": world,
        }
        if compare:
            path, report = commands.compare(state.workspace, config, compare, **told)
        else:
            path, report = commands.evaluate(state.workspace, config, **told)
    if not world.leads:
        return
    if compare:
        show_comparison(state.report, report)
        state.report.done(f"wrote {path}")
    else:
        show_evaluation(state.report, report)
        state.report.done(f"wrote {path} and {path.with_suffix('.csv').name}", "histo plot")
    if json:
        write_out(dumps(report, indent=2) + "\n")


def _show_optimism(state: State, ckpt: list[str], data: str | None, json: bool) -> None:
    from histocli.cli.render import show_optimism
    from histocli.commands.optimism import optimism

    if len(ckpt) > 1:
        raise UsageError("--optimism is of one run", "give one --ckpt")
    made = optimism(state.workspace, ckpt[0], data)
    show_optimism(state.report, made.report)
    state.report.done(f"wrote {made.path} and {made.picture}")
    if json:
        write_out(dumps(made.report, indent=2) + "\n")


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
            help="Add columns that say which scores not to trust: spread (of the probabilities of the eight flips "
            "and right-angle rotations), colour (Mahalanobis' distance from the training patches), focus (standard "
            "deviations from theirs, negative is blurred), contrast (deviation of the grey values, 0 to 128), "
            "duplicate (the id of the same patch in training), flags (blank, unfocused, stain, unstable, duplicate).",
        ),
    ] = False,
    resize: options.ResizeOption = Resize.CROP,
    errors: Annotated[
        OnError, typer.Option(help="What to do with a file that cannot be read: skip it, or fail.")
    ] = OnError.SKIP,
    batch_size: options.BatchSize = 256,
    device: options.DeviceOption = Device.AUTO,
    precision: options.PrecisionOption = Precision.AUTO,
    engine: options.EngineOption = Engine.AUTO,
) -> None:
    """Write the probability of tumour for every patch as CSV: id,label."""
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
        engine=engine,
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
