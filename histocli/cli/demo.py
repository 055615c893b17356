"""`histo demo`."""

import os
import shlex
import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

import typer

from histocli.atomic import read_json
from histocli.cli import options
from histocli.cli.app import State, app, command
from histocli.config import CHECKPOINT
from histocli.console import Reporter, format_cell
from histocli.enums import Device
from histocli.errors import HistoError
from histocli.workspace import Workspace


@command(
    "histo demo",
    "histo demo --keep demo-workspace --epochs 10",
)
def demo(
    ctx: typer.Context,
    keep: Annotated[
        Path | None,
        typer.Option(
            help="Keep the workspace in this folder, which is new or empty.",
            show_default="keep the plots, the report and the checkpoint",
        ),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=400, help="Number of synthetic patches.")] = 5_000,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the training patches.")] = 3,
    seed: options.Seed = 0,
    device: options.DeviceOption = Device.AUTO,
    slides: Annotated[
        bool, typer.Option("--slides", help="Draw two synthetic whole slides too, and map and measure their tumours.")
    ] = False,
) -> None:
    """Run the whole pipeline on synthetic patches or slides."""
    state: State = ctx.obj
    if keep is not None and keep.is_file():
        raise HistoError(f"--keep {keep} is a file", "give a new or an empty folder")
    if keep is not None and keep.is_dir() and any(keep.iterdir()):
        raise HistoError(f"--keep {keep}: the folder is not empty", "give a new or an empty folder")
    if slides:
        from histocli.slides.reading import require_slide_packages

        require_slide_packages()
    workspace = Workspace(keep or Path(mkdtemp(prefix="histo-demo-")))
    flags = {"--quiet": state.reporter.quiet, "--verbose": state.reporter.verbose}
    common = ["--workspace", str(workspace.root), *(flag for flag, is_given in flags.items() if is_given)]
    try:
        make_steps = _make_slide_steps if slides else _make_steps
        for step in make_steps(workspace.root, n, epochs, seed, device):
            state.reporter.print_heading("histo " + shlex.join(step))
            _run(common, step)
        _show_summary(state.reporter, workspace)
        for path in sorted((workspace.root / "maps").glob("*/heatmap.png")):  # the plots are kept
            shutil.copyfile(path, workspace.plots_dir / f"{path.parent.name}-heatmap.png")
    finally:
        if keep is None:
            _remove_all_but(workspace.root, [workspace.plots_dir, workspace.checkpoints_dir])
    reports = sorted(workspace.plots_dir.glob("*-report.html"))
    pages = "".join(f"; open {path.relative_to(workspace.root)} in a browser" for path in reports)
    if keep is None:
        best = workspace.checkpoints_dir / CHECKPOINT
        named = ", the report" if reports else ""
        kept = f"kept the plots{named} and the checkpoint in {workspace.root}, removed all other files{pages}"
        state.reporter.print_done(kept, f"histo predict FOLDER --ckpt {shlex.quote(str(best))}")
    else:
        state.reporter.print_done(f"everything is in {keep}{pages}", f"histo -w {shlex.quote(str(keep))} eval --tta")


def _remove_all_but(root: Path, kept: list[Path]) -> None:
    """Remove everything in `root` but the folders `kept`; if none of these exists, remove `root` too."""
    for path in root.iterdir():
        if path.is_dir() and path not in kept:
            shutil.rmtree(path)
        elif path not in kept:
            path.unlink()
    if not any(path.exists() for path in kept):
        root.rmdir()


def _make_steps(root: Path, n: int, epochs: int, seed: int, device: Device) -> list[list[str]]:
    """Return the command lines of the pipeline."""
    seeded = ["--seed", str(seed)]
    return [
        ["download", "--source", "synthetic", "--n", str(n), *seeded],
        ["balance", "--n", "max", "--val-fraction", "0.2", *seeded],
        ["train", "--epochs", str(epochs), "--device", device.value, *seeded],
        ["eval", "--ckpt", "best.pt", "--device", device.value],
        ["predict", "synthetic", "--ckpt", "best.pt", "--device", device.value, "--out", str(root / "preds.csv")],
        ["plot"],
        ["report"],
    ]


_SLIDE_SIDE = 6_000  # pixels of 0.243 micrometres


def _make_slide_steps(root: Path, n: int, epochs: int, seed: int, device: Device) -> list[list[str]]:
    """Return the command lines of the pipeline of whole slides: it trains on patches, and maps two slides."""
    drawn = root / "downloads" / "synthetic-slides" / f"seed-{seed}-side-{_SLIDE_SIDE}"
    slides = ["--slide-count", "2", "--slide-side", str(_SLIDE_SIDE), "--n", "200", "--seed", str(seed)]
    common = ["--ckpt", "best.pt", "--device", device.value]
    return [
        *_make_steps(root, n, epochs, seed, device)[:4],
        ["download", "--source", "synthetic-slides", *slides],
        ["predict", str(drawn / "slides"), *common, "--step", "32", "--out", str(root / "maps")],
        ["eval", "--maps", str(root / "maps"), "--annotations", str(drawn / "annotations")],
        ["report", "--maps", str(root / "maps")],
    ]


def _run(common: list[str], step: list[str]) -> None:
    """Run a command of this application in this process, so that PyTorch is loaded once.

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


def _show_summary(reporter: Reporter, workspace: Workspace) -> None:
    """Show the metrics of the demo's evaluation; `histo plot` has just listed the plots."""
    from histocli.metrics.registry import find_metric_title

    for path in sorted(workspace.metrics_dir.glob("*-val.json")):
        metrics = read_json(path)["metrics"]
        reporter.print_heading("results")
        reporter.print_table(
            "",
            ["metric on the validation slides", "value"],
            [[find_metric_title(name), format_cell(value)] for name, value in metrics.items()],
        )
