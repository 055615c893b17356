"""Features of patches, computed once by a frozen backbone and used instead of the patches."""

import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from histocli.data.feature_cache import FeatureCache, hash_patches
from histocli.data.loaders import Batch, PatchLoader

_SAVE_PATCHES, _SAVE_SECONDS = 4096, 20.0  # the most that is lost if the process is killed


def is_features(images: Tensor) -> bool:
    """Return whether the `images` of a batch are features (N,F) and not patches (N,3,H,W)."""
    return images.ndim == 2


class FeatureLoader(PatchLoader):
    """Loads the same batches as `patches`, but with features instead of images; all features stay on the device.

    `features` is float32 (N,F), one row for each patch.
    """

    def __init__(self, patches: PatchLoader, features: Tensor) -> None:
        labels = patches.labels.numpy(force=True)
        size, device = patches.batch_size, patches.device
        super().__init__(patches.store, patches.rows, labels, size, device, is_resident=False, ranks=patches.ranks)
        self.features, self.labels = features.to(device), self.labels.to(device)

    def load_positions(self, batches: "Iterable[np.ndarray]") -> Iterator[Batch]:
        """Yield batches of the features of the patches at given positions."""
        for positions in batches:
            index = torch.from_numpy(positions).to(self.device)
            yield Batch(self.features[index], self.labels[index])


class ComputedFeatures(NamedTuple):
    """The features of patches, the number of those that were on the disk, and of those that were damaged there."""

    loader: FeatureLoader
    cached: int
    damaged: int


def compute_features(
    patches: PatchLoader,
    backbone: Callable[[Tensor], Tensor],
    cache: FeatureCache,
    on_patches: Callable[[int], None] = lambda count: None,
) -> ComputedFeatures:
    """Compute the features of the patches that the cache lacks, add them to it, and read all from it.

    Each process of a job computes its share. Other jobs may fill the same cache at the same time: each
    patch is computed by one of them.

    `backbone` takes uint8 images (N,3,96,96) on the device and returns features (N,F). `on_patches` receives the number
    of patches that were done since its last call: first of those on the disk, then of each batch. If it raises an
    error, the computed features are saved first.
    """
    ranks = patches.ranks
    digests = ranks.on_rank0(lambda: hash_patches(patches.store, patches.rows))
    damaged = ranks.on_all_ranks(lambda: cache.forget_damaged(digests))
    # Patches with the same pixels are computed once: only the first of them is listed.
    first = {digest: i for i, digest in reversed(list(enumerate(digests)))}
    missing = ranks.on_rank0(lambda: np.array(sorted(i for d, i in first.items() if d not in cache), np.int64))
    cached = len(patches) - len(missing)
    on_patches(cached)
    ranks.on_all_ranks(lambda: _compute_missing(patches, missing, digests, backbone, cache, on_patches))
    cache.refresh()
    return ComputedFeatures(FeatureLoader(patches, torch.from_numpy(cache.read(digests))), cached, damaged)


@torch.no_grad()
def _compute_missing(
    patches: PatchLoader,
    missing: "np.ndarray",
    digests: Sequence[bytes],
    backbone: Callable[[Tensor], Tensor],
    cache: FeatureCache,
    on_patches: Callable[[int], None],
) -> None:
    """Compute this process's share of the missing patches, and save it from time to time."""
    batches = np.split(missing, range(patches.batch_size, len(missing), patches.batch_size))
    batches = batches[patches.ranks.rank :: patches.ranks.size]
    if patches.ranks.size == 1 and batches:  # a random start: two jobs begin with different patches
        start = secrets.randbelow(len(batches))
        batches = batches[start:] + batches[:start]
    loaded: deque[np.ndarray] = deque()  # the positions of the batches that the loader has read ahead
    computed: list[tuple[np.ndarray, Tensor]] = []
    saved_at = time.monotonic()

    def iterate_missing() -> "Iterator[np.ndarray]":
        for batch in batches:
            positions = np.array([i for i in batch if digests[i] not in cache], np.int64)
            if len(positions) < len(batch):
                on_patches(len(batch) - len(positions))
            if len(positions):
                loaded.append(positions)
                yield positions

    def save() -> None:
        nonlocal saved_at
        batches_done, computed[:] = list(computed), []
        if batches_done:
            values = torch.cat([features for _, features in batches_done]).numpy()
            cache.add([digests[i] for positions, _ in batches_done for i in positions], values)
        saved_at = time.monotonic()

    try:
        for batch in patches.load_positions(iterate_missing()):
            computed.append((loaded.popleft(), backbone(batch.images).float().cpu()))
            patches_computed = sum(len(positions) for positions, _ in computed)
            if patches_computed >= _SAVE_PATCHES or time.monotonic() - saved_at > _SAVE_SECONDS:
                save()
            on_patches(len(batch.images))
    finally:
        save()
