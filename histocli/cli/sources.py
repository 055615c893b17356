"""Options of `histo download` that sources declare, and progress bars for the files that they download."""

import inspect
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer

from histocli.cli.options import is_given
from histocli.console import OnProgress, Reporter
from histocli.errors import HistoError
from histocli.sources import RemoteSource, Source, SourceContext
from histocli.sources.options import FROM, DeclaredOption, list_declared_options
from histocli.workspace import Workspace

if TYPE_CHECKING:
    from histocli.commands.download import DownloadConfig


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


def open_with_bars(
    config: "DownloadConfig", workspace: Workspace, reporter: Reporter
) -> tuple[Source, Callable[[], None]]:
    """Open the source, and return it with a function that downloads its files with a progress bar for each.

    Nothing is written before the returned function is called.

    Raises:
        HistoError: an option does not fit the source, or there is nothing at its location.
    """
    from histocli.commands.download import open_source

    _check_variable(config)
    bars: dict[str, OnProgress] = {}  # when the first bytes of a file arrive, its bar replaces the previous one
    fetching = ExitStack()
    is_fetched = False

    def on_transfer(name: str, done: int, total: int | None) -> None:
        if is_fetched:  # the bar for packing is shown, and files are unpacked meanwhile
            reporter.show_stage(f"unpacking {_shorten(name)}" + (f" {min(1, done / total):.0%}" if total else ""))
            return
        if name not in bars:
            fetching.close()
            bars[name] = fetching.enter_context(reporter.show_bar(_shorten(name), unit="bytes", total=total))
        bars[name](done, total)

    source = open_source(config, SourceContext(workspace.downloads_dir, config.force, on_transfer))

    def fetch() -> None:
        nonlocal is_fetched
        if isinstance(source, RemoteSource):
            if source.is_remote:
                reporter.note(f"fetching {source.report.origin}")
            with fetching:
                source.fetch()
        is_fetched = True

    return source, fetch


def _check_variable(config: "DownloadConfig") -> None:
    """Raise `HistoError` if the location is that of the environment variable, and there is nothing at it."""
    location = os.environ.get(FROM.envvar or "", "")
    is_used = location and getattr(config.options, "locations", ()) == (location,)
    if is_used and "://" not in location and not os.path.exists(location):  # noqa: PTH110 - Path.exists may raise
        raise HistoError(
            f"there is no file or folder {location}, the value of {FROM.envvar}",
            "this variable holds one location; repeat --from for several",
        )


def _shorten(name: str) -> str:
    """Shorten a file's name, so that there is room for its bar on 80 columns."""
    return name if len(name) <= 16 else f"...{name[-13:]}"
