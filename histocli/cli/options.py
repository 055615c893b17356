"""Options that several commands share, and some of `histo train`."""

import os
from collections.abc import Callable
from glob import escape
from pathlib import Path
from typing import Annotated

import typer

from histocli.architectures import ARCHITECTURES, ENCODERS
from histocli.config import CHECKPOINT, MAX_SEED
from histocli.enums import Device, Engine, HeadKind, Precision, Resize, Weights
from histocli.workspace import Workspace, find_workspace

Completer = Callable[[typer.Context, str], list[str]]

AUTO = 0  # the value of `--batch-size auto`

# The panels of a command's help.
DATA, MODEL, TRAINING, COMPUTE, OUTPUT = "Data", "Model", "Training", "Computing", "Output"
SLIDES = "Whole slides"


def parse_batch_size(text: str | int) -> int:
    """Return the value of `--batch-size`: a number of at least 1, or `AUTO`."""
    if text == "auto" or (text == AUTO and isinstance(text, int)):
        return AUTO
    try:
        size = int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a whole number nor auto.") from None
    if size < 1:
        raise typer.BadParameter(f"{text} is not in the range x>=1.")
    return size


def is_given(ctx: typer.Context, option: str, *sources: str) -> bool:
    """Return whether an option is on the command line, or comes from one of `sources`, such as "ENVIRONMENT"."""
    source = ctx.get_parameter_source(option)
    return source is not None and source.name in ("COMMANDLINE", *sources)


def list_given(ctx: typer.Context) -> set[str]:
    """Return the options that are on the command line; `device` is one of them too if HISTO_DEVICE gives it."""
    given = {option for option in ctx.params if is_given(ctx, option)}
    return given | {"device"} if is_given(ctx, "device", "ENVIRONMENT") else given


def _workspace(ctx: typer.Context) -> Workspace:
    """Return the workspace of a command line that is being completed, of which no command runs."""
    given = ctx.find_root().params.get("workspace")
    return Workspace(Path(given)) if given else find_workspace()


def _complete(list_names: Callable[[Workspace], list[str]], *, or_path: bool = False) -> Completer:
    """Return the function that completes an option with names of the workspace; if `or_path`, also with paths."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        names = [name for name in list_names(_workspace(ctx)) if name.startswith(incomplete)]
        if not names or not or_path:  # if there are no names, the shell itself completes paths
            return names
        paths = sorted(Path().glob(f"{escape(incomplete)}*"))
        return [*names, *(f"{path}{os.sep if path.is_dir() else ''}" for path in paths if path.name[0] != ".")]

    return complete


def _list_data(workspace: Workspace) -> list[str]:
    return [*workspace.list_datasets(), *workspace.list_subsets()]


complete_checkpoints = _complete(lambda workspace: [*workspace.list_checkpoints(), Weights.HISTONET_PCAM.value])
complete_runs = _complete(Workspace.list_runs)
complete_data = _complete(_list_data)
complete_data_or_path = _complete(_list_data, or_path=True)
complete_datasets = _complete(Workspace.list_datasets)
complete_inputs = _complete(Workspace.list_datasets, or_path=True)
complete_subsets = _complete(Workspace.list_subsets)


def complete_architectures(incomplete: str) -> list[str]:
    """Return the names that complete `--arch`, without those of torchvision and timm."""
    return [name for name in (*ARCHITECTURES, *ENCODERS) if name.startswith(incomplete)]


def split_checkpoint_names(ctx: typer.Context, names: list[str]) -> tuple[str, ...]:
    """Return the values of `--ckpt`; in an environment variable several are separated by a colon, as in PATH."""
    if names and is_given(ctx, "ckpt", "ENVIRONMENT") and not is_given(ctx, "ckpt"):
        text = os.environ.get("HISTO_CKPT") or os.environ[f"{ctx.auto_envvar_prefix}_CKPT"]
        return tuple(text.split(os.pathsep))
    return tuple(names)


CKPT_HELP = "A name in the workspace's checkpoints/, a run, or the path of a file: ./best.pt"
BEST = [CHECKPOINT]
Ckpt = Annotated[
    list[str],
    typer.Option(
        "--ckpt",
        envvar="HISTO_CKPT",
        metavar="NAME",
        help=f"{CKPT_HELP}; several are averaged.",
        autocompletion=complete_checkpoints,
        rich_help_panel=MODEL,
    ),
]
BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        parser=parse_batch_size,
        metavar="INTEGER|auto",
        help="Patches per forward pass; on a CPU, at most 64 for each core. auto: halve the default until it fits the "
        "memory.",
        rich_help_panel=COMPUTE,
    ),
]
Seed = Annotated[int, typer.Option(envvar="HISTO_SEED", min=0, max=MAX_SEED, help="Seed of all random numbers.")]
DeviceOption = Annotated[
    Device,
    typer.Option(
        "--device",
        envvar="HISTO_DEVICE",
        help="Where to compute; auto uses CUDA, else MPS, else the CPU.",
        rich_help_panel=COMPUTE,
    ),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option(
        "--precision",
        envvar="HISTO_PRECISION",
        help="Number format; auto uses the fastest one of the device.",
        rich_help_panel=COMPUTE,
    ),
]
EngineOption = Annotated[
    Engine,
    typer.Option(
        "--engine",
        help="What runs the network: PyTorch, or ONNX Runtime with the file of histo export; auto uses ONNX Runtime if "
        "this file exists and a CPU computes in fp32.",
        rich_help_panel=COMPUTE,
    ),
]
ResizeOption = Annotated[
    Resize,
    typer.Option(
        "--resize", help="How to change images that are not 96x96: cut out the centre, or scale.", rich_help_panel=DATA
    ),
]
AllowLeak = Annotated[
    bool,
    typer.Option(
        "--allow-leak",
        help="Train even if training patches share pixels or a slide with evaluation patches: those of a data set or "
        "split whose name has the word test or valid.",
        rich_help_panel=DATA,
    ),
]
Json = Annotated[
    bool, typer.Option("--json", envvar="HISTO_JSON", help="Print the result as one JSON document on stdout.")
]
Force = Annotated[bool, typer.Option("--force", help="Start over, replacing the files that exist.")]
Tta = Annotated[
    bool,
    typer.Option("--tta", help="Average over the eight flips and right-angle rotations.", rich_help_panel=MODEL),
]
Uncalibrated = Annotated[
    bool,
    typer.Option(
        "--uncalibrated",
        help="Do not calibrate the probabilities with the checkpoint's temperature.",
        rich_help_panel=MODEL,
    ),
]
Prevalence = Annotated[
    float | None,
    typer.Option(
        "--prevalence",
        metavar="SHARE",
        help="Share of tumour patches in the data to score, such as 0.05. The probabilities are adjusted to it.",
        show_default="that of the validation patches: 0.5 if the subset is balanced",
        rich_help_panel=MODEL,
    ),
]
Raw = Annotated[bool, typer.Option("--raw", hidden=True, help="Former name of --uncalibrated.")]

# Of `histo train`, for published networks.
Shots = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Train on only this many patches of each class, drawn with --seed.",
        show_default="all",
        rich_help_panel=DATA,
    ),
]
Lora = Annotated[
    int | None,
    typer.Option(
        "--lora",
        metavar="RANK",
        help="Fine-tune only small matrices of this rank beside the linear layers (LoRA). Needs histocli[lora].",
        show_default="all weights",
        rich_help_panel=MODEL,
    ),
]
Head = Annotated[
    HeadKind,
    typer.Option(
        help="With --freeze: linear, a trained layer; knn, the votes of the 20 most similar training patches.",
        rich_help_panel=MODEL,
    ),
]
