"""`histo export`."""

from pathlib import Path
from typing import Annotated

import typer

from histocli.cli.app import State, app
from histocli.config import ExportFormat


@app.command()
def export(
    ctx: typer.Context,
    ckpt: Annotated[
        str,
        typer.Option("--ckpt", envvar="HISTO_CKPT", help="A file, a name in the workspace's checkpoints/, or a run."),
    ] = "best.pt",
    out: Annotated[
        Path | None, typer.Option("--out", help="File to write.", show_default="in the workspace's exports/")
    ] = None,
    format: Annotated[
        ExportFormat, typer.Option("--format", help="ONNX, which needs histocli[onnx], or torch.export's.")
    ] = ExportFormat.ONNX,
) -> None:
    """Write a checkpoint as one file that runs without histo.

    It takes float RGB images (N,3,96,96) in [0, 1] and gives calibrated probabilities of tumour (N,) and log odds (N,).
    Without --out, eval and predict run an ONNX file in its checkpoint's place wherever they compute in fp32 on a CPU.
    """
    state: State = ctx.obj
    from histocli.commands.export import ExportConfig
    from histocli.commands.export import export as command

    done = command(state.workspace, ExportConfig(out, ckpt, format))
    state.report.note(f"on {done.patches} it differs from {ckpt} by {done.difference:.1g} at most")
    state.report.done(f"wrote {done.path}")
