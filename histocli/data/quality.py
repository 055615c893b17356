"""Measure the appearance of patches (colour, focus, contrast), and its distance from that of the training data."""

from dataclasses import dataclass
from typing import Annotated, NamedTuple, Self

import cv2
import numpy as np
import numpy.typing as npt

from histocli.patch import Pixels
from histocli.schema import Count, Range

SAMPLE_SIZE = 4096  # patches of a training set that are measured
_SHARE_BEYOND = 0.001  # the share of the training patches that are beyond each limit
_MIN_DEVIATION, _MAX_VALUE = 1e-6, 1e15  # limits of the values that describe training patches
_BLOCK = 1024  # patches that are read at once, 28 MB
_DENSITY = -np.log10((np.arange(256, dtype=np.float32) + 1) / 256)  # the optical density of each value; white has 0

Floats = npt.NDArray[np.float64]


class Appearance(NamedTuple):
    """The appearance of N patches.

    Attributes:
        colour: (N,6) mean and standard deviation of the optical density of R, G and B.
        focus: (N,) the logarithm of the variance of the Laplacian (Pech-Pacheco et al. 2000) over the variance of the
            grey values. Because of this division it does not fall with the contrast.
        contrast: (N,) the standard deviation of the grey values, 0 to 128.
    """

    colour: Floats
    focus: Floats
    contrast: Floats


def measure_appearance(patches: Pixels) -> Appearance:
    """Measure the colours, sharpness and contrast of uint8 RGB patches (N,H,W,3), N above 0."""
    rows = np.array([_measure_patch(np.ascontiguousarray(patch)) for patch in patches])
    fine, contrast = rows[:, 6], rows[:, 7]
    return Appearance(rows[:, :6], np.log10((fine**2 + 1) / (contrast**2 + 1)), contrast)


def _measure_patch(patch: Pixels) -> Floats:
    """Return mean and deviation of the densities of R, G and B, and the deviations of the Laplacian and of the grey."""
    grey = cv2.cvtColor(patch, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(cv2.LUT(patch, _DENSITY))
    _, fine = cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))  # its values are whole numbers from -1020 to 1020
    _, contrast = cv2.meanStdDev(grey)
    return np.concatenate([mean, deviation, fine, contrast])[:, 0]


class Distance(NamedTuple):
    """The distance of N patches from the training data; all arrays are (N,).

    Attributes:
        colour: the Mahalanobis distance.
        focus: in standard deviations, negative where a patch is less sharp.
        is_blank: whether a patch has less contrast than all but a thousandth of the training patches.
        is_unfocused: whether it has less focus than all but a thousandth of them.
        has_unusual_stain: whether its colour is further away than that of all but a thousandth of them.
    """

    colour: Floats
    focus: Floats
    is_blank: npt.NDArray[np.bool_]
    is_unfocused: npt.NDArray[np.bool_]
    has_unusual_stain: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Reference:
    """The appearance of the training patches, as plain values that a checkpoint can hold."""

    patches: Count
    colour_mean: list[float]
    colour_precision: list[list[float]]
    colour_limit: float
    focus_mean: Annotated[float, Range(-_MAX_VALUE, _MAX_VALUE)]
    focus_deviation: Annotated[float, Range(_MIN_DEVIATION, _MAX_VALUE)]
    focus_limit: float
    contrast_limit: float

    def __post_init__(self) -> None:
        """Check the shapes, and that the colour precision gives distances."""
        precision = self.colour_precision
        if len(self.colour_mean) != 6 or len(precision) != 6 or any(len(row) != 6 for row in precision):
            raise ValueError("does not have 6 colours")
        matrix = np.array(precision)
        if not np.abs(matrix).max() <= _MAX_VALUE or not np.abs(self.colour_mean).max() <= _MAX_VALUE:
            raise ValueError("has colours that are too large")
        values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        if values.min() < -1e-6 * max(1.0, values.max()) or not np.allclose(matrix, matrix.T, atol=1e-6 * values.max()):
            raise ValueError("has a colour_precision that is no precision matrix")

    @classmethod
    def measure(cls, store: Pixels, rows: "np.ndarray", seed: int = 0) -> Self:
        """Measure `SAMPLE_SIZE` random patches, or all if there are fewer, of these rows of a store (N,96,96,3)."""
        from sklearn.covariance import LedoitWolf

        drawn = np.random.default_rng(seed).permutation(rows)[:SAMPLE_SIZE]
        drawn.sort()
        parts = [measure_appearance(np.asarray(store[drawn[at : at + _BLOCK]])) for at in range(0, len(drawn), _BLOCK)]
        colour, focus, contrast = (np.concatenate(values) for values in zip(*parts, strict=True))
        fitted = LedoitWolf().fit(colour)  # with shrinkage, the covariance of few or of grey patches has an inverse
        distance = np.sqrt(fitted.mahalanobis(colour))
        return cls(
            patches=len(drawn),
            colour_mean=fitted.location_.tolist(),
            colour_precision=fitted.precision_.tolist(),
            colour_limit=float(np.quantile(distance, 1 - _SHARE_BEYOND)),
            focus_mean=float(focus.mean()),
            focus_deviation=float(max(focus.std(), _MIN_DEVIATION)),
            focus_limit=float(np.quantile((focus - focus.mean()) / max(focus.std(), _MIN_DEVIATION), _SHARE_BEYOND)),
            contrast_limit=float(np.quantile(contrast, _SHARE_BEYOND)),
        )

    @property
    def share_beyond(self) -> float:
        """The expected share of patches beyond a limit, if the patches are like the training patches."""
        # There are three limits. If there are few patches, a limit is their highest or lowest value.
        return 3 * max(_SHARE_BEYOND, 1 / (self.patches + 1))

    def measure_distance(self, appearance: Appearance) -> Distance:
        """Return how far patches are from the training patches."""
        difference = appearance.colour - np.array(self.colour_mean)
        colour = np.sqrt(np.einsum("ni,ij,nj->n", difference, np.array(self.colour_precision), difference))
        focus = (appearance.focus - self.focus_mean) / self.focus_deviation
        is_blank = appearance.contrast < self.contrast_limit
        return Distance(colour, focus, is_blank, focus < self.focus_limit, colour > self.colour_limit)
