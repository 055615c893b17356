"""`histo download` and `histo balance`."""

from json import dumps
from pathlib import Path
from typing import Annotated, Any

import typer

from histocli.choices import Resize, SourceKind, Split
from histocli.cli import options
from histocli.cli.app import State, app
from histocli.console import write_out
from histocli.errors import UsageError


@app.command()
def download(
    ctx: typer.Context,
    source: Annotated[SourceKind, typer.Option(help="Where the patches come from.")] = SourceKind.KAGGLE,
    location: Annotated[
        list[str] | None,
        typer.Option(
            "--from",
            help="Archive, folder or base URL to read instead; several may be given.",
            metavar="PATH|URL",
            envvar="HISTO_DOWNLOAD_FROM",
        ),
    ] = None,
    name: Annotated[str | None, typer.Option(help="The data set's name.", show_default="the source's")] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV with the columns id,label (folder).")] = None,
    slides: Annotated[Path | None, typer.Option(help="CSV with the columns id,wsi: each patch's slide.")] = None,
    n: Annotated[
        int | None,
        typer.Option("--n", min=1, help="This many patches, drawn with the seed.", show_default="all; 8,000 synthetic"),
    ] = None,
    resize: options.ResizeOption = Resize.CROP,
    seed: options.Seed = 0,
    force: options.Force = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, and how large it is.")] = False,
    json: options.Json = False,
) -> None:
    """Bring patches into the workspace, packed into one array."""
    state: State = ctx.obj
    from histocli.cli.sources import SourceOptions, open_source, plan
    from histocli.commands import download as command
    from histocli.commands.balance import SUBSET

    wanted = SourceOptions(source, tuple(location or ()), labels, slides, n, resize, seed, force)
    title = name or source.value
    if title == SUBSET:
        raise UsageError(f"--name {title} is the name of what histo balance writes", "choose another")
    if dry_run:
        files = plan(wanted, state.workspace)
        state.report.table("would be fetched", ["file", "size", "here already"], files)
        if json:
            write_out(dumps([{"file": f, "size": s, "here": h == "yes"} for f, s, h in files], indent=2) + "\n")
        return
    found = None if force else command.existing(state.workspace, title, wanted.request)
    if found:
        state.report.done(
            f"{found.name} is packed already: {found.patches:,} patches; nothing to be done", "histo balance"
        )
        dataset = found
    else:
        opened = open_source(wanted, state.workspace, state.report)
        total = min((n for n in (wanted.n, opened.total) if n is not None), default=None)
        with state.report.bar("packing", total=total) as bar:
            dataset = command.download(
                state.workspace,
                title,
                source.value,
                opened,
                wanted.request,
                n=wanted.n,
                seed=wanted.seed,
                on_progress=lambda done: bar(done, total),
                on_unreadable=lambda patch, error: state.report.warn(str(error)),
            )
        for file, digest in dataset.checksums.items():
            state.report.detail(f"{file}: {digest}")
        for note in dataset.notes:
            state.report.note(note)
        rows: list[list[Any]] = [["patches packed", dataset.patches], *map(list, dataset.counts.items())]
        state.report.table(dataset.name, ["", "count"], rows)
        path = state.workspace.patches_path(title)
        state.report.done(f"wrote {path} and {state.workspace.manifest_path(title)}", f"histo balance --data {title}")
    if json:
        write_out(dumps(vars(dataset), indent=2) + "\n")


@app.command()
def balance(
    ctx: typer.Context,
    n: Annotated[str, typer.Option("--n", help="Patches in the subset, half of each class; or max.")] = "160000",
    data: Annotated[str | None, typer.Option(help="The data set.", show_default="the only one, else kaggle")] = None,
    val_fraction: Annotated[float, typer.Option(help="Share of the subset that validates.")] = 0.1,
    split: Annotated[
        Split | None,
        typer.Option(help="What train and validation never share; random leaks.", show_default="slide where known"),
    ] = None,
    seed: options.Seed = 0,
    json: options.Json = False,
) -> None:
    """Draw the balanced subset and split it into train and validation."""
    state: State = ctx.obj
    from histocli.commands.balance import BalanceConfig
    from histocli.commands.balance import balance as command

    if n != "max" and not n.isdecimal():
        raise UsageError(f"--n {n} is not a whole number", "give an even number, or max for all there is")
    names = state.workspace.dataset_names()
    chosen = data or (names[0] if len(names) == 1 else "kaggle")
    config = BalanceConfig(chosen, None if n == "max" else int(n), val_fraction, seed, split)
    report = command(state.workspace, config)
    dropped = {name.replace("_", " "): count for name, count in report["dropped"].items() if count}
    if dropped:
        state.report.note("dropped: " + ", ".join(f"{count:,} {name}" for name, count in dropped.items()))
    rows = [[part, c["negative"], c["positive"], c["slides"] or "unknown"] for part, c in report["counts"].items()]
    state.report.table(
        f"balanced from {chosen}, by {report['split']}", ["split", "negative", "positive", "slides"], rows
    )
    if report["leaks"]:
        state.report.warn(
            "a random split leaks: patches of one slide stand on both sides, so validation figures flatter; "
            "--split slide, where slides are known, does not"
        )
    state.report.done(f"wrote {state.workspace.manifest_path('balanced')}", "histo train")
    if json:
        write_out(dumps(report, indent=2) + "\n")
