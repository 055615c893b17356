"""Turn images with more than 8 bits, or with fractions, to uint8: which of their values is white is inferred."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from histocli.data.sizes import ImageError

T = TypeVar("T")
Values = np.ndarray[Any, np.dtype[Any]]

_DARKEST = 4  # an image whose largest value is a fourth of white may also hold two bits fewer
_HINT = "save the images as uint8, 0 to 255"


@dataclass(frozen=True)
class ValueRange:
    """The values of images: from 0, which is black, to `top`, which is white; `kind` is u2, i2, f4 ... as in NumPy."""

    kind: str
    top: float

    def __str__(self) -> str:
        if self.kind[0] == "f":
            return f"fractions from 0 to {self.top:g}"
        return f"{int(self.top).bit_length()}-bit integers, 0 to {self.top:,.0f}"

    def convert(self, values: Values) -> Values:
        """Return the values as uint8.

        Raises:
            ImageError: a value is below 0, above `top` or not finite; or all are so small that the image may have
                another range than its set.
        """
        high = _largest(values)
        if 0 < high <= self.top / _DARKEST:
            raise ImageError(
                f"it holds values up to {high:,.4g} only, but the other images hold {self}: it would be nearly black",
                "use a separate command for the images of each range",
            )
        if high > self.top:
            raise ImageError(f"it holds values up to {high:,.4g}, but the other images hold {self}", _HINT)
        if self.kind[0] == "f":
            return np.rint(np.asarray(values, np.float64) * (255 / self.top)).astype(np.uint8)
        return (values >> max(0, int(self.top).bit_length() - 8)).astype(np.uint8)


Ranges = Mapping[str, ValueRange | ImageError]  # of a set of images, by kind; an error where the range is ambiguous


def to_uint8(values: Values, ranges: Ranges) -> tuple[Values, str]:
    """Return an image as uint8, and a remark on how its values were read, "" if they are uint8.

    A kind that `ranges` does not hold is inferred from this image alone.

    Raises:
        ImageError: the values do not fit the range of their set, or their range is ambiguous.
    """
    if values.dtype == np.uint8:
        return values, ""
    found = ranges.get(kind_of(values)) or infer_range(kind_of(values), _largest(values))
    if isinstance(found, ImageError):
        raise found
    return found.convert(values), f"read as {found}"


def infer_range(kind: str, largest: float) -> ValueRange:
    """Infer which value is white from the largest one of a set of images; it must be in the upper half of the range.

    Raises:
        ImageError: it is ambiguous.
    """
    candidates = _candidates(kind)
    for top in candidates:
        if top / 2 < largest <= top:
            return ValueRange(kind, top)
    what = "fractions" if kind[0] == "f" else "integers"
    known = ", ".join(f"{top:,.0f}" for top in candidates)
    raise ImageError(f"it holds {what} up to {largest:,.4g}, so it is not clear which value is white ({known})", _HINT)


def infer_ranges(images: Iterable[Values | None]) -> dict[str, ValueRange | ImageError]:
    """Infer the range of each kind of images of a set that are not uint8; None and values below 0 are passed over."""
    largest: dict[str, float] = {}
    for image in images:
        if image is None or image.dtype == np.uint8:
            continue
        try:
            kind, high = kind_of(image), _largest(image)
        except ImageError:
            continue  # this image will be refused by itself
        largest[kind] = max(largest.get(kind, 0), high)
    return {kind: _range_or_error(kind, high) for kind, high in largest.items()}


def _range_or_error(kind: str, high: float) -> ValueRange | ImageError:
    try:
        return infer_range(kind, high)
    except ImageError as error:
        return error


def sample(items: Sequence[T], count: int) -> Sequence[T]:
    """Return at most `count` of the items, evenly spaced, the first and the last among them."""
    if len(items) <= count:
        return items
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def kind_of(values: Values) -> str:
    """Return NumPy's name of the type, without its byte order.

    Raises:
        ImageError: it is neither an integer nor a fraction.
    """
    if values.dtype.kind not in "uif":
        raise ImageError(f"its values are {values.dtype}", _HINT)
    return values.dtype.str[1:]


def _candidates(kind: str) -> tuple[float, ...]:
    """Return the values that can be white in images of a NumPy type."""
    if kind[0] == "f":
        return (1.0, 255.0)
    return tuple(2.0**bits - 1 for bits in (8, 10, 12, 14, 15 if kind == "i2" else 16))


def _largest(values: Values) -> float:
    """Return the largest value; raise `ImageError` if a value is negative or not finite."""
    low, high = float(values.min()), float(values.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise ImageError("it holds values that are not finite", _HINT)
    if low < 0:
        raise ImageError(f"it holds values below 0, down to {low:,.4g}", _HINT)
    return high
