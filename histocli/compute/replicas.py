"""A batch on all cores of a processor at once, each core with a share of it.

Two cores that work on one convolution wait for each other at the end of it, hundreds of times a step; with a share
each they meet once.
"""

import copy
import math
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor, nn

SHARE = 32  # patches that batch norm should see at least: Wu and He, "Group normalization", 2018
PIECE = 64  # patches that a core scores at a time: with more they leave its caches, fewer cost more calls

Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]
T = TypeVar("T")
R = TypeVar("R")


class Cores:
    """Threads that compute side by side, with torch's threads shared out among them."""

    def __init__(self, count: int, threads: int) -> None:
        self.count = count
        self.pool = ThreadPoolExecutor(count, "histo-core", _take_threads, (threads // count,))
        started = Barrier(count)
        try:
            list(self.pool.map(lambda _: started.wait(), range(count)))  # each exists and has set its own number
        except RuntimeError:  # one cannot be started: the others wait for it
            started.abort()
            raise
        torch.set_num_threads(threads)

    def map(self, function: Callable[[T], R], shares: Iterable[T]) -> list[R]:
        """What `function` makes of each share, in order."""
        return list(self.pool.map(function, shares))


_cores = cache(Cores)  # made once, and again only where torch's number of threads is set anew


def every_core() -> Cores:
    """A thread for each of torch's, which computes with no other's help."""
    threads = torch.get_num_threads()
    return _cores(threads, threads)


def on_cores(function: Callable[[T], R], shares: Sequence[T]) -> list[R]:
    """What `function` makes of each share, in order; it is called on a thread for each."""
    return _cores(len(shares), torch.get_num_threads()).map(function, shares)


def in_pieces(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """What `function` makes of a batch (N,...), which it gives as (...,N), computed on all cores of the processor."""
    if images.device.type != "cpu":
        return function(images)
    count = share_count(len(images))
    pieces = images.split(max(1, min(PIECE, math.ceil(len(images) / count))))
    made = map(function, pieces) if count == 1 else _cores(count, torch.get_num_threads()).map(function, pieces)
    return torch.cat(list(made), -1)


def share_count(batch_size: int) -> int:
    """How many shares of a batch pay: one for each of torch's threads, as long as they are large enough."""
    return max(1, min(torch.get_num_threads(), batch_size // SHARE))


class Replicas:
    """A model and copies of it that share its weights, one for each core, all on the CPU.

    Batch norm sees the patches of a share, as it does where several processes train.
    """

    def __init__(self, model: nn.Module, count: int) -> None:
        self.models = [model, *(_sharing_weights(model) for _ in range(count - 1))]
        self.params = [list(replica.parameters()) for replica in self.models]
        buffers = zip(*(replica.buffers() for replica in self.models), strict=True)
        self.statistics = [same for same in buffers if same[0].is_floating_point()]  # each with its copies

    def backward(self, loss: Loss, images: Tensor, labels: Tensor) -> Tensor:
        """Leave in the model the gradient of the mean `loss(model, images, labels)` of a batch, and return that mean.

        The shares are as equal as can be, and added up in order: the same weights and batch give the same bits.
        """
        count, size = len(self.models), len(images)
        for own, *copies in self.statistics:
            for statistic in copies:
                statistic.copy_(own)
        shares = zip(self.models, images.tensor_split(count), labels.tensor_split(count), strict=True)

        def run(share: tuple[nn.Module, Tensor, Tensor]) -> Tensor:
            model, its_images, its_labels = share
            part = loss(model, its_images, its_labels) * (len(its_images) / size)
            part.backward()  # type: ignore[no-untyped-call]
            return part.detach()

        losses = on_cores(run, list(shares))
        self._gather()
        return torch.stack(losses).sum()

    @torch.no_grad()
    def _gather(self) -> None:
        """Add up the gradients, and average the running statistics of batch norm, in the model."""
        own, *others = self.params
        for params in others:
            for mine, its in zip(own, params, strict=True):
                if mine.grad is not None and its.grad is not None:
                    mine.grad.add_(its.grad)
                its.grad = None
        for statistics in self.statistics:
            statistics[0].copy_(torch.stack(statistics).mean(0))


def replica_count(model: nn.Module, batch_size: int) -> int:
    """How many replicas pay: a share each, or one alone where the network draws random numbers.

    The order in which threads draw from one generator is not repeatable.
    """
    return 1 if any(map(_draws, model.modules())) else share_count(batch_size)


def _draws(module: nn.Module) -> bool:
    """Whether a module drops something by chance: dropout, torchvision's stochastic depth, timm's drop path."""
    if isinstance(module, nn.modules.dropout._DropoutNd) or type(module).__name__ == "StochasticDepth":
        return float(module.p) > 0  # type: ignore[arg-type]
    return type(module).__name__ == "DropPath" and bool(module.drop_prob)


def _take_threads(count: int) -> None:
    """Let this thread compute with `count` threads, whatever others set later."""
    torch.set_num_threads(count)
    torch.get_num_threads()  # a thread takes the process's number at its first look, and must have had it


def _sharing_weights(model: nn.Module) -> nn.Module:
    replica = copy.deepcopy(model)
    for its, own in zip(replica.parameters(), model.parameters(), strict=True):
        its.data = own.data
    return replica
