"""Write dataclasses as JSON, and read them again; types and ranges are checked when a file is read.

The `metadata` of a dataclass field can change how it is written. `key` is its name in the file, if it differs. `flat`
writes the fields of a nested dataclass at the level of the outer one.
"""

import math
import sys
import types
from collections.abc import Mapping
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Annotated, Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

from histocli.errors import HistoError, describe_value

T = TypeVar("T")
Json = dict[str, object]


@dataclass(frozen=True)
class Range:
    """The lowest and the highest value that a number may have."""

    low: float
    high: float


_LARGEST = (1 << 63) - 1  # whole numbers have 64 bits
_LARGEST_FLOAT = sys.float_info.max
_LONGEST = 10_000  # the largest number of characters of a text
Count = Annotated[int, Range(0, math.inf)]
Fraction = Annotated[float, Range(0, 1)]


def to_json(report: object) -> Json:
    """Return a dataclass as plain values, ready for `json.dumps`."""
    if not is_dataclass(report):
        raise TypeError(f"{type(report).__name__} is not a dataclass")
    values: Json = {}
    for field in fields(report):
        value = getattr(report, field.name)
        if field.metadata.get("flat"):
            values |= to_json(value)
        else:
            values[_key(field)] = _to_plain(value)
    return values


def from_json(kind: type[T], value: object, file: str, hint: str = "") -> T:
    """Return an object of the dataclass `kind` from JSON that `to_json` wrote; unknown keys are ignored.

    Args:
        kind: the dataclass.
        value: the content of the JSON file.
        file: the name of the file, for error messages.
        hint: how to write the file again, for error messages.

    Raises:
        HistoError: a field is missing, or has another type or a value out of its range; the message names it.
    """
    return cast(T, _Reader(file, hint).parse(kind, value, ""))


def _to_plain(value: object) -> object:
    """Return a value with its dataclasses as objects of JSON, and its tuples as lists."""
    if is_dataclass(value):
        return to_json(value)
    if isinstance(value, dict):
        return {str(key): _to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_plain(item) for item in value]
    return value


def _key(field: "Field[Any]") -> str:
    return str(field.metadata.get("key", field.name))


_types_of = cache(get_type_hints)  # cached, because it is too slow to call for each row of a table


@dataclass(frozen=True)
class _Reader:
    """Turns the values of a file into dataclasses; `at` is the path of keys to a value, for error messages."""

    file: str
    hint: str

    def parse(self, kind: Any, value: object, at: str) -> object:
        """Return a value of the file as the type `kind`, or raise `HistoError`."""
        origin, args = get_origin(kind), get_args(kind)
        if origin is Annotated:
            return self._in_range(self.parse(args[0], value, at), args[1], at)
        if origin in (Union, types.UnionType):
            if value is None and type(None) in args:
                return None
            return self._parse_union(args, value, at)
        if origin is Literal:
            return value if value in args else self._refuse(at, " or ".join(map(repr, args)), value)
        if origin in (list, tuple):
            return self._sequence(origin, args, value, at)
        if origin is dict:
            pairs = self._expect(dict, "an object", value, at).items()
            for name in dict(pairs):
                self._scalar(str, name, f"{at}: a key")
            return {name: self.parse(args[1], item, _join_keys(at, name)) for name, item in pairs}
        if is_dataclass(kind):
            return self._dataclass(kind, self._expect(dict, "an object", value, at), at)
        return self._scalar(kind, value, at)

    def _parse_union(self, kinds: tuple[Any, ...], value: object, at: str) -> object:
        """Return the value as the first of several types that it fits."""
        *others, last = [kind for kind in kinds if kind is not type(None)]
        for kind in others:
            try:
                return self.parse(kind, value, at)
            except HistoError:
                continue  # try the next type; for the last one, the error is raised
        return self.parse(last, value, at)

    def _sequence(self, origin: Any, args: tuple[Any, ...], value: object, at: str) -> object:
        items = self._expect(list, "a list", value, at)
        kinds = args if origin is tuple and args[-1] is not Ellipsis else (args[0],) * len(items)
        if len(items) != len(kinds):
            raise self._error(at, f"is a list of {len(items):,}, not of {len(kinds)}")
        return origin(self.parse(kind, item, f"{at}[{i}]") for i, (kind, item) in enumerate(zip(kinds, items)))  # noqa: B905

    def _dataclass(self, kind: Any, values: Mapping[str, object], at: str) -> object:
        """Return an object of the file as a dataclass."""
        known: dict[str, object] = {}
        hints = _types_of(kind, include_extras=True)
        for field in fields(kind):
            if not field.init:
                continue
            name = _key(field)
            if field.metadata.get("flat"):
                known[field.name] = self.parse(hints[field.name], values, at)
                continue
            if name in values:
                known[field.name] = self.parse(hints[field.name], values[name], _join_keys(at, name))
            elif field.default is MISSING and field.default_factory is MISSING:
                raise self._error(_join_keys(at, name), "is missing")
        try:
            return kind(**known)
        except ValueError as error:
            raise self._error(at, str(error)) from error

    def _scalar(self, kind: type, value: object, at: str) -> object:
        """Return a number, a text, a truth value or the member of an enumeration."""
        if kind is Any:
            return value
        if isinstance(kind, type) and issubclass(kind, Enum):
            values = [member.value for member in kind]
            return kind(value) if value in values else self._refuse(at, " or ".join(map(repr, values)), value)
        if kind is float:
            number = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= _LARGEST_FLOAT
            return float(cast(float, value)) if number else self._refuse(at, "a number", value)
        if kind is int and (isinstance(value, bool) or (isinstance(value, int) and abs(value) > _LARGEST)):
            return self._refuse(at, "a whole number", value)
        if kind is str and isinstance(value, str) and not _is_text(value):
            raise self._error(at, f"is not a text of at most {_LONGEST:,} characters that UTF-8 can write")
        names = {int: "a whole number", str: "a text", bool: "true or false"}
        return self._expect(kind, names.get(kind) or f"a {kind.__name__}", value, at)

    def _in_range(self, value: object, allowed: Range, at: str) -> object:
        if isinstance(value, int | float) and not allowed.low <= value <= allowed.high:
            high = "" if allowed.high == math.inf else f" and at most {allowed.high:g}"
            self._refuse(at, f"at least {allowed.low:g}{high}", value)
        return value

    def _expect(self, kind: type[T], name: str, value: object, at: str) -> T:
        return value if isinstance(value, kind) else self._refuse(at, name, value)

    def _refuse(self, at: str, wanted: str, value: object) -> Any:
        raise self._error(at, f"is {describe_value(value)}, not {wanted}")

    def _error(self, at: str, problem: str) -> HistoError:
        return HistoError(f"{self.file}: {f'the field {at}' if at else 'its content'} {problem}", self.hint)


def _join_keys(at: str, name: str) -> str:
    return f"{at}.{name[:100]}" if at else name


def _is_text(value: str) -> bool:
    """Return whether a text can be written to a file or a terminal, and has at most `_LONGEST` characters."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return len(value) <= _LONGEST and "\0" not in value
