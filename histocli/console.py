"""Messages, progress bars and tables: all of them on stderr; stdout carries results alone."""

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

    def __init__(self, *, quiet: bool = False, verbose: bool = False, rank: int = 0) -> None:
        """Of several processes, the leading one (`rank` 0) alone tells more than what went wrong."""
        self.leads = rank == 0
        self.quiet = quiet or not self.leads
        self.verbose = verbose and self.leads
        self.speaker = "" if self.leads else f"process {rank}: "
        self.console = Console(file=cast(IO[str], _Stderr()), highlight=False, soft_wrap=True)
        self._at: Callable[[str], None] = lambda stage: None

    def note(self, message: str) -> None:
        """A fact about what is going on."""
        if not self.quiet:
            self.console.print(_plain(message))

    def detail(self, message: str) -> None:
        """A fact that only `-v` shows."""
        if self.verbose:
            self.console.print(_plain(message), style="dim")

    def heading(self, message: str) -> None:
        """What comes next, set off from what came before."""
        if not self.quiet:
            self.console.print(f"\n[bold cyan]{escape(message)}[/]")

    def warn(self, message: str) -> None:
        """Something that went well but should be known; shown even with `-q`."""
        self.console.print(f"[yellow]warning:[/] {self.speaker}{_plain(message)}")

    def done(self, written: str, then: str = "") -> None:
        """The last line: what was written and what to run next; two lines where the terminal is too narrow."""
        if not self.quiet:
            parts = [("green", "done:", written), ("dim", "next:", then)][: 2 if then else 1]
            width = sum(len(text) + len(word) + 3 for _, word, text in parts)
            apart = "\n" if self.console.is_terminal and width > self.console.width else "  "
            self.console.print(apart.join(f"[{style}]{word}[/] {_plain(text)}" for style, word, text in parts))

    def error(self, error: HistoError) -> None:
        """What went wrong and, on a line of its own, how to mend it."""
        self.console.print(f"[bold red]error:[/] {self.speaker}{_plain(str(error))}")
        if error.hint:
            self.console.print(f"[bold]hint:[/] {_plain(error.hint)}")

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
                progress.update(task, description=escape(what), completed=done, total=of)

            self._at = lambda stage: progress.update(task, description=escape(f"{what}: {stage}"))
            yield report

    def at_stage(self, stage: str) -> None:
        """Say beside the bar that is shown what is done before it moves on."""
        self._at(stage)

    def progress(self, *columns: ProgressColumn, hidden: bool = False) -> Progress:
        """A live display of `columns`. Results go past it to stdout: Rich would send them to its own stream."""
        off = hidden or self.quiet or not self.console.is_terminal
        console = Console(quiet=True) if off else self.console  # before 14.3 Rich ends even a disabled one with a line
        return Progress(*columns, console=console, disable=off, redirect_stdout=False)


class _Stderr:
    """What stands for stderr at the moment; messages that nobody can read any more are no error.

    A terminal may be closed, and the work that was begun on it go on.
    """

    @property
    def _stream(self) -> IO[str]:
        return cast(IO[str], getattr(sys.stderr, "rich_proxied_file", sys.stderr))  # a bar stands in its place

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write what somebody may read."""
        with self._heard_by_nobody():
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        """Let it be read."""
        with self._heard_by_nobody():
            self._stream.flush()

    @contextmanager
    def _heard_by_nobody(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno not in (errno.EIO, errno.EPIPE):
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())  # so that what is still to be written has somewhere to go
            os.close(nowhere)


def _plain(message: str) -> str:
    """A message on one line, with what a file's name may do to a terminal escaped."""
    return escape("".join(c if c.isprintable() else ascii(c)[1:-1] for c in message))


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
