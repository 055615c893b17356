"""Loaders that change patches at random before the usual augmentation: recipes that `benchmarks.shift` compares."""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
import torch
from torch import Tensor

from benchmarks.randaugment import apply_randaugment
from histocli.data.loaders import Batch, PatchLoader


class JpegLoader(PatchLoader):
    """Loads batches in which half of the patches were compressed again, as JPEG of a random quality from 40 to 95."""

    def load_positions(self, batches: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Yield the batches; the qualities are drawn from PyTorch's global generator, like all augmentation."""
        for images, labels in super().load_positions(batches):
            patches = images.permute(0, 2, 3, 1).cpu().numpy().copy()
            qualities = torch.randint(40, 96, (len(patches),)).tolist()
            for i in torch.nonzero(torch.rand(len(patches)) < 0.5).flatten().tolist():
                bgr = cv2.cvtColor(patches[i], cv2.COLOR_RGB2BGR)
                encoded = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, qualities[i]])[1]
                patches[i] = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
            yield Batch(torch.from_numpy(patches).permute(0, 3, 1, 2).to(images.device), labels)


class RandAugmentLoader(PatchLoader):
    """Loads batches to whose patches RandAugment with stains was applied."""

    def load_positions(self, batches: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Yield the batches; PyTorch's global generator gives the seed of each."""
        for images, labels in super().load_positions(batches):
            rng = np.random.default_rng(int(torch.randint(2**31, ())))
            patches = np.stack([apply_randaugment(patch, rng) for patch in images.permute(0, 2, 3, 1).cpu().numpy()])
            yield Batch(torch.from_numpy(patches).permute(0, 3, 1, 2).to(images.device), labels)


class ColourLoader(PatchLoader):
    """Loads batches in which brightness, contrast, saturation and hue of each patch were changed at random."""

    def load_positions(self, batches: Iterable[np.ndarray]) -> Iterator[Batch]:
        """Yield the batches: factors from 0.75 to 1.25, and a turn of the hue by up to 15 degrees."""
        for images, labels in super().load_positions(batches):
            patches = images.float().permute(0, 2, 3, 1)
            brightness, contrast, saturation = 0.75 + 0.5 * torch.rand(3, len(patches), 1, 1, 1, device=patches.device)
            mean = patches.mean((1, 2, 3), keepdim=True)
            patches = ((patches - mean) * contrast + mean) * brightness
            degrees = torch.rand(len(patches), device=patches.device) * 30 - 15
            grey = patches.mean(3, keepdim=True)
            turned = torch.einsum("nhwc,ndc->nhwd", patches - grey, turn_hues(degrees))
            coloured = (grey + turned * saturation).round().clamp(0, 255).to(torch.uint8)
            yield Batch(coloured.permute(0, 3, 1, 2), labels)


def turn_hues(degrees: Tensor) -> Tensor:
    """Return the matrices (N,3,3) that turn RGB colours around the grey axis by angles (N,) in degrees."""
    angles = torch.deg2rad(degrees)[:, None, None]
    cross = angles.new_tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / 3**0.5  # the cross product with the grey axis
    return angles.cos() * torch.eye(3, device=degrees.device) + angles.sin() * cross + (1 - angles.cos()) / 3
