"""Options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

from histocli.config import Device, Engine, Precision, Resize

AUTO = 0  # as a batch size: a usual one, halved where memory is short


def batch_size(text: str | int) -> int:
    """The value of `--batch-size`: a number from 1 on, or `AUTO`."""
    if text == "auto" or (text == AUTO and isinstance(text, int)):
        return AUTO
    size = int(text)
    if size < 1:
        raise typer.BadParameter(f"{text} is not in the range x>=1.")
    return size


BatchSize = Annotated[
    int,
    typer.Option(
        "--batch-size",
        parser=batch_size,
        metavar="INTEGER|auto",
        help="Patches per forward pass, 64 at most for each core of a CPU; auto halves them where memory is short.",
    ),
]
Seed = Annotated[int, typer.Option(envvar="HISTO_SEED", min=0, max=2**32 - 1, help="Seed of everything random.")]
DeviceOption = Annotated[
    Device,
    typer.Option("--device", envvar="HISTO_DEVICE", help="Where to compute; auto takes CUDA, then MPS, then CPU."),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option("--precision", envvar="HISTO_PRECISION", help="Number format; auto takes the fastest."),
]
EngineOption = Annotated[
    Engine,
    typer.Option(
        "--engine",
        help="What runs the network: torch, or onnx on the file of histo export; auto takes that on a CPU in fp32.",
    ),
]
ResizeOption = Annotated[
    Resize, typer.Option("--resize", help="Images that are not 96x96: cut out the centre, or scale.")
]
Json = Annotated[
    bool, typer.Option("--json", envvar="HISTO_JSON", help="Print the result as one JSON document on stdout.")
]
Force = Annotated[bool, typer.Option("--force", help="Start over, replacing what is there.")]
Tta = Annotated[bool, typer.Option("--tta", help="Average over the eight flips and right-angle rotations.")]
Raw = Annotated[bool, typer.Option("--raw", help="Uncalibrated probabilities, without the checkpoint's temperature.")]

BEST = [Path("best.pt")]
Ckpt = Annotated[  # paths, so that the variable may hold several with the platform's separator between them
    list[Path],
    typer.Option(
        "--ckpt",
        envvar="HISTO_CKPT",
        metavar="NAME",
        help="A file, a name in the workspace's checkpoints/, or a run; of several, their mean.",
    ),
]
