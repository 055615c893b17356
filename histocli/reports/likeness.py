"""How like the training patches the patches of an evaluation or prediction look."""

import math
from dataclasses import dataclass
from typing import Annotated

from histocli.schema import Count, Range

_MIN_MEASURED = 50  # with fewer measured patches, there is no warning
_MAX_SHARE_UNUSUAL, _MAX_FOCUS_SHIFT = 0.02, 0.5  # for a warning; PCam's other slides have 0.003 and 0.01


@dataclass(frozen=True)
class Likeness:
    """The likeness of a sample of patches to the training patches.

    Attributes:
        measured: the patches in the sample.
        beyond: the unusual ones: their colour, sharpness or contrast is beyond that of nearly all training patches.
        expected: how many patches would be unusual if all were training patches.
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
        if self.beyond > max(_MAX_SHARE_UNUSUAL * self.measured, by_chance):
            findings.append(
                f"{self.beyond:,} of {self.measured:,} measured patches have more unusual colours, or less sharpness "
                "or contrast, than nearly all training patches"
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
