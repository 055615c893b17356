"""Messages, progress bars and tables: all of them on stderr; stdout carries results alone."""

import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.table import Table
from rich.text import Text

from histocli.errors import HistoError

OnProgress = Callable[[int, int | None], None]


class Rate(ProgressColumn):
    """How many units a second pass."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Draw the rate once it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self.unit}/s", style="cyan")


class Reporter:
    """All that a person reads while a command runs."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False) -> None:
        self.quiet = quiet
        self.verbose = verbose
        self.console = Console(stderr=True, highlight=False, soft_wrap=True)

    def note(self, message: str) -> None:
        """A fact about what is going on."""
        if not self.quiet:
            self.console.print(escape(message))

    def detail(self, message: str) -> None:
        """A fact that only `-v` shows."""
        if self.verbose:
            self.console.print(escape(message), style="dim")

    def heading(self, message: str) -> None:
        """What comes next, set off from what came before."""
        if not self.quiet:
            self.console.print(f"\n[bold cyan]{escape(message)}[/]")

    def warn(self, message: str) -> None:
        """Something that went well but should be known; shown even with `-q`."""
        self.console.print(f"[yellow]warning:[/] {escape(message)}")

    def done(self, written: str, then: str = "") -> None:
        """The last line: what was written and what to run next; two lines where the terminal is too narrow."""
        if not self.quiet:
            parts = [("green", "done:", written), ("dim", "next:", then)][: 2 if then else 1]
            width = sum(len(text) + len(word) + 3 for _, word, text in parts)
            apart = "\n" if self.console.is_terminal and width > self.console.width else "  "
            self.console.print(apart.join(f"[{style}]{word}[/] {escape(text)}" for style, word, text in parts))

    def error(self, error: HistoError) -> None:
        """What went wrong and, on a line of its own, how to mend it."""
        self.console.print(f"[bold red]error:[/] {escape(str(error))}")
        if error.hint:
            self.console.print(f"[bold]hint:[/] {escape(error.hint)}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """A table: the first column to the left, the others to the right."""
        if self.quiet:
            return
        if title:
            self.console.print(f"[bold]{escape(title)}[/]")
        table = Table(header_style="dim", box=None, pad_edge=False)
        for i, column in enumerate(columns):
            table.add_column(escape(column), justify="right" if i else "left", overflow="fold")
        for row in rows:
            table.add_row(*(escape(cell if isinstance(cell, str) else f"{cell:,}") for cell in row))
        self.console.print(table, soft_wrap=False)

    @contextmanager
    def bar(
        self, what: str, unit: str = "patches", total: int | None = None, *, hidden: bool = False
    ) -> Iterator[OnProgress]:
        """A bar with rate and time left; yields `report(done, total)`. The unit "bytes" shows sizes.

        Nothing is drawn off a terminal, nor where `hidden`.
        """
        in_bytes = unit == "bytes"
        counts = (DownloadColumn(), TransferSpeedColumn()) if in_bytes else (MofNCompleteColumn(), Rate(unit))
        columns = [
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            *counts,
            TimeElapsedColumn(),
            TextColumn("[dim]left[/]"),
            TimeRemainingColumn(),
        ]
        with self.progress(*columns, hidden=hidden) as progress:
            task = progress.add_task(escape(what), total=total)

            def report(done: int, of: int | None = total) -> None:
                progress.update(task, completed=done, total=of)

            yield report

    def progress(self, *columns: ProgressColumn, hidden: bool = False) -> Progress:
        """A live display of `columns`. Results go past it to stdout: Rich would send them to its own stream."""
        off = hidden or self.quiet or not self.console.is_terminal
        return Progress(*columns, console=self.console, disable=off, redirect_stdout=False)


def stdout_is_a_file() -> bool:
    """Whether results go to a file: on a terminal, or through a pipe that ends on one, they would cross a bar."""
    try:
        return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except OSError:  # a stream with no descriptor, as in a notebook
        return False


def write_out(text: str) -> None:
    """Write a result to stdout at once."""
    sys.stdout.write(text)
    sys.stdout.flush()


def number(value: float | None) -> str:
    """A metric to four places, or a dash where it has no value."""
    return "-" if value is None else f"{value:.4f}"
