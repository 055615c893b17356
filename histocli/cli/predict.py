"""`histo predict`."""

import gc
from pathlib import Path
from typing import IO, Annotated, cast

import typer

from histocli.cli import options
from histocli.cli.app import State, command
from histocli.cli.options import DATA, OUTPUT, SLIDES
from histocli.cli.render_prediction import PredictionListener, show_prediction
from histocli.config import PATCH_MPP, PredictConfig
from histocli.enums import Columns, IdKind, OnError, Output, SplitName
from histocli.errors import HistoError, UsageError
from histocli.inference.columns import list_column_types
from histocli.inference.patterns import expand_patterns
from histocli.slides.detection import find_slides
from histocli.stdio import Stdout, is_stdout_a_file

*_OTHERS, _LAST = list_column_types(PredictConfig((), columns=Columns.FULL))
_FULL_COLUMNS = f"{', '.join(_OTHERS)} and {_LAST}"


@command(
    "histo predict kaggle --split test --tta --out submission.csv",
    "histo predict slides/ --out maps",
)
def predict(
    ctx: typer.Context,
    inputs: Annotated[
        list[str],
        typer.Argument(
            help="Folders, images, archives, .npy, .npz or .h5 arrays, packed data sets, patterns in quotes such as "
            "'slides/*.png'; - reads paths from stdin. Or whole slides, and folders of them.",
            autocompletion=options.complete_inputs,
        ),
    ],
    split: Annotated[
        SplitName | None,
        typer.Option(help="Score only this split of packed data sets.", show_default="all", rich_help_panel=DATA),
    ] = PredictConfig.split,
    ckpt: options.Ckpt = options.BEST,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="File to write; for whole slides, the folder.", show_default="stdout", rich_help_panel=OUTPUT
        ),
    ] = PredictConfig.out,
    format: Annotated[
        Output | None,
        typer.Option(
            "--format",
            help="The output's format.",
            show_default="by the suffix of --out, else csv",
            rich_help_panel=OUTPUT,
        ),
    ] = PredictConfig.format,
    columns: Annotated[
        Columns,
        typer.Option(
            help=f"kaggle: id and label (the probability), as in a Kaggle submission. full: {_FULL_COLUMNS}; the class "
            "uses the stored threshold, unless --threshold gives another.",
            rich_help_panel=OUTPUT,
        ),
    ] = PredictConfig.columns,
    id: Annotated[
        IdKind | None,
        typer.Option(
            "--id",
            help="What the column id contains for an image file. For the image a/01.png in the input folder, stem "
            "writes 01, path-stem writes a/01, and path writes a/01.png.",
            show_default="the first of these that gives all images different ids; path for paths from stdin; with "
            "--skip-done, the kind in the file",
            rich_help_panel=OUTPUT,
        ),
    ] = PredictConfig.id,
    failed: Annotated[
        Path | None,
        typer.Option(
            help="Write a CSV with the id, path and error of each file that cannot be read.",
            show_default="none",
            rich_help_panel=OUTPUT,
        ),
    ] = PredictConfig.failed,
    skip_done: Annotated[
        bool,
        typer.Option(
            "--skip-done",
            help="Score only the patches that are not in the file of --out yet, and add them to it: for a folder that "
            "grows.",
            rich_help_panel=OUTPUT,
        ),
    ] = PredictConfig.skip_done,
    tta: options.Tta = PredictConfig.tta,
    uncalibrated: options.Uncalibrated = PredictConfig.uncalibrated,
    prevalence: options.Prevalence = PredictConfig.prevalence,
    raw: options.Raw = False,
    threshold: Annotated[
        str | None,
        typer.Option(
            "--threshold",
            metavar="NUMBER|RULE",
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
    mpp: Annotated[
        str | None,
        typer.Option(
            "--mpp",
            metavar="NUMBER|CSV",
            help=f"Micrometres per pixel of the images, such as 0.25 for 40x; they are rescaled to {PATCH_MPP}. For "
            "whole slides: a number, for files without a resolution; or a CSV with the columns slide,mpp, which "
            "replaces the resolution in the files.",
            show_default=f"{PATCH_MPP}; for whole slides, that of the file",
            rich_help_panel=DATA,
        ),
    ] = PredictConfig.mpp,
    errors: Annotated[
        OnError,
        typer.Option(
            help="What to do if a file cannot be read. skip: score all other files, and end with exit code 4. fail: "
            "stop at the first such file.",
            rich_help_panel=DATA,
        ),
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
            help="Side of the squares that are scored, in pixels of 0.972 micrometres: 96, a whole patch; or 32, "
            "the centre of a patch, which decides its label.",
            rich_help_panel=SLIDES,
        ),
    ] = PredictConfig.step,
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

    For whole slides, write a heat map, a table of scores and a GeoJSON file for QuPath, in a folder for each slide.
    """
    state: State = ctx.obj
    paths, unmatched = expand_patterns(inputs)
    for name in unmatched:
        if not skip_done:
            raise HistoError(f"no path matches {name}", "list the folder to see its files")
        state.reporter.note(f"no path matches {name}")
    config = PredictConfig(
        inputs=tuple(paths),
        split=split,
        ckpt=options.split_checkpoint_names(ctx, ckpt),
        out=out,
        format=format,
        columns=columns,
        id=id,
        failed=failed,
        skip_done=skip_done,
        tta=tta,
        uncalibrated=uncalibrated or raw,
        prevalence=prevalence,
        threshold=threshold,
        qc=qc or flags,
        escape_formulas=escape_formulas,
        resize=resize,
        mpp=mpp,
        errors=errors,
        batch_size=batch_size or PredictConfig.batch_size,
        can_halve_batch=batch_size == options.AUTO or not options.is_given(ctx, "batch_size", "ENVIRONMENT"),
        device=device,
        precision=precision,
        engine=engine,
        step=step,
        mask=mask,
        no_mask=no_mask,
    )
    if (found := find_slides(config.inputs)) is not None:
        from histocli.cli.slides import run_predict_slides

        run_predict_slides(state, config, found)
        return
    if config.out is not None and config.out.is_dir():
        from histocli.cli.slides import report_no_slides

        if report_no_slides(state, config, inputs):
            return
    for name in ("step", "mask", "no_mask"):
        if options.is_given(ctx, name):
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} is for whole slides, and no input is one", f"leave {flag} out")
    _predict_patches(state, config)


def _predict_patches(state: State, config: PredictConfig) -> None:
    """Score patches, and report what was written."""
    from histocli.images.early import start_processes_early

    is_hidden = config.out is None and not is_stdout_a_file()
    with start_processes_early(config.inputs, config.device) as pool:
        from histocli.commands.predict import predict as run_predict  # imports torch, while the processes start
        from histocli.compute.ddp import LONG_TIMEOUT, connect_processes

        gc.freeze()  # the garbage collector need not look at PyTorch's million objects again and again
        with connect_processes(LONG_TIMEOUT) as ranks, state.reporter.show_bar("scoring", is_hidden=is_hidden) as bar:
            listener = PredictionListener(state.reporter, bar)
            listener.is_rescaled = config.mpp is not None
            prediction = run_predict(
                state.workspace, config, cast(IO[str], Stdout()), listener=listener, ranks=ranks, pool=pool
            )
            listener.on_progress(prediction.counts.scored + len(prediction.counts.unreadable))
    if ranks.is_rank0:
        show_prediction(state, config, prediction)
