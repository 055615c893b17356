"""Compare the appearance of the patches that are scored with that of the training patches."""

from collections.abc import Sequence

import numpy as np

from histocli.data.quality import Reference, measure_appearance
from histocli.patch import Pixels
from histocli.reports.likeness import Likeness

_SAMPLE_SIZE = 300  # patches to measure
_DEFAULT_STRIDE = 16  # the stride if the number of patches is not known before


def choose_stride(total: int | None) -> int:
    """Return n: each n-th of `total` patches gives a sample of 300 to 600. It is 16 if `total` is not known."""
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
        """Return the likeness of the patches in the sample; `patches` (N,96,96,3) follow those of the last call."""
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
