"""`histo train`, `histo eval` and `histo predict`."""

import sys
from dataclasses import replace
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histocli.choices import Augment, Device, OnError, Output, Part, Precision, Resize, Rotate, Weights
from histocli.cli import options
from histocli.cli.app import State, app
from histocli.console import number, stdout_is_a_file, write_out
from histocli.errors import HistoError, UsageError

if TYPE_CHECKING:
    from histocli.run import TrainConfig

_NOT_CONFIG = {"name", "resume", "json"}


@app.command()
def train(
    ctx: typer.Context,
    epochs: Annotated[int, typer.Option(help="Passes over the training split.")] = 10,
    device: options.DeviceOption = Device.AUTO,
    arch: Annotated[str, typer.Option(help="histonet, resnet18 or densenet121.")] = "histonet",
    weights: Annotated[Weights, typer.Option(help="What the network starts from.")] = Weights.RANDOM,
    data: Annotated[str, typer.Option(help="Manifest to train on, with the splits train and val.")] = "balanced",
    batch_size: Annotated[int, typer.Option(help="Patches per step.")] = 128,
    lr: Annotated[
        float | None, typer.Option(help="Highest learning rate of the cycle.", show_default="by batch size")
    ] = None,
    precision: options.PrecisionOption = Precision.AUTO,
    augment: Annotated[
        Augment, typer.Option(help="Nothing; flips and right-angle rotations; or stain jitter too.")
    ] = Augment.FULL,
    rotate: Annotated[Rotate, typer.Option(help="Right angles, or any angle with reflected borders.")] = Rotate.RIGHT,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the network first (torch.compile).")] = False,
    seed: options.Seed = 0,
    name: Annotated[str | None, typer.Option(help="The run's name.", show_default="ARCH-1, ARCH-2, ...")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last.pt of --name, or of the newest run.")
    ] = False,
    json: options.Json = False,
) -> None:
    """Train a network on the balanced subset, validating each epoch."""
    state: State = ctx.obj
    from histocli.cli.live import LiveTraining
    from histocli.commands.train import stored_config
    from histocli.commands.train import train as command
    from histocli.run import TrainConfig

    given = {key: value for key, value in ctx.params.items() if key not in _NOT_CONFIG}
    config = TrainConfig(**given)
    if resume:
        name, config = stored_config(state.workspace, name)
        _refuse_changes(ctx, config)
        if _given(ctx, "device", "ENVIRONMENT"):
            config = replace(config, device=device)  # the one thing that may differ: where it goes on
    with LiveTraining(state.report) as listener:
        result = command(state.workspace, config, name=name, resume=resume, listener=listener)
    best = result.best
    if not result.steps:
        state.report.note(f"{result.run} has all its {config.epochs} epochs already; nothing to be done")
    state.report.note(
        f"best epoch {best['epoch']}: validation AUC {number(best['val_auc'])}, accuracy {best['val_accuracy']:.4f}"
    )
    state.report.done(f"wrote {result.run_dir} in {result.seconds:,.0f} s", "histo eval --ckpt best.pt")
    if json:
        write_out(dumps({"run": result.run, "run_dir": str(result.run_dir), **best}, indent=2) + "\n")


def _refuse_changes(ctx: typer.Context, stored: "TrainConfig") -> None:
    """A run goes on as it began: an option given anew must be the one it has."""
    for key, value in vars(stored).items():
        if key != "device" and _given(ctx, key) and ctx.params[key] != value:
            flag = "--" + key.replace("_", "-")
            raise UsageError(f"{flag} {ctx.params[key]}: the run has {value}", f"leave {flag} out, or start a run anew")


def _given(ctx: typer.Context, key: str, *sources: str) -> bool:
    """Whether the option stands on the command line, or comes from another of the `sources`."""
    source = ctx.get_parameter_source(key)
    return source is not None and source.name in ("COMMANDLINE", *sources)


@app.command(name="eval")
def evaluate(
    ctx: typer.Context,
    ckpt: options.Ckpt = "best.pt",
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
    threshold: options.Threshold = None,
    resize: options.ResizeOption = Resize.CROP,
    batch_size: Annotated[int, typer.Option(min=1, help="Patches per forward pass.")] = 256,
    device: options.DeviceOption = Device.AUTO,
    precision: options.PrecisionOption = Precision.AUTO,
    json: options.Json = False,
) -> None:
    """Measure a checkpoint on patches whose labels are known."""
    state: State = ctx.obj
    from histocli.commands.evaluate import EvalConfig
    from histocli.commands.evaluate import evaluate as command

    config = EvalConfig(ckpt, data, labels, split, tta, threshold, resize, batch_size, device, precision)
    with state.report.bar("scoring") as bar:
        path, report = command(
            state.workspace,
            config,
            on_start=state.report.note,
            on_progress=bar,
            on_unreadable=lambda error: state.report.warn(str(error)),
        )
    counts = f"{report['n']:,} patches, {report['positives']:,} tumour"
    state.report.detail(f"checkpoint {report['checkpoint']}, SHA-256 {report['checkpoint_sha256']}")
    title = f"{report['run']} on {report['data']}, {report['split']}: {counts}"
    rows = [[name.replace("_", " "), number(value)] for name, value in report["metrics"].items()]
    state.report.table(title, ["metric", "value"], rows)
    confusion = report["confusion"]
    state.report.table(
        f"at threshold {report['threshold']:g}",
        ["", "said normal", "said tumour"],
        [["normal", confusion["tn"], confusion["fp"]], ["tumour", confusion["fn"], confusion["tp"]]],
    )
    for metric, reason in report["undefined"].items():
        state.report.warn(f"{metric.replace('_', ' ')} cannot be computed: {reason}")
    if report["trained_on"]:
        state.report.warn(f"{report['trained_on']:,} of these patches were trained on: the figures flatter")
    for what, count in report["skipped"].items():
        state.report.warn(f"{count:,} {what}")
    state.report.done(f"wrote {path} and {path.with_suffix('.csv').name}", "histo plot")
    if json:
        write_out(dumps(report, indent=2) + "\n")


@app.command()
def predict(
    ctx: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(help="Folders, images, zips, .npy or .h5 arrays, packed data sets; - reads paths from stdin."),
    ],
    ckpt: options.Ckpt = "best.pt",
    out: Annotated[Path | None, typer.Option("--out", help="File to write.", show_default="stdout")] = None,
    format: Annotated[Output, typer.Option("--format", help="The output's format.")] = Output.CSV,
    tta: options.Tta = False,
    threshold: options.Threshold = None,
    resize: options.ResizeOption = Resize.CROP,
    errors: Annotated[
        OnError, typer.Option(help="What an unreadable file does: be skipped, or end the run.")
    ] = OnError.SKIP,
    batch_size: Annotated[int, typer.Option(min=1, help="Patches per forward pass.")] = 256,
    device: options.DeviceOption = Device.AUTO,
    precision: options.PrecisionOption = Precision.AUTO,
) -> None:
    """Write a tumour probability for every patch as CSV: id,label."""
    state: State = ctx.obj
    from histocli.commands.predict import PredictConfig
    from histocli.commands.predict import predict as command

    config = PredictConfig(inputs, ckpt, out, format, tta, threshold, resize, errors, batch_size, device, precision)
    total: list[int | None] = [None]

    def start(device: str, count: int | None) -> None:
        state.report.note(device)
        total[0] = count

    with state.report.bar("scoring", hidden=out is None and not stdout_is_a_file()) as bar:
        done = command(
            state.workspace,
            config,
            sys.stdout,
            on_start=start,
            on_progress=lambda count: bar(count, total[0]),
            on_unreadable=lambda error: state.report.warn(str(error)),
        )
    where = str(out) if out else "stdout"
    state.report.done(f"{done.scored:,} patches scored to {where}")
    if done.unreadable:
        raise HistoError(
            f"{done.unreadable:,} of {done.scored + done.unreadable:,} files could not be read; all others are scored",
            "they are named above",
        )
