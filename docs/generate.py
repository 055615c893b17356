"""Write the completion scripts and the command-line reference; with `--check` only compare them.

The completion scripts call `histo` itself at each TAB (Typer's protocol), so that they are short and always agree with
the version that is installed.
"""

import inspect
import sys
from collections.abc import Callable, Iterator
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

from histocli.cli import app
from histocli.cli.app import format_argument, is_argument

ROOT = Path(__file__).parents[1]

BASH = """\
_histo_completion() {
    local IFS=$'\\n'
    COMPREPLY=($(env COMP_WORDS="${COMP_WORDS[*]}" COMP_CWORD="$COMP_CWORD" _HISTO_COMPLETE=complete_bash "$1"))
}
complete -o default -F _histo_completion histo
"""
ZSH = """\
#compdef histo
_histo_completion() {
    eval "$(env _TYPER_COMPLETE_ARGS="${words[1,$CURRENT]}" _HISTO_COMPLETE=complete_zsh histo)"
}
if [ "$funcstack[1]" = _histo ]; then  # loaded by the completion system, for a TAB already pressed
    _histo_completion "$@"
else
    compdef _histo_completion histo
fi
"""
FISH = """\
set -l ask "env _HISTO_COMPLETE=complete_fish _TYPER_COMPLETE_ARGS=(commandline -cp) _TYPER_COMPLETE_FISH_ACTION"
complete --command histo --condition "$ask=is-args histo" --arguments "($ask=get-args histo)"
"""


def reference() -> str:
    """The command-line reference in Markdown: every command with its arguments, options and defaults."""
    lines = [
        "# histo: the command line",
        "",
        "Written by `docs/generate.py` from the application itself.",
        "",
        app.info.help,
        "",
        "A value comes from the option, else from the environment variable, else it is the default.",
        "",
        *_table(app.registered_callback.callback, "HISTO"),
    ]
    commands = typer.main.get_command(app).commands
    for command in app.registered_commands:
        name = command.name or command.callback.__name__
        usage = "".join(
            f" {format_argument(parameter)}" for parameter in commands[name].params if is_argument(parameter)
        )
        lines += ["", f"## histo {name}", "", inspect.getdoc(command.callback), ""]
        lines += [f"`histo {name} [OPTIONS]{usage}`", "", *_table(command.callback, f"HISTO_{name.upper()}")]
        lines += [
            "",
            "Examples:",
            "",
            "```console",
            *(f"$ {example}" for example in command.epilog.splitlines()),
            "```",
        ]
    return "\n".join(lines) + "\n"


def _parameters(function: Callable[..., Any]) -> Iterator[tuple[str, Any, Any, Any]]:
    """Name, type, Typer's description and default of each parameter that the command line sets."""
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        if get_origin(hints[name]) is Annotated:
            kind, info = get_args(hints[name])[:2]
            if not getattr(info, "hidden", False):
                yield name, kind, info, parameter.default


def _table(function: Callable[..., Any], prefix: str) -> list[str]:
    rows = ["| option | meaning | default | environment variable |", "| --- | --- | --- | --- |"]
    in_panels = sorted(_parameters(function), key=lambda parameter: parameter[2].rich_help_panel is None)
    for name, kind, info, default in in_panels:  # in the order of `--help`
        if _is_argument(info):
            rows.append(f"| `{name.upper()}` | {info.help} | | |")
            continue
        spelt = [flag for flag in (info.default, *(info.param_decls or ())) if isinstance(flag, str)]
        pairs = "/".join(spelt or ["--" + name.replace("_", "-")]).split("/")  # --title/--no-title is one declaration
        flags = ", ".join(f"`{flag}`" for flag in pairs)
        variable = f"`{info.envvar or f'{prefix}_{name.upper()}'}`" if info.allow_from_autoenv else ""
        rows.append(f"| {flags} | {info.help}{_choices(kind)} | {_default(info, default)} | {variable} |")
    return rows


def _is_argument(info: Any) -> bool:
    return isinstance(info, typer.models.ArgumentInfo)


def _choices(kind: Any) -> str:
    """Return the values that an option takes, if it takes only some words."""
    if isinstance(kind, type) and issubclass(kind, Enum):
        return " One of " + ", ".join(f"`{choice.value}`" for choice in kind) + "."
    return next(filter(None, map(_choices, get_args(kind))), "")


def _default(info: Any, default: Any) -> str:
    if isinstance(info.show_default, str):
        return info.show_default
    if default is None or default is False:
        return ""
    if default is True:
        return "yes"
    values = default if isinstance(default, list | tuple) else [default]
    return ", ".join(f"`{value.value if isinstance(value, Enum) else value}`" for value in values)


def main() -> None:
    """Write the files; with `--check` write nothing and exit with 1 if one is out of date."""
    wanted = {
        "completions/histo.bash": BASH,
        "completions/_histo": ZSH,
        "completions/histo.fish": FISH,
        "docs/cli.md": reference(),
    }
    stale = [name for name, text in wanted.items() if not _same(ROOT / name, text)]
    if "--check" in sys.argv[1:]:
        for name in stale:
            sys.stderr.write(f"{name} is out of date: run python docs/generate.py\n")
        raise SystemExit(bool(stale))
    for name in stale:
        (ROOT / name).write_text(wanted[name], encoding="utf-8", newline="\n")


def _same(path: Path, text: str) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == text


if __name__ == "__main__":
    main()
