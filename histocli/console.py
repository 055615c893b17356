"""Messages, progress bars and tables on stderr, and results on stdout."""

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
    """Prints messages, tables and progress bars on stderr."""

    def __init__(self, *, quiet: bool = False, verbose: bool = False, rank: int = 0) -> None:
        """Set what is printed; a process with a `rank` above 0 prints only warnings and errors."""
        self.leads = rank == 0
        self.quiet = quiet or not self.leads
        self.verbose = verbose and self.leads
        self.prefix = "" if self.leads else f"process {rank}: "
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
        self.console.print(f"[yellow]warning:[/] {self.prefix}{_plain(message)}")

    def done(self, written: str, then: str = "") -> None:
        """Print what was written and which command to run next, on one line if the terminal is wide enough."""
        if not self.quiet:
            parts = [("green", "done:", written), ("dim", "next:", then)][: 2 if then else 1]
            width = sum(len(text) + len(word) + 3 for _, word, text in parts)
            apart = "\n" if self.console.is_terminal and width > self.console.width else "  "
            self.console.print(apart.join(f"[{style}]{word}[/] {_plain(text)}" for style, word, text in parts))

    def error(self, error: HistoError) -> None:
        """Print an error, and on the next line how to fix it."""
        self.console.print(f"[bold red]error:[/] {self.prefix}{_plain(str(error))}")
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
        """Show a progress bar with rate and remaining time, and yield its function `report(done, total)`.

        With the unit "bytes", numbers are shown as sizes.

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
        """Show the current stage of the work next to the progress bar."""
        self._at(stage)

    def progress(self, *columns: ProgressColumn, hidden: bool = False) -> Progress:
        """Return a live display of `columns`, which leaves stdout and stderr as they are."""
        off = hidden or self.quiet or not self.console.is_terminal
        console = Console(quiet=True) if off else self.console  # before 14.3 Rich prints a line even for a disabled one
        return Progress(*columns, console=console, disable=off, redirect_stdout=False, redirect_stderr=False)


class _Stderr:
    """The current `sys.stderr`; it ignores errors of a closed terminal or pipe.

    So a command can continue after its terminal was closed.
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
    """Return a message on one line, with control characters escaped; file names can contain them."""
    return escape("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


def stdout_is_a_file() -> bool:
    """Return whether stdout is a regular file; on a terminal, results and a progress bar would mix."""
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
