"""Options of `histo download` that sources declare, and progress bars for the files that they download."""

import inspect
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer

from histocli.cli.listener import ConsoleListener
from histocli.cli.options import is_given
from histocli.console import Reporter
from histocli.errors import HistoError
from histocli.sources.options import FROM, DeclaredOption, list_declared_options
from histocli.text import shorten_to_length

if TYPE_CHECKING:
    from histocli.commands.download import DownloadConfig

_MAX_NAME = 16  # characters of a file's name, so that there is room for its bar on 80 columns


def with_source_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that sources declare to a command; it receives their values as the dictionary `declared`."""
    fixed = [p for p in inspect.signature(command).parameters.values() if p.name != "declared"]
    declared = list_declared_options()
    parameters = [_make_parameter(name, option) for name, option in declared.items()]

    @wraps(command)
    def with_options(ctx: typer.Context, **values: Any) -> None:
        given = {name: _convert_value(ctx, name, values.pop(name), option) for name, option in declared.items()}
        command(ctx, **values, declared=given)

    every = [*fixed[:2], *parameters, *fixed[2:]]  # after the context and --source
    with_options.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in every}
    return with_options


def _make_parameter(name: str, declared: DeclaredOption) -> inspect.Parameter:
    """Return the parameter from which Typer makes a command-line option."""
    option = declared.option
    is_list = get_origin(declared.type) is tuple
    kind = list[get_args(declared.type)[0]] | None if is_list else declared.type  # type: ignore[misc]
    info = typer.Option(option.flag, help=option.help, metavar=option.metavar, envvar=option.envvar)
    default = None if is_list else declared.default
    return inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=Annotated[kind, info]
    )


def _convert_value(ctx: typer.Context, name: str, value: Any, declared: DeclaredOption) -> Any:
    """Return the value of an option as the source expects it.

    An environment variable has one location. Click would separate several at spaces, which a path can contain.
    """
    if get_origin(declared.type) is not tuple:
        return value
    if is_given(ctx, name, "ENVIRONMENT") and not is_given(ctx, name):
        location = os.environ.get(declared.option.envvar or "")
        return (location,) if location else tuple(value)
    return tuple(value or ())


class DownloadBars(ConsoleListener):
    """Shows a bar for each file that is downloaded, and then one for packing; `shown` closes the current bar."""

    def __init__(self, reporter: Reporter, shown: ExitStack) -> None:
        super().__init__(reporter)
        self.shown, self.file, self.is_packing = shown, "", False

    def on_transfer(self, name: str, done: int, total: int | None) -> None:
        """Move the bar of the file; while patches are packed, files are only unpacked, and the bar names them."""
        short = shorten_to_length(name, _MAX_NAME)
        if self.is_packing:
            self.reporter.show_stage(f"unpacking {short}" + (f" {min(1, done / total):.0%}" if total else ""))
            return
        if name != self.file:
            self.file = name
            self._show_bar(short, "bytes")
        self.bar(done, total)

    def on_total(self, total: int | None) -> None:
        """Show the bar for packing."""
        super().on_total(total)
        self.is_packing = True
        self._show_bar("packing", "patches")

    def _show_bar(self, what: str, unit: str) -> None:
        self.shown.close()
        self.bar = self.shown.enter_context(self.reporter.show_bar(what, unit))


def check_variable(config: "DownloadConfig") -> None:
    """Raise `HistoError` if the location is that of the environment variable, and there is nothing at it."""
    location = os.environ.get(FROM.envvar or "", "")
    is_used = location and getattr(config.options, "locations", ()) == (location,)
    if is_used and "://" not in location and not os.path.exists(location):  # noqa: PTH110 - Path.exists may raise
        raise HistoError(
            f"there is no file or folder {location}, the value of {FROM.envvar}",
            "this variable holds one location; repeat --from for several",
        )
