"""`histo download`."""

from contextlib import ExitStack
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histocli.cli import options
from histocli.cli.app import State, command
from histocli.cli.sources import DownloadBars, check_variable, with_source_options
from histocli.config import MIN_PACKED, PackConfig
from histocli.fs import format_bytes
from histocli.sources import SOURCE_NAMES, find_source_type
from histocli.sources.options import make_source_options
from histocli.stdio import write_out_json

if TYPE_CHECKING:
    from histocli.commands.download import DownloadConfig
    from histocli.data.dataset import Dataset
    from histocli.sources import PlannedFile


SourceName = StrEnum("SourceName", [(name.upper(), name) for name in SOURCE_NAMES])  # type: ignore[misc]
DEFAULT_SOURCE = SourceName(SOURCE_NAMES[0])
_DEFAULT_N = "; ".join(
    [
        "all",
        *(f"{n:,} for {name}" for name in SOURCE_NAMES if (n := getattr(find_source_type(name).options, "n", None))),
    ]
)


@command(
    "histo download",
    "histo download --source folder --from patches/ --labels labels.csv --name mine",
)
@with_source_options
def download(
    ctx: typer.Context,
    source: Annotated[SourceName, typer.Option(help="Where the patches come from.")] = DEFAULT_SOURCE,
    name: Annotated[str | None, typer.Option(help="Name of the data set.", show_default="name of the source")] = None,
    n: Annotated[
        int | None,
        typer.Option(
            "--n",
            min=MIN_PACKED,
            help="Number of patches, drawn at random.",
            show_default=_DEFAULT_N,
        ),
    ] = PackConfig.n,
    seed: options.Seed = PackConfig.seed,
    force: options.Force = PackConfig.force,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show which files would be downloaded, and their sizes.")
    ] = False,
    json: options.Json = False,
    *,
    declared: dict[str, Any],
) -> None:
    """Download patches, or read your own, and pack them."""
    state: State = ctx.obj
    from histocli.commands.download import DownloadConfig, check_request, find_dataset, plan_download
    from histocli.data.dataset import make_balance_command

    config = DownloadConfig(
        source.value, make_source_options(source.value, declared, n, seed), n=n, seed=seed, force=force
    )
    title = name or source.value
    check_request(state.workspace, title, config)
    if dry_run:
        _show_plan(state, plan_download(config, state.workspace), json)
        return
    dataset = None if force else find_dataset(state.workspace, title, config)
    if dataset is None:
        dataset = _pack(state, title, config)
    else:
        state.workspace.tidy()
        message = f"{dataset.name} is packed already: {dataset.patches:,} patches; nothing to do"
        if find_source_type(source.value).has_user_files:
            message += " (if the files have changed, --force packs them again)"
        state.reporter.print_done(message, make_balance_command(dataset.name, dataset.patches))
    if json:
        write_out_json(vars(dataset))


def _show_plan(state: State, files: "list[PlannedFile]", json: bool) -> None:
    """Show the files that a download would fetch."""
    rows = [[file.name, _format_size(file), "yes" if file.is_here else "no"] for file in files]
    state.reporter.print_table("files to download", ["file", "size", "already here"], rows)
    if all(file.is_here for file in files):
        state.reporter.note("nothing has to be downloaded")
    if json:
        write_out_json([{"file": f.name, "size": f.size, "unit": f.unit, "here": f.is_here} for f in files])


def _format_size(file: "PlannedFile") -> str:
    """Format the size of a file that would be downloaded."""
    if file.size is None:
        return "-" if file.is_here else "unknown"  # the size of a folder is not measured
    return format_bytes(file.size) if file.unit == "bytes" else f"{file.size:,} {file.unit}"


def _pack(state: State, title: str, config: "DownloadConfig") -> "Dataset":
    """Fetch and pack what `config` asks for, and report the result."""
    from histocli.commands.download import download as run_download
    from histocli.data.dataset import make_balance_command

    check_variable(config)
    with ExitStack() as shown:
        dataset = run_download(state.workspace, title, config, listener=DownloadBars(state.reporter, shown))
    for file, digest in dataset.checksums.items():
        state.reporter.print_detail(f"{file}: {digest}")
    for note in dataset.notes:
        state.reporter.note(note)
    next_command = make_balance_command(title, dataset.patches)
    rows: list[list[Any]] = [["patches packed", dataset.patches], *map(list, dataset.counts.items())]
    state.reporter.print_table(dataset.name, ["", "count"], rows)
    path = state.workspace.patches_path(title)
    if not dataset.labels:
        state.reporter.note(
            "no patch has a label, so histo predict can score the patches, but balance, train and eval cannot use them"
        )
        next_command = f"histo predict {title}"
    elif len(dataset.labels) == 1:
        which = f"all labels are {dataset.labels[0]}"
        state.reporter.note(f"{which}, so histo predict can score the patches, but balance needs both labels")
        next_command = f"histo predict {title}"
    state.reporter.print_done(f"wrote {path} and {state.workspace.manifest_path(title)}", next_command)
    return dataset
