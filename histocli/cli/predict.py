"""`histo predict`."""

import gc
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from histocli.cli import options
from histocli.cli.app import State, command
from histocli.cli.options import DATA, OUTPUT, SLIDES
from histocli.config import OnError, Output, PredictConfig
from histocli.console import Reporter, stdout_is_a_file
from histocli.errors import HistoError, UsageError
from histocli.slides.detection import find_slides

if TYPE_CHECKING:
    from histocli.commands.predict import Prediction


@command(
    "histo predict patches/ --ckpt best.pt --out predictions.csv",
    "histo predict slides/ --tta --out maps",
)
def predict(
    ctx: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Folders, images, zip files, .npy or .h5 arrays, packed data sets; - reads paths from stdin. Or whole "
            "slides, and folders of them."
        ),
    ],
    ckpt: options.Ckpt = options.BEST,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="File to write; for whole slides, the folder.", show_default="stdout", rich_help_panel=OUTPUT
        ),
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
            "specificity=0.9. For whole slides, regions above it are tumour; stored is the default.",
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
    resize: options.ResizeOption = PredictConfig.resize,
    errors: Annotated[
        OnError,
        typer.Option(help="Skip a file that cannot be read, or end with an error.", rich_help_panel=DATA),
    ] = PredictConfig.errors,
    batch_size: options.BatchSize = PredictConfig.batch_size,
    device: options.DeviceOption = PredictConfig.device,
    precision: options.PrecisionOption = PredictConfig.precision,
    engine: options.EngineOption = PredictConfig.engine,
    step: Annotated[
        int,
        typer.Option(
            "--step",
            metavar="96|32",
            help="Side of the squares that are scored, in pixels of 0.972 micrometres: 96, a whole patch, or 32, the "
            "part of a patch that its label is about.",
            rich_help_panel=SLIDES,
        ),
    ] = PredictConfig.step,
    mpp: Annotated[
        str | None,
        typer.Option(
            "--mpp",
            metavar="NUMBER|CSV",
            help="Micrometres per pixel of slides whose files do not say it, or a table slide,mpp.",
            rich_help_panel=SLIDES,
        ),
    ] = PredictConfig.mpp,
    mask: Annotated[
        Path | None,
        typer.Option(
            help="Where the tissue is: a GeoJSON or PNG file, or a folder with one for each slide.",
            show_default="found by colour",
            rich_help_panel=SLIDES,
        ),
    ] = PredictConfig.mask,
    no_mask: Annotated[
        bool, typer.Option("--no-mask", help="Score the whole slide, glass too.", rich_help_panel=SLIDES)
    ] = PredictConfig.no_mask,
) -> None:
    """Write the probability of tumour of each patch as CSV: id,label.

    Of whole slides, write a heat map, a table of scores and a GeoJSON file for QuPath, in a folder for each slide.
    """
    state: State = ctx.obj
    config = PredictConfig(
        inputs=tuple(inputs),
        ckpt=options.checkpoint_names(ctx, ckpt),
        out=out,
        format=format,
        tta=tta,
        uncalibrated=uncalibrated or raw,
        threshold=threshold,
        qc=qc or flags,
        resize=resize,
        errors=errors,
        batch_size=batch_size or PredictConfig.batch_size,
        halve=batch_size == options.AUTO or not options.is_given(ctx, "batch_size", "ENVIRONMENT"),
        device=device,
        precision=precision,
        engine=engine,
        step=step,
        mpp=mpp,
        mask=mask,
        no_mask=no_mask,
    )
    if (found := find_slides(config.inputs)) is not None:
        from histocli.cli.slides import predict_slides

        predict_slides(state, config, found)
        return
    _refuse_slide_options(ctx)
    _predict_patches(state, config)


def _refuse_slide_options(ctx: typer.Context) -> None:
    for name in ("step", "mpp", "mask", "no_mask"):
        if options.is_given(ctx, name):
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} is for whole slides, and no input is one", f"leave {flag} out")


def _predict_patches(state: State, config: PredictConfig) -> None:
    """Score patches, and report what was written."""
    out = config.out
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
                sys.stdout,
                on_checkpoint=state.report.note,
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
