"""Messages, progress bars and tables on stderr, and tables that are results on stdout."""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, cast

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
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
from rich.table import Column, Table
from rich.text import Text

from histocli.errors import HistoError
from histocli.stdio import Stderr, write_out
from histocli.text import escape_control_characters, shorten

_LONGEST_CELL = 200  # characters: names of runs and slides are from files that may come from someone else
OnProgress = Callable[[int, int | None], None]


class Rate(ProgressColumn):
    """A column that shows the number of units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__(Column(no_wrap=True))
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Draw the rate once it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self.unit}/s", style="cyan")


class Reporter:
    """Prints messages, tables and progress bars on stderr."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False, rank: int = 0) -> None:
        """Set what is printed; a process with a `rank` above 0 prints only warnings and errors."""
        self.is_rank0 = rank == 0
        self.quiet = quiet or not self.is_rank0
        self.verbose = verbose and self.is_rank0
        self.prefix = "" if self.is_rank0 else f"rank {rank}: "
        self.console = Console(file=cast(IO[str], Stderr()), highlight=False, soft_wrap=True, emoji=False)
        self._show_stage: Callable[[str], None] = lambda stage: None

    def note(self, message: str) -> None:
        """Print a message."""
        if not self.quiet:
            self._print_line(_escape(message))

    def print_detail(self, message: str) -> None:
        """Print a message that only `-v` shows."""
        if self.verbose:
            self._print_line(_escape(message), style="dim")

    def print_heading(self, message: str) -> None:
        """Print a heading, after an empty line."""
        if not self.quiet:
            self._print_line(f"\n[bold cyan]{_escape(message)}[/]")

    def warn(self, message: str) -> None:
        """Print a warning, even with `-q`."""
        self._print_line(f"[yellow]warning:[/] {self.prefix}{_escape(message)}")

    def print_done(self, written: str, next_command: str = "") -> None:
        """Print what was written and which command to run next, on one line if the terminal is wide enough."""
        if self.quiet:
            return
        parts = [("green", "done:", written)]
        if next_command:
            parts.append(("dim", "next:", next_command))
        width = sum(len(text) + len(word) + 3 for _, word, text in parts)
        separator = "\n" if self.console.is_terminal and width > self.console.width else "  "
        self._print_line(separator.join(f"[{style}]{word}[/] {_escape(text)}" for style, word, text in parts))

    def print_error(self, error: HistoError) -> None:
        """Print an error, and on the next line how to fix it."""
        self._print_line(f"[bold red]error:[/] {self.prefix}{_escape(str(error))}")
        if error.hint:
            self._print_line(f"[bold]hint:[/] {_escape(error.hint)}")

    def print_table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table: the first column is aligned to the left, the others to the right."""
        if self.quiet:
            return
        if title:
            self._print_line(f"[bold]{_escape(title)}[/]")
        table = Table(header_style="dim", box=None, pad_edge=False)
        for i, column in enumerate(columns):
            table.add_column(_escape(column), justify="right" if i else "left")
        for row in rows:
            cells = (shorten(cell, _LONGEST_CELL) if isinstance(cell, str) else f"{cell:,}" for cell in row)
            table.add_row(*map(_escape, cells))
        shortest = Measurement.get(self.console, self.console.options, table).minimum  # at which no word is broken
        self.console.print(table, soft_wrap=False, crop=False, width=max(self.console.width, shortest))

    def _print_line(self, text: str, style: str | None = None) -> None:
        """Print text with markup; on a terminal, lines end between words."""
        line = Text.from_markup(text, style=style or "", emoji=False)
        if self.console.is_terminal:
            line = _wrap(line, self.console.width)
        self.console.print(line, soft_wrap=True)

    def write_listing(self, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print a table as the result, on stdout, with one line for each row however wide it is."""
        widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
        for row in (columns, *rows):
            write_out("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")

    @contextmanager
    def show_bar(
        self, what: str, unit: str = "patches", total: int | None = None, *, is_hidden: bool = False
    ) -> Iterator[OnProgress]:
        """Show a progress bar with rate and remaining time, and yield its function `report(done, total)`.

        With the unit "bytes", numbers are shown as sizes.

        Nothing is shown if stderr is not a terminal, or with `is_hidden`.
        """
        is_in_bytes = unit == "bytes"
        counts = (DownloadColumn(), TransferSpeedColumn()) if is_in_bytes else (MofNCompleteColumn(), Rate(unit))
        with self.make_progress(*counts, width=12, is_hidden=is_hidden) as progress:
            task = progress.add_task(_escape(what), total=total)

            def report(done: int, of: int | None = total) -> None:
                progress.update(task, description=_escape(what), completed=done, total=of)

            self._show_stage = lambda stage: progress.update(task, description=_escape(f"{what}: {stage}"))
            yield report

    def show_stage(self, stage: str) -> None:
        """Show the current stage of the work next to the progress bar."""
        self._show_stage(stage)

    def make_progress(self, *counts: ProgressColumn, width: int, is_hidden: bool = False) -> Progress:
        """Return a progress bar that is `width` characters wide, with the columns `counts` and the time next to it."""
        is_off = is_hidden or self.quiet or not self.console.is_terminal
        columns = (
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}"),
            BarColumn(bar_width=width),
            *counts,
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("[dim]left[/]"),
        )
        # Before 14.3 Rich prints a line even for a disabled display.
        console = Console(quiet=True) if is_off else self.console
        return Progress(*columns, console=console, disable=is_off, redirect_stdout=False, redirect_stderr=False)


def _escape(message: str) -> str:
    """Return a message for Rich on one line, with control characters and markup escaped."""
    return escape(escape_control_characters(message))


def _wrap(text: Text, width: int) -> Text:
    """Break the lines of a text between words, so that they have at most `width` cells; a longer path stays whole."""
    wrapped: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        offsets, start = [], 0
        for word in re.finditer(r"\S+\s*", line.plain):
            if word.start() > start and cell_len(line.plain[start : word.end()].rstrip()) > width:
                start = word.start()
                offsets.append(start)
        wrapped += line.divide(offsets)
    for line in wrapped:
        line.rstrip()
    return Text("\n").join(wrapped)


def format_cell(value: float | None) -> str:
    """Format a metric for a table: four decimals, or a dash if it has no value."""
    return "-" if value is None else f"{value:.4f}"
