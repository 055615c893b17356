"""Which option or value was probably meant by one that does not exist: "did you mean"."""

import os
import re
from collections.abc import Callable
from contextlib import suppress
from difflib import get_close_matches
from itertools import pairwise
from typing import Any, NamedTuple

from histocli.cli.synonyms import COMMANDS, OPTION_OF_ARGUMENT, OTHER_OPTION_NAMES, OTHER_VALUE_NAMES
from histocli.sources import SOURCE_NAMES

# Options that stand before the command's name.
_ROOT_OPTIONS = ("-w", "--workspace", "-q", "--quiet", "-v", "--verbose")
_EXTRA_ARGUMENT = re.compile(r"^Got unexpected extra arguments?(?:\(s\))? \((\S+)[^)]*\)$")
_NEEDS_TWO = re.compile("requires 2 arguments|Got unexpected extra argument")
_NOT_ONE_OF = re.compile(r"'([^']*)' is not one of (.*)")
# The wording of pydantic, which Typer uses where it is installed, and of click.
_NOT_A_NUMBER = re.compile(r"valid (number|float|integer|int)\b")
_TOO_SMALL = re.compile(r"greater than or equal to ([\d.]+)|range x>=([\d.]*\d)\.?$")


def suggest_command(name: str, error: Any) -> None:
    """Add the command that a wrong one probably means to an error, in place."""
    if meant := COMMANDS.get(name.lower()):
        error.message = f"{error.message.partition('. Did you mean')[0].rstrip('.')}. Did you mean {meant}?"


class _Problem(NamedTuple):
    """A usage error of a command, its command line after the command's name, and how to list the packed data sets.

    Some versions of Typer have their own classes for these errors, others use those of click; both have the attributes
    and the wording that are used here.
    """

    command: Any
    error: Any
    args: list[str]
    datasets: Callable[[], list[str]]

    @property
    def message(self) -> str:
        """The message of the error."""
        return str(getattr(self.error, "message", ""))

    @property
    def unknown_option(self) -> str:
        """The option that does not exist, if the error is about one."""
        name = getattr(self.error, "option_name", None)
        return name if isinstance(name, str) and hasattr(self.error, "possibilities") else ""


def suggest(command: Any, error: Any, args: list[str], datasets: Callable[[], list[str]]) -> None:
    """Add what was probably meant to an error about an option or a value of `command`, in place.

    `args` is the command line after the command's name, and `datasets` returns the names of the packed data sets.
    """
    explain_boolean_option(error)
    problem = _Problem(command, error, args, datasets)
    if message := next(filter(None, (rule(problem) for rule in _RULES)), ""):
        error.message = message
        if problem.unknown_option:
            error.possibilities = None  # click would add them to the message


def _explain_missing_input(problem: _Problem) -> str:
    """Return the message for `histo predict` without an input."""
    if problem.command.name != "predict" or type(problem.error).__name__ != "MissingParameter":
        return ""
    known = problem.datasets()
    names = f" (here: {', '.join(known)})" if known else ""
    line = " ".join(["histo predict", (known or ["FOLDER"])[0], *problem.args])
    return f"Give a packed data set{names}, a folder, images or an archive: {line}"


def _explain_compare(problem: _Problem) -> str:
    """Return the message for `histo eval --compare` with one value, or with more than two."""
    if problem.command.name != "eval" or "--compare" not in problem.args or not _NEEDS_TWO.search(problem.message):
        return ""
    return "--compare needs two runs, checkpoints or metrics files: histo eval --compare A B"


def _correct_option(problem: _Problem) -> str:
    """Return the message for an option that the command does not have."""
    option, command = problem.unknown_option, problem.command.name
    if not option:
        return ""
    message = problem.message.rstrip(".")
    if option == "--processes" and command in ("predict", "eval"):
        line = f"torchrun --standalone --nproc-per-node 2 -m histocli {command}"
        return f"{message}. Start the processes by torchrun: {line}"
    if option in _ROOT_OPTIONS:
        value = " DIR" if option in ("-w", "--workspace") else ""
        return f"{message}. Put it before the command: histo {option}{value} {command}"
    name = option.partition("=")[0].replace("_", "-")
    parameters = [parameter for parameter in problem.command.params if not getattr(parameter, "hidden", False)]
    options = [flag for parameter in parameters for flag in parameter.opts]
    known = [meant for meant in OTHER_OPTION_NAMES.get(name.lower(), ()) if meant in options]
    similar = next(iter(known or get_close_matches(name, options, 1, 0.7)), None)
    return f"{message}. Did you mean {similar}?" if similar else ""


def _suggest_option_for_value(problem: _Problem) -> str:
    """Return the message for a value without its option."""
    name = problem.command.name
    extra = _EXTRA_ARGUMENT.search(problem.message)
    if extra and extra[1] == "help":
        return f"{problem.message}. Did you mean histo {name} -h?"
    if not extra or name not in OPTION_OF_ARGUMENT:
        return ""
    option = OPTION_OF_ARGUMENT[name]
    if name == "balance" and (extra[1].isdecimal() or extra[1] == "max"):
        option = "--n"
    elif name == "download" and extra[1] in SOURCE_NAMES:
        option = "--source"
    return f"{problem.message}. Did you mean {option} {extra[1]}?"


def _correct_value(problem: _Problem) -> str:
    """Return the message for a value that is not allowed."""
    wrong = _NOT_ONE_OF.search(problem.message)
    if not wrong:
        return ""
    similar = _find_similar_value(wrong[1], re.findall(r"'([^']*)'", wrong[2]))
    message = problem.message.removeprefix("Value error, ")
    return f"{message.rstrip('.')}. Did you mean {similar!r}?" if similar else message


def _explain_number(problem: _Problem) -> str:
    """Return the message for a value that is not a number or is too small, perhaps in an environment variable."""
    kind, bound = _NOT_A_NUMBER.search(problem.message), _TOO_SMALL.search(problem.message)
    option = getattr(problem.error, "param", None)
    if not (kind or bound) or option is None:
        return ""
    values, place = _find_values(problem, option)
    if bound:
        smallest = bound[1] or bound[2]
        numbers = [value for value in values if _is_number(value, is_whole=False)]
        value = next((value for value in numbers if float(value) < float(smallest)), values[0])
        return f"{value}: at least {smallest} is needed{place}."
    is_whole = kind is not None and kind[1].startswith("int")
    value = next((value for value in values if not _is_number(value, is_whole=is_whole)), values[0])
    return f"{value!r} is not a {'whole number' if is_whole else 'number'}{place}."


def _is_number(value: str, *, is_whole: bool) -> bool:
    with suppress(ValueError):
        int(value) if is_whole else float(value)
        return True
    return False


def explain_boolean_option(error: Any) -> None:
    """Name the environment variable whose value is neither true nor false in an error about a switch, in place."""
    option, message = getattr(error, "param", None), str(getattr(error, "message", ""))
    if option is not None and "valid boolean" in message:
        variable = option.envvar or f"{error.ctx.auto_envvar_prefix}_{option.name}".upper()
        value = os.environ.get(variable, "the value")
        error.message = f"{value!r} is not true or false (environment variable {variable})."


def _find_values(problem: _Problem, option: Any) -> tuple[list[str], str]:
    """Return the texts that were given for an option, and where they stand if that is an environment variable."""
    parts = [(*arg.partition("="), following) for arg, following in pairwise([*problem.args, ""])]
    if values := [value if equals else following for name, equals, value, following in parts if name in option.opts]:
        return values, ""
    variable = str(option.envvar or f"HISTO_{problem.command.name}_{option.name}".upper())
    return [os.environ.get(variable, "the value")], f" (environment variable {variable})"


# Each returns the new message of an error of its kind, and "" for all others.
_RULES = (
    _explain_missing_input,
    _explain_compare,
    _correct_option,
    _suggest_option_for_value,
    _correct_value,
    _explain_number,
)


def _find_similar_value(wrong: str, values: list[str]) -> str | None:
    """Return the allowed value that a wrong one was probably meant to be."""
    word = wrong.lower()
    device = word.partition(":")[0]  # cuda:0, as PyTorch writes it
    for meant in (word, OTHER_VALUE_NAMES.get(word), device, OTHER_VALUE_NAMES.get(device)):
        if meant in values:
            return meant
    return next(iter(get_close_matches(word, values, 1)), None)
