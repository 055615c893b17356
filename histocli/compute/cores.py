"""Patches on all cores of a processor at once, each core with patches of its own.

Two cores that work on one convolution wait for each other at the end of it, hundreds of times a batch; with patches of
their own they meet once. A network that trains is not parted so: its batch norm is to see the whole batch.
"""

import math
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor

PIECE = 64  # patches that a core scores at a time: with more they leave its caches, fewer cost more calls
FEWEST = 32  # patches that a core of its own pays for

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


def in_pieces(function: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
    """What `function` makes of a batch (N,...), which it gives as (...,N), computed on all cores of the processor."""
    if images.device.type != "cpu":
        return function(images)
    count = max(1, min(torch.get_num_threads(), len(images) // FEWEST))
    pieces = images.split(max(1, min(PIECE, math.ceil(len(images) / count))))
    made = map(function, pieces) if count == 1 else _cores(count, torch.get_num_threads()).map(function, pieces)
    return torch.cat(list(made), -1)


def _take_threads(count: int) -> None:
    """Let this thread compute with `count` threads, whatever others set later."""
    torch.set_num_threads(count)
    torch.get_num_threads()  # a thread takes the process's number at its first look, and must have had it
