"""`histo download`."""

from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histocli.cli import options
from histocli.cli.app import State, command
from histocli.config import SUBSET, DownloadConfig, SourceKind
from histocli.console import write_out
from histocli.errors import UsageError

if TYPE_CHECKING:
    from histocli.cli.sources import SourceOptions
    from histocli.commands.download import Dataset


@command(
    "histo download",
    "histo download --source folder --from patches/ --labels labels.csv --name mine",
)
def download(
    ctx: typer.Context,
    source: Annotated[SourceKind, typer.Option(help="Where the patches come from.")] = DownloadConfig.source,
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
    resize: options.ResizeOption = DownloadConfig.resize,
    seed: options.Seed = DownloadConfig.seed,
    force: options.Force = DownloadConfig.force,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be fetched, and how large it is.")] = False,
    json: options.Json = False,
) -> None:
    """Bring patches into the workspace, packed into one array."""
    state: State = ctx.obj
    from histocli.cli.sources import SourceOptions, plan
    from histocli.commands.balance import is_subset
    from histocli.commands.download import existing

    wanted = SourceOptions(source, tuple(location or ()), labels, slides, n, resize, seed, force)
    title = name or source.value
    if title == SUBSET or is_subset(state.workspace, title):
        raise UsageError(f"--name {title} is the name of a subset that histo balance writes", "give another name")
    if dry_run:
        files = plan(wanted, state.workspace)
        state.report.table("would be fetched", ["file", "size", "here already"], files)
        if json:
            write_out(dumps([{"file": f, "size": s, "here": h == "yes"} for f, s, h in files], indent=2) + "\n")
        return
    dataset = None if force else existing(state.workspace, title, wanted.request)
    if dataset is None:
        dataset = _pack(state, title, wanted)
    else:
        state.workspace.tidy()
        told = f"{dataset.name} is packed already: {dataset.patches:,} patches; nothing to be done"
        if dataset.source == SourceKind.FOLDER:
            told += " (as the files were then: --force packs them anew)"
        state.report.done(told, "histo balance")
    if json:
        write_out(dumps(vars(dataset), indent=2) + "\n")


def _pack(state: State, title: str, wanted: "SourceOptions") -> "Dataset":
    """Fetch and pack what is wanted, and say what came of it."""
    from histocli.cli.sources import open_source
    from histocli.commands.download import at_work_on
    from histocli.commands.download import download as run_download

    source, fetch = open_source(wanted, state.workspace, state.report)
    with at_work_on(state.workspace, title):
        fetch()
        total = min((n for n in (wanted.n, source.total) if n is not None), default=None)
        with state.report.bar("packing", total=total) as bar:
            dataset = run_download(
                state.workspace,
                title,
                wanted.kind.value,
                source,
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
    return dataset
