"""Features in the place of patches: what a frozen backbone gives of them, computed once."""

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import torch
from torch import Tensor

from histocli.data.loaders import Batch, PatchLoader


def is_features(images: Tensor) -> bool:
    """Whether the `images` of a batch are features (N,F), not patches (N,3,H,W)."""
    return images.ndim == 2


class FeatureLoader(PatchLoader):
    """The batches of `patches` with features in their place: float32 (N,F), a row for each, all kept on the device."""

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
    patches: PatchLoader, describe: Callable[[Tensor], Tensor], on_patches: Callable[[int], None] = lambda count: None
) -> FeatureLoader:
    """Give every patch to `describe` once, which makes features (N,F) of images uint8 (N,3,96,96) on the device."""
    parts: list[Tensor] = []
    for batch in patches.eval_batches():
        parts.append(describe(batch.images).float().cpu())
        on_patches(len(batch.images))
    return FeatureLoader(patches, patches.gather_shares(torch.cat(parts) if parts else torch.empty(0)))
