"""Probabilities for any stream of batches."""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from histocli.compute.cores import in_pieces
from histocli.compute.device import Compute
from histocli.data.features import is_features
from histocli.data.loaders import Batch
from histocli.data.transforms import symmetries
from histocli.errors import HistoError

Network = Callable[[Tensor], Tensor]  # float images (N,3,96,96) in [0, 1], or their features (N,F) -> logits (N,2)


@torch.inference_mode()
def probabilities(
    model: nn.Module,
    batches: Iterable[Batch],
    compute: Compute,
    *,
    tta: bool = False,
    on_progress: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """The probability of tumour for every patch, in order: float32 (N,) on the CPU.

    `tta` averages the probabilities over the eight flips and right-angle rotations.

    Raises:
        HistoError: one is not finite.
    """
    model.eval()
    scores: list[Tensor] = []
    done = 0
    for batch in batches:
        scores.append(batch_probabilities(model, batch.images, compute, tta=tta))
        done += len(batch.images)
        on_progress(done)
    return finite(torch.cat(scores)) if scores else torch.empty(0)


def finite(probs: Tensor) -> Tensor:
    """Give back probabilities (N,) on the CPU.

    Raises:
        HistoError: one is not finite.
    """
    probs = probs.cpu()
    if not probs.isfinite().all():
        raise HistoError("the network's probabilities are not finite", "use --precision fp32; in training, lower --lr")
    return probs


@torch.inference_mode()
def batch_probabilities(model: Network, images: Tensor, compute: Compute, *, tta: bool = False) -> Tensor:
    """The probability of tumour for uint8 images (N,3,96,96) on the device: float32 (N,), still there."""
    return batch_log_odds(model, images, compute, tta=tta).sigmoid().mean(0)


def batch_log_odds(model: Network, images: Tensor, compute: Compute, *, tta: bool = False) -> Tensor:
    """The log odds of tumour for uint8 images (N,3,96,96) on the device: float32 (V,N), still there.

    V is 1, or 8 with `tta`: a row for each of the flips and right-angle rotations, the images themselves first.
    """

    @torch.inference_mode()
    def score(images: Tensor) -> Tensor:
        if is_features(images):
            views = [images]
        else:
            pixels = images.float().div_(255)
            views = symmetries(pixels) if tta else [pixels]
        with compute.autocast():
            logits = [model(view) for view in views]
        return torch.stack([view[:, 1].float() - view[:, 0].float() for view in logits])

    return in_pieces(score, images)
