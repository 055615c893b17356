"""`histo tune`."""

from typing import Annotated

import typer

from histocli.cli import options
from histocli.cli.app import State, command
from histocli.cli.options import DATA, MODEL, TRAINING
from histocli.config import TuneConfig
from histocli.enums import Augment, Weights
from histocli.stdio import write_out_json

_STUDY = "Study"
_BATCH_SIZES, _AUGMENT, _ARCH = list(TuneConfig.batch_size), list(TuneConfig.augment), list(TuneConfig.arch)


@command(
    "histo tune --trials 30",
    "histo tune --hours 8 --name nets --arch histonet --arch histonet-wide --epochs 8:20",
)
def tune(
    ctx: typer.Context,
    trials: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Stop when the study has this many trials, those of earlier calls included. This or --hours is "
            "needed.",
            rich_help_panel=_STUDY,
        ),
    ] = TuneConfig.trials,
    hours: Annotated[
        float | None,
        typer.Option(help="Start no new trial after this many hours.", rich_help_panel=_STUDY),
    ] = TuneConfig.hours,
    name: Annotated[
        str,
        typer.Option(
            "--name", metavar="NAME", help="The study's name; a study that exists is continued.", rich_help_panel=_STUDY
        ),
    ] = TuneConfig.name,
    data: Annotated[
        str,
        typer.Option(
            help="Subset whose training and validation patches are divided into folds.",
            autocompletion=options.complete_subsets,
            rich_help_panel=DATA,
        ),
    ] = TuneConfig.data,
    folds: Annotated[
        int,
        typer.Option(
            min=2, help="Measure each trial by a cross-validation with this many folds.", rich_help_panel=DATA
        ),
    ] = TuneConfig.folds,
    allow_leak: options.AllowLeak = TuneConfig.allow_leak,
    lr: Annotated[
        str,
        typer.Option(
            "--lr",
            metavar="LOW:HIGH",
            help="Range of the highest learning rate, or one value.",
            rich_help_panel=TRAINING,
        ),
    ] = TuneConfig.lr,
    batch_size: Annotated[
        list[int],
        typer.Option(
            "--batch-size",
            metavar="INTEGER",
            min=2,
            help="Patches per step; may be repeated.",
            rich_help_panel=TRAINING,
        ),
    ] = _BATCH_SIZES,
    epochs: Annotated[
        str,
        typer.Option(
            "--epochs",
            metavar="LOW:HIGH",
            help="Range of the number of epochs, or one value.",
            rich_help_panel=TRAINING,
        ),
    ] = TuneConfig.epochs,
    augment: Annotated[
        list[Augment],
        typer.Option(
            "--augment",
            help="Augmentation, as for histo train; may be repeated.",
            rich_help_panel=TRAINING,
        ),
    ] = _AUGMENT,
    arch: Annotated[
        list[str],
        typer.Option(
            "--arch",
            metavar="NAME",
            help="Architecture, as for histo train; may be repeated.",
            autocompletion=options.complete_architectures,
            rich_help_panel=MODEL,
        ),
    ] = _ARCH,
    weights: Annotated[
        Weights,
        typer.Option(
            help="Weights that every trial starts from.",
            rich_help_panel=MODEL,
        ),
    ] = TuneConfig.weights,
    seed: options.Seed = TuneConfig.seed,
    device: options.DeviceOption = TuneConfig.device,
    precision: options.PrecisionOption = TuneConfig.precision,
    json: options.Json = False,
) -> None:
    """Search the options of histo train by cross-validation."""
    state: State = ctx.obj
    from histocli.cli.live_tuning import LiveTuning
    from histocli.cli.render import show_tuning
    from histocli.commands.tune import tune as run_tune
    from histocli.schema import to_json

    config = TuneConfig(
        trials=trials,
        hours=hours,
        name=name,
        data=data,
        folds=folds,
        lr=lr,
        batch_size=tuple(batch_size),
        epochs=epochs,
        augment=tuple(augment),
        arch=tuple(arch),
        weights=weights,
        allow_leak=allow_leak,
        seed=seed,
        device=device,
        precision=precision,
    )
    given = options.list_given(ctx)
    with LiveTuning(state.reporter) as listener:
        tuned = run_tune(state.workspace, config, given=given, listener=listener)
    show_tuning(state.reporter, tuned.report)
    if not tuned.trials:
        state.reporter.note("no trial was started: a larger --trials adds more")
    state.reporter.print_done(f"wrote {tuned.path}", tuned.report.command)
    if json:
        write_out_json(to_json(tuned.report))
