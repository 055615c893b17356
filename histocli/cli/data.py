"""`histo data`."""

from typing import TYPE_CHECKING

import typer

from histocli.cli import options
from histocli.cli.app import State, command
from histocli.console import Reporter
from histocli.fs import format_bytes
from histocli.stdio import write_out, write_out_json

if TYPE_CHECKING:
    from histocli.commands.data import Inventory


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
        write_out_json(to_json(inventory))
    else:
        _write_tables(state.reporter, inventory)
    problems = [(dataset.name, dataset.problem) for dataset in inventory.datasets]
    problems += [(subset.name, subset.problem) for subset in inventory.subsets]
    for name, problem in problems:
        if problem:
            state.reporter.warn(f"{name}: {problem}")
    if not inventory.datasets:
        state.reporter.note(f"there are no data sets in {state.workspace.data_dir}: histo download makes one")


def _write_tables(reporter: Reporter, inventory: "Inventory") -> None:
    """Write a table of the data sets and one of the subsets to stdout; one without rows is left out."""
    if inventory.datasets:
        rows = [
            [
                dataset.name,
                dataset.source,
                f"{dataset.patches:,}",
                f"{dataset.normal:,}",
                f"{dataset.tumour:,}",
                f"{dataset.unlabelled:,}",
                f"{dataset.slides:,}" if dataset.slides else "-",
                format_bytes(dataset.bytes),
                ", ".join(f"{split} {count:,}" for split, count in (dataset.splits or {}).items()) or "-",
            ]
            for dataset in inventory.datasets
        ]
        columns = ["data set", "source", "patches", "normal", "tumour", "no label", "slides", "size", "splits"]
        reporter.write_listing(columns, rows)
    subsets = [
        [subset.name, subset.data, f"{subset.train:,}", f"{subset.val:,}", subset.split or "-"]
        for subset in inventory.subsets
    ]
    if inventory.datasets and subsets:
        write_out("\n")
    if subsets:
        reporter.write_listing(["subset", "of", "train", "val", "split by"], subsets)
