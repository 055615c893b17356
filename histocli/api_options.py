"""Check and convert the options of the Python API: text to members of enumerations, paths to text, and so on."""

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import fields
from enum import Enum
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

from histocli.config import BalanceConfig, EvalConfig, TrainConfig, TuneConfig
from histocli.errors import UsageError
from histocli.workspace import is_path

Member = TypeVar("Member", bound=Enum)
Config = TypeVar("Config", BalanceConfig, EvalConfig, TrainConfig, TuneConfig)

# The names of a value's type in messages, by what the option takes.
_KINDS: tuple[tuple[type, type, str], ...] = (
    (int, Integral, "a whole number"),
    (float, Real, "a number"),
    (bool, bool, "True or False"),
)


def make_config(kind: type[Config], config: Config | None, options: dict[str, Any]) -> Config:
    """Return the options as the dataclass of the command; text becomes a member of an enumeration, or a path.

    Raises:
        TypeError: both a dataclass and options are given, the dataclass is that of another command, or an option does
            not exist.
        UsageError: a value is not allowed.
    """
    if config is not None:
        if options:
            raise TypeError("give either a config or options, not both")
        if not isinstance(config, kind):
            raise TypeError(f"config is a {type(config).__name__}; give a {kind.__name__}")
        return config
    hints = get_type_hints(kind)
    if options.get("batch_size") == "auto" and "can_halve_batch" in hints:
        options = {name: value for name, value in options.items() if name != "batch_size"} | {"can_halve_batch": True}
    check_option_names(kind.__name__.removesuffix("Config").lower(), options, [field.name for field in fields(kind)])
    values = {name: convert(name, _name_paths(value), hints.get(name)) for name, value in options.items()}
    if isinstance(batch_size := values.get("batch_size"), int):
        check_batch_size(batch_size)
    return kind(**values)


def list_given(config: TrainConfig | TuneConfig, options: Mapping[str, object]) -> set[str]:
    """Return the names of the options that the caller gave: the keywords, or what differs from its default in `config`.

    `config` is the dataclass that the caller gave, or the one that was made of the keywords `options`.
    """
    if options:
        return set(options)
    return {field.name for field in fields(config) if getattr(config, field.name) != field.default}


def check_batch_size(batch_size: int) -> None:
    """Raise `UsageError` if a batch would have no patch."""
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size}: at least 1 is needed")


def check_option_names(command: str, given: Iterable[str], known: Iterable[str]) -> None:
    """Raise `TypeError` if an option does not exist; the message names similar ones."""
    known = list(known)
    for name in given:
        if name not in known:
            initials = "".join(word[:1] for word in name.split("_"))  # learning_rate: lr
            similar = difflib.get_close_matches(name, known) or [other for other in known if other == initials]
            hint = f"; did you mean {' or '.join(similar)}?" if similar else f"; its options: {', '.join(known)}"
            raise TypeError(f"histo {command} has no option {name}{hint}")


def convert(name: str, value: Any, hint: Any) -> Any:
    """Return a value as the type that its field has: an enumeration's member, a path, a number, text or a tuple.

    Raises:
        UsageError: the value is not of this type. None is allowed only for types such as `int | None`.
    """
    kinds = [kind for kind in (hint, *get_args(hint)) if isinstance(kind, type)]
    if value is None and type(None) in kinds:
        return None
    if str(hint).startswith("tuple"):
        values = value if isinstance(value, Iterable) and not isinstance(value, str | bytes) else (value,)
        return tuple(convert(name, item, get_args(hint)[0]) for item in values)
    for kind in kinds:
        if issubclass(kind, Enum):
            return convert_enum(name, value, kind)
        if issubclass(kind, Path):
            return Path(_require_text(name, value))
    for kind, accepted, title in _KINDS:
        if kind in kinds:
            return _convert_number(name, value, kind, accepted, title)
    if str in kinds:
        is_number = isinstance(value, Real) and not isinstance(value, bool)
        return f"{value}" if is_number else _require_text(name, value)  # for example a threshold of 0.5
    return value


def convert_enum(name: str, value: Any, kind: type[Member]) -> Member:
    """Return the member of an enumeration with this value, such as `Device.CPU` for "cpu".

    Raises:
        UsageError: there is none.
    """
    try:
        return kind(value)
    except ValueError:
        listed = ", ".join(str(member.value) for member in kind)
        raise UsageError(f"{name}={value!r} is not one of {listed}") from None


def _convert_number(name: str, value: Any, kind: type, accepted: type, title: str) -> Any:
    """Return a number, also one of NumPy, as Python's own type; bool is no number here."""
    if isinstance(value, accepted) and isinstance(value, bool) == (kind is bool):
        return value if isinstance(value, int | float) else kind(value)
    if kind is bool and type(value).__name__ in ("bool", "bool_"):  # NumPy's
        return bool(value)
    raise UsageError(f"{name}={value!r} is not {title}", f"for example {name}={'True' if kind is bool else 1}")


def _require_text(name: str, value: Any) -> str:
    if isinstance(value, str | os.PathLike):
        return os.fspath(value)
    raise UsageError(f"{name}={value!r} is neither text nor a path")


def _name_paths(value: Any) -> Any:
    """Return paths as text with a separator, `./best.pt`: commands take `best.pt` for the name of a checkpoint."""
    if isinstance(value, list | tuple):
        return tuple(_name_paths(item) for item in value)
    if not isinstance(value, os.PathLike):
        return value
    text = os.fspath(value)
    return text if is_path(text) else os.path.join(os.curdir, text)  # noqa: PTH118 - Path drops the "."
