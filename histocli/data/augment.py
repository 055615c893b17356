"""Random flips, rotations and stain jitter: per sample, whole batches at a time, on the device the images are on."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from histocli.choices import Augment

# Unit optical-density vectors of haematoxylin, eosin and DAB for red, green and blue:
# Ruifrok and Johnston, "Quantification of histochemical staining by color deconvolution", 2001.
_STAINS = torch.tensor([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
_STAINS = _STAINS / _STAINS.norm(dim=1, keepdim=True)
_UNMIX = torch.linalg.inv(_STAINS)

STAIN_SCALE = 0.3  # standard deviation of a stain's relative strength
STAIN_SHIFT = 0.04  # standard deviation of a stain's additive density


def augment(images: Tensor, level: Augment, *, any_angle: bool = False) -> Tensor:
    """Return randomly transformed patches, drawn from torch's global generators.

    Takes uint8 RGB images (N,3,H,W), H = W, and gives float32 in [0, 1] of the same shape and memory format.
    The batch must be in random order. `flips` gives each patch one of the eight flips and right-angle rotations,
    `full` jitters the stains too; `any_angle` adds a rotation by any angle about the centre, with reflected borders.
    """
    if level is Augment.NONE:
        return images.float().div_(255)
    images = random_symmetry(images)
    pixels = random_stain(images) if level is Augment.FULL else images.float().div_(255)
    return random_rotation(pixels) if any_angle else pixels


def symmetries(images: Tensor) -> list[Tensor]:
    """The eight flips and right-angle rotations of square images (N,C,H,H), the images themselves first."""
    return [_symmetry(images, number) for number in range(8)]


def _symmetry(images: Tensor, number: int) -> Tensor:
    turned = images.rot90(number % 4, (2, 3))
    return turned.flip(3) if number >= 4 else turned


def random_symmetry(images: Tensor) -> Tensor:
    """Give each eighth of the batch one of the eight symmetries, in random order.

    A training batch is in random order itself, so every patch meets every symmetry alike often; and an eighth at a
    time costs one copy of the batch, where a choice for each sample costs some five times as much.
    """
    order = torch.randperm(8).tolist()
    parts = zip(images.tensor_split(8), order, strict=True)
    turned = [_symmetry(part, number).permute(0, 2, 3, 1) for part, number in parts]
    return torch.cat(turned).permute(0, 3, 1, 2)  # channels last in memory, as they came


def random_stain(images: Tensor) -> Tensor:
    """Scale and shift each sample's stain concentrations in optical density.

    uint8 (N,3,H,W) in, float32 in [0, 1] out. After Tellez et al., "Whole-slide mitosis detection in H&E breast
    histology using PHH3 as a reference to train distilled stain-invariant convolutional networks", 2018.
    """
    n, device = len(images), images.device
    scale = 1 + STAIN_SCALE * torch.randn(n, 1, 3, device=device).clamp_(-2.5, 2.5)
    shift = STAIN_SHIFT * torch.randn(n, 1, 3, device=device).clamp_(-2.5, 2.5)
    stains, unmix = _STAINS.to(device), _UNMIX.to(device)
    mix = (unmix * scale) @ stains  # (N,3,3): unmix, scale each stain, mix again
    # With density = log 256 - log(pixel + 1), the new pixel is exp(-(density @ mix + shift @ stains)):
    offset = -math.log(256) * mix.sum(1, keepdim=True) - shift @ stains  # (N,1,3)
    logs = images.permute(0, 2, 3, 1).flatten(1, 2).add(1.0).log_()  # (N,HW,3)
    jittered: Tensor = torch.bmm(logs, mix).add_(offset).exp_().clamp_(max=1)  # baddbmm takes twice as long
    return jittered.view(n, *images.shape[2:], 3).permute(0, 3, 1, 2)


def random_rotation(pixels: Tensor) -> Tensor:
    """Turn each float image (N,3,H,W) by any angle about its centre; what falls in from outside is reflected."""
    angles = torch.rand(len(pixels), device=pixels.device) * 2 * math.pi
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    affine = torch.stack([torch.stack([cos, -sin, zero], 1), torch.stack([sin, cos, zero], 1)], 1)  # (N,2,3)
    grid = F.affine_grid(affine, list(pixels.shape), align_corners=False)
    turned = F.grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)
    return turned.contiguous(memory_format=torch.channels_last)
