"""`histo train`."""

import re
import sys
from dataclasses import replace
from json import dumps
from typing import TYPE_CHECKING, Annotated

import typer

from histocli.cli import options
from histocli.cli.app import State, app
from histocli.config import Augment, Device, Precision, Rotate, Weights
from histocli.console import number, write_out
from histocli.errors import UsageError

if TYPE_CHECKING:
    from histocli.training.config import TrainConfig

_NOT_CONFIG = {"name", "resume", "json", "processes", "folds", "seeds"}


@app.command()
def train(
    ctx: typer.Context,
    epochs: Annotated[int, typer.Option(help="Passes over the training split.")] = 12,
    device: options.DeviceOption = Device.AUTO,
    arch: Annotated[
        str,
        typer.Option(
            help="histonet, p4m-densenet, a torchvision classifier such as resnet18, or timm/NAME, where NAME may be "
            "hf-hub:OWNER/MODEL or local-dir:FOLDER."
        ),
    ] = "histonet",
    weights: Annotated[
        Weights, typer.Option(help="What the network starts from; imagenet is another word for pretrained.")
    ] = Weights.RANDOM,
    freeze: Annotated[
        bool,
        typer.Option("--freeze", help="Train the last layer alone, on features computed once, without augmentation."),
    ] = False,
    backbone_lr: Annotated[
        float, typer.Option(help="Learning rate of a pretrained network below its last layer, as a fraction of --lr.")
    ] = 1.0,
    data: Annotated[str, typer.Option(help="Manifest to train on, with the splits train and val.")] = "balanced",
    batch_size: Annotated[
        int,
        typer.Option(
            parser=options.batch_size,
            metavar="INTEGER|auto",
            help="Patches per step; auto takes 128, halved until they fit the memory.",
        ),
    ] = 128,
    lr: Annotated[
        float | None, typer.Option(help="Highest learning rate of the cycle.", show_default="by batch size")
    ] = None,
    precision: options.PrecisionOption = Precision.AUTO,
    augment: Annotated[
        Augment, typer.Option(help="Nothing; flips and right-angle rotations; or stain jitter too.")
    ] = Augment.FULL,
    threshold: Annotated[
        str,
        typer.Option(
            metavar="RULE",
            help="Where tumour begins, kept in the checkpoint: a number, or youden, sensitivity=0.95 or "
            "specificity=0.9 on the validation patches.",
        ),
    ] = "0.5",
    rotate: Annotated[
        Rotate,
        typer.Option(
            help="Right angles; or any angle, zoomed and moved a little, with reflected borders; auto: any where "
            "the network looks at smaller images than patches, which loses the blur of turning."
        ),
    ] = Rotate.AUTO,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the network first (torch.compile).")] = False,
    deterministic: Annotated[
        bool, typer.Option("--deterministic", help="On CUDA too, the same seed gives the same bytes; slower there.")
    ] = False,
    allow_leak: Annotated[
        bool, typer.Option("--allow-leak", help="Train even where patches of a data set called test or valid leak in.")
    ] = False,
    seed: options.Seed = 0,
    name: Annotated[str | None, typer.Option(help="The run's name.", show_default="ARCH-1, ARCH-2, ...")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last.pt of --name, or of the newest run.")
    ] = False,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes on this machine, each with a GPU or its share of the cores.")
    ] = 1,
    folds: Annotated[
        int | None,
        typer.Option(min=2, help="Cross-validate: a run NAME-fold1, ... for each of so many parts of the manifest."),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=2, help="A run NAME-seed0, ... for each of so many seeds from --seed on.")
    ] = None,
    json: options.Json = False,
) -> None:
    """Train a network on the balanced subset, validating each epoch."""
    asked = dict(locals())  # of the types above; in `ctx.params` older typers leave text
    state: State = ctx.obj
    from histocli.cli.live import LiveTraining
    from histocli.commands.train import stored_config
    from histocli.commands.train import train as command
    from histocli.compute.distributed import agents, joined, launched
    from histocli.compute.launch import launch
    from histocli.training.config import BATCH_SIZE, TrainConfig
    from histocli.training.provenance import interrupted_run

    if processes > 1 and not launched():
        launch(sys.argv[1:], processes)
        return
    given = {key: asked[key] for key in ctx.params if key not in _NOT_CONFIG}
    halve = batch_size == options.AUTO
    config = TrainConfig(**given | {"batch_size": batch_size or BATCH_SIZE})
    if folds or seeds:
        _train_repeats(ctx, config, halve)
        return
    with joined() as world, LiveTraining(state.report) as listener:
        here = agents(world)
        if again := world.lead(lambda: interrupted_run(state.workspace, here)):
            name, resume = again, True
        if resume:
            name, config = world.lead(lambda: stored_config(state.workspace, name))
            _refuse_changes(ctx, config)
            if _given(ctx, "device", "ENVIRONMENT"):
                config = replace(config, device=device)  # the one thing that may differ: where it goes on
        _refuse_idle(ctx, config)
        result = command(state.workspace, config, name=name, resume=resume, halve=halve, listener=listener, world=world)
    best = result.best
    if not result.steps:
        state.report.note(f"{result.run} has all its {config.epochs} epochs already; nothing to be done")
    state.report.note(
        f"best epoch {best['epoch']}: validation AUC {number(best['val_auc'])}, accuracy {best['val_accuracy']:.4f}"
    )
    state.report.done(f"wrote {result.run_dir} in {result.seconds:,.0f} s", "histo eval --ckpt best.pt")
    if json and world.leads:
        write_out(dumps({"run": result.run, "run_dir": str(result.run_dir), **best}, indent=2) + "\n")


def _train_repeats(ctx: typer.Context, config: "TrainConfig", halve: bool) -> None:
    """Train several runs of one recipe, and show their figures with mean and spread."""
    state: State = ctx.obj
    from histocli.cli.live import LiveTraining
    from histocli.cli.render import show_repeats
    from histocli.commands.train import stored_config, train_repeats
    from histocli.compute.distributed import agents, joined
    from histocli.schema import to_json
    from histocli.training.provenance import interrupted_run
    from histocli.training.repeats import first_begun

    folds, seeds = (ctx.params[key] or 0 for key in ("folds", "seeds"))
    name: str | None = ctx.params["name"]
    with joined() as world:
        here = agents(world)
        again = world.lead(lambda: interrupted_run(state.workspace, here)) or ""
        name, resume = name or re.sub(r"-(fold|seed)\d+$", "", again) or None, ctx.params["resume"] or bool(again)
        kind = "folds" if folds else "seeds"
        if resume and name and (first := world.lead(lambda: first_begun(state.workspace, name, kind))):
            stored = world.lead(lambda: stored_config(state.workspace, first))[1]
            config = replace(
                stored,
                data=config.data if folds else stored.data,  # folds have manifests of their own by now
                device=config.device if _given(ctx, "device", "ENVIRONMENT") else stored.device,
            )
            _refuse_changes(ctx, config)
        _refuse_idle(ctx, config)
        report = train_repeats(
            state.workspace,
            config,
            folds=folds,
            seeds=seeds,
            name=name,
            resume=resume,
            halve=halve,
            listen=lambda: LiveTraining(state.report),
            world=world,
        )
        leads = world.leads
    show_repeats(state.report, report)
    members = " ".join(f"--ckpt {run.run}" for run in report.runs)
    state.report.done(f"wrote {report.name}-{report.kind}.json", f"histo eval {members} --data NAME")
    if ctx.params["json"] and leads:
        write_out(dumps(to_json(report), indent=2) + "\n")


def _refuse_changes(ctx: typer.Context, stored: "TrainConfig") -> None:
    """A run goes on as it began: an option given anew must be the one it has."""
    for key, value in vars(stored).items():
        same = ctx.params[key] in (value, options.AUTO) if key == "batch_size" else ctx.params.get(key) == value
        if key != "device" and _given(ctx, key) and not same:
            flag = "--" + key.replace("_", "-")
            raise UsageError(f"{flag} {ctx.params[key]}: the run has {value}", f"leave {flag} out, or start a run anew")


def _refuse_idle(ctx: typer.Context, config: "TrainConfig") -> None:
    """An option that would change nothing is an error in what was asked for."""
    for key in ("augment", "rotate", "compile"):
        if config.freeze and _given(ctx, key):
            raise UsageError(f"--{key} means nothing with --freeze: each patch is seen once, as it is")


def _given(ctx: typer.Context, key: str, *sources: str) -> bool:
    """Whether the option stands on the command line, or comes from another of the `sources`."""
    source = ctx.get_parameter_source(key)
    return source is not None and source.name in ("COMMANDLINE", *sources)
