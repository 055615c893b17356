"""Features of patches, computed once by a frozen backbone and used instead of the patches."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from histocli.data.loaders import Batch, PatchLoader


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
        super().__init__(patches.store, patches.rows, labels, size, device, resident=False, ranks=patches.ranks)
        self.features, self.labels = features.to(device), self.labels.to(device)

    def _load(self, batches: "Iterable[np.ndarray]") -> Iterator[Batch]:
        for positions in batches:
            index = torch.from_numpy(positions).to(self.device)
            yield Batch(self.features[index], self.labels[index])


@torch.no_grad()
def compute_features(
    patches: PatchLoader, backbone: Callable[[Tensor], Tensor], on_patches: Callable[[int], None] = lambda count: None
) -> FeatureLoader:
    """Compute the features of every patch once; each process computes its share.

    `backbone` takes uint8 images (N,3,96,96) on the device and returns features (N,F). `on_patches` receives the size
    of each batch when it is done.
    """
    parts: list[Tensor] = []
    for batch in patches.eval_batches():
        parts.append(backbone(batch.images).float().cpu())
        on_patches(len(batch.images))
    return FeatureLoader(patches, patches.gather_shares(torch.cat(parts) if parts else torch.empty(0)))
