"""Messages, progress bars and tables, all on stderr; stdout carries only results."""

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import IO, Any, cast

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
    """A column with the number of units per second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self.unit = unit

    def render(self, task: Task) -> Text:
        """Draw the rate once it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:,.0f} {self.unit}/s", style="cyan")


class Reporter:
    """Prints everything that a person reads while a command runs."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False, rank: int = 0) -> None:
        """Of several processes, only that of `rank` 0 prints more than warnings and errors."""
        self.leads = rank == 0
        self.quiet = quiet or not self.leads
        self.verbose = verbose and self.leads
        self.speaker = "" if self.leads else f"process {rank}: "
        self.console = Console(file=cast(IO[str], _Stderr()), highlight=False, soft_wrap=True)
        self._at: Callable[[str], None] = lambda stage: None

    def note(self, message: str) -> None:
        """Print a message."""
        if not self.quiet:
            self.console.print(_plain(message))

    def detail(self, message: str) -> None:
        """Print a message that only `-v` shows."""
        if self.verbose:
            self.console.print(_plain(message), style="dim")

    def heading(self, message: str) -> None:
        """Print a heading, after an empty line."""
        if not self.quiet:
            self.console.print(f"\n[bold cyan]{escape(message)}[/]")

    def warn(self, message: str) -> None:
        """Print a warning, even with `-q`."""
        self.console.print(f"[yellow]warning:[/] {self.speaker}{_plain(message)}")

    def done(self, written: str, then: str = "") -> None:
        """Print what was written and what to run next, on one line, or on two if the terminal is too narrow."""
        if not self.quiet:
            parts = [("green", "done:", written), ("dim", "next:", then)][: 2 if then else 1]
            width = sum(len(text) + len(word) + 3 for _, word, text in parts)
            apart = "\n" if self.console.is_terminal and width > self.console.width else "  "
            self.console.print(apart.join(f"[{style}]{word}[/] {_plain(text)}" for style, word, text in parts))

    def error(self, error: HistoError) -> None:
        """Print an error and, on a line of its own, how to fix it."""
        self.console.print(f"[bold red]error:[/] {self.speaker}{_plain(str(error))}")
        if error.hint:
            self.console.print(f"[bold]hint:[/] {_plain(error.hint)}")

    def table(self, title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
        """Print a table: the first column is aligned to the left, the others to the right."""
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
        """Show a progress bar with rate and time left; yields `report(done, total)`. The unit "bytes" shows sizes.

        Nothing is shown if stderr is not a terminal, or with `hidden`.
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
                progress.update(task, description=escape(what), completed=done, total=of)

            self._at = lambda stage: progress.update(task, description=escape(f"{what}: {stage}"))
            yield report

    def at_stage(self, stage: str) -> None:
        """Show a stage of the work beside the present bar."""
        self._at(stage)

    def progress(self, *columns: ProgressColumn, hidden: bool = False) -> Progress:
        """Return a live display of `columns`, which leaves stdout and stderr as they are."""
        off = hidden or self.quiet or not self.console.is_terminal
        console = Console(quiet=True) if off else self.console  # before 14.3 Rich prints a line even for a disabled one
        return Progress(*columns, console=console, disable=off, redirect_stdout=False, redirect_stderr=False)


class _Stderr:
    """The present `sys.stderr`; writing to a terminal that was closed, or to a closed pipe, is no error.

    Work that was started on a terminal may continue after the terminal is closed.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> int:
        """Write text."""
        with self._ignore_closed():
            sys.stderr.write(text)
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        with self._ignore_closed():
            sys.stderr.flush()

    @contextmanager
    def _ignore_closed(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE):
                raise
            devnull = os.open(os.devnull, os.O_WRONLY)
            os.dup2(devnull, sys.stderr.fileno())  # so that further writes do not fail
            os.close(devnull)


def _plain(message: str) -> str:
    """Return a message as one line; control characters, which a file's name may contain, are escaped."""
    return escape("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


def stdout_is_a_file() -> bool:
    """Return whether stdout is a file; results on a terminal, also through a pipe, would mix with a progress bar."""
    try:
        return stat.S_ISREG(os.fstat(sys.stdout.fileno()).st_mode)
    except OSError:  # a stream with no descriptor, as in a notebook
        return False


def write_out(text: str) -> None:
    """Write a result to stdout, and flush it."""
    sys.stdout.write(text)
    sys.stdout.flush()


def number(value: float | None) -> str:
    """Format a metric with four decimals, or as a dash if it has no value."""
    return "-" if value is None else f"{value:.4f}"
