"""`histo demo`."""

import os
import shlex
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

import typer

from histocli.cli import options
from histocli.cli.app import State, app, command
from histocli.config import Device
from histocli.console import Reporter, number
from histocli.errors import HistoError
from histocli.workspace import Workspace, read_json


@command(
    "histo demo",
    "histo demo --keep demo-workspace --epochs 10",
)
def demo(
    ctx: typer.Context,
    keep: Annotated[
        Path | None, typer.Option(help="Keep the workspace in this new folder.", show_default="keep only the plots")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=400, help="Number of synthetic patches.")] = 5_000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training patches.")] = 3,
    seed: options.Seed = 0,
    device: options.DeviceOption = Device.AUTO,
) -> None:
    """Run the whole pipeline once, on synthetic patches."""
    state: State = ctx.obj
    if keep is not None and keep.is_dir() and any(keep.iterdir()):
        raise HistoError(f"--keep {keep}: the folder is not empty", "give a new folder")
    workspace = Workspace(keep or Path(mkdtemp(prefix="histo-demo-")))
    try:
        for step in _steps(workspace.root, n, epochs, seed, device):
            state.report.heading("histo " + shlex.join(step))
            _run(["--workspace", str(workspace.root), *(["--quiet"] if state.report.quiet else [])], step)
        _summary(state.report, workspace)
    finally:
        if keep is None:
            _remove_all_but(workspace.plots_dir)
    if keep is None:
        state.report.done("kept the plots, removed all other files", "histo demo --keep DIR")
    else:
        state.report.done(f"everything is in {keep}", f"histo -w {shlex.quote(str(keep))} eval --tta")


def _remove_all_but(folder: Path) -> None:
    """Remove everything else in the parent of `folder`; if `folder` does not exist, remove the parent too."""
    for path in folder.parent.iterdir():
        if path.is_dir() and path != folder:
            shutil.rmtree(path)
        elif path != folder:
            path.unlink()
    if not folder.exists():
        folder.parent.rmdir()


def _steps(root: Path, n: int, epochs: int, seed: int, device: Device) -> list[list[str]]:
    """Return the command lines of the pipeline."""
    seeded = ["--seed", str(seed)]
    return [
        ["download", "--source", "synthetic", "--n", str(n), *seeded],
        ["balance", "--n", "max", "--val-fraction", "0.2", *seeded],
        ["train", "--epochs", str(epochs), "--device", device.value, *seeded],
        ["eval", "--ckpt", "best.pt", "--device", device.value],
        ["predict", "synthetic", "--ckpt", "best.pt", "--device", device.value, "--out", str(root / "preds.csv")],
        ["plot"],
    ]


def _run(common: list[str], step: list[str]) -> None:
    """Run a command of this application in this process, so that torch is loaded once.

    Environment variables of the command's own options are ignored, because they are meant for other data.
    """
    ignored = {key: v for key, v in os.environ.items() if key.startswith(f"HISTO_{step[0].upper()}_")}
    for key in ignored:
        del os.environ[key]
    try:
        code = typer.main.get_command(app).main([*common, *step], prog_name="histo", standalone_mode=False)
    finally:
        os.environ.update(ignored)
    if code:
        raise typer.Exit(code)


def _summary(report: Reporter, workspace: Workspace) -> None:
    """Show the metrics of the demo's evaluation, and the paths of the plots."""
    from histocli.metrics.registry import metric_title

    for path in sorted(workspace.metrics_dir.glob("*-val.json")):
        metrics = read_json(path)["metrics"]
        report.heading("results")
        report.table(
            "",
            ["metric on unseen slides", "value"],
            [[metric_title(name), number(value)] for name, value in metrics.items()],
        )
    for path in sorted(workspace.plots_dir.iterdir()):
        report.note(str(path))
