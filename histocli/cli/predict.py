"""`histo predict`."""

import gc
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated, cast

import typer

from histocli.cli import options
from histocli.cli.app import State, command
from histocli.cli.options import DATA, OUTPUT
from histocli.config import OnError, Output, Part, PredictConfig
from histocli.console import Reporter, Stdout, stdout_is_a_file
from histocli.errors import HistoError

if TYPE_CHECKING:
    from histocli.commands.predict import Prediction


@command(
    "histo predict slides/ --ckpt best.pt --out predictions.csv",
    "histo predict kaggle --split test --tta --out submission.csv",
)
def predict(
    ctx: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Folders, images, archives, .npy, .npz or .h5 arrays, packed data sets; - reads paths from stdin."
        ),
    ],
    split: Annotated[
        Part | None,
        typer.Option(help="Score only this split of packed data sets.", show_default="all", rich_help_panel=DATA),
    ] = PredictConfig.split,
    ckpt: options.Ckpt = options.BEST,
    out: Annotated[
        Path | None,
        typer.Option("--out", help="File to write.", show_default="stdout", rich_help_panel=OUTPUT),
    ] = PredictConfig.out,
    format: Annotated[
        Output, typer.Option("--format", help="The output's format.", rich_help_panel=OUTPUT)
    ] = PredictConfig.format,
    tta: options.Tta = PredictConfig.tta,
    uncalibrated: options.Uncalibrated = PredictConfig.uncalibrated,
    raw: options.Raw = False,
    threshold: Annotated[
        str | None,
        typer.Option(
            "--threshold",
            metavar="WHERE",
            help="Add the column class, which is 1 if the probability is this or above: a number; stored, which is the "
            "one in the checkpoint; or a rule for the run's validation patches: youden, sensitivity=0.95 or "
            "specificity=0.9.",
            rich_help_panel=OUTPUT,
        ),
    ] = PredictConfig.threshold,
    qc: Annotated[
        bool,
        typer.Option(
            "--qc",
            help="Add columns that show which scores may be wrong. spread: range of the probabilities of the eight "
            "flips and rotations. colour: distance to the colours of the training patches. focus: sharpness; negative "
            "is blurred. contrast: standard deviation of the grey values. duplicate: id of the training patch with the "
            "same pixels. flags: blank, unfocused, stain, unstable, duplicate.",
            rich_help_panel=OUTPUT,
        ),
    ] = PredictConfig.qc,
    flags: Annotated[bool, typer.Option("--flags", hidden=True, help="Former name of --qc.")] = False,
    escape_formulas: Annotated[
        bool,
        typer.Option(
            "--escape-formulas",
            help="Write an apostrophe before ids in the CSV that begin with = + - @, because a spreadsheet would "
            "compute them. Without it, ids are written exactly.",
            rich_help_panel=OUTPUT,
        ),
    ] = PredictConfig.escape_formulas,
    resize: options.ResizeOption = PredictConfig.resize,
    errors: Annotated[
        OnError,
        typer.Option(help="Skip a file that cannot be read, or end with an error.", rich_help_panel=DATA),
    ] = PredictConfig.errors,
    batch_size: options.BatchSize = PredictConfig.batch_size,
    device: options.DeviceOption = PredictConfig.device,
    precision: options.PrecisionOption = PredictConfig.precision,
    engine: options.EngineOption = PredictConfig.engine,
) -> None:
    """Write the probability of tumour of each patch as CSV: id,label."""
    state: State = ctx.obj
    config = PredictConfig(
        inputs=tuple(inputs),
        split=split,
        ckpt=options.checkpoint_names(ctx, ckpt),
        out=out,
        format=format,
        tta=tta,
        uncalibrated=uncalibrated or raw,
        threshold=threshold,
        qc=qc or flags,
        escape_formulas=escape_formulas,
        resize=resize,
        errors=errors,
        batch_size=batch_size or PredictConfig.batch_size,
        halve=batch_size == options.AUTO or not options.is_given(ctx, "batch_size", "ENVIRONMENT"),
        device=device,
        precision=precision,
        engine=engine,
    )
    from histocli.data.early import early_processes

    total: list[int | None] = [None]

    def start(device: str, count: int | None) -> None:
        state.report.note(device)
        total[0] = count

    hidden = out is None and not stdout_is_a_file()
    with early_processes(config.inputs, config.device) as pool:
        from histocli.commands.predict import predict as run_predict  # imports torch, while the processes start
        from histocli.compute.ddp import LONG_TIMEOUT, process_group

        gc.freeze()  # the garbage collector need not look at torch's million objects again and again
        with process_group(LONG_TIMEOUT) as ranks, state.report.bar("scoring", hidden=hidden) as bar:
            prediction = run_predict(
                state.workspace,
                config,
                cast(IO[str], Stdout()),
                on_checkpoint=state.report.note,
                on_note=state.report.note,
                on_start=start,
                on_progress=lambda count: bar(count, total[0]),
                on_unreadable=lambda error: state.report.warn(str(error)),
                ranks=ranks,
                pool=pool,
            )
    if ranks.is_rank0:
        _show(state.report, prediction, str(out) if out else "stdout")


def _show(report: Reporter, prediction: "Prediction", target: str) -> None:
    """Print how many patches were scored and flagged.

    Raises:
        HistoError: some files could not be read.
    """
    if not prediction.duplicates:
        report.warn("the training patches are not in this workspace, so the column duplicate is empty")
    if prediction.flagged:
        report.note("flagged: " + ", ".join(f"{count:,} {flag}" for flag, count in prediction.flagged.items()))
    report.done(f"{prediction.scored:,} patches scored to {target}")
    if unreadable := prediction.unreadable:
        raise HistoError(
            f"{unreadable:,} of {prediction.scored + unreadable:,} files could not be read; all others are scored",
            "the warnings above name the files that could not be read",
        )
