"""`histo train`."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from histocli.architectures import ARCHITECTURES, ENCODERS
from histocli.cli import options
from histocli.cli.app import State, command, find_arguments
from histocli.cli.listener import ConsoleListener
from histocli.cli.options import COMPUTE, DATA, MODEL, TRAINING
from histocli.config import CHECKPOINT, PACKAGED_ARCH, TrainConfig
from histocli.console import format_cell
from histocli.enums import Augment, Rotate, Track, Weights
from histocli.schema import Json
from histocli.stdio import write_out_json
from histocli.text import format_count

if TYPE_CHECKING:
    from histocli.commands.train import TrainReport
    from histocli.compute.ddp import Ranks
    from histocli.reports.repeats import RepeatsReport

_RUNS = "Runs"


@command(
    "histo train --epochs 12",
    "histo train --arch resnet18 --weights pretrained --name resnet",
)
def train(
    ctx: typer.Context,
    data: Annotated[
        str,
        typer.Option(
            help="Subset to train on, which histo balance --name wrote.",
            autocompletion=options.complete_subsets,
            rich_help_panel=DATA,
        ),
    ] = TrainConfig.data,
    shots: options.Shots = TrainConfig.shots,
    augment: Annotated[
        Augment,
        typer.Option(
            help="Random changes of the training patches. flips: flips, and rotations as --rotate says; full: also "
            "stain jitter, small changes of the colours of both stains; sharpness: each patch is also blurred or "
            "sharpened a little.",
            rich_help_panel=DATA,
        ),
    ] = TrainConfig.augment,
    rotate: Annotated[
        Rotate,
        typer.Option(
            help="How training patches are rotated. right: by 0, 90, 180 or 270 degrees. any: by any angle, with a "
            "small change of scale and position. auto: any for a network that first makes patches smaller, such as "
            "histonet-64; right for all others, because rotation by other angles blurs a patch.",
            rich_help_panel=DATA,
        ),
    ] = TrainConfig.rotate,
    allow_leak: options.AllowLeak = TrainConfig.allow_leak,
    arch: Annotated[
        str,
        typer.Option(
            help=f"{', '.join(ARCHITECTURES)}; a published encoder, with its weights: {', '.join(ENCODERS)}; a "
            "torchvision classifier such as resnet18; or timm/NAME, where NAME may be hf-hub:OWNER/MODEL or "
            "local-dir:FOLDER.",
            autocompletion=options.complete_architectures,
            rich_help_panel=MODEL,
        ),
    ] = TrainConfig.arch,
    weights: Annotated[
        Weights,
        typer.Option(
            help="Weights to start from. pretrained, or imagenet: those that were published for --arch. "
            f"histonet-pcam: those of the trained network that comes with histo, a {PACKAGED_ARCH}.",
            rich_help_panel=MODEL,
        ),
    ] = TrainConfig.weights,
    freeze: Annotated[
        bool,
        typer.Option(
            "--freeze",
            help="Train only the last layer, on features computed once, without augmentation.",
            rich_help_panel=MODEL,
        ),
    ] = TrainConfig.freeze,
    lora: options.Lora = TrainConfig.lora,
    head: options.Head = TrainConfig.head,
    threshold: Annotated[
        str,
        typer.Option(
            "--threshold",
            metavar="NUMBER|RULE",
            help="A patch is predicted as tumour at this probability or above: a number, or a rule for the validation "
            "patches: youden, sensitivity=0.95 or specificity=0.9. It is saved in the checkpoint.",
            rich_help_panel=MODEL,
        ),
    ] = TrainConfig.threshold,
    epochs: Annotated[
        int,
        typer.Option(
            help="Passes over the training patches; with --resume, a larger number extends a finished run.",
            rich_help_panel=TRAINING,
        ),
    ] = TrainConfig.epochs,
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            parser=options.parse_batch_size,
            metavar="INTEGER|auto",
            help="Patches per step; auto halves the default until a step fits the memory.",
            show_default="128; 512 on a GPU for 30,000 patches or more",
            rich_help_panel=TRAINING,
        ),
    ] = TrainConfig.batch_size,
    lr: Annotated[
        float | None,
        typer.Option(
            help="Highest learning rate of the cycle.",
            show_default="0.003, scaled to the batch size; a tenth with --weights histonet-pcam",
            rich_help_panel=TRAINING,
        ),
    ] = TrainConfig.lr,
    backbone_lr: Annotated[
        float,
        typer.Option(
            help="Learning rate of the layers below the last one of a pretrained network, as a fraction of --lr.",
            rich_help_panel=TRAINING,
        ),
    ] = TrainConfig.backbone_lr,
    seed: options.Seed = TrainConfig.seed,
    name: Annotated[
        str | None,
        typer.Option(
            help="The run's name.",
            show_default="ARCH-1, ARCH-2, ...",
            autocompletion=options.complete_runs,
            rich_help_panel=_RUNS,
        ),
    ] = TrainConfig.name,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume", help="Continue from the last.pt of --name, or of the newest run.", rich_help_panel=_RUNS
        ),
    ] = TrainConfig.resume,
    folds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Cross-validate: train this many runs, NAME-fold1, ..., each validated on another part of the subset.",
            rich_help_panel=_RUNS,
        ),
    ] = TrainConfig.folds,
    seeds: Annotated[
        int | None,
        typer.Option(
            min=2,
            help="Train this many runs, NAME-seed0, ..., with the seeds --seed, --seed + 1, ...",
            rich_help_panel=_RUNS,
        ),
    ] = TrainConfig.seeds,
    track: Annotated[
        list[Track] | None,
        typer.Option(
            help="Send the configuration and the metrics to a tracker; may be repeated. Needs its extra, for example "
            "histocli[tensorboard].",
            show_default="none",
            rich_help_panel=_RUNS,
        ),
    ] = None,
    device: options.DeviceOption = TrainConfig.device,
    precision: options.PrecisionOption = TrainConfig.precision,
    compile: Annotated[
        bool, typer.Option("--compile", help="Compile the network first (torch.compile).", rich_help_panel=COMPUTE)
    ] = TrainConfig.compile,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic",
            help="The same seed gives the same weights on CUDA too; this is slower.",
            rich_help_panel=COMPUTE,
        ),
    ] = TrainConfig.deterministic,
    processes: Annotated[
        int,
        typer.Option(
            min=1,
            help="Number of processes on this machine; each uses one GPU, or a share of the cores.",
            rich_help_panel=COMPUTE,
        ),
    ] = 1,
    json: options.Json = False,
) -> None:
    """Train a network on the balanced subset."""
    state: State = ctx.obj
    from histocli.compute.ddp import connect_processes
    from histocli.compute.launch import launch
    from histocli.compute.rendezvous import is_distributed
    from histocli.trackers import check_packages

    check_packages(track or ())
    if processes > 1 and not is_distributed():
        launch(find_arguments(ctx), processes)
        return
    config = TrainConfig(
        epochs=epochs,
        arch=arch,
        weights=weights,
        data=data,
        batch_size=batch_size or TrainConfig.batch_size,
        lr=lr,
        precision=precision,
        device=device,
        augment=augment,
        rotate=rotate,
        compile=compile,
        seed=seed,
        freeze=freeze,
        head=head,
        lora=lora,
        shots=shots,
        backbone_lr=backbone_lr,
        threshold=threshold,
        allow_leak=allow_leak,
        deterministic=deterministic,
        can_halve_batch=batch_size == options.AUTO,
        name=name,
        resume=resume,
        folds=folds,
        seeds=seeds,
        track=tuple(track or TrainConfig.track),
    )
    given = options.list_given(ctx)
    with connect_processes() as ranks:
        result = _train(state, config, given, ranks)
        if json and ranks.is_rank0:
            write_out_json(result)


def _train(state: State, config: TrainConfig, given: set[str], ranks: "Ranks") -> Json:
    """Train one run, or one for each fold or seed; show the result, and return what `--json` prints."""
    from histocli.cli.live import LiveTraining
    from histocli.commands.train import train as run_train
    from histocli.commands.train_repeats import train_repeats
    from histocli.trackers import TrackerListener
    from histocli.training.listeners import Listeners

    reporter = state.reporter
    with TrackerListener(config.track, ConsoleListener(reporter)) as trackers, LiveTraining(reporter) as live:
        listener = Listeners(trackers, live)
        if config.folds or config.seeds:
            repeats = train_repeats(state.workspace, config, given=given, listener=listener, ranks=ranks)
        else:
            run = run_train(state.workspace, config, given=given, listener=listener, ranks=ranks)
    return _show_repeats(state, repeats) if config.folds or config.seeds else _show_run(state, run)


def _show_run(state: State, report: "TrainReport") -> Json:
    """Show the best epoch of a run, and return what `--json` prints."""
    from histocli.cli.render import make_longer_command

    best = report.best
    if not report.steps:
        state.reporter.note(f"{report.run} is finished already: it has all its epochs")
    state.reporter.note(
        f"best epoch {best.epoch}: validation AUC {format_cell(best.val_auc)}, accuracy {best.val_accuracy:.4f}"
    )
    if report.single_class:
        command = make_longer_command(state.workspace, report.run)
        steps = format_count(best.step, "step")
        state.reporter.warn(
            f"at the threshold every validation patch is predicted as {report.single_class}"
            + (f": the best epoch has trained for only {steps}; train longer: {command}" if command else "")
        )
    ckpt = CHECKPOINT if report.is_published else report.run
    state.reporter.print_done(f"wrote {report.run_dir} in {report.seconds:,.0f} s", f"histo eval --ckpt {ckpt}")
    return {"run": report.run, "run_dir": str(report.run_dir), **asdict(best)}


def _show_repeats(state: State, report: "RepeatsReport") -> Json:
    """Show the mean and spread of the metrics of several runs, and return what `--json` prints."""
    from histocli.cli.render import show_repeats
    from histocli.reports.repeats import make_repeats_path
    from histocli.schema import to_json

    show_repeats(state.reporter, report, state.workspace)
    members = " ".join(f"--ckpt {run.run}" for run in report.runs)
    state.reporter.note(f"to average the probabilities of these networks, give histo predict or histo eval: {members}")
    shown = report.name if report.kind == "folds" else report.runs[0].run
    path = make_repeats_path(state.workspace, report.name, report.kind)
    state.reporter.print_done(f"wrote {path}", f"histo plot --run {shown}")
    return to_json(report)
