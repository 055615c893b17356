"""Options that several commands share."""

from typing import Annotated

import typer

from histocli.choices import Device, Precision, Resize

Seed = Annotated[int, typer.Option(envvar="HISTO_SEED", min=0, max=2**32 - 1, help="Seed of everything random.")]
DeviceOption = Annotated[
    Device,
    typer.Option("--device", envvar="HISTO_DEVICE", help="Where to compute; auto takes CUDA, then MPS, then CPU."),
]
PrecisionOption = Annotated[
    Precision,
    typer.Option("--precision", envvar="HISTO_PRECISION", help="Number format; auto takes the fastest."),
]
ResizeOption = Annotated[
    Resize, typer.Option("--resize", help="Images that are not 96x96: cut out the centre, or scale.")
]
Json = Annotated[
    bool, typer.Option("--json", envvar="HISTO_JSON", help="Print the result as one JSON document on stdout.")
]
Force = Annotated[bool, typer.Option("--force", help="Start over, replacing what is there.")]
Tta = Annotated[bool, typer.Option("--tta", help="Average over the eight flips and right-angle rotations.")]
Ckpt = Annotated[
    str,
    typer.Option("--ckpt", envvar="HISTO_CKPT", help="A file, a name in the workspace's checkpoints/, or a run."),
]
Threshold = Annotated[
    float | None,
    typer.Option("--threshold", min=0, max=1, help="Probability from which a patch counts as tumour."),
]
