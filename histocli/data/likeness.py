"""Compare the appearance of the patches that are scored with that of the training patches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from histocli.data.quality import Reference, measure_appearance
from histocli.schema import Count, Range
from histocli.sources import Pixels

_SAMPLE_SIZE = 300  # patches to measure
_DEFAULT_STRIDE = 16  # the stride if the number of patches is not known before
_MIN_MEASURED = 50  # with fewer measured patches, there is no warning
_MAX_SHARE_BEYOND, _MAX_FOCUS_SHIFT = 0.02, 0.5  # for a warning; the patches of PCam's other slides have 0.003 and 0.01


@dataclass(frozen=True)
class Likeness:
    """The likeness of a sample of patches to the training patches.

    Attributes:
        measured: the patches in the sample.
        beyond: those with a colour, sharpness or contrast beyond that of nearly all training patches.
        expected: how many of them would be beyond if they were training patches.
        focus: the sum of their sharpness, in standard deviations from the mean of the training patches.
    """

    measured: Count = 0
    beyond: Count = 0
    expected: Annotated[float, Range(0, math.inf)] = 0.0
    focus: float = 0.0

    def __add__(self, other: "Likeness") -> "Likeness":
        """Return the likeness of both samples together."""
        return Likeness(
            self.measured + other.measured,
            self.beyond + other.beyond,
            self.expected + other.expected,
            self.focus + other.focus,
        )

    @property
    def warning(self) -> str:
        """A warning for the user; "" if the patches look like the training patches."""
        if self.measured < _MIN_MEASURED:
            return ""
        focus = self.focus / self.measured
        findings = []
        by_chance = self.expected + 3 * self.expected**0.5
        if self.beyond > max(_MAX_SHARE_BEYOND * self.measured, by_chance):
            findings.append(
                f"{self.beyond:,} of {self.measured:,} measured patches have a colour, sharpness or contrast beyond "
                "that of nearly all training patches"
            )
        if abs(focus) > _MAX_FOCUS_SHIFT:
            word = "sharper" if focus > 0 else "less sharp"
            findings.append(
                f"the patches are {word} than the training patches, by {abs(focus):.1f} standard deviations"
            )
        if not findings:
            return ""
        return (
            f"the patches look unlike the training patches: {'; '.join(findings)}; the probabilities and the threshold "
            "may not fit (in our experiments with such patches the ECE was 0.03 to 0.12)"
        )


def choose_stride(total: int | None) -> int:
    """Return n: each n-th of `total` patches gives a sample of about 300. It is 16 if `total` is not known."""
    return _DEFAULT_STRIDE if total is None else max(1, total // _SAMPLE_SIZE)


class LikenessMeter:
    """Measures a sample of the patches that it is given: each n-th (`choose_stride`).

    With several networks, each patch is compared with the training data that it is least like. `references` has
    the appearance of the training data of each network.
    """

    def __init__(self, references: Sequence[Reference], total: int | None) -> None:
        self._references = references
        self._stride = choose_stride(total)
        self._next = 0  # position of the next patch to measure

    def measure(self, patches: Pixels) -> Likeness:
        """Return the likeness of those of some consecutive patches (N,96,96,3) that are in the sample."""
        chosen = patches[self._next :: self._stride]
        self._next = (self._next - len(patches)) % self._stride
        if not self._references or not len(chosen):
            return Likeness()
        seen = measure_appearance(chosen)
        distances = [reference.measure_distance(seen) for reference in self._references]
        beyond = np.any(
            [distance.is_blank | distance.is_unfocused | distance.has_unusual_stain for distance in distances], 0
        )
        expected = len(chosen) * max(reference.share_beyond for reference in self._references)
        focus = max((float(distance.focus.sum()) for distance in distances), key=abs)
        return Likeness(len(chosen), int(beyond.sum()), expected, focus)
