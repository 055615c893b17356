"""The forward pass: images in, log odds out."""

from collections.abc import Callable

import torch
from torch import Tensor

from histocli.compute.cores import map_pieces
from histocli.compute.device import Compute
from histocli.data.features import is_features
from histocli.data.transforms import make_d4_views
from histocli.models.head import run_head_in_fp32

Network = Callable[[Tensor], Tensor]  # float images (N,3,96,96) in [0, 1], or their features (N,F) -> logits (N,2)

_MAX_IMAGES_PER_PASS = 2048  # images in one forward pass over several views: more are not faster, and take more memory


@torch.inference_mode()
def compute_log_odds(network: Network, images: Tensor, compute: Compute, *, tta: bool = False) -> Tensor:
    """Return the log odds of tumour for uint8 images (N,3,96,96) on the device: float32 (V,N) on the same device.

    V is 1, or 8 with `tta`: one row for each flip and right-angle rotation, and the first for the unchanged images.
    A GPU computes the eight views as one batch; on a CPU each core computes the views of its images in turn.
    """

    @torch.inference_mode()
    def compute_piece(images: Tensor) -> Tensor:
        if is_features(images):
            views = [images]
        else:
            pixels = images.float().div_(255)
            views = make_d4_views(pixels) if tta else [pixels]
        with compute.autocast():
            logits = [run_network(network, batch) for batch in _join_views(views)]
        odds = [batch[:, 1].float() - batch[:, 0].float() for batch in logits]  # subtracted in fp32
        return torch.cat(odds).view(len(views), len(images))

    return map_pieces(compute_piece, images)


def run_network(network: Network, inputs: Tensor) -> Tensor:
    """Return the logits (N,2) of float images, or of features in fp32, as a whole network computes its last layer."""
    return run_head_in_fp32(network, inputs) if is_features(inputs) else network(inputs)


def _join_views(views: list[Tensor]) -> list[Tensor]:
    """Put several views into one batch where a GPU computes them, but at most `_MAX_IMAGES_PER_PASS` images."""
    size = len(views[0])
    if len(views) == 1 or views[0].device.type == "cpu" or size == 0:
        return views
    together = max(1, min(len(views), _MAX_IMAGES_PER_PASS // size))
    return [torch.cat(views[first : first + together]) for first in range(0, len(views), together)]
