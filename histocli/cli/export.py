"""`histo export`."""

from pathlib import Path
from typing import Annotated

import typer

from histocli.cli.app import State, command
from histocli.cli.options import CKPT_HELP, complete_checkpoints
from histocli.config import ExportConfig
from histocli.enums import ExportFormat


@command(
    "histo export --ckpt best.pt --out model.onnx",
    "histo export --format wsinfer --out network",
)
def export(
    ctx: typer.Context,
    ckpt: Annotated[
        str,
        typer.Option(
            "--ckpt", envvar="HISTO_CKPT", metavar="NAME", help=f"{CKPT_HELP}.", autocompletion=complete_checkpoints
        ),
    ] = ExportConfig.ckpt,
    out: Annotated[
        Path | None, typer.Option("--out", help="File or folder to write.", show_default="in the workspace's exports/")
    ] = ExportConfig.out,
    format: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="onnx (needs histocli[onnx]); pt2 (torch.export); or wsinfer, a folder for WSInfer and QuPath.",
        ),
    ] = ExportConfig.format,
) -> None:
    """Write a checkpoint as a file or folder that runs without histo.

    Its input is a float array of RGB images (N,3,96,96) in [0, 1]. Its outputs are calibrated probabilities of tumour
    (N,) and uncalibrated log odds (N,). An ONNX file that was written without --out is used by eval and predict instead
    of the checkpoint when they compute in fp32 on a CPU.
    """
    state: State = ctx.obj
    from histocli.commands.export import export as run_export

    report = run_export(state.workspace, ExportConfig(ckpt=ckpt, out=out, format=format))
    state.reporter.note(
        f"the exported probabilities of {report.patches} differ from those of {ckpt} by at most {report.difference:.1g}"
    )
    state.reporter.print_done(f"wrote {report.path}")
