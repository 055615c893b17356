"""Random flips, rotations and stain jitter, different for each image, computed by batch on the images' device."""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from histocli.compute.cores import every_core
from histocli.config import Augment

# Unit optical-density vectors of haematoxylin, eosin and DAB for red, green and blue:
# Ruifrok and Johnston, "Quantification of histochemical staining by color deconvolution", 2001.
_STAINS = torch.tensor([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
_STAINS = _STAINS / _STAINS.norm(dim=1, keepdim=True)
_UNMIX = torch.linalg.inv(_STAINS)

STAIN_SCALE = 0.3  # standard deviation of a stain's relative strength
STAIN_SHIFT = 0.04  # standard deviation of a stain's additive density
ZOOM = 1.2  # a patch placed anew is magnified by up to this, or made smaller by it
OFFSET = 6 / 96  # of a patch's side: how far its centre moves at most, in x and in y
_ROWS = 2**15 - 2  # of an image that OpenCV places


def augment(images: Tensor, level: Augment, *, any_angle: bool = False, side: int | None = None) -> Tensor:
    """Return randomly transformed patches, drawn from torch's global generators.

    Takes uint8 RGB images (N,3,H,W), H = W, and gives float32 (N,3,S,S) in [0, 1], channels last in memory, where S is
    `side` or else H. The batch must be in random order. `flips` gives each patch one of the eight flips and right-angle
    rotations, or with `any_angle` a flip, angle, zoom and offset of its own; `full` jitters the stains too.
    """
    if level is not Augment.NONE:
        stays = side in (None, images.shape[-1])
        images = random_affine(images, sharp=stays) if any_angle else random_d4(images)
    smaller = resized(images, side).float()
    return hed_jitter(smaller) if level is Augment.FULL else smaller.div_(255)


def resized(images: Tensor, side: int | None) -> Tensor:
    """Resize images (N,C,H,H) to (N,C,S,S) with antialiasing, channels last in memory; S is `side`, or H without it.

    uint8 images that are made smaller stay uint8 on a CPU, and become float32 elsewhere.
    """
    if side not in (None, images.shape[-1]):
        bytewise = images.dtype is torch.uint8 and images.device.type == "cpu"
        planes = images if bytewise else images.float().contiguous()  # floats take half the time by plane
        images = F.interpolate(planes, (side, side), mode="bilinear", antialias=side < images.shape[-1])
    return images.contiguous(memory_format=torch.channels_last)


def d4_views(images: Tensor) -> list[Tensor]:
    """Return the eight flips and right-angle rotations of square images (N,C,H,H), the images themselves first."""
    return [_symmetry(images, number) for number in range(8)]


def _symmetry(images: Tensor, number: int) -> Tensor:
    turned = images.rot90(number % 4, (2, 3))
    return turned.flip(3) if number >= 4 else turned


def random_d4(images: Tensor) -> Tensor:
    """Flip and rotate each eighth of the batch by one of the eight elements of D4, in random order.

    A training batch is in random order itself, so every patch meets every symmetry alike often; and an eighth at a
    time costs one copy of the batch, where a choice for each sample costs some five times as much.
    """
    if images.device.type != "cpu":  # where reading the order from the device would make the host wait
        return _random_d4_of_each(images)
    order = torch.randperm(8).tolist()
    parts = zip(images.tensor_split(8), order, strict=True)
    turned = [_symmetry(part, number).permute(0, 2, 3, 1) for part, number in parts]
    return torch.cat(turned).permute(0, 3, 1, 2)  # channels last in memory, as they came


def _random_d4_of_each(images: Tensor) -> Tensor:
    """Flip and rotate each image by a random element of D4, without reading a value from the device."""
    draws = torch.rand(3, len(images), 1, 1, 1, device=images.device) < 0.5
    images = torch.where(draws[0], images.mT, images)
    images = torch.where(draws[1], images.flip(2), images)
    return torch.where(draws[2], images.flip(3), images)


@cache
def _stain_matrices(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the stain vectors and their inverse on a device, uploaded once."""
    return _STAINS.to(device), _UNMIX.to(device)


def hed_jitter(images: Tensor) -> Tensor:
    """Scale and shift each image's stain concentrations in optical density.

    Images (N,3,H,W) from 0 to 255 in, float32 in [0, 1] out. After Tellez et al., "Whole-slide mitosis detection in
    H&E breast histology using PHH3 as a reference to train distilled stain-invariant convolutional networks", 2018.
    """
    n, device = len(images), images.device
    scale = 1 + STAIN_SCALE * torch.randn(n, 1, 3, device=device).clamp_(-2.5, 2.5)
    shift = STAIN_SHIFT * torch.randn(n, 1, 3, device=device).clamp_(-2.5, 2.5)
    stains, unmix = _stain_matrices(device)
    mix = (unmix * scale) @ stains  # (N,3,3): unmix, scale each stain, mix again
    # With density = log 256 - log(pixel + 1), the new pixel is exp(-(density @ mix + shift @ stains)):
    offset = -math.log(256) * mix.sum(1, keepdim=True) - shift @ stains  # (N,1,3)
    logs = images.permute(0, 2, 3, 1).flatten(1, 2).add(1.0).log_()  # (N,HW,3)
    height, width = images.shape[2:]
    mixed = torch.bmm(logs, mix).view(n, height, width * 3)  # baddbmm takes twice as long
    jittered = mixed.add_(offset.repeat(1, 1, width)).exp_().clamp_(max=1)  # by rows: by pixels it is slow
    return jittered.view(n, height, width, 3).permute(0, 3, 1, 2)


def random_affine(images: Tensor, *, sharp: bool = False) -> Tensor:
    """Flip each image (N,3,H,H), rotate it by any angle, zoom and shift it. Returns uint8, or float32 on a GPU.

    What falls in from outside is reflected at the border. Linear interpolation blurs, which is lost again where images
    are made smaller afterwards; where they are not, `sharp` interpolates cubically, pixels being from 0 to 255.
    """
    n, device = len(images), images.device
    angle = torch.rand(n, device=device) * 2 * math.pi
    flip = torch.randint(0, 2, (n,), device=device) * 2.0 - 1
    zoom = ZOOM ** (2 * torch.rand(n, device=device) - 1)
    offset = 2 * OFFSET * (2 * torch.rand(n, 2, 1, device=device) - 1)  # in grid_sample's units, halves of a side
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    turn = torch.stack([torch.stack([cos * flip, -sin], 1), torch.stack([sin * flip, cos], 1)], 1)
    placement = torch.cat([turn, offset], 2)  # (N,2,3), as affine_grid takes it
    return (_remapped if device.type == "cpu" else _sampled)(images, placement, sharp)


def _sampled(images: Tensor, placement: Tensor, sharp: bool) -> Tensor:
    grid = F.affine_grid(placement, list(images.shape), align_corners=False)
    mode = "bicubic" if sharp else "bilinear"
    placed = F.grid_sample(images.float(), grid, mode, padding_mode="reflection", align_corners=False)
    return placed.clamp_(0, 255) if sharp else placed  # cubic interpolation overshoots


def _remapped(images: Tensor, placement: Tensor, sharp: bool) -> Tensor:
    """Return what `_sampled` returns, rounded: OpenCV is faster, and has coordinates of 1/32 of a pixel."""
    count = max(min(torch.get_num_threads(), len(images)), math.ceil(len(images) / (_ROWS // (images.shape[-1] + 4))))
    parts = zip(images.tensor_split(count), placement.tensor_split(count), strict=True)
    return torch.cat(every_core().map(lambda part: _remapped_part(*part, sharp), parts))


def _remapped_part(images: Tensor, placement: Tensor, sharp: bool) -> Tensor:
    import cv2

    n, channels, side, _ = images.shape
    centres = torch.arange(side) + 0.5 - side / 2  # of pixels, from the centre of the image
    across = placement[:, :, 0, None] * centres  # (N,2,W)
    down = placement[:, :, 1, None] * centres + (placement[:, :, 2, None] + 1) * (side / 2)  # (N,2,H)
    x, y = (down[:, i, :, None] + across[:, i, None, :] for i in (0, 1))  # (N,H,W), from the corner of the image
    # The images lie one above another: OpenCV reflects at the left and the right, but above and below are others.
    y.abs_().sub_(side).abs_().neg_().add_(side)  # none reaches beyond by its own height
    rows = images.permute(0, 2, 3, 1)
    rows = torch.cat([rows[:, [1, 0]], rows, rows[:, [-1, -2]]], 1)  # as far as interpolation looks
    y += torch.arange(n).view(n, 1, 1) * rows.shape[1] + 2
    map_x, map_y = (where.view(n * side, side).sub_(0.5).numpy() for where in (x, y))
    mode = cv2.INTER_CUBIC if sharp else cv2.INTER_LINEAR
    turned = cv2.remap(rows.flatten(0, 1).numpy(), map_x, map_y, mode, borderMode=cv2.BORDER_REFLECT)
    return torch.from_numpy(turned).view(n, side, side, channels).permute(0, 3, 1, 2)
