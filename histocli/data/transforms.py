"""Random flips, rotations, stains and sharpness, different for each image, computed by batch on the images' device."""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from histocli.compute.cores import start_cores
from histocli.compute.device import find_memory_format
from histocli.enums import Augment

# Unit optical-density vectors of haematoxylin, eosin and DAB for red, green and blue:
# Ruifrok and Johnston, "Quantification of histochemical staining by color deconvolution", 2001.
_STAINS = torch.tensor([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.268, 0.570, 0.776]])
_STAINS = _STAINS / _STAINS.norm(dim=1, keepdim=True)
_UNMIX = torch.linalg.inv(_STAINS)

STAIN_SCALE = 0.3  # standard deviation of a stain's relative strength
STAIN_SHIFT = 0.04  # standard deviation of a stain's additive density
ZOOM = 1.2  # `apply_random_affine` enlarges or shrinks a patch by up to this factor
SHARPNESS = 0.8  # `apply_random_sharpness` removes or adds up to this fraction of the finest details
OFFSET = 6 / 96  # the largest shift in x and in y, as a fraction of the patch's side
_MAX_ROWS = 2**15 - 2  # rows of the largest image that OpenCV can remap


def augment(images: Tensor, level: Augment, *, any_angle: bool = False, side: int | None = None) -> Tensor:
    """Return randomly transformed patches, drawn from PyTorch's global generators.

    Takes uint8 RGB images (N,3,H,W), H = W, and gives float32 (N,3,S,S) in [0, 1], channels last in memory, where S is
    `side` or else H. The batch must be in random order. `flips` gives each patch one of the eight flips and right-angle
    rotations, or with `any_angle` a random flip, angle, zoom and offset; `full` jitters the stains too, and `sharpness`
    also blurs or sharpens each patch.
    """
    if level is not Augment.NONE:
        is_same_size = side in (None, images.shape[-1])
        images = apply_random_affine(images, is_sharp=is_same_size) if any_angle else apply_random_d4(images)
    smaller = resize_images(images, side).float()
    if level in (Augment.NONE, Augment.FLIPS):
        return smaller.div_(255)
    jittered = apply_hed_jitter(smaller)
    return apply_random_sharpness(jittered) if level is Augment.SHARPNESS else jittered


def resize_images(images: Tensor, side: int | None) -> Tensor:
    """Resize images (N,C,H,H) to (N,C,S,S) with antialiasing; S is `side`, or H if it is None.

    They lie in memory as `find_memory_format` says for their device: channels last, except on MPS. uint8 images that
    are made smaller stay uint8 on a CPU, and become float32 on a GPU.
    """
    if side not in (None, images.shape[-1]):
        is_bytewise = images.dtype is torch.uint8 and images.device.type == "cpu"
        planes = images if is_bytewise else images.float().contiguous()  # floats take half the time by plane
        images = F.interpolate(planes, (side, side), mode="bilinear", antialias=side < images.shape[-1])
    return images.contiguous(memory_format=find_memory_format(images.device))


def make_d4_views(images: Tensor) -> list[Tensor]:
    """Return the eight flips and right-angle rotations of square images (N,C,H,H), the images themselves first."""
    return [_d4_view(images, number) for number in range(8)]


def _d4_view(images: Tensor, number: int) -> Tensor:
    """Rotate images (N,C,H,H) by `number % 4` right angles; for numbers 4 to 7, flip them too."""
    rotated = images.rot90(number % 4, (2, 3))
    return rotated.flip(3) if number >= 4 else rotated


def undo_d4_view(images: Tensor, number: int) -> Tensor:
    """Turn view `number` of `make_d4_views` (N,C,H,H) back into the images that it was made from."""
    rotated = images.flip(3) if number >= 4 else images
    return rotated.rot90(-(number % 4), (2, 3))


def apply_random_d4(images: Tensor) -> Tensor:
    """Apply the eight flips and right-angle rotations of a square (D4) to eight parts of the batch, in random order.

    The batch must be in random order itself, as a training batch is. Then each patch gets each of the eight with the
    same probability. This copies the batch once; a separate choice for each patch takes about five times as long.
    """
    if images.device.type != "cpu":  # there, the host would wait for the order
        return _random_d4_of_each(images)
    order = torch.randperm(8).tolist()
    parts = zip(images.tensor_split(8), order, strict=True)
    views = [_d4_view(part, number).permute(0, 2, 3, 1) for part, number in parts]
    return torch.cat(views).permute(0, 3, 1, 2)  # channels last in memory, as the input


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


def apply_hed_jitter(images: Tensor) -> Tensor:
    """Scale and shift each image's stain concentrations in optical density.

    Takes images (N,3,H,W) from 0 to 255; returns float32 in [0, 1].

    After Tellez et al., "Whole-slide mitosis detection in H&E breast histology using PHH3 as a reference to train
    distilled stain-invariant convolutional networks", 2018.
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


@cache
def _blur_kernel(device: torch.device) -> Tensor:
    """Return the weights (3,1,3,3) of a small blur for each of three channels on a device, uploaded once."""
    row = torch.tensor([0.25, 0.5, 0.25])
    return torch.outer(row, row).expand(3, 1, 3, 3).contiguous().to(device)


def apply_random_sharpness(images: Tensor) -> Tensor:
    """Blur or sharpen each image (N,3,H,W) by a random amount; takes and returns values in [0, 1].

    The difference from a blurred image is multiplied by a random factor from 1 - `SHARPNESS` to 1 + `SHARPNESS`.
    Scanners and JPEG compression differ in this.
    """
    factor = 1 + SHARPNESS * (2 * torch.rand(len(images), 1, 1, 1, device=images.device) - 1)
    blurred = F.conv2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), _blur_kernel(images.device), groups=3)
    return torch.lerp(blurred, images, factor).clamp_(0, 1)


def apply_random_affine(images: Tensor, *, is_sharp: bool = False) -> Tensor:
    """Flip each image (N,3,H,H), rotate it by any angle, zoom and shift it. Returns uint8, or float32 on a GPU.

    Pixels from outside the image are reflected at its border. Linear interpolation blurs; the blur disappears if images
    are made smaller afterwards. If they are not, use `is_sharp`: cubic interpolation, for pixels from 0 to 255.
    """
    n, device = len(images), images.device
    angle = torch.rand(n, device=device) * 2 * math.pi
    flip = torch.randint(0, 2, (n,), device=device) * 2.0 - 1
    zoom = ZOOM ** (2 * torch.rand(n, device=device) - 1)
    offset = 2 * OFFSET * (2 * torch.rand(n, 2, 1, device=device) - 1)  # in grid_sample's units, halves of a side
    cos, sin = angle.cos() / zoom, angle.sin() / zoom
    rotation = torch.stack([torch.stack([cos * flip, -sin], 1), torch.stack([sin * flip, cos], 1)], 1)
    matrix = torch.cat([rotation, offset], 2)  # (N,2,3), as affine_grid takes it
    return (_warp_with_opencv if device.type == "cpu" else _warp_with_grid_sample)(images, matrix, is_sharp)


def _warp_with_grid_sample(images: Tensor, matrix: Tensor, is_sharp: bool) -> Tensor:
    """Apply an affine matrix (N,2,3) to each image (N,3,H,H); returns float32."""
    grid = F.affine_grid(matrix, list(images.shape), align_corners=False)
    mode = "bicubic" if is_sharp else "bilinear"
    warped = F.grid_sample(images.float(), grid, mode, padding_mode="reflection", align_corners=False)
    return warped.clamp_(0, 255) if is_sharp else warped  # cubic interpolation overshoots


def _warp_with_opencv(images: Tensor, matrix: Tensor, is_sharp: bool) -> Tensor:
    """Return the rounded result of `_warp_with_grid_sample`; OpenCV is faster, and rounds positions to 1/32 pixel."""
    count = max(
        min(torch.get_num_threads(), len(images)), math.ceil(len(images) / (_MAX_ROWS // (images.shape[-1] + 4)))
    )
    parts = zip(images.tensor_split(count), matrix.tensor_split(count), strict=True)
    return torch.cat(start_cores().map(lambda part: _warp_on_one_core(*part, is_sharp), parts))


def _warp_on_one_core(images: Tensor, matrix: Tensor, is_sharp: bool) -> Tensor:
    """Warp images as `_warp_with_grid_sample` does, in one thread.

    `matrix` (N,2,3) is as `affine_grid` takes it: in units from -1 to 1 over the image.
    """
    import cv2

    n, channels, side, _ = images.shape
    centres = torch.arange(side) + 0.5 - side / 2  # of pixels, from the centre of the image
    column_terms = matrix[:, :, 0, None] * centres  # (N,2,W)
    row_terms = matrix[:, :, 1, None] * centres + (matrix[:, :, 2, None] + 1) * (side / 2)  # (N,2,H)
    # The positions (N,H,W), from the corner of the image.
    x, y = (row_terms[:, i, :, None] + column_terms[:, i, None, :] for i in (0, 1))
    # All images are one tall image, one below the other. OpenCV reflects at its left and right border; at the upper and
    # lower border of each image, positions are reflected here, because OpenCV would read the next image.
    y.abs_().sub_(side).abs_().neg_().add_(side)  # no position is outside by more than the height
    rows = images.permute(0, 2, 3, 1)
    rows = torch.cat([rows[:, [1, 0]], rows, rows[:, [-1, -2]]], 1)  # two rows more, which interpolation reads
    y += torch.arange(n).view(n, 1, 1) * rows.shape[1] + 2
    map_x, map_y = (position.view(n * side, side).sub_(0.5).numpy() for position in (x, y))
    mode = cv2.INTER_CUBIC if is_sharp else cv2.INTER_LINEAR
    warped = cv2.remap(rows.flatten(0, 1).numpy(), map_x, map_y, mode, borderMode=cv2.BORDER_REFLECT)
    return torch.from_numpy(warped).view(n, side, side, channels).permute(0, 3, 1, 2)
