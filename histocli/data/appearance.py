"""Divide patches into two groups that look different, as those of two hospitals with two scanners do."""

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from histocli.patch import Pixels

GROUP_NAMES = "A", "B"  # the names of the groups; A is the larger one
_BANDS = 12  # the number of bands of the power spectrum
_LOW_BANDS = 4  # the number of low bands; the power of the others relative to these is the sharpness
_COMPONENTS = 6  # the number of principal components that are divided into groups
_SEED = 0
_BLOCK = 512  # patches at a time


def find_appearance_groups(store: "Pixels", rows: "np.ndarray", labels: "np.ndarray") -> "np.ndarray":
    """Divide patches into two groups by sharpness and colour, independent of their labels.

    The features (`measure`) are standardised, and the mean of each class is subtracted: otherwise the groups would be
    tumour and normal. A mixture of two Gaussians divides their principal components.

    Args:
        store: uint8 RGB patches (M,96,96,3).
        rows: (N,) the rows of the store.
        labels: (N,) their labels, 0 or 1.

    Returns:
        int64 (N,): 0 for the larger group, 1 for the smaller.
    """
    from sklearn.decomposition import PCA
    from sklearn.mixture import GaussianMixture
    from sklearn.preprocessing import StandardScaler

    features = StandardScaler().fit_transform(measure(store, rows))
    for label in np.unique(labels):
        features[labels == label] -= features[labels == label].mean(0)
    components = PCA(min(_COMPONENTS, *features.shape), random_state=_SEED).fit_transform(features)
    groups: np.ndarray = GaussianMixture(2, n_init=2, random_state=_SEED).fit_predict(components)
    return groups if np.bincount(groups, minlength=2).argmax() == 0 else 1 - groups


def measure(store: "Pixels", rows: "np.ndarray") -> "np.ndarray":
    """Return the features of patches, float64 (N,26).

    They are the power of eight bands of high frequencies relative to the low ones (logarithms); mean, standard
    deviation and correlations of the optical density of red, green and blue; and the first, 50th and 99th percentile of
    each colour.
    """
    return np.concatenate(
        [_measure_block(np.asarray(store[rows[at : at + _BLOCK]])) for at in range(0, len(rows), _BLOCK)]
    )


def _measure_block(patches: "np.ndarray") -> "np.ndarray":
    """Return the features (N,26) of patches (N,H,W,3): sharpness by frequency, and the distribution of the colours."""
    side = patches.shape[1]
    values = patches.astype(np.float32)
    gray = values.mean(3)
    gray -= gray.mean((1, 2), keepdims=True)
    window = np.outer(np.hanning(side), np.hanning(side)).astype(np.float32)
    power = np.abs(np.fft.rfft2(gray * window)) ** 2
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.rfftfreq(side)[None])
    band = np.digitize(frequency, np.linspace(0.02, 0.5, _BANDS + 1))
    spectrum = np.log(np.stack([power[:, band == i].mean(1) for i in range(1, _BANDS + 1)], 1) + 1e-3)
    sharpness = spectrum[:, _LOW_BANDS:] - spectrum[:, :_LOW_BANDS].mean(1, keepdims=True)
    density = -np.log((values + 1) / 256).reshape(len(values), -1, 3)
    deviation = density.std(1)
    centred = (density - density.mean(1, keepdims=True)) / np.maximum(deviation, 1e-6)[:, None]
    pairs = ((0, 1), (0, 2), (1, 2))
    correlation = np.stack([(centred[..., a] * centred[..., b]).mean(1) for a, b in pairs], 1)
    percentiles = np.quantile(values.reshape(len(values), -1, 3), (0.01, 0.5, 0.99), axis=1)
    colours = percentiles.transpose(1, 0, 2).reshape(len(values), -1)
    return np.concatenate([sharpness, density.mean(1), deviation, correlation, colours], 1).astype(np.float64)
