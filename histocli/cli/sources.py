"""The options that sources declare, as options of `histo download`; and the bars of their files."""

import inspect
from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import TYPE_CHECKING, Annotated, Any, get_args, get_origin

import typer

from histocli.console import OnProgress, Reporter
from histocli.sources import RemoteSource, Source, SourceContext
from histocli.sources.options import DeclaredOption, declared_options
from histocli.workspace import Workspace

if TYPE_CHECKING:
    from histocli.commands.download import DownloadConfig


def with_source_options(command: Callable[..., None]) -> Callable[..., None]:
    """Add the options that sources declare to a command, which gets their values as the dict `declared`."""
    own = [p for p in inspect.signature(command).parameters.values() if p.name != "declared"]
    declared = declared_options()
    parameters = [_parameter(name, option) for name, option in declared.items()]

    @wraps(command)
    def with_options(*args: Any, **values: Any) -> None:
        given = {name: _value(values.pop(name), option) for name, option in declared.items()}
        command(*args, **values, declared=given)

    every = [*own[:2], *parameters, *own[2:]]  # after the context and --source
    with_options.__signature__ = inspect.Signature(every)  # type: ignore[attr-defined]
    with_options.__annotations__ = {parameter.name: parameter.annotation for parameter in every}
    return with_options


def _parameter(name: str, declared: DeclaredOption) -> inspect.Parameter:
    option = declared.option
    is_list = get_origin(declared.type) is tuple
    kind = list[get_args(declared.type)[0]] | None if is_list else declared.type  # type: ignore[misc]
    info = typer.Option(option.flag, help=option.help, metavar=option.metavar, envvar=option.envvar)
    default = None if is_list else declared.default
    return inspect.Parameter(
        name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=Annotated[kind, info]
    )


def _value(value: Any, declared: DeclaredOption) -> Any:
    return tuple(value or ()) if get_origin(declared.type) is tuple else value


def open_with_bars(
    config: "DownloadConfig", workspace: Workspace, report: Reporter
) -> tuple[Source, Callable[[], None]]:
    """Open the source, and return it with what fetches its files, each with its own bar; nothing is written before.

    Raises:
        HistoError: an option does not fit the source, or there is nothing at its location.
    """
    from histocli.commands.download import open_source

    bars: dict[str, OnProgress] = {}  # the bar of a file replaces the one before when its first bytes come
    fetching = ExitStack()
    is_fetched = False

    def on_transfer(name: str, done: int, total: int | None) -> None:
        if is_fetched:  # files are unpacked while patches are packed, which has a bar already
            report.at_stage(f"unpacking {_short(name)}" + (f" {min(1, done / total):.0%}" if total else ""))
            return
        if name not in bars:
            fetching.close()
            bars[name] = fetching.enter_context(report.bar(_short(name), unit="bytes", total=total))
        bars[name](done, total)

    source = open_source(config, SourceContext(workspace.downloads_dir, config.force, on_transfer))

    def fetch() -> None:
        nonlocal is_fetched
        if isinstance(source, RemoteSource):
            if source.is_remote:
                report.note(f"fetching {source.report.origin}")
            with fetching:
                source.fetch()
        is_fetched = True

    return source, fetch


def _short(name: str) -> str:
    """Shorten a file's name, so that there is room for its bar on 80 columns."""
    return name if len(name) <= 16 else f"...{name[-13:]}"
