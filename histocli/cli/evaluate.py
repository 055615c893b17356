"""`histo eval`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from histocli.cli import options
from histocli.cli.app import State, command
from histocli.cli.listener import ConsoleListener
from histocli.cli.options import DATA, MODEL
from histocli.cli.options import SLIDES as WHOLE_SLIDES
from histocli.config import EvalConfig, SlideEvalConfig
from histocli.enums import SplitName
from histocli.errors import UsageError
from histocli.sources.options import (
    CLASSES,
    HOSPITAL_COLUMN,
    ID_COLUMN,
    LABEL_COLUMN,
    MPP,
    MPP_HELP,
    SLIDE_COLUMN,
    SLIDE_PATTERN,
    SLIDES,
    SPLIT_COLUMN,
    Option,
)
from histocli.stdio import write_out_json

_MPP = Option(MPP.flag, MPP_HELP, metavar="NUMBER")
_COMPARING, _FOLDER = "Comparing", "A folder or archive as data"


def _make_folder_option(option: Option) -> Any:
    """Return Typer's declaration of an option that `histo download --source folder` has too."""
    return typer.Option(option.flag, help=option.help, metavar=option.metavar, rich_help_panel=_FOLDER)


@command(
    "histo eval --data pcam --split test --tta",
    "histo eval --maps maps --annotations xml/",
    name="eval",
)
def evaluate(
    ctx: typer.Context,
    ckpt: options.Ckpt = options.BEST,
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="A packed data set, or a labelled folder or zip file.",
            metavar="NAME|PATH",
            show_default="the run's own validation patches",
            autocompletion=options.complete_data_or_path,
            rich_help_panel=DATA,
        ),
    ] = EvalConfig.data,
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV with the columns id,label, for a folder or zip file.", rich_help_panel=DATA),
    ] = EvalConfig.labels,
    classes: Annotated[list[str] | None, _make_folder_option(CLASSES)] = None,
    slides: Annotated[Path | None, _make_folder_option(SLIDES)] = EvalConfig.slides,
    slide_pattern: Annotated[str | None, _make_folder_option(SLIDE_PATTERN)] = EvalConfig.slide_pattern,
    id_column: Annotated[str | None, _make_folder_option(ID_COLUMN)] = EvalConfig.id_column,
    label_column: Annotated[str | None, _make_folder_option(LABEL_COLUMN)] = EvalConfig.label_column,
    slide_column: Annotated[str | None, _make_folder_option(SLIDE_COLUMN)] = EvalConfig.slide_column,
    hospital_column: Annotated[str | None, _make_folder_option(HOSPITAL_COLUMN)] = EvalConfig.hospital_column,
    split_column: Annotated[str | None, _make_folder_option(SPLIT_COLUMN)] = EvalConfig.split_column,
    mpp: Annotated[str | None, _make_folder_option(_MPP)] = EvalConfig.mpp,
    split: Annotated[
        SplitName | None,
        typer.Option(
            help="Split to evaluate; val and valid mean the same where only one exists.",
            show_default="val without --data, else all",
            rich_help_panel=DATA,
        ),
    ] = EvalConfig.split,
    tta: options.Tta = EvalConfig.tta,
    uncalibrated: options.Uncalibrated = EvalConfig.uncalibrated,
    prevalence: options.Prevalence = EvalConfig.prevalence,
    raw: options.Raw = False,
    threshold: Annotated[
        str,
        typer.Option(
            "--threshold",
            metavar="NUMBER|RULE",
            help="A patch is predicted as tumour at this probability or above: a number; stored, which is the one in "
            "the checkpoint; or a rule for the run's validation patches: youden, sensitivity=0.95 or specificity=0.9.",
            rich_help_panel=MODEL,
        ),
    ] = EvalConfig.threshold,
    resize: options.ResizeOption = EvalConfig.resize,
    batch_size: options.BatchSize = EvalConfig.batch_size,
    device: options.DeviceOption = EvalConfig.device,
    precision: options.PrecisionOption = EvalConfig.precision,
    engine: options.EngineOption = EvalConfig.engine,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            "--compare",
            metavar="A B",
            help="Compare the AUC of two checkpoints, or of two metrics files of histo eval, on the patches that both "
            "scored.",
            rich_help_panel=_COMPARING,
        ),
    ] = None,
    maps: Annotated[
        Path | None,
        typer.Option(
            "--maps",
            help="Evaluate the maps of whole slides in this folder, which histo predict wrote.",
            metavar="DIR",
            rich_help_panel=WHOLE_SLIDES,
        ),
    ] = None,
    annotations: Annotated[
        Path | None,
        typer.Option(
            "--annotations",
            help="Folder with the annotations of tumour, one file for each slide and of its name: ASAP's XML, QuPath's "
            "GeoJSON or a mask. Give --labels instead, a table id,label of slides, to measure only the AUC of slides.",
            metavar="DIR",
            rich_help_panel=WHOLE_SLIDES,
        ),
    ] = None,
    choose_on: Annotated[
        Path | None,
        typer.Option(
            "--choose-on",
            help="Folder with maps of training slides. Of the three slide scores (maximum, mean of the 10 highest, "
            "area), the one with the highest AUC on them is chosen.",
            metavar="DIR",
            rich_help_panel=WHOLE_SLIDES,
        ),
    ] = None,
    scores: Annotated[
        str | None,
        typer.Option(
            "--scores",
            metavar="FILE",
            help="Measure these scores again, without scoring patches: a .csv file in metrics/ that histo eval or "
            "histo train --folds wrote, with the .json file of the same name beside it. For a .json file, the "
            "metrics are printed as they were written. --threshold NUMBER uses another threshold.",
            rich_help_panel=_COMPARING,
        ),
    ] = None,
    json: options.Json = False,
) -> None:
    """Measure how well a checkpoint classifies labelled patches.

    With --maps, measure how well maps of whole slides find slides and lesions with tumour.
    """
    state: State = ctx.obj
    if maps is not None:
        _evaluate_maps(ctx, maps, annotations, labels, threshold, choose_on, json)
        return
    if annotations is not None or choose_on is not None:
        flag = "--choose-on" if annotations is None else "--annotations"
        raise UsageError(f"{flag} is for the maps of whole slides", "give their folder: --maps DIR")
    if scores:
        _show_scores(ctx, scores, threshold, json)
        return
    if compare and (flags := [name for name in compare if name.startswith("-")]):
        raise UsageError(f"--compare needs two names, and {flags[0]} is an option", "histo eval --compare A B")
    if compare and options.is_given(ctx, "ckpt"):
        raise UsageError("--ckpt cannot be combined with --compare", "leave one of them out")
    are_files = compare and all(name.endswith(".json") for name in compare)
    if are_files and (flag := _find_other_option(ctx, ("compare", "json"))):
        raise UsageError(f"{flag} has no meaning if both names of --compare are metrics files", f"leave {flag} out")
    names = options.split_checkpoint_names(ctx, ckpt)
    config = EvalConfig(
        ckpt=names,
        data=data,
        labels=labels,
        classes=tuple(classes or ()),
        slides=slides,
        slide_pattern=slide_pattern,
        id_column=id_column,
        label_column=label_column,
        slide_column=slide_column,
        hospital_column=hospital_column,
        split_column=split_column,
        mpp=mpp,
        split=split,
        tta=tta,
        uncalibrated=uncalibrated or raw,
        prevalence=prevalence,
        threshold=threshold,
        resize=resize,
        batch_size=batch_size or EvalConfig.batch_size,
        can_halve_batch=batch_size == options.AUTO,
        device=device,
        precision=precision,
        engine=engine,
    )
    _evaluate(state, config, compare, json)


def _evaluate_maps(
    ctx: typer.Context,
    maps: Path,
    annotations: Path | None,
    labels: Path | None,
    threshold: str,
    choose_on: Path | None,
    json: bool,
) -> None:
    """Evaluate maps, after checking that no option of patches is given."""
    from histocli.cli.slides import run_evaluate_slides
    from histocli.metrics.thresholds import parse_threshold

    if flag := _find_other_option(ctx, ("maps", "annotations", "labels", "threshold", "choose_on", "json")):
        raise UsageError(f"{flag} is for patches, and --maps evaluates finished maps", f"leave {flag} out")
    value = None if threshold == EvalConfig.threshold else parse_threshold(threshold)
    if value is None and threshold != EvalConfig.threshold:
        raise UsageError(f"--threshold {threshold} is not possible with --maps", "give a number")
    run_evaluate_slides(ctx.obj, SlideEvalConfig(maps, labels, annotations, value, choose_on), json)


def _find_other_option(ctx: typer.Context, taken: tuple[str, ...]) -> str:
    """Return the flag of an option on the command line that is not one of `taken`; "" if there is none."""
    others = [parameter for parameter in ctx.command.params if parameter.name and parameter.name not in taken]
    return next((option.opts[0] for option in others if option.name and options.is_given(ctx, option.name)), "")


def _show_scores(ctx: typer.Context, scores: str, threshold: str, json: bool) -> None:
    """Show an evaluation that was written before."""
    state: State = ctx.obj
    if flag := _find_other_option(ctx, ("scores", "threshold", "json")):
        raise UsageError(f"{flag} cannot be combined with --scores", "leave one of them out")
    from histocli.cli.render import show_evaluation
    from histocli.commands.evaluate_scores import evaluate_scores

    evaluation = evaluate_scores(state.workspace, scores, threshold, listener=ConsoleListener(state.reporter))
    show_evaluation(state.reporter, evaluation.report, state.workspace)
    verb = "read" if threshold == EvalConfig.threshold else "wrote"
    state.reporter.print_done(f"{verb} {evaluation.path}", f"histo plot --run {evaluation.report.run}")
    if json:
        write_out_json(evaluation.report.to_json())


def _evaluate(state: State, config: EvalConfig, compare: tuple[str, str] | None, json: bool) -> None:
    """Evaluate or compare checkpoints, and print the result."""
    from histocli.cli.render import show_comparison, show_evaluation
    from histocli.commands.compare import compare as run_compare
    from histocli.commands.evaluate import evaluate as run_evaluate
    from histocli.compute.ddp import LONG_TIMEOUT, connect_processes
    from histocli.schema import to_json

    with connect_processes(LONG_TIMEOUT) as ranks, state.reporter.show_bar("scoring") as bar:
        listener = ConsoleListener(state.reporter, bar)
        if compare:
            comparison = run_compare(state.workspace, config, compare, listener=listener, ranks=ranks)
        else:
            evaluation = run_evaluate(state.workspace, config, listener=listener, ranks=ranks)
    if not ranks.is_rank0:
        return
    if compare:
        show_comparison(state.reporter, comparison.report)
        state.reporter.print_done(f"wrote {comparison.path}")
        values = to_json(comparison.report)
    else:
        path = evaluation.path
        show_evaluation(state.reporter, evaluation.report, state.workspace)
        state.reporter.print_done(f"wrote {path} and {path.with_suffix('.csv').name}", "histo plot")
        values = evaluation.report.to_json()
    if json:
        write_out_json(values)
