"""`histo data`."""

from json import dumps

import typer

from histocli.cli import options
from histocli.cli.app import State, command
from histocli.fs import format_bytes
from histocli.stdio import write_out


@command(
    "histo data",
    "histo data --json",
)
def data(ctx: typer.Context, json: options.Json = False) -> None:
    """List the packed data sets and the balanced subsets."""
    state: State = ctx.obj
    from histocli.commands.data import list_data
    from histocli.schema import to_json

    inventory = list_data(state.workspace)
    if json:
        write_out(dumps(to_json(inventory), indent=2) + "\n")
    elif inventory.datasets:
        rows = [
            [
                one.name,
                one.source,
                f"{one.patches:,}",
                f"{one.normal:,}",
                f"{one.tumour:,}",
                f"{one.unlabelled:,}",
                f"{one.slides:,}" if one.slides else "-",
                format_bytes(one.bytes),
                ", ".join(f"{split} {count:,}" for split, count in (one.splits or {}).items()) or "-",
            ]
            for one in inventory.datasets
        ]
        columns = ["data set", "source", "patches", "normal", "tumour", "no label", "slides", "size", "splits"]
        state.report.listing(columns, rows)
        subsets = [
            [one.name, one.data, f"{one.train:,}", f"{one.val:,}", one.split or "-"] for one in inventory.subsets
        ]
        if subsets:
            write_out("\n")
            state.report.listing(["subset", "of", "train", "val", "split by"], subsets)
    problems = [(one.name, one.problem) for one in inventory.datasets]
    problems += [(one.name, one.problem) for one in inventory.subsets]
    for name, problem in problems:
        if problem:
            state.report.warn(f"{name}: {problem}")
    if not inventory.datasets:
        state.report.note(f"there are no data sets in {state.workspace.data_dir}: histo download makes one")
