"""The application: its root options, how commands are registered, and their help texts."""

import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

import histocli
from histocli import __version__
from histocli.cli.failures import print_failure
from histocli.cli.suggestions import explain_boolean_option, suggest, suggest_command
from histocli.compute.rendezvous import read_rank
from histocli.console import Reporter
from histocli.errors import EXIT_FAILURE, HistoError, UsageError
from histocli.signals import Stopped
from histocli.stdio import find_stdout_error
from histocli.text import escape_control_characters
from histocli.workspace import Workspace, find_workspace

F = TypeVar("F", bound=Callable[..., Any])

PACKAGE = Path(histocli.__file__).parent
_ARGUMENTS = "histocli.arguments"  # in a context's `meta`: the whole command line


@dataclass(frozen=True)
class State:
    """The values of the root options, which every command reads from `ctx.obj`."""

    folder: Path | None  # the value of --workspace
    reporter: Reporter

    @property
    def workspace(self) -> Workspace:
        """The workspace; it is looked up when it is needed, because a user without a home folder has no default one."""
        if self.folder is None:
            return find_workspace()
        if self.folder.is_file():
            raise UsageError(f"--workspace {self.folder} is a file", "give a folder; it is made if it does not exist")
        return Workspace(self.folder)


class Application(TyperGroup):
    """The root command; it turns each exception of a command into a message and an exit code."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Return the options; typer's own options for completion are not set by an environment variable."""
        parameters = super().get_params(ctx)
        for parameter in parameters:
            if parameter.name in ("install_completion", "show_completion"):
                parameter.allow_from_autoenv = False  # type: ignore[attr-defined]
        return parameters

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the application; a help text that cannot be written is an error."""
        try:
            return super().main(*args, **options)
        except OSError as error:
            if (reason := find_stdout_error()) is None:
                raise
            Reporter().print_error(reason)
            raise SystemExit(EXIT_FAILURE) from error

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Parse the command line, and keep it for `find_arguments`."""
        given = list(args)  # parsing empties `args`
        try:
            ctx = super().make_context(info_name, args, parent, **extra)
        except Exception as error:
            explain_boolean_option(error)
            _make_printable(error)
            raise
        ctx.meta[_ARGUMENTS] = given
        return ctx

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Return the command of a name; a wrong name is answered with the command that was probably meant."""
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            suggest_command(args[0], error)
            raise

    def invoke(self, ctx: Any) -> Any:
        """Run the command; an exception is printed as an error and becomes an exit code."""
        try:
            _refuse_empty_values(ctx.meta[_ARGUMENTS])
            _check_current_folder()
            with _print_warnings(ctx):
                return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise
        except (Exception, Stopped) as error:
            if isinstance(error, Exception) and hasattr(error, "exit_code"):  # a usage error, which Typer prints
                _make_printable(error)
                raise
            raise typer.Exit(print_failure(error, _find_reporter(ctx))) from error


class Command(TyperCommand):
    """A command; its help shows the options in panels, and ends with examples, which are the lines of its epilog."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the command line; a wrong option or value is answered with the one that was probably meant."""
        given = list(args)  # parsing empties `args`
        try:
            return super().parse_args(ctx, args)
        except Exception as error:
            suggest(self, error, given, lambda: _find_workspace(ctx.parent).list_datasets())
            raise

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the parts of the usage line after the command's name; Typer's versions show arguments differently."""
        return ["[OPTIONS]", *map(format_argument, filter(is_argument, self.get_params(ctx)))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options under the titles of their panels; those without a panel come last."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            if record := parameter.get_help_record(ctx):
                name, text = _simplify_types(record[0]), record[1]
                title = getattr(parameter, "rich_help_panel", None)
                if is_argument(parameter):
                    name, title = format_argument(parameter), "Arguments"
                panels.setdefault(title or "Options", []).append((name, text))
        for title, records in sorted(panels.items(), key=lambda panel: panel[0] == "Options"):
            with formatter.section(title):
                formatter.write_dl(records)

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """Write the examples, one per line."""
        with formatter.section("Examples"):
            formatter.write("".join(f"  {example}\n" for example in (self.epilog or "").splitlines()))


@contextmanager
def _print_warnings(ctx: Any) -> Iterator[None]:
    """Print Python's warnings from this package like those of the commands; those of other packages as they are."""
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_warning(message: Any, category: Any, filename: str, *place: Any, **options: Any) -> None:
            if Path(filename).is_relative_to(PACKAGE):
                _find_reporter(ctx).warn(str(message))
            else:
                show(message, category, filename, *place, **options)

        warnings.showwarning = show_warning
        yield


def _refuse_empty_values(args: list[str]) -> None:
    """Raise `UsageError` for an empty value, which as a path would be the current folder."""
    for before, word in pairwise(["", *args]):
        option = word.removesuffix("=") or before
        if not word or (word.startswith("--") and word.find("=") == len(word) - 1):
            what = f"the value of {option}" if option.startswith("-") and option != "--" else "an argument"
            raise UsageError(f"{what} is empty", "perhaps a variable of the shell is not set; . is the current folder")


def _check_current_folder() -> None:
    """Raise `HistoError` if the current folder was deleted: relative paths lead nowhere, and PyTorch cannot start."""
    try:
        Path.cwd()
    except FileNotFoundError:
        raise HistoError("the current folder was deleted", "change to a folder that exists: cd") from None


app = typer.Typer(
    name="histo",
    cls=Application,
    help="Train and evaluate classifiers of metastatic cancer in H&E patches of lymph nodes.",
    epilog="Research use only: not a medical device.",
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "HISTO"},
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def command(*examples: str, name: str | None = None) -> Callable[[F], F]:
    """Register a function as a command; its help ends with `examples`."""
    return app.command(name=name, cls=Command, epilog="\n".join(examples))


def _simplify_types(option: str) -> str:
    """Replace the Python types that Typer shows behind an option, such as `<list[str]>` and `<int range>`, by words."""
    option = re.sub(r"<list\[(.*)\]>$", r"<\1>", option)
    words = {"<str>": "TEXT", "<path>": "PATH", "<float>": "NUMBER", "<int>": "INTEGER", "<int range>": "INTEGER"}
    for shown, word in words.items():
        option = option.replace(shown, word)
    return option.replace("INTEGER RANGE", "INTEGER")


def is_argument(parameter: Any) -> bool:
    """Return whether a parameter of a command is an argument, and not an option."""
    return bool(parameter.param_type_name == "argument")


def format_argument(argument: Any) -> str:
    """Return an argument as usage lines show it: in brackets if it can be omitted, with dots if it can be repeated."""
    name = argument.name.upper()
    return (name if argument.required else f"[{name}]") + ("..." if argument.nargs == -1 else "")


def find_arguments(ctx: typer.Context) -> list[str]:
    """Return the command line that `ctx` was made from, without the program's name."""
    return list(ctx.meta[_ARGUMENTS])


def _show_version(is_requested: bool) -> None:
    if is_requested:
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
            show_default="histo in the user's data folder",
        ),
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print only results, warnings and errors.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print more messages.")] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the version and exit.",
            callback=_show_version,
            is_eager=True,
            allow_from_autoenv=False,  # a container may well define HISTO_VERSION=1.2
        ),
    ] = False,
) -> None:
    """Read the options before the command's name."""
    ctx.obj = State(workspace, Reporter(quiet=quiet, verbose=verbose, rank=read_rank()))


def _find_workspace(ctx: Any) -> Workspace:
    return ctx.obj.workspace if isinstance(getattr(ctx, "obj", None), State) else find_workspace()


def _find_reporter(ctx: Any) -> Reporter:
    return ctx.obj.reporter if isinstance(ctx.obj, State) else Reporter()


def _make_printable(error: Exception) -> None:
    """Escape control characters in the message of a usage error, which repeats what the user, or a `*`, wrote."""
    message = getattr(error, "message", None)
    if isinstance(message, str):
        error.message = "\n".join(map(escape_control_characters, message.split("\n")))  # type: ignore[attr-defined]
