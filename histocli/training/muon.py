"""Muon's update: the momentum of each weight matrix is made orthogonal."""

import numpy as np
import torch
from torch import Tensor, nn

from histocli.training.flat import compute_padded_size

_UPDATE_SIZE = 0.2  # root mean square of Muon's updates at learning rate 1, about that of AdamW's: Liu et al. 2025
_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # Jordan 2024: brings singular values near 1 within five steps
_PADDING_LIMIT = 0.5e9  # FLOPs of one Newton-Schulz step up to which a GPU computes a padded matrix for free


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring the singular values of matrices (B,M,N), M <= N, near 1 (0.7 to 1.2) by five Newton-Schulz steps.

    Rows and columns of zeros stay zeros and change nothing else, so that matrices may be padded.
    """
    a, b, c = _NEWTON_SCHULZ
    x: Tensor = matrices / (torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x


class MatrixStack:
    """Weight matrices that are made orthogonal together, padded with zeros to one shape (rows <= columns)."""

    def __init__(self, matrices: list[tuple[int, int, int]], shape: tuple[int, int], dtype: torch.dtype) -> None:
        self.matrices = matrices  # of each its start in the flat buffer, its rows and its columns
        self.shape, self.dtype = shape, dtype

    def update(self, momentum: Tensor, weights: Tensor, lr: Tensor) -> None:
        """Move the weights against the orthogonal directions of the momentum; both are flat buffers."""
        stack = torch.zeros((len(self.matrices), *self.shape), dtype=self.dtype, device=momentum.device)
        for padded, matrix in zip(stack, self.matrices, strict=True):
            wide = _view_wide(momentum, matrix)
            padded[: wide.shape[0], : wide.shape[1]] = wide
        directions = orthogonalize(stack).to(weights.dtype)
        for padded, matrix in zip(directions, self.matrices, strict=True):
            wide = _view_wide(weights, matrix)
            size = _UPDATE_SIZE * wide.shape[1] ** 0.5
            wide.sub_(padded[: wide.shape[0], : wide.shape[1]] * (lr * size))


def _view_wide(flat: Tensor, matrix: tuple[int, int, int]) -> Tensor:
    """Return a matrix of the flat buffer as a view, transposed where it has more rows than columns."""
    start, rows, columns = matrix
    view = flat[start : start + rows * columns].view(rows, columns)
    return view if rows <= columns else view.T


def stack_matrices(params: list[nn.Parameter], dtype: torch.dtype, device: torch.device) -> list[MatrixStack]:
    """Group weights for `orthogonalize`: by shape, and on a GPU also small ones padded to the shape of larger ones.

    A GPU takes as long for one small matrix as for ten, if it computes them in 16 bits. In fp32, padded matrices
    take longer on a GPU; on a CPU they always do.
    """
    should_pad = device.type != "cpu" and dtype is not torch.float32
    groups: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    starts = np.cumsum([0, *(compute_padded_size(p.numel()) for p in params)]).tolist()
    shapes = [(len(p), p.numel() // len(p)) for p in params]
    for start, shape in sorted(zip(starts, shapes, strict=False), key=lambda item: -item[1][0] * item[1][1]):
        wide = min(shape), max(shape)
        candidates = [s for s in groups if s == wide or (should_pad and _can_hold(s, wide))]
        groups.setdefault(candidates[0] if candidates else wide, []).append((start, *shape))
    return [MatrixStack(matrices, shape, dtype) for shape, matrices in groups.items()]


def _can_hold(large: tuple[int, int], small: tuple[int, int]) -> bool:
    """Return whether it is cheap enough to pad a small matrix to the shape of a large one."""
    rows, columns = large
    flops = 4 * rows * rows * columns + 2 * rows**3
    return rows >= small[0] and columns >= small[1] and flops <= _PADDING_LIMIT
