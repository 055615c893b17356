"""Text for people: counts with their nouns, and text from files that other people made."""

import math
from collections.abc import Sequence


def escape_control_characters(text: str) -> str:
    """Return a text on one line, with control characters escaped: those of terminals, and those that hide text."""
    return text if text.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def shorten(text: str, longest: int) -> str:
    """Return a text without its middle if it has more than `longest` characters."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} ... {text[-half:]}"


def shorten_to_length(name: str, length: int) -> str:
    """Shorten a name to `length` characters; its middle is removed, because names mostly differ at their ends."""
    head = (length - 1) // 2
    return name if len(name) <= length else f"{name[:head]}…{name[head + 1 - length :]}"


def parse_number(text: str) -> float:
    """Return a number that a person wrote; raise `ValueError` for other text, also for 0_5, which Python reads as 5."""
    if "_" in text or not text.isascii():
        raise ValueError(f"{text[:50]!r} is not a number")
    return float(text)


def parse_finite(text: str) -> float:
    """Return a number of a JSON file, in which Python takes 1e999 for infinity; raise `ValueError` for this and NaN."""
    if not math.isfinite(value := float(text)):
        raise ValueError(f"{text[:20]} is not a finite number")
    return value


def join_first(texts: Sequence[str], most: int, separator: str = ", ") -> str:
    """Return the first `most` texts joined by a separator, followed by "..." if there are more."""
    return separator.join([*texts[:most], *(["..."] if len(texts) > most else [])])


def pluralise(noun: str) -> str:
    """Return the plural of a word such as `slide` or `patch`, or of several such as `slide or patch`."""
    return " or ".join(word + ("es" if word.endswith("h") else "s") for word in noun.split(" or "))


def format_count(count: int, noun: str) -> str:
    """Return a number and its noun, such as "1 patch" or "2,000 patches"."""
    return f"{count:,} {noun if count == 1 else pluralise(noun)}"


def format_metric(value: float | None, digits: int = 4) -> str:
    """Return a metric with this number of decimals, or "undefined"."""
    return "undefined" if value is None else f"{value:.{digits}f}"
