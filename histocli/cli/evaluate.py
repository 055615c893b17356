"""`histo eval`."""

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from histocli.cli import options
from histocli.cli.app import State, command
from histocli.cli.options import DATA, MODEL
from histocli.config import EvalConfig, Part
from histocli.console import write_out
from histocli.errors import UsageError

_COMPARING = "Comparing"


@command(
    "histo eval --ckpt best.pt",
    "histo eval --data pcam --split test --tta",
    name="eval",
)
def evaluate(
    ctx: typer.Context,
    ckpt: options.Ckpt = options.BEST,
    data: Annotated[
        str | None,
        typer.Option(
            help="A packed data set, or a labelled folder or zip file.",
            metavar="NAME|PATH",
            show_default="the run's own validation patches",
            rich_help_panel=DATA,
        ),
    ] = EvalConfig.data,
    labels: Annotated[
        Path | None,
        typer.Option(help="CSV with the columns id,label, for a folder or zip file.", rich_help_panel=DATA),
    ] = EvalConfig.labels,
    split: Annotated[
        Part | None,
        typer.Option(
            help="The part to evaluate on.", show_default="val of the run's own, all of --data", rich_help_panel=DATA
        ),
    ] = EvalConfig.split,
    tta: options.Tta = EvalConfig.tta,
    raw: options.Raw = EvalConfig.raw,
    threshold: Annotated[
        str,
        typer.Option(
            metavar="WHERE",
            help="Probability from which a patch counts as tumour: a number; stored (by histo train); or youden, "
            "sensitivity=0.95 or specificity=0.9 on the run's validation patches.",
            rich_help_panel=MODEL,
        ),
    ] = EvalConfig.threshold,
    resize: options.ResizeOption = EvalConfig.resize,
    batch_size: options.BatchSize = EvalConfig.batch_size,
    device: options.DeviceOption = EvalConfig.device,
    precision: options.PrecisionOption = EvalConfig.precision,
    compare: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="A B",
            help="Compare the AUC of two checkpoints, or of two metrics files of histo eval, on the patches that both "
            "scored.",
            rich_help_panel=_COMPARING,
        ),
    ] = None,
    optimism: Annotated[
        bool,
        typer.Option(
            "--optimism",
            help="Score nothing: compare the validation AUC of the run, and of other runs with the same options, with "
            "their AUC on unseen slides (--data), and a random split with a split by slide.",
            rich_help_panel=_COMPARING,
        ),
    ] = False,
    json: options.Json = False,
) -> None:
    """Measure how well a checkpoint classifies labelled patches."""
    state: State = ctx.obj
    _refuse_unused(ctx)
    names = options.checkpoint_names(ctx, ckpt)
    if optimism:
        _show_optimism(state, names, data, json)
        return
    config = EvalConfig(
        ckpt=names,
        data=data,
        labels=labels,
        split=split,
        tta=tta,
        raw=raw,
        threshold=threshold,
        resize=resize,
        batch_size=batch_size or EvalConfig.batch_size,
        halve=batch_size == options.AUTO,
        device=device,
        precision=precision,
    )
    _evaluate(state, config, compare, json)


def _refuse_unused(ctx: typer.Context) -> None:
    """Raise `UsageError` for an option on the command line that would change nothing."""
    used = {"optimism": {"ckpt", "data", "json", "optimism"}}
    if ctx.params["compare"]:
        used["compare"] = set(ctx.params) - {"ckpt", "optimism"}
    for mode, taken in used.items():
        for key in set(ctx.params) - taken if ctx.params[mode] else ():
            if options.is_given(ctx, key):
                raise UsageError(f"--{key.replace('_', '-')} has no meaning with --{mode}", "leave one of them out")


def _evaluate(state: State, config: EvalConfig, compare: tuple[str, str] | None, json: bool) -> None:
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


def _show_optimism(state: State, ckpt: tuple[str, ...], data: str | None, json: bool) -> None:
    from histocli.cli.render import show_optimism
    from histocli.commands.optimism import optimism

    if len(ckpt) > 1:
        raise UsageError("--optimism is for one run", "give one --ckpt")
    made = optimism(state.workspace, ckpt[0], data)
    show_optimism(state.report, made.report)
    state.report.done(f"wrote {made.path} and {made.picture}")
    if json:
        write_out(dumps(made.report, indent=2) + "\n")
