"""The application, its root options, and the one error boundary."""

import os
import sys
import traceback
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import gettempdir
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from histocli import __version__
from histocli.compute.distributed import rank
from histocli.compute.memory import is_out_of_memory
from histocli.console import Reporter
from histocli.errors import (
    EXIT_BUG,
    EXIT_FAILURE,
    EXIT_USAGE,
    HistoError,
    UsageError,
)
from histocli.signals import Stopped
from histocli.workspace import Workspace

_EXIT_PIPE = 141  # what a filter that writes to a closed pipe ends with


@dataclass(frozen=True)
class State:
    """What the root options say, for every command."""

    workspace: Workspace
    report: Reporter


class Boundary(TyperGroup):
    """Turns every exception that escapes a command into its message and exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except HistoError as error:
            _trace(error)
            _reporter(ctx).error(error)
            raise typer.Exit(EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILURE) from error
        except Stopped as stopped:
            hint = str(stopped)
            if _reporter(ctx).leads:
                _reporter(ctx).error(HistoError("stopped by a signal" + ("; the state is saved" if hint else ""), hint))
            raise typer.Exit(stopped.exit_code) from stopped
        except BrokenPipeError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # so that the exit flushes nowhere
            raise typer.Exit(_EXIT_PIPE) from error
        except (typer.Exit, typer.Abort):
            raise
        except OSError as error:
            _trace(error)
            _reporter(ctx).error(HistoError(f"{error.filename or 'the system'}: {error.strerror or error}"))
            raise typer.Exit(EXIT_FAILURE) from error
        except Exception as error:
            if not _is_ours(error):
                raise
            _trace(error)
            if is_out_of_memory(error):
                _reporter(ctx).error(HistoError("memory is full", "lower --batch-size, or --batch-size auto"))
                raise typer.Exit(EXIT_FAILURE) from error
            _reporter(ctx).error(HistoError(f"this is a bug in histo: {error!r}", f"its traceback is in {_log(error)}"))
            raise typer.Exit(EXIT_BUG) from error


app = typer.Typer(
    name="histo",
    cls=Boundary,
    help="From raw H&E lymph-node patches to an honestly evaluated classifier of metastatic cancer.",
    epilog="Research use only: not a medical device.",
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "HISTO"},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"histo {__version__}")
        raise typer.Exit


@app.callback()
def root(
    ctx: typer.Context,
    workspace: Annotated[
        Path | None,
        typer.Option(
            "--workspace",
            "-w",
            envvar="HISTO_WORKSPACE",
            help="Folder that all commands share.",
            show_default="data folder",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only results, warnings and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="More of what is going on.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the version and exit.",
            callback=_show_version,
            is_eager=True,
            allow_from_autoenv=False,  # a container may well say HISTO_VERSION=1.2
        ),
    ] = False,
) -> None:
    """Take the options before the command's name."""
    ctx.obj = State(Workspace(workspace or _default_root()), Reporter(quiet=quiet, verbose=verbose, rank=rank()))


def _default_root() -> Path:
    from platformdirs import user_data_path

    return user_data_path("histo", appauthor=False)


def _reporter(ctx: Any) -> Reporter:
    return ctx.obj.report if isinstance(ctx.obj, State) else Reporter()


def _is_ours(error: Exception) -> bool:
    """Whether this is neither typer's own usage error nor an exit: those it renders itself."""
    return not hasattr(error, "exit_code")


def _trace(error: Exception) -> None:
    """Show the traceback to whoever asked for it."""
    if os.environ.get("HISTO_DEBUG") == "1":
        traceback.print_exception(error)


def _log(error: Exception) -> Path:
    """Write the traceback to a log file of its own; where there is no home for logs, among the temporary files."""
    from platformdirs import user_log_path

    path = user_log_path("histo", appauthor=False) / f"{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.log"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    except OSError:
        path = Path(gettempdir(), f"histo-{path.name}")
    path.write_text("".join(traceback.format_exception(error)), encoding="utf-8")
    return path
